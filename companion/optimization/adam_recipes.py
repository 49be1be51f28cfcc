"""Recipes of the page `adam`: each optimizer trains a small network on the digits.

As in `companion.backprop.layer_recipes`: module, data, the arguments of
`companion.training.fit`, and a check that raises AssertionError unless the technique did its
work. Where torch.optim has the method, the check trains the same network from the same weights
with it and wants the same weights back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from companion.data.digits import Digits
from companion.optimization.adam import Adam, AdamW
from companion.optimization.adaptive import Adagrad, RMSprop
from companion.optimization.lion import Lion
from companion.optimization.muon import MuonWithAdamW, split_parameters
from companion.techniques import Recipe
from companion.training import Classifier, FitResult, fit

OPTIONS = {"epochs": 4, "precision": "32-true", "test": True}
Factory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def digits() -> Digits:
    """Vectors of 64 pixels; no smaller last batch, which would compile once more on a TPU."""
    return Digits(flatten=True, drop_last=True)


def mlp() -> nn.Sequential:
    """Three layers, of which the middle one is a hidden matrix."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def against_torch(network: nn.Module, ours: Factory, theirs: Callable[..., Any]) -> Recipe:
    """Train `network` with `ours`; the check trains its copy with `theirs` and compares.

    Args:
        theirs: takes the parameters, or the copy of the network where it has an argument
            ``network``.
    """
    twin = copy.deepcopy(network)
    start = copy.deepcopy(network.state_dict())

    def check(result: FitResult) -> None:
        expected = fit(Classifier(twin, optimizer=partial(theirs, twin)), digits(), **OPTIONS)
        trained = {name: p.detach().cpu() for name, p in result.module.network.named_parameters()}
        for name, value in twin.named_parameters():
            way = (value - start[name]).norm()
            error = ((trained[name] - value).norm() / way).item()
            assert error < 0.02, f"{name}: {error:.1%} of its way from torch.optim's"
        assert expected.step_losses[-1] < 0.5 * expected.step_losses[0], "torch's did not learn"

    return Recipe(Classifier(network, optimizer=ours), digits(), OPTIONS, check)


def same_options(ours: Any, theirs: Any, **options: Any) -> Recipe:
    """Compare two classes that take the same options."""

    def reference(network: nn.Module, _: Any) -> torch.optim.Optimizer:
        return theirs(network.parameters(), **options)

    return against_torch(mlp(), partial(ours, **options), reference)


def adagrad() -> Recipe:
    """The gradient over the root of the sum of all its squares."""
    return same_options(Adagrad, torch.optim.Adagrad, lr=0.02)


def rmsprop() -> Recipe:
    """The gradient over the root of the running mean of its squares."""
    return same_options(RMSprop, torch.optim.RMSprop, lr=2e-3)


def adam() -> Recipe:
    """Both moments, each with its own correction."""
    return same_options(Adam, torch.optim.Adam, lr=3e-3)


def adamw() -> Recipe:
    """Adam's step, and the weights shrunk beside it."""
    return same_options(AdamW, torch.optim.AdamW, lr=3e-3, weight_decay=0.1)


def amsgrad() -> Recipe:
    """Adam that divides by the largest second moment so far.

    β₂ is small here: with 0.999 the mean still rises throughout so short a run, and a maximum
    would change nothing.
    """
    return same_options(Adam, torch.optim.Adam, lr=3e-3, betas=(0.9, 0.9), amsgrad=True)


def lion() -> Recipe:
    """Signs only: every weight ends a whole number of learning rates from where it began."""
    network, lr = mlp(), 1e-3
    start = copy.deepcopy(network.state_dict())

    def check(result: FitResult) -> None:
        for name, parameter in result.module.network.named_parameters():
            moved = (parameter.detach().cpu() - start[name]) / lr
            assert (moved - moved.round()).abs().max() < 0.01, f"{name} moved by parts of lr"
            assert moved.abs().max() > 1, f"{name} moved one step at most"
        assert result.metrics["test_accuracy"] > 0.85

    return Recipe(Classifier(network, optimizer=partial(Lion, lr=lr)), digits(), OPTIONS, check)


class SideBySide(torch.optim.Optimizer):
    """Several optimizers that step together, as one that Lightning can call."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.parts = optimizers
        groups = [group for part in optimizers for group in part.param_groups]
        super().__init__([p for group in groups for p in group["params"]], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Call the closure once, then step all parts."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def muon() -> Recipe:
    """Muon for the hidden matrix and AdamW for the rest, against torch's two optimizers."""
    network = mlp()

    def ours(_: Any) -> torch.optim.Optimizer:
        return MuonWithAdamW(*split_parameters(network), lr=0.02, adamw_lr=3e-3)

    def theirs(twin: nn.Module, _: Any) -> torch.optim.Optimizer:
        matrices, rest = split_parameters(twin)
        adamw = torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01)
        return SideBySide(torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01), adamw)

    return against_torch(network, ours, theirs)
