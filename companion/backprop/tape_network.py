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

import torch
from torch import nn

from companion.backprop import tape
from companion.backprop.tensor import Tensor, cross_entropy
from companion.learner import Learner, OptimizerFactory

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


class TapeNetwork(nn.Module):
    """A function of Tensors together with its parameters, which any torch optimizer can update.

    Args:
        function: ``function(x, parameters) -> Tensor`` in tape operations; `x` is a Tensor
            (batch, …), `parameters` a mapping of Tensors.
        parameters: start values by name; copied.
    """

    def __init__(self, function: Network, parameters: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterDict()
        for name, value in parameters.items():  # one by one: a dict would be sorted by name
            self.weights[name] = nn.Parameter(value.clone())

    def on_tape(self, x: torch.Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The output for `x` on the tape, and the leaves that share memory with the parameters."""
        leaves = {k: Tensor(v, requires_grad=True) for k, v in self.weights.items()}
        return self.function(Tensor(x), leaves), leaves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output for `x` as a plain torch tensor; nothing is recorded."""
        with tape.no_grad():
            return self.on_tape(x)[0].value


class TapeClassifier(Learner):
    """A classifier whose gradients come from our tape, on whatever device the Trainer has chosen.

    Batches are ``(x, labels)``. Logged are `train_loss`, and `val_` and `test_` `loss` and
    `accuracy`. Several processes average their gradients before the step. Everything is computed
    in the dtype of the parameters: mixed precision is switched off, since an operation that
    changes the dtype behind the tape's back would make its arrays disagree.

    Args:
        network: ``network(x, parameters) -> logits`` as in :class:`TapeNetwork`.
        parameters: start values by name.
        loss: ``loss(logits, labels) -> Tensor`` holding one number.
        optimizer: callable ``parameters -> Optimizer``; AdamW with learning rate 1e-3 if None.

    Raises:
        ValueError: in `fit`, precision "16-mixed", whose loss scaling needs torch's autograd.
    """

    def __init__(
        self,
        network: Network,
        parameters: Mapping[str, torch.Tensor],
        *,
        loss: Callable[[Tensor, torch.Tensor], Tensor] = cross_entropy,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(TapeNetwork(network, parameters), optimizer=optimizer)
        self.automatic_optimization = False
        self.tape_loss = loss

    def measure(self, batch: Sequence[torch.Tensor]) -> tuple[dict[str, torch.Tensor], int]:
        """Return loss and accuracy of a batch, and the number of samples."""
        x, labels = batch
        with tape.no_grad(), torch.autocast(x.device.type, enabled=False):
            logits = self(x)
            loss = self.tape_loss(Tensor(logits), labels).value
        accuracy = (logits.argmax(-1) == labels).float().mean()
        return {"loss": loss, "accuracy": accuracy}, len(x)

    @torch.no_grad()
    def training_step(self, batch: Sequence[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Take one step and return the loss before it; torch's autograd has no part in it."""
        x, labels = batch
        with torch.autocast(x.device.type, enabled=False):
            logits, leaves = self.network.on_tape(x)
            loss = self.tape_loss(logits, labels)
            loss.backward()
        for name, parameter in self.network.weights.items():
            parameter.grad = self._averaged(leaves[name].grad)
        self.optimizers().step()
        self._add("train", {"loss": loss.value}, len(x))
        return loss.value

    def _averaged(self, gradient: Tensor | None) -> torch.Tensor | None:
        """The mean over all processes, each of which has seen another part of the batch."""
        if gradient is None or self.trainer.world_size == 1:
            return None if gradient is None else gradient.value
        return self.trainer.strategy.reduce(gradient.value, reduce_op="mean")

    def on_fit_start(self) -> None:
        """Refuse the one precision that would silently scale the gradients."""
        super().on_fit_start()
        if str(self.trainer.precision) == "16-mixed":
            raise ValueError(
                "precision='16-mixed' divides gradients by a loss scale that the tape does not "
                "know; use '32-true' or 'bf16-true'"
            )


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
