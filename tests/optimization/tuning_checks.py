"""Checks of the page `tuning`, as functions of the module under test.

Ordinary tests run them on the real modules, test_tuning_mistakes.py on mutants.
"""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import scipy.stats
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

EXACT = {"rtol": 1e-10, "atol": 0.0}


def close(one: object, other: object, rtol: float = 1e-10, atol: float = 0.0) -> None:
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def pairs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two methods on n seeds: a common part larger than the difference."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0.9, 0.02, n)
    return common + rng.normal(0.004, 0.004, n), common


def check_dimensions(tuning: ModuleType) -> None:
    """A logarithmic range gives every decade its share; a linear one every length."""
    log, linear = tuning.LogUniform(1e-4, 1.0), tuning.Uniform(-2.0, 6.0)
    close([log.at(u) for u in (0, 0.25, 0.5, 0.75)], [1e-4, 1e-3, 1e-2, 1e-1])
    close([linear.at(u) for u in (0, 0.25, 0.5)], [-2, 0, 2], atol=1e-12)
    choice = tuning.Choice(("a", "b", "c"))
    assert [choice.at(u) for u in (0, 0.33, 0.34, 0.67, 0.999)] == ["a", "a", "b", "c", "c"]


def check_optuna(tuning: ModuleType) -> None:
    """The same seed gives the same trials, in the same order, as optuna's RandomSampler."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {"lr": tuning.LogUniform(1e-4, 10.0), "decay": tuning.Uniform(0.0, 0.5)}

    def score(configuration: dict[str, float]) -> float:
        return -abs(math.log10(configuration["lr"]) + 1) - configuration["decay"]

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 10.0, log=True)
        return score({"lr": lr, "decay": trial.suggest_float("decay", 0.0, 0.5)})

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))
    study.optimize(objective, n_trials=30)
    trials = tuning.random_search(score, space, trials=30, seed=3)
    for name in space:
        close([t.configuration[name] for t in trials], [t.params[name] for t in study.trials])
    close([t.score for t in trials], [t.value for t in study.trials])
    found = tuning.best(trials)
    assert found.configuration == trials[study.best_trial.number].configuration


def check_distinct_values(tuning: ModuleType) -> None:
    """16 grid points try 4 values of each parameter, 16 random ones try 16."""
    space = {"a": tuning.Uniform(0.0, 1.0), "b": tuning.Uniform(0.0, 1.0)}
    points = tuning.grid(space, 4)
    assert len(points) == 16
    assert sorted({p["a"] for p in points}) == [0.125, 0.375, 0.625, 0.875]
    assert len({(p["a"], p["b"]) for p in points}) == 16
    trials = tuning.random_search(lambda c: 0.0, space, trials=16)
    assert len({t.configuration["a"] for t in trials}) == 16
    assert len({t.configuration["b"] for t in trials}) == 16


def check_halving(tuning: ModuleType) -> None:
    """Configuration i has the score i after any budget: the last one wins, at the exact cost."""
    given = [0] * 8

    def advance(alive: list[int], additional: int) -> list[float]:
        for index in alive:
            given[index] += additional
        return [float(index) for index in alive]

    halving = tuning.successive_halving(advance, 8, first_budget=3)
    assert halving.best == 7
    assert [rung.alive for rung in halving.rungs] == [tuple(range(8)), (4, 5, 6, 7), (6, 7), (7,)]
    assert [rung.budget for rung in halving.rungs] == [3, 6, 12, 24]
    assert given == [3, 3, 3, 3, 6, 6, 12, 24]
    assert halving.spent == sum(given)


def check_standard_error(comparing: ModuleType) -> None:
    for n in (2, 3, 20):
        values = pairs(n)[0]
        close(comparing.standard_error(values), scipy.stats.sem(values))


def check_accuracy_error(comparing: ModuleType) -> None:
    """The spread of binomial draws, by its exact probabilities."""
    n, p = 30, 0.9
    counts = np.arange(n + 1)
    chances = scipy.stats.binom.pmf(counts, n, p)
    variance = (chances * (counts / n - p) ** 2).sum()
    close(comparing.accuracy_error(p, n), math.sqrt(variance))
    for accuracy in (0.0, 0.9, 1.0):
        expected = scipy.stats.binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
        found = comparing.accuracy_interval(accuracy, n)
        close(found, [expected.low, expected.high], atol=1e-12)


def check_t_interval(comparing: ModuleType) -> None:
    values = pairs(12)[0]
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.9)
    close(comparing.t_interval(values, level=0.9), [expected.low, expected.high])


def check_paired(comparing: ModuleType) -> None:
    for n in (2, 5, 20):
        first, second = pairs(n)
        expected = scipy.stats.ttest_rel(first, second)
        found = comparing.paired_comparison(first, second)
        close(found.p, expected.pvalue)
        low, high = expected.confidence_interval()
        close(found.interval, [low, high])
        close(found.difference / found.error, expected.statistic)


def check_unpaired(comparing: ModuleType) -> None:
    first, second = pairs(20)[0], pairs(9, seed=1)[1]
    expected = scipy.stats.ttest_ind(first, second, equal_var=False)
    found = comparing.unpaired_comparison(first, second)
    close(found.p, expected.pvalue)
    close(found.interval, list(expected.confidence_interval()))


def check_sign_flips(comparing: ModuleType) -> None:
    """scipy's exact permutation test, up and down; never 0 when the signs are drawn."""
    for n in (2, 5, 9):
        first, second = pairs(n, seed=n)
        for differences in (first - second - 0.003, second - first):
            expected = scipy.stats.permutation_test(
                (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
            )
            close(comparing.sign_flip_test(differences), expected.pvalue)
    close(comparing.sign_flip_test([1.0, 1.0, 1.0]), 0.25)
    assert comparing.sign_flip_test(np.ones(40), flips=99) == 0.01


def check_bootstrap(comparing: ModuleType) -> None:
    """Close to all nⁿ resamples, counted."""
    values = np.array([0.0, 1.0, 5.0, 7.0])
    rows = np.stack(np.meshgrid(*[np.arange(4)] * 4), -1).reshape(-1, 4)
    expected = np.quantile(values[rows].mean(1), [0.05, 0.95])
    found = comparing.bootstrap_interval(values, level=0.9, resamples=100_000)
    close(found, expected, rtol=1e-10, atol=1e-12)


def check_mcnemar(comparing: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for share in (0.9, 0.8, 0.7):
        first, second = rng.random(120) < 0.9, rng.random(120) < share
        only = int((first & ~second).sum())
        n = only + int((~first & second).sum())
        close(comparing.mcnemar_test(first, second), scipy.stats.binomtest(only, n).pvalue)
    assert comparing.mcnemar_test(first, first) == 1.0


def check_holm(comparing: ModuleType) -> None:
    """The example by hand: 0.01 · 4, 0.02 · 3, then 0.03 · 2 and 0.2 · 1, in any order."""
    close(comparing.holm([0.2, 0.01, 0.03, 0.02]), [0.2, 0.04, 0.06, 0.06])
    close(comparing.holm([0.9, 0.8]), [1.0, 1.0])
    close(comparing.holm([0.01, 0.011, 0.5]), [0.03, 0.03, 0.5])


def check_power(comparing: ModuleType) -> None:
    """Cohen's tables: 34 pairs for half a spread at 80 %; alpha without a difference."""
    assert comparing.seeds_needed(0.5, 1.0) == 34
    assert comparing.seeds_needed(-0.8, 1.0) == 15
    close(comparing.power(10, 0.0, 1.0), 0.05, rtol=1e-8)


def check_expected_maximum(comparing: ModuleType) -> None:
    """Closed forms: 0, 1/√π, 3/(2√π); and Harter's table for 50."""
    known = {1: 0.0, 2: 1 / math.sqrt(math.pi), 3: 1.5 / math.sqrt(math.pi)}
    for count, expected in known.items():
        close(comparing.expected_maximum(count), expected, atol=1e-12)
    assert round(comparing.expected_maximum(50), 3) == 2.249


def check_fleet(fleet: ModuleType) -> None:
    """Every network ends where torch.optim.SGD brings it alone, in float64."""
    torch.manual_seed(0)
    x, y = torch.randn(50, 7).double(), torch.randint(4, (50,))
    seeds, orders = [5, 5, 9], [1, 2, 1]
    options = [(0.1, 0.0, 0.0), (0.3, 0.9, 0.01), (0.02, 0.5, 0.1)]
    lr, momentum, decay = (list(values) for values in zip(*options, strict=True))
    many = fleet.Fleet(seeds, (7, 6, 4), torch.float64)
    starts = [many.network(index) for index in range(3)]
    keywords = {"lr": lr, "momentum": momentum, "weight_decay": decay, "order_seeds": orders}
    many.train(x, y, batch_size=16, epochs=2, **keywords)
    many.train(x, y, batch_size=16, epochs=1, **keywords)
    for index, (rate, kept, shrink) in enumerate(options):
        network = starts[index]
        optimizer = torch.optim.SGD(
            network.parameters(), lr=rate, momentum=kept, weight_decay=shrink
        )
        for epoch in range(3):
            generator = torch.Generator().manual_seed(1_000_003 * orders[index] + epoch)
            for rows in torch.randperm(50, generator=generator).split(16)[:3]:
                optimizer.zero_grad()
                F.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
        trained = many.network(index)
        for mine, other in zip(trained.parameters(), network.parameters(), strict=True):
            assert_close(mine, other, **EXACT)
        assert torch.equal(many.answers(x)[index], network(x).argmax(1))
        assert isinstance(trained, nn.Sequential)
