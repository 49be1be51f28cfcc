"""The tape at work: networks written in its operations, trained through Lightning.

Two bridges to PyTorch. :class:`TapeClassifier` is a LightningModule whose gradients come from our
tape; torch's autograd is switched off. :func:`as_torch` goes the other way: it makes a function
written in tape operations usable inside any `nn.Module`, so that `Classifier` can train it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from companion.backprop import tape
from companion.backprop.tensor import Tensor, cross_entropy

Network = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


def mlp_parameters(sizes: Sequence[int], *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Start values for :func:`mlp`: weights N(0, 2/fan_in) (He et al. 2015), biases zero.

    Args:
        sizes: features of the input, of each hidden layer, and of the output.
        seed: of the random numbers.

    Returns:
        ``weight1`` (sizes[0], sizes[1]), ``bias1`` (sizes[1],), ``weight2`` …

    Raises:
        ValueError: fewer than two sizes, or a size below one.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes={tuple(sizes)} must name two or more positive sizes")
    random = torch.Generator().manual_seed(seed)
    parameters = {}
    for number, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        scale = math.sqrt(2 / fan_in)
        parameters[f"weight{number}"] = scale * torch.randn(fan_in, fan_out, generator=random)
        parameters[f"bias{number}"] = torch.zeros(fan_out)
    return parameters


def mlp(x: Any, parameters: Mapping[str, Any]) -> Any:
    """Layers ``x @ weight + bias`` with ReLU between them.

    Args:
        x: (batch, features).
        parameters: as made by :func:`mlp_parameters`.

    Returns:
        logits, (batch, classes).
    """
    layers = len(parameters) // 2
    for number in range(1, layers + 1):
        x = x @ parameters[f"weight{number}"] + parameters[f"bias{number}"]
        if number < layers:
            x = x.relu()
    return x


class TapeClassifier(pl.LightningModule):
    """A classifier that is trained by our tape on whatever device the Trainer has chosen.

    Args:
        network: ``network(x, parameters) -> logits`` in tape operations; `x` is a Tensor
            (batch, …), `parameters` a mapping of Tensors.
        parameters: start values, by name; they become this module's parameters.
        loss: ``loss(logits, labels) -> Tensor`` with one number.
        optimizer: callable ``parameters -> Optimizer``; Adam with learning rate 1e-3 by default.
    """

    def __init__(
        self,
        network: Network,
        parameters: Mapping[str, torch.Tensor],
        *,
        loss: Callable[[Tensor, torch.Tensor], Tensor] = cross_entropy,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.weights = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in parameters.items()})
        self.loss = loss
        self.make_optimizer = optimizer or torch.optim.Adam

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits as a plain torch tensor; nothing is recorded."""
        with tape.no_grad():
            return self.network(Tensor(x), {k: Tensor(v) for k, v in self.weights.items()}).value

    def training_step(self, batch: Sequence[torch.Tensor], batch_index: int) -> torch.Tensor:
        x, labels = batch
        optimizer = self.optimizers()
        with torch.no_grad():  # torch's autograd has no part in this
            leaves = {k: Tensor(v, requires_grad=True) for k, v in self.weights.items()}
            loss = self.loss(self.network(Tensor(x), leaves), labels)
            loss.backward()
        for name, parameter in self.weights.items():
            gradient = leaves[name].grad
            parameter.grad = None if gradient is None else gradient.value
        optimizer.step()
        self.log("train_loss", loss.value, on_step=False, on_epoch=True, batch_size=len(x))
        return loss.value

    def validation_step(self, batch: Sequence[torch.Tensor], batch_index: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Sequence[torch.Tensor], batch_index: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Sequence[torch.Tensor], stage: str) -> None:
        x, labels = batch
        logits = self(x)
        with tape.no_grad():
            loss = self.loss(Tensor(logits), labels).value
        accuracy = (logits.argmax(-1) == labels).float().mean()
        self.log(f"{stage}_loss", loss, batch_size=len(x))
        self.log(f"{stage}_accuracy", accuracy, batch_size=len(x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.parameters())


class _TapeFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *arrays: Any) -> torch.Tensor:
        # A fresh Tensor for each argument, so that an array given twice is two leaves.
        ctx.leaves = [
            Tensor(x, requires_grad=needed)
            for x, needed in zip(arrays, ctx.needs_input_grad[1:], strict=True)
        ]
        ctx.out = function(*ctx.leaves)
        return ctx.out.value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        wanted = [x for x in ctx.leaves if x.requires_grad]
        found = iter(tape.grad(ctx.out, wanted, grad_output, retain_graph=True, allow_unused=True))
        return None, *(next(found).value if x.requires_grad else None for x in ctx.leaves)


def as_torch(function: Callable[..., Tensor]) -> Callable[..., torch.Tensor]:
    """Make a function of Tensors a function of torch tensors that torch's autograd can use.

    Its forward pass runs on our tape and its backward pass walks that tape, once differentiable::

        class Softplus(nn.Module):
            def forward(self, x):
                return as_torch(softplus)(x)
    """
    return lambda *arrays: _TapeFunction.apply(function, *arrays)
