"""One layer and the five-step training loop, in plain tensors: no nn.Module, no autograd.

    forward    Z = X W + b            (n, in) (in, out) + (out,) -> (n, out)
    backward   ∂L/∂W = Xᵀ δ           (in, n) (n, out) -> (in, out),  with δ = ∂L/∂Z
               ∂L/∂b = Σᵢ δᵢ          the sum over the batch -> (out,)
    update     W ← W − η ∂L/∂W

The losses are those of companion.backprop.losses; their δ already holds the 1/n of the mean.
`torch.nn.Linear` stores the transpose of W, (out, in).

Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors",
Nature 323 (1986): the weighted sum, the error signal δ, and the step −ε ∂E/∂w.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from companion.backprop.losses import Loss, regularized_loss, regularized_loss_backward


@dataclass(frozen=True)
class TrainedLayer:
    """What `train_layer` returns.

    Attributes:
        weight: (in, out).
        bias: (out,).
        losses: the training loss of each step, penalty included, before that step's update.
    """

    weight: Tensor
    bias: Tensor
    losses: list[float]


def layer_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return XW + b, shape (batch, out). An activation f is applied to it outside.

    Args:
        x: (batch, in).
        weight: (in, out); one column for each neuron.
        bias: (out,), added to every row.

    Raises:
        ValueError: shapes that do not meet.
    """
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[0]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; "
            f"they must be (batch, in) and (in, out)"
        )
    if bias.shape != weight.shape[1:]:
        want = f"(out,) = {tuple(weight.shape[1:])}"
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be {want}")
    return x @ weight + bias


def layer_backward(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Return (∂L/∂W, ∂L/∂b) from the layer's input and δ = ∂L/∂(XW + b).

    Args:
        x: (batch, in), what `layer_forward` was given.
        delta: (batch, out).

    Raises:
        ValueError: shapes that do not meet.
    """
    if x.ndim != 2 or delta.ndim != 2 or len(x) != len(delta):
        raise ValueError(
            f"x has shape {tuple(x.shape)} and delta {tuple(delta.shape)}; "
            f"they must be (batch, in) and (batch, out)"
        )
    return x.T @ delta, delta.sum(0)


def train_layer(
    x: Tensor,
    targets: Tensor,
    loss: Loss,
    *,
    outputs: int,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> TrainedLayer:
    """Fit XW + b to the targets by mini-batch gradient descent, all steps written out.

    W and b start at 0, which is harmless in one layer: the inputs already tell its weights apart.
    Each epoch visits every sample once in a new random order; the last batch may be smaller.

    Args:
        x: (samples, in).
        targets: what `loss` takes beside (batch, outputs), one row a sample.
        loss: forward and backward, e.g. `companion.backprop.losses.CROSS_ENTROPY`.
        outputs: number of neurons.
        learning_rate: η > 0, finite.
        epochs: passes over the samples, ≥ 0.
        batch_size: samples in a step, ≥ 1.
        weight_decay: λ ≥ 0, on W and not on b.
        seed: of the order of the samples.

    Raises:
        ValueError: a number out of its range, or what `layer_forward` and `loss` refuse.
    """
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate is {learning_rate}; it must be a finite number > 0")
    for name, value, least in (
        ("outputs", outputs, 1),
        ("epochs", epochs, 0),
        ("batch_size", batch_size, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be >= {least}")
    if len(targets) != len(x):
        raise ValueError(f"targets has {len(targets)} rows; it must have {len(x)}, as many as x")

    generator = torch.Generator().manual_seed(seed)
    weight, bias = x.new_zeros(x.shape[1], outputs), x.new_zeros(outputs)  # 1. initialise
    losses = []
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in order.split(batch_size):
            batch, wanted = x[rows], targets[rows]
            z = layer_forward(batch, weight, bias)  # 2. forward
            mean_loss = loss.forward(z, wanted)  # 3. loss
            losses.append(regularized_loss(weight, mean_loss, weight_decay))
            delta = loss.backward(z, wanted)  # 4. backward
            grad_weight, grad_bias = layer_backward(batch, delta)
            grad_weight = regularized_loss_backward(weight, grad_weight, weight_decay)
            weight = weight - learning_rate * grad_weight  # 5. update
            bias = bias - learning_rate * grad_bias
    return TrainedLayer(weight, bias, torch.stack(losses).tolist() if losses else [])
