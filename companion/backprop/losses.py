r"""Loss functions and their gradients, written out by hand: no autograd inside.

For a batch of n rows with outputs ("logits") Z, targets Y and k numbers a row:

    loss                  value                                  gradient
    MSE                   1/(nk) Σ (Ŷ − Y)²                      2 (Ŷ − Y) / (nk)
    sigmoid + binary CE   −1/(nk) Σ [y log σ(z) + (1 − y) log(1 − σ(z))]
                                                                 (σ(Z) − Y) / (nk)
    softmax + CE          −1/n Σᵢ log softmax(zᵢ)[yᵢ]            (softmax(Z) − onehot(y)) / n
    with weight decay     L + λ/2 ‖w‖²                           ∂L/∂w + λ w

Every forward function has a `…_backward` beside it that takes the same first argument and returns
the gradient with respect to it. Exponentials and logarithms are rearranged so that none of them
overflows at |z| = 1000, in float16 as in float64: the row maximum is taken out of each softmax, and
log σ is built on log1p(exp(−|z|)). (A square can: in float16 that of an error of 256.)

An empty batch has no mean: its loss is nan and its gradient is empty, as in torch.nn.functional.

Sources: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors",
Nature 323 (1986); Bishop, "Pattern Recognition and Machine Learning" (2006), sections 4.3.2, 4.3.4
and 4.3.6; Goodfellow, Bengio and Courville, "Deep Learning" (2016), sections 4.1 and 6.2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Loss(NamedTuple):
    """A loss as the pair that training needs.

    Attributes:
        forward: (outputs, targets) -> mean loss, a scalar.
        backward: (outputs, targets) -> gradient of that scalar, in the shape of the outputs.
    """

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


def sigmoid(z: Tensor) -> Tensor:
    """Return σ(z) = 1 / (1 + exp(−z)), elementwise.

    For z < 0 the same fraction is written exp(z) / (1 + exp(z)): the exponent is never positive, so
    nothing overflows and small probabilities keep their digits. (The clamps keep the branch that
    `where` drops finite too; otherwise its inf would turn a second derivative into nan.)

    Args:
        z: any shape, floating point.
    """
    _require_float(z, "z")
    exp_minus_z, exp_z = torch.exp(-z.clamp(min=0)), torch.exp(z.clamp(max=0))
    return torch.where(z >= 0, 1 / (1 + exp_minus_z), exp_z / (1 + exp_z))


def sigmoid_backward(z: Tensor, grad_output: Tensor) -> Tensor:
    """Return grad_output · σ(z) (1 − σ(z)), where 1 − σ(z) = σ(−z) without cancellation.

    Args:
        z: any shape, what `sigmoid` was given.
        grad_output: gradient with respect to σ(z), same shape.
    """
    _require_same_shape(grad_output, z, "grad_output", "z")
    return grad_output * sigmoid(z) * sigmoid(-z)


def softmax(z: Tensor, dim: int = -1) -> Tensor:
    """Return exp(z) / Σ exp(z) along `dim`, the axis of the classes.

    The maximum is subtracted first: it cancels in the fraction, and the largest exponent is then 0.

    Args:
        z: (batch, classes) with the default `dim`; any shape otherwise.
        dim: the axis that sums to 1.

    Raises:
        ValueError: z is not floating point, or has no class along `dim`.
    """
    _require_classes(z, dim)
    exp_z = torch.exp(z - z.amax(dim, keepdim=True))
    return exp_z / exp_z.sum(dim, keepdim=True)


def softmax_backward(z: Tensor, grad_output: Tensor, dim: int = -1) -> Tensor:
    """Return the vector–Jacobian product p ⊙ (g − Σ g ⊙ p), with p = softmax(z), g = grad_output.

    The Jacobian is diag(p) − p pᵀ for each row; it is never formed.
    """
    _require_same_shape(grad_output, z, "grad_output", "z")
    p = softmax(z, dim)
    return p * (grad_output - (grad_output * p).sum(dim, keepdim=True))


def log_softmax(z: Tensor, dim: int = -1) -> Tensor:
    """Return log softmax(z) along `dim` in one piece: z − max − log Σ exp(z − max).

    The logarithm only ever sees a number of at least 1, so no probability that has underflown to 0
    can reach it.

    Args and errors: as in `softmax`.
    """
    _require_classes(z, dim)
    shifted = z - z.amax(dim, keepdim=True)
    return shifted - torch.log(torch.exp(shifted).sum(dim, keepdim=True))


def log_softmax_backward(z: Tensor, grad_output: Tensor, dim: int = -1) -> Tensor:
    """Return the vector–Jacobian product g − softmax(z) · Σ g, with g = grad_output."""
    _require_same_shape(grad_output, z, "grad_output", "z")
    return grad_output - softmax(z, dim) * grad_output.sum(dim, keepdim=True)


def softplus(z: Tensor) -> Tensor:
    """Return log(1 + exp(z)) = max(z, 0) + log1p(exp(−|z|)), elementwise; −log σ(z) = softplus(−z).

    Args:
        z: any shape, floating point.
    """
    _require_float(z, "z")
    positive, negative = z.clamp(min=0), z.clamp(max=0)
    right = positive + torch.log1p(torch.exp(-positive))
    return torch.where(z >= 0, right, torch.log1p(torch.exp(negative)))


def mse_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error over all entries, a scalar.

    Args:
        prediction: (batch, outputs) or any shape, floating point.
        target: exactly the same shape: (n, 1) against (n,) would broadcast to n × n numbers.

    Raises:
        ValueError: shapes differ, or prediction is not floating point.
    """
    _require_float(prediction, "prediction")
    _require_same_shape(target, prediction, "target", "prediction")
    return (prediction - target).square().mean()


