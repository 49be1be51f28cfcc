r"""Looking for hyper-parameters: spaces, random and grid search, successive halving.

Every dimension of a space maps a number u from [0, 1) to a value:

    Uniform(low, high)       low + u (high − low)
    LogUniform(low, high)    low (high / low)ᵘ         equal chances for every decade
    Choice(options)          options[⌊u · len(options)⌋]

so that a trial is a row of uniform draws, and the same draws give the same trials to any library.
If a share p of the space is good enough, n independent draws miss it with probability (1 − p)ⁿ.

Sources: Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13 (2012),
sections 1 and 2; Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization", AISTATS 2016, section 3 (successive halving).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from companion.arguments import check_integer

Configuration = dict[str, Any]


class Dimension(Protocol):
    """One hyper-parameter's range."""

    def at(self, u: float) -> Any:
        """Return the value at the share `u` in [0, 1) of the range."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Real numbers from `low` to `high`, every interval as likely as it is long.

    Raises:
        ValueError: unless low < high, both finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_ends(self.low, self.high)

    def at(self, u: float) -> float:
        """Return the value at the share `u` in [0, 1)."""
        return self.low + u * (self.high - self.low)


@dataclass(frozen=True)
class LogUniform:
    """Positive numbers from `low` to `high`, whose logarithm is uniform.

    Raises:
        ValueError: unless 0 < low < high, both finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low > 0:
            raise ValueError(f"low={self.low!r}: a logarithm needs a number above 0")
        _check_ends(self.low, self.high)

    def at(self, u: float) -> float:
        """Return the value at the share `u` in [0, 1)."""
        return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))


@dataclass(frozen=True)
class Choice:
    """One of several options, equally likely.

    Raises:
        ValueError: no options.
    """

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.options) == 0:
            raise ValueError("options=(): at least one option is needed")

    def at(self, u: float) -> Any:
        """Return the option at the share `u` in [0, 1)."""
        return self.options[int(u * len(self.options))]


@dataclass(frozen=True)
class Trial:
    """A configuration that was tried, and its score: higher is better."""

    configuration: Configuration
    score: float


Space = Mapping[str, Dimension]
Objective = Callable[[Configuration], float]


def configurations(space: Space, draws: np.ndarray) -> list[Configuration]:
    """Turn uniform draws of shape (trials, dimensions), each in [0, 1), into configurations.

    Raises:
        ValueError: an empty space, or draws of another shape or range.
    """
    _check_space(space)
    draws = np.asarray(draws, dtype=np.float64)
    if draws.ndim != 2 or draws.shape[1] != len(space):
        raise ValueError(f"draws has the shape {draws.shape}: (trials, {len(space)}) is needed")
    if not ((draws >= 0) & (draws < 1)).all():
        raise ValueError("draws: every number must lie in [0, 1)")
    return [
        {
            name: dimension.at(float(u))
            for (name, dimension), u in zip(space.items(), row, strict=True)
        }
        for row in draws
    ]


def random_search(objective: Objective, space: Space, *, trials: int, seed: int = 0) -> list[Trial]:
    """Try `trials` independent draws from `space`; `best` of the answer is what was found.

    Args:
        objective: takes a configuration, returns its *validation* score, higher is better.

    Raises:
        ValueError: an empty space, or fewer than one trial.
    """
    _check_space(space)
    check_integer("trials", trials, minimum=1)
    draws = np.random.RandomState(seed).random_sample((trials, len(space)))
    return [Trial(c, float(objective(c))) for c in configurations(space, draws)]


def grid(space: Space, per_dimension: int) -> list[Configuration]:
    """Return ``per_dimension ** len(space)`` configurations: the centres of equal cells.

    Raises:
        ValueError: an empty space, or fewer than one value a dimension.
    """
    _check_space(space)
    check_integer("per_dimension", per_dimension, minimum=1)
    centres = (np.arange(per_dimension) + 0.5) / per_dimension
    return configurations(space, np.array(list(itertools.product(centres, repeat=len(space)))))


def grid_search(objective: Objective, space: Space, *, per_dimension: int) -> list[Trial]:
    """Try every configuration of :func:`grid`."""
    return [Trial(c, float(objective(c))) for c in grid(space, per_dimension)]


def best(trials: Sequence[Trial]) -> Trial:
    """Return the trial of the highest score, the first of equals; NaN never wins.

    Raises:
        ValueError: no trials, or none with a score.
    """
    scored = [trial for trial in trials if not math.isnan(trial.score)]
    if not scored:
        raise ValueError(f"trials: none of {len(trials)} has a score")
    return max(scored, key=lambda trial: trial.score)


def hit_probability(share: float, trials: int) -> float:
    """The chance that at least one of `trials` random draws falls into a `share` of the space.

    Raises:
        ValueError: a share outside [0, 1], or a negative number of trials.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share!r}: a number in [0, 1] is needed")
    check_integer("trials", trials, minimum=0)
    return 1 - (1 - share) ** trials


@dataclass(frozen=True)
class Rung:
    """One round of successive halving.

    Attributes:
        alive: indices of the configurations that were trained in this round.
        budget: what each of them has been given so far, all rounds together.
        scores: their scores after it, in the order of `alive`.
    """

    alive: tuple[int, ...]
    budget: int
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Halving:
    """What :func:`successive_halving` did: the `best` index, its rounds, the budget `spent`."""

    best: int
    rungs: tuple[Rung, ...]
    spent: int


def successive_halving(
    advance: Callable[[Sequence[int], int], Sequence[float]],
    count: int,
    *,
    first_budget: int = 1,
    keep: int = 2,
) -> Halving:
    """Train all a little, keep the best 1/`keep`, give them `keep` times as much, and so on.

    Training goes on where it stopped, so a configuration that is kept costs only the difference.

    Args:
        advance: called with the indices still alive and the additional budget for each of them
            (epochs, say); returns their validation scores, higher is better.
        count: how many configurations there are at the start.
        first_budget: what each gets in the first round.
        keep: one in `keep` survives a round.

    Raises:
        ValueError: a count or first budget below 1, or keep below 2; scores of another length.
    """
    check_integer("count", count, minimum=1)
    check_integer("first_budget", first_budget, minimum=1)
    check_integer("keep", keep, minimum=2)
    alive, budget, given, spent = list(range(count)), first_budget, 0, 0
    rungs: list[Rung] = []
    while True:
        scores = [float(score) for score in advance(alive, budget - given)]
        if len(scores) != len(alive):
            raise ValueError(f"advance returned {len(scores)} scores for {len(alive)} indices")
        spent += len(alive) * (budget - given)
        given = budget
        rungs.append(Rung(tuple(alive), budget, tuple(scores)))
        ranked = sorted(range(len(alive)), key=lambda i: _rank(scores[i]), reverse=True)
        if len(alive) == 1:
            return Halving(alive[0], tuple(rungs), spent)
        alive = sorted(alive[i] for i in ranked[: max(1, len(alive) // keep)])
        budget *= keep


def _rank(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def _check_space(space: Space) -> None:
    if len(space) == 0:
        raise ValueError("space={}: at least one hyper-parameter is needed")


def _check_ends(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low={low!r}, high={high!r}: finite numbers with low < high are needed")
