r"""Stochastic gradient descent with momentum: each update as one line, then as an Optimizer.

With w the parameters, g = ∇L(w), η the learning rate and μ the momentum:

    gradient descent    w ← w − η g
    heavy ball          w ← w − η g + μ (w − w_before)
    momentum (torch)    b ← μ b + (1 − τ) g;  w ← w − η b           b starts as the first g
    Nesterov (paper)    v ← μ v − η ∇L(w + μ v);  w ← w + v         gradient at the look-ahead
    Nesterov (torch)    b ← μ b + g;  w ← w − η (g + μ b)           gradient where w stands

The heavy ball is torch's momentum with dampening τ = 0: −η b is the last move. The two Nesterovs
are one method in two variables: torch's w is the paper's look-ahead w + μ v, and v = −η b.
Weight decay λ adds λ w to g before all of this, so it is the penalty (λ/2)‖w‖².

Sources: Robbins, Monro, Ann. Math. Statist. 22 (1951); Polyak, USSR Comput. Math. 4 (1964)
for the heavy ball; Sutskever et al., ICML 2013, section 2 for both forms of momentum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Gradient = Callable[[Tensor], Tensor]


def sgd_step(
    weight: Tensor,
    gradient: Tensor,
    buffer: Tensor | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """One step of `torch.optim.SGD` on one tensor, line by line; nothing is changed in place.

    Args:
        weight, gradient: of one shape.
        buffer: what the step before returned; None at the first step.

    Returns:
        The new weight, and the new buffer (None without momentum).
    """
    if weight_decay:
        gradient = gradient + weight_decay * weight
    if not momentum:
        return weight - lr * gradient, None
    buffer = gradient if buffer is None else momentum * buffer + (1 - dampening) * gradient
    direction = gradient + momentum * buffer if nesterov else buffer
    return weight - lr * direction, buffer


def heavy_ball_step(
    weight: Tensor, before: Tensor, gradient: Tensor, *, lr: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """One step as Polyak wrote it; return the new weight and the one that is now `before`."""
    return weight - lr * gradient + momentum * (weight - before), weight


def nesterov_step(
    weight: Tensor, velocity: Tensor, gradient: Gradient, *, lr: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """One step as in Sutskever et al., equations 3 and 4; return the new weight and velocity.

    Args:
        gradient: a function of the weight: it is asked at weight + momentum · velocity.
    """
    velocity = momentum * velocity - lr * gradient(weight + momentum * velocity)
    return weight + velocity, velocity


@torch.no_grad()
def descend(gradient: Gradient, start: Tensor, *, steps: int, lr: float, **options: Any) -> Tensor:
    """Repeat :func:`sgd_step` from `start` and return the path.

    Args:
        gradient: weight -> gradient, both of the shape of `start`.
        steps: number of updates, at least 0.
        lr, options: as in :func:`sgd_step`.

    Returns:
        (steps + 1, \\*start.shape): `start`, then the weight after each step.

    Raises:
        ValueError: lr ≤ 0 or another option outside its range, steps < 0.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps={steps!r}: an integer of at least 0 is needed")
    check_options({"lr": lr, **options})
    path, buffer = [start], None
    for _ in range(steps):
        weight, buffer = sgd_step(path[-1], gradient(path[-1]), buffer, lr=lr, **options)
        path.append(weight)
    return torch.stack(path)


def check_options(options: dict[str, Any]) -> None:
    """Raise ValueError, naming argument, value and rule, if SGD cannot work with `options`.

    lr > 0; momentum ≥ 0; weight_decay ≥ 0; dampening and the others finite; nesterov only with
    momentum > 0 and dampening = 0.
    """
    momentum, dampening = options.get("momentum", 0), options.get("dampening", 0)
    for name in ("lr", "momentum", "dampening", "weight_decay"):
        value = options.get(name, 1)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"{name}={value!r}: a finite number is needed")
        if name == "lr" and value <= 0:
            raise ValueError(f"lr={value}: a learning rate above 0 is needed")
        if name in ("momentum", "weight_decay") and value < 0:
            raise ValueError(f"{name}={value}: it must not be negative")
    if options.get("nesterov") and (momentum <= 0 or dampening != 0):
        raise ValueError(
            f"nesterov=True with momentum={momentum} and dampening={dampening}: "
            "it needs momentum > 0 and dampening = 0"
        )


class SGD(torch.optim.Optimizer):
    """:func:`sgd_step` for all parameters of a group at once, in a few "foreach" operations.

    A loop over 50 tensors launches 50 small operations for each line of the formula; a foreach
    operation takes the whole list. State and parameter groups carry torch's names, so a
    ``state_dict`` can be handed from `torch.optim.SGD` to this class and back.

    Args:
        params: parameters, or dictionaries (groups) of ``params`` and any of the options below.
        lr: η > 0. A scheduler may set a group's rate to 0 later on.
        momentum: μ ≥ 0. The first buffer is the first gradient, undamped.
        dampening: τ; the gradient enters the buffer with the factor 1 − τ.
        weight_decay: λ ≥ 0, added to the gradient before momentum.
        nesterov: take the step from the look-ahead; needs μ > 0 and τ = 0.
        maximize: climb instead of descending.

    Raises:
        ValueError: an option outside its range (see :func:`check_options`), in a group as well;
            no parameter at all; a gradient in a sparse layout.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        if not isinstance(params, Tensor):  # torch has its own word for a bare tensor
            params = list(params)
            if not params:
                raise ValueError("params=[]: at least one parameter is needed")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        check_options(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; the others are the optimizer's defaults."""
        check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients stay as they are.

        Args:
            closure: evaluates the model anew and returns the loss, or None.

        Returns:
            What `closure` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(weights, [p.grad for p in weights], group)
        return loss

    def _update(
        self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        if any(gradient.layout != torch.strided for gradient in gradients):
            raise ValueError("a gradient is sparse: SGD needs dense ones (Embedding(sparse=False))")
        if group["maximize"]:
            gradients = torch._foreach_neg(gradients)
        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        if group["momentum"]:
            buffers = self._buffers(weights, gradients, group)
            if group["nesterov"]:  # -η (g + μ b) in two parts: g stays, and nothing is allocated
                torch._foreach_add_(weights, buffers, alpha=-group["lr"] * group["momentum"])
            else:
                gradients = buffers
        torch._foreach_add_(weights, gradients, alpha=-group["lr"])

    def _buffers(
        self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        """Move the buffers of `weights` on by one gradient, making those that are missing."""
        kept, arrived = [], []
        for weight, gradient in zip(weights, gradients, strict=True):
            buffer = self.state[weight].get("momentum_buffer")
            if buffer is None:
                self.state[weight]["momentum_buffer"] = gradient.clone()
            else:
                kept.append(buffer)
                arrived.append(gradient)
        if kept:
            torch._foreach_mul_(kept, group["momentum"])
            torch._foreach_add_(kept, arrived, alpha=1 - group["dampening"])
        return [self.state[weight]["momentum_buffer"] for weight in weights]
