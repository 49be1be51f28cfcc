"""Recipes of the page `sgd`: gradient descent and its kin on Digits, a few seconds each.

Each holds the module, the data, the arguments of `companion.training.fit` and a check that raises
AssertionError unless the technique did its work.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.data.arrays import Arrays, InMemory
from companion.data.digits import Digits
from companion.optimization.noise import GradientNoiseScale, noise_of, per_sample_gradients
from companion.optimization.sampling import Reordered
from companion.optimization.sgd import SGD
from companion.techniques import Recipe
from companion.training import Classifier, FitResult, fit

EXACT = {"precision": "32-true", "test": True}


def network() -> nn.Sequential:
    """64 pixels, 32 hidden units, 10 classes."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def digits(batch_size: int = 64) -> Digits:
    """1,280 vectors of 64 pixels, so that no batch here is smaller than the others."""
    return Digits(batch_size, flatten=True, limit=1280)


def weights_on_the_cpu(module: Any) -> list[Tensor]:
    """The trained parameters, wherever they were trained."""
    return [p.detach().cpu() for p in module.network.parameters()]


def assert_same_way(ours: Any, theirs: Any, start: nn.Module, tolerance: float = 0.02) -> None:
    """The weights moved to the same place, to a small part of the way they went."""
    pairs = zip(weights_on_the_cpu(ours), weights_on_the_cpu(theirs), strict=True)
    for (mine, other), first in zip(pairs, start.parameters(), strict=True):
        way = (other - first.detach()).norm()
        error = ((mine - other).norm() / way).item()
        assert error < tolerance, f"{error:.1%} of its way from the reference"


def against_torch(data: InMemory, epochs: int, accuracy: float, **options: Any) -> Recipe:
    """Train with our SGD; the check trains a twin with torch.optim.SGD."""
    start = network()
    twin = copy.deepcopy(start)

    def check(result: FitResult) -> None:
        learner = Classifier(twin, optimizer=partial(torch.optim.SGD, **options))
        expected = fit(learner, data, epochs=epochs, precision="32-true")
        assert_same_way(result.module, expected.module, start)
        assert result.metrics["test_accuracy"] > accuracy

    module = Classifier(copy.deepcopy(start), optimizer=partial(SGD, **options))
    return Recipe(module, data, EXACT | {"epochs": epochs}, check)


def gradient_descent() -> Recipe:
    """The whole training set in every step: the loss falls at each one."""
    data = digits(1280)
    module = Classifier(nn.Linear(64, 10), optimizer=partial(SGD, lr=0.2))

    def check(result: FitResult) -> None:
        losses = result.step_losses
        assert len(losses) >= 100
        for before, after in zip(losses, losses[1:], strict=False):
            assert after < before * 1.001, "gradient descent does not climb"
        assert result.metrics["test_accuracy"] > 0.88

    return Recipe(module, data, EXACT | {"epochs": 150}, check)


def stochastic_gradient_descent() -> Recipe:
    """One sample a step: each loss is another sample's, and one epoch is enough."""
    module = Classifier(nn.Linear(64, 10), optimizer=partial(SGD, lr=0.01))

    def check(result: FitResult) -> None:
        losses = torch.tensor(result.step_losses)
        assert len(losses) > 600
        assert result.metrics["test_accuracy"] > 0.85
        rises = (losses[1:] > losses[:-1]).float().mean()
        assert rises > 0.3, "these losses are too smooth for single samples"

    return Recipe(module, digits(1), EXACT | {"max_steps": 1200}, check)


def mini_batch_sgd() -> Recipe:
    """32 samples a step, as torch.optim.SGD does it."""
    return against_torch(digits(32), epochs=8, accuracy=0.9, lr=0.1)


def momentum() -> Recipe:
    """Each step carries on nine tenths of the step before."""
    return against_torch(digits(), epochs=8, accuracy=0.92, lr=0.05, momentum=0.9)


def nesterov_momentum() -> Recipe:
    """The gradient of the place where momentum alone would lead."""
    return against_torch(digits(), epochs=8, accuracy=0.92, lr=0.05, momentum=0.9, nesterov=True)


def _sampled(order: str, lowest: float, highest: float) -> Recipe:
    """Number the samples and let a network with one weight a sample say which were used.

    The input of sample i is its one-hot row, so that only weight i learns from it.
    """
    samples = 256
    rows = torch.eye(samples)
    pair = (rows, torch.arange(samples) % 2)
    data = Reordered(Arrays(pair, test=pair, batch_size=32), order)
    model = nn.Linear(samples, 2, bias=False)
    nn.init.zeros_(model.weight)
    module = Classifier(model, optimizer=partial(SGD, lr=1.0))

    def check(result: FitResult) -> None:
        (weight,) = weights_on_the_cpu(result.module)
        used = (weight.abs().sum(0) > 0).float().mean().item()
        assert lowest <= used <= highest, f"{used:.0%} of the samples were used"

    return Recipe(module, data, EXACT | {"epochs": 1}, check)


def sampling_without_replacement() -> Recipe:
    """A reshuffled epoch uses every sample."""
    return _sampled("reshuffled", 1.0, 1.0)


def sampling_with_replacement() -> Recipe:
    """As many draws as samples use about 1 − 1/e of them."""
    expected = 1 - math.exp(-1)
    return _sampled("with replacement", expected - 0.08, expected + 0.08)


def gradient_accumulation() -> Recipe:
    """Four micro-batches of 16 a step end where batches of 64 end."""
    start = network()
    module = Classifier(copy.deepcopy(start), optimizer=partial(SGD, lr=0.1, momentum=0.9))
    options = EXACT | {"epochs": 5, "accumulate_grad_batches": 4}

    def check(result: FitResult) -> None:
        learner = Classifier(copy.deepcopy(start), optimizer=partial(SGD, lr=0.1, momentum=0.9))
        large = fit(learner, digits(64), epochs=5, precision="32-true")
        assert len(result.step_losses) == len(large.step_losses)
        assert_same_way(result.module, large.module, start)

    return Recipe(module, digits(16), options, check)


def gradient_noise_scale() -> Recipe:
    """Measured while training with micro-batches of 8, close to what per-sample gradients say."""
    start = network()
    meter = GradientNoiseScale(8)
    module = Classifier(copy.deepcopy(start), optimizer=partial(SGD, lr=1e-6))
    data = digits(8)
    options = EXACT | {"epochs": 2, "accumulate_grad_batches": 8, "callbacks": [meter]}

    def check(result: FitResult) -> None:
        x, y = data.train
        expected = noise_of(per_sample_gradients(start, F.cross_entropy, x, y))
        found = meter.result()
        assert math.isclose(found.noise, expected.noise, rel_tol=0.1)
        assert math.isclose(found.scale, expected.scale, rel_tol=0.3)
        assert len(result.step_losses) == 40

    return Recipe(module, data, options, check)