def mse_loss_backward(prediction: Tensor, target: Tensor) -> Tensor:
    """Return 2 (prediction − target) / number of entries. Args and errors: as in `mse_loss`."""
    _require_float(prediction, "prediction")
    _require_same_shape(target, prediction, "target", "prediction")
    return 2 * (prediction - target) / prediction.numel()


def binary_cross_entropy_with_logits(z: Tensor, y: Tensor) -> Tensor:
    """Return the mean of −y log σ(z) − (1 − y) log(1 − σ(z)) over all entries, a scalar.

    Written as softplus(z) − y z, which is the same number without σ, its logarithm or overflow.

    Args:
        z: logits, any shape, floating point.
        y: probability of the event (usually 0 or 1), floating point, the same shape.

    Raises:
        ValueError: shapes differ, a dtype is not floating point, or y lies outside [0, 1].
    """
    _require_binary_targets(z, y)
    return (softplus(z) - y * z).mean()


def binary_cross_entropy_with_logits_backward(z: Tensor, y: Tensor) -> Tensor:
    """Return (σ(z) − y) / number of entries.

    Args and errors: as in `binary_cross_entropy_with_logits`.
    """
    _require_binary_targets(z, y)
    return (sigmoid(z) - y) / z.numel()


def cross_entropy(z: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the batch of −log softmax(zᵢ)[labelsᵢ], a scalar.

    Args:
        z: (batch, classes) logits, floating point.
        labels: (batch,) class numbers from 0 to classes − 1, int64.

    Raises:
        ValueError: a wrong shape or dtype, no class, or a label out of range.
    """
    _require_labels(z, labels)
    return -log_softmax(z).gather(-1, labels.unsqueeze(-1)).mean()


def cross_entropy_backward(z: Tensor, labels: Tensor) -> Tensor:
    """Return (softmax(z) − onehot(labels)) / batch, shape (batch, classes).

    Args and errors: as in `cross_entropy`.
    """
    _require_labels(z, labels)
    return (softmax(z) - one_hot(labels, z.shape[-1]).to(z.dtype)) / z.shape[0]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return a (batch, classes) boolean matrix, True where the column is the row's label."""
    columns = torch.arange(classes, device=labels.device)
    return labels.unsqueeze(-1) == columns


def regularized_loss(weight: Tensor, loss: Tensor, weight_decay: float) -> Tensor:
    """Return loss + λ/2 ‖weight‖², a scalar: the regularised mean loss.

    Args:
        weight: any shape; leave biases out, they shift the output and do not make it steeper.
        loss: mean loss over the batch, a scalar.
        weight_decay: λ ≥ 0.

    Raises:
        ValueError: weight_decay is negative or not finite, or loss is not a scalar.
    """
    _require_decay(weight_decay)
    if loss.ndim != 0:
        raise ValueError(f"loss has shape {tuple(loss.shape)}; it must be a scalar, the batch mean")
    return loss + weight_decay / 2 * weight.square().sum()


def regularized_loss_backward(weight: Tensor, gradient: Tensor, weight_decay: float) -> Tensor:
    """Return gradient + λ weight.

    Args:
        weight: as in `regularized_loss`.
        gradient: ∂(mean loss)/∂weight, same shape.
        weight_decay: λ ≥ 0.

    Raises:
        ValueError: weight_decay is negative or not finite, or shapes differ.
    """
    _require_decay(weight_decay)
    _require_same_shape(gradient, weight, "gradient", "weight")
    return gradient + weight_decay * weight


MSE = Loss(mse_loss, mse_loss_backward)
BINARY_CROSS_ENTROPY = Loss(
    binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_backward
)
CROSS_ENTROPY = Loss(cross_entropy, cross_entropy_backward)


def _require_float(x: Tensor, name: str) -> None:
    if not x.is_floating_point():
        raise ValueError(f"{name} has dtype {x.dtype}; it must be floating point")


def _require_same_shape(x: Tensor, like: Tensor, name: str, like_name: str) -> None:
    if x.shape != like.shape:
        want = f"{tuple(like.shape)}, the shape of {like_name}"
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must have {want}")


def _require_classes(z: Tensor, dim: int) -> None:
    _require_float(z, "z")
    if not -z.ndim <= dim < z.ndim:
        raise ValueError(f"dim is {dim}; z of shape {tuple(z.shape)} has no such axis")
    if z.shape[dim] == 0:
        raise ValueError(f"z has shape {tuple(z.shape)}; axis {dim} must hold at least one class")


def _require_binary_targets(z: Tensor, y: Tensor) -> None:
    _require_float(z, "z")
    _require_float(y, "y")
    _require_same_shape(y, z, "y", "z")
    if _values_are_at_hand(y):
        outside = ~((y >= 0) & (y <= 1))
        if outside.any():
            raise ValueError(f"y holds {y[outside][0].item()}; it must lie between 0 and 1")


def _require_labels(z: Tensor, labels: Tensor) -> None:
    if z.ndim != 2:
        raise ValueError(f"z has shape {tuple(z.shape)}; it must be (batch, classes)")
    _require_classes(z, -1)
    if labels.dtype != torch.int64:
        raise ValueError(f"labels has dtype {labels.dtype}; it must be int64 class numbers")
    if labels.shape != z.shape[:1]:
        want = f"{tuple(z.shape[:1])}, one class number for each row of z"
        raise ValueError(f"labels has shape {tuple(labels.shape)}; it must be {want}")
    if _values_are_at_hand(labels):
        outside = (labels < 0) | (labels >= z.shape[1])
        if outside.any():
            wrong, want = labels[outside][0].item(), f"from 0 to {z.shape[1] - 1}"
            raise ValueError(f"labels holds {wrong}; with {z.shape[1]} classes it must be {want}")


def _require_decay(weight_decay: float) -> None:
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay is {weight_decay}; it must be a finite number >= 0")


def _values_are_at_hand(x: Tensor) -> bool:
    """Whether reading values costs nothing: on an accelerator it would stall every step."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
