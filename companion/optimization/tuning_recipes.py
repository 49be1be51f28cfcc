"""Recipes of the page `tuning`: choose on the validation set, then train what was chosen.

Each searches or compares with a few small networks on Digits, builds the module with what it
found, and its check holds the trained module against what the search promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from companion.data.digits import Digits
from companion.optimization import comparing, tuning
from companion.optimization.fleet import Fleet
from companion.optimization.sgd import SGD
from companion.optimization.tuning import Choice, Configuration, LogUniform, best, configurations
from companion.techniques import Recipe
from companion.training import Classifier, FitResult

OPTIONS = {"precision": "32-true", "test": True}
SPACE = {"lr": LogUniform(1e-4, 10.0), "momentum": Choice((0.0, 0.9))}
EPOCHS = 8


def digits() -> Digits:
    """512 images to train on, 718 to choose by, 360 to report."""
    data = Digits(64, flatten=True, validation_fraction=0.5, limit=512)
    data.setup()
    return data


def classifier(**options: Any) -> Classifier:
    """64 pixels, 32 hidden units, 10 classes, trained by SGD with these options."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Classifier(network, optimizer=partial(SGD, **options))


def random_search() -> Recipe:
    """20 random configurations; the best on the validation set beats the median one by far."""
    data = digits()

    def validation_accuracy(configuration: Configuration) -> float:
        fleet = Fleet([0]).train(*data.train, epochs=EPOCHS, **configuration)
        return fleet.accuracy(*data.validation).item()

    trials = tuning.random_search(validation_accuracy, SPACE, trials=20, seed=0)
    chosen = best(trials)

    def check(result: FitResult) -> None:
        median = sorted(trial.score for trial in trials)[len(trials) // 2]
        assert chosen.score > median + 0.1
        assert abs(result.metrics.get("val_accuracy", 0.0) - chosen.score) < 0.05
        assert result.metrics["test_accuracy"] > median + 0.1

    return Recipe(classifier(**chosen.configuration), data, OPTIONS | {"epochs": EPOCHS}, check)


def successive_halving() -> Recipe:
    """32 configurations for less than a sixth of what training each to the end would cost."""
    data = digits()
    tried = configurations(SPACE, np.random.default_rng(0).random((32, 2)))
    fleet, alive = Fleet([0] * len(tried)), list(range(len(tried)))

    def advance(indices: Sequence[int], epochs: int) -> list[float]:
        nonlocal fleet, alive
        fleet = fleet.select([alive.index(index) for index in indices])
        alive = list(indices)
        rates = {name: [tried[index][name] for index in alive] for name in SPACE}
        fleet.train(*data.train, epochs=epochs, **rates)
        return fleet.accuracy(*data.validation).tolist()

    halving = tuning.successive_halving(advance, len(tried))
    last = halving.rungs[-1]

    def check(result: FitResult) -> None:
        assert halving.spent * 6 < len(tried) * last.budget
        assert [len(rung.alive) for rung in halving.rungs] == [32, 16, 8, 4, 2, 1]
        assert abs(result.metrics.get("val_accuracy", 0.0) - last.scores[0]) < 0.04
        assert result.metrics["test_accuracy"] > 0.88

    module = classifier(**tried[halving.best])
    return Recipe(module, data, OPTIONS | {"epochs": last.budget}, check)


def paired_seed_comparison() -> Recipe:
    """Momentum or none, on the same eight seeds: the winner is trained."""
    data = digits()
    seeds = range(8)
    scores = {}
    for momentum in (0.0, 0.9):
        fleet = Fleet(seeds).train(
            *data.train, lr=0.02, momentum=momentum, epochs=4, order_seeds=seeds
        )
        scores[momentum] = fleet.accuracy(*data.validation).tolist()
    comparison = comparing.paired_comparison(scores[0.9], scores[0.0])
    winner = 0.9 if comparison.difference > 0 else 0.0

    def check(result: FitResult) -> None:
        low, high = comparison.interval
        assert low > 0 or high < 0, "the difference is within the noise"
        mean = sum(scores[winner]) / len(scores[winner])
        assert abs(result.metrics.get("val_accuracy", 0.0) - mean) < 0.1
        assert result.metrics.get("val_accuracy", 0.0) > max(scores[0.9 - winner])

    return Recipe(classifier(lr=0.02, momentum=winner), data, OPTIONS | {"epochs": 4}, check)


def bootstrap_interval() -> Recipe:
    """The interval for the test accuracy, from the test images drawn again and again."""
    data = digits()

    def check(result: FitResult) -> None:
        x, y = data.test
        with torch.no_grad():
            network = result.module.network.cpu()
            right = (network(x.cpu()).argmax(1) == y.cpu()).double().numpy()
        low, high = comparing.bootstrap_interval(right)
        expected = comparing.accuracy_interval(right.mean(), len(right))
        assert low <= result.metrics["test_accuracy"] <= high
        assert max(abs(low - expected[0]), abs(high - expected[1])) < 0.01
        assert low > 0.85

    return Recipe(classifier(lr=0.05, momentum=0.9), data, OPTIONS | {"epochs": EPOCHS}, check)
