r"""Regularization: a solution that fits the training set less well and new data better.

    L2 penalty          g ← g + λ θ, before the optimizer sees g
    decoupled decay     θ ← (1 − η λ) θ, beside the optimizer's step
    inverted dropout    x ← x · k / (1 − p),  k = 0 with probability p, else 1;  E k / (1 − p) = 1
    label smoothing     q = (1 − s) · onehot(y) + s / C;  L = −Σ_c q_c log p_c;  ∂L/∂z = p − q
    clipping by value   g ← min(max(g, −c), c), number by number

The optimizers themselves are in `companion.optimization.sgd` and `.adam`, clipping by norm in
`companion.architectures.clipping`, early stopping in `companion.optimization.stopping`.

Sources: Krogh and Hertz, NIPS 1991 (weight decay); Loshchilov and Hutter, ICLR 2019, section 2
(the two decays); Srivastava et al., JMLR 15, 2014, sections 4 and 10 (dropout); Gal and
Ghahramani, ICML 2016 (dropout at prediction); Szegedy et al., CVPR 2016, section 7 (label
smoothing).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.arguments import check_fraction, check_integer, check_rule
from companion.optimization.base import is_not_negative, is_positive


def decay_groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters for an optimizer: matrices and kernels decay, vectors do not.

    A bias or the scale of a normalization is a vector; shrinking it does not make the function
    smoother, and there are few of them.

    Args:
        parameters: of a network.
        weight_decay: λ in [0, 1), for those with two dimensions or more.

    Returns:
        groups as `torch.optim` takes them, without empty ones.

    Raises:
        ValueError: `weight_decay` outside [0, 1).
    """
    check_fraction("weight_decay", weight_decay)
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def dropout(x: Tensor, p: float, *, training: bool, keep: Tensor | None = None) -> Tensor:
    """Zero each number with probability `p` and divide the others by 1 − p; or do nothing.

    Args:
        x: of any shape.
        p: in [0, 1).
        training: False returns x.
        keep: of x's shape, True where a number stays; drawn if None.

    Raises:
        ValueError: `p` outside [0, 1), or `keep` of another shape.
    """
    check_fraction("p", p)
    if not training or p == 0:
        return x
    if keep is None:
        keep = torch.rand_like(x) >= p
    if keep.shape != x.shape:
        raise ValueError(f"keep of shape {tuple(keep.shape)}: the shape of x, {tuple(x.shape)}")
    return x * keep / (1 - p)


class Dropout(nn.Module):
    """The function `dropout` as a layer that follows ``train()`` and ``eval()``.

    Raises:
        ValueError: `p` outside [0, 1).
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check_fraction("p", p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map x to the same shape."""
        return dropout(x, self.p, training=self.training)


@torch.no_grad()
def predict_with_dropout(network: nn.Module, x: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the class probabilities over networks with dropout.

    Only the dropout layers are switched to training; batch normalization keeps its running
    statistics. All modes are as before afterwards.

    Args:
        network: logits (samples, classes) from `x`.
        x: a batch.
        draws: how many networks, at least 2.

    Returns:
        both (samples, classes).

    Raises:
        ValueError: too few `draws`, or a network without dropout.
    """
    check_integer("draws", draws, minimum=2)
    drops = (Dropout, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    if not any(isinstance(module, drops) for module in network.modules()):
        raise ValueError("network: it has no dropout layer, so all draws would be equal")
    with ExitStack() as stack:
        for module in network.modules():
            stack.callback(setattr, module, "training", module.training)
            module.training = isinstance(module, drops)
        every = torch.stack([network(x).softmax(-1) for _ in range(draws)])
    return every.mean(0), every.std(0)


def smooth_labels(y: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return q = (1 − s) onehot(y) + s / C, (samples, classes); each row adds up to 1.

    Args:
        y: class indices (samples,), int64.
        num_classes: C, at least 1.
        smoothing: s in [0, 1).

    Raises:
        ValueError: an argument out of range, a class index outside [0, C).
    """
    check_integer("num_classes", num_classes, minimum=1)
    check_fraction("smoothing", smoothing)
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise ValueError(
            f"y: class indices reach from {int(y.min())} to {int(y.max())}; with "
            f"num_classes={num_classes} they must lie in [0, {num_classes - 1}]"
        )
    return (1 - smoothing) * F.one_hot(y, num_classes) + smoothing / num_classes


def smoothed_cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.1) -> Tensor:
    """Return the mean cross-entropy against smoothed labels, in nats.

    −Σ_c q_c log p_c = (1 − s) (−log p_y) + s · mean_c (−log p_c), so q is never built.

    Args:
        logits: (samples, classes).
        y: class indices (samples,), int64, in range (not looked at: that would make the host wait
            for the device in every step).
        smoothing: s in [0, 1).

    Raises:
        ValueError: `smoothing` outside [0, 1), or shapes that do not belong together.
    """
    check_fraction("smoothing", smoothing)
    if logits.dim() != 2 or y.shape != logits.shape[:1]:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} and y of shape {tuple(y.shape)}: "
            "(samples, classes) and (samples,) are needed"
        )
    surprise = -logits.log_softmax(-1)
    right = surprise.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return ((1 - smoothing) * right + smoothing * surprise.mean(-1)).mean()


def smoothed_gradient(logits: Tensor, y: Tensor, smoothing: float = 0.1) -> Tensor:
    """Return the derivative of `smoothed_cross_entropy` by the logits, (p − q) / samples.

    Args and errors: as there, and class indices out of range.
    """
    q = smooth_labels(y, logits.shape[-1], smoothing)
    return (logits.softmax(-1) - q) / len(y)


@torch.no_grad()
def clip_grad_value_(parameters: Iterable[Tensor], max_value: float) -> None:
    """Push every number of every gradient into [−max_value, max_value], in place.

    Unlike clipping by norm this turns the gradient towards a diagonal.

    Raises:
        ValueError: `max_value` not a positive number.
    """
    check_rule("max_value", max_value, is_positive, "a positive number")
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        torch._foreach_clamp_min_(gradients, -max_value)
        torch._foreach_clamp_max_(gradients, max_value)


def l2_penalty(parameters: Iterable[Tensor], decay: float) -> Tensor:
    """Return λ/2 Σ θ², a scalar whose gradient is λθ.

    Raises:
        ValueError: `decay` negative, or no parameters.
    """
    check_rule("decay", decay, is_not_negative, "a finite number of at least 0")
    squares = [p.square().sum() for p in parameters]
    if not squares:
        raise ValueError("parameters: there are none")
    return decay / 2 * torch.stack(squares).sum()
