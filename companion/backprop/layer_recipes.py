"""Recipes of the page `layers`: a network with hand-written gradients around each layer.

As in `companion.backprop.recipes`: module, data, the arguments of `companion.training.fit`, and a
check that raises AssertionError unless the technique did its work. Most checks train the same
network from the same weights under autograd and want the same weights back.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from companion.backprop.layers import GELU, Dropout, Embedding, Linear, ReLU, Sequential, Tanh
from companion.backprop.manual import ManualBackprop
from companion.backprop.normalization import BatchNorm1d, LayerNorm
from companion.data.arrays import Arrays, InMemory
from companion.data.digits import Digits
from companion.techniques import Recipe
from companion.training import Classifier, FitResult, fit

SGD = partial(torch.optim.SGD, lr=0.1)
OPTIONS = {"epochs": 5, "precision": "32-true", "test": True}


def digits() -> Digits:
    """Vectors of 64 pixels; no smaller last batch, which would compile once more on a TPU."""
    return Digits(flatten=True, drop_last=True)


def against_autograd(
    network: Sequential, twin: nn.Module, data: Callable[[], InMemory] = digits
) -> Recipe:
    """Train `network` by hand; the check trains `twin` by autograd and compares the weights."""
    twin.load_state_dict(copy.deepcopy(network.state_dict()))
    start = copy.deepcopy(network.state_dict())

    def check(result: FitResult) -> None:
        learner = Classifier(twin, optimizer=SGD)
        expected = fit(learner, data(), **OPTIONS)
        ours = {name: p.detach().cpu() for name, p in result.module.network.named_parameters()}
        for name, value in twin.named_parameters():
            way = (value - start[name]).norm()
            error = ((ours[name] - value).norm() / way).item()
            assert error < 0.02, f"{name}: {error:.1%} of its way from autograd's"
        first, last = expected.step_losses[0], expected.step_losses[-1]
        assert math.isclose(result.step_losses[0], first, rel_tol=1e-3)
        assert math.isclose(result.step_losses[-1], last, rel_tol=0.02)

    return Recipe(ManualBackprop(network, optimizer=SGD), data(), OPTIONS, check)


def around(layer: nn.Module, theirs: nn.Module, bias: bool = True) -> Recipe:
    """A network with `layer` in its middle, and its twin in torch.nn."""
    network = Sequential(Linear(64, 32, bias), layer, Linear(32, 10))
    twin = nn.Sequential(nn.Linear(64, 32, bias), theirs, nn.Linear(32, 10))
    return against_autograd(network, twin)


def linear_layer() -> Recipe:
    """δW, δᵀX and the sum of δ: one Linear alone, the same weights as under autograd."""
    return against_autograd(Sequential(Linear(64, 10)), nn.Sequential(nn.Linear(64, 10)))


def relu() -> Recipe:
    """The gradient passes where the output is positive."""
    return around(ReLU(), nn.ReLU())


def tanh() -> Recipe:
    """The gradient times 1 − y²."""
    return around(Tanh(), nn.Tanh())


def gelu() -> Recipe:
    """The gradient times Φ(x) + x φ(x)."""
    return around(GELU(), nn.GELU())


def layer_norm() -> Recipe:
    """Each sample normalised over its features, gradient in three terms."""
    return around(LayerNorm(32), nn.LayerNorm(32))


def batch_norm() -> Recipe:
    """Each feature normalised over the batch, gradient in three terms.

    A bias before it would be taken out again with the mean, so there is none.
    """
    return around(BatchNorm1d(32), nn.BatchNorm1d(32), bias=False)


def embedding() -> Recipe:
    """Rows of a table learn from every use; rows that are never used stay as they were."""
    indices = torch.randint(10, (640,), generator=torch.Generator().manual_seed(0))
    pair = (indices, indices % 3)
    network = Sequential(Embedding(12, 8), Linear(8, 3))  # nobody uses rows 10 and 11
    unused = network[0].weight.detach()[10:].clone()
    twin = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 3))
    recipe = against_autograd(network, twin, lambda: Arrays(pair, test=pair, batch_size=64))

    def check(result: FitResult) -> None:
        recipe.check(result)
        table = result.module.network[0].weight.detach().cpu()
        assert torch.equal(table[10:], unused)

    return Recipe(recipe.module, recipe.data, recipe.trainer_options, check)


def dropout() -> Recipe:
    """One half dropped in training, nothing in evaluation, where the mean output is the same."""
    data = digits()
    network = Sequential(Linear(64, 128), ReLU(), Dropout(0.5), Linear(128, 10))

    def check(result: FitResult) -> None:
        trained = result.module.network.cpu()
        x, y = data.train
        with torch.no_grad():
            logits: Tensor = trained.eval()(x[:50])
            trained.train()
            draws = torch.stack([trained(x[:50]) for _ in range(400)])
        trained.eval()
        spread = draws.std(0) / 20  # standard error of a mean of 400
        assert (spread > 0).all(), "no draw differs from another: nothing was dropped"
        assert ((draws.mean(0) - logits).abs() < 6 * spread).all(), "dropout moved the mean"
        assert result.metrics["test_accuracy"] > 0.85

    return Recipe(ManualBackprop(network, optimizer=SGD), data, OPTIONS, check)


def manual_backprop() -> Recipe:
    """Two hidden layers, three kinds of layer, no autograd: the weights that autograd finds."""
    network = Sequential(
        Linear(64, 64), LayerNorm(64), ReLU(), Linear(64, 32), GELU(), Linear(32, 10)
    )
    twin = nn.Sequential(
        nn.Linear(64, 64),
        nn.LayerNorm(64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.GELU(),
        nn.Linear(32, 10),
    )
    recipe = against_autograd(network, twin)

    def check(result: FitResult) -> None:
        recipe.check(result)
        assert result.metrics["test_accuracy"] > 0.8

    return Recipe(recipe.module, recipe.data, recipe.trainer_options, check)
