r"""Is the difference real? Standard errors, intervals and tests for accuracies and seeds.

For n values with mean x̄ and sample variance s² = Σ(x − x̄)²/(n − 1):

    standard error of the mean           s / √n
    of an accuracy p on n images         √(p (1 − p) / n)
    t interval                           x̄ ± t(n − 1) s / √n
    paired: the same formulas, applied to the differences aᵢ − bᵢ

Sources: Student, "The Probable Error of a Mean", Biometrika 6 (1908); Wilson, JASA 22 (1927), for
the interval of a share; McNemar, Psychometrika 12 (1947); Holm, Scandinavian Journal of
Statistics 6 (1979); Efron, The Annals of Statistics 7 (1979), for the bootstrap; Phipson and
Smyth, Statistical Applications in Genetics and Molecular Biology 9 (2010), for the 1 that is added
to a permutation count.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from companion.arguments import check_integer, check_rule

Values = Sequence[float] | np.ndarray
MOST_EXACT = 16  # 2¹⁶ = 65,536 sign patterns; beyond it they are drawn at random


@dataclass(frozen=True)
class Comparison:
    """A difference of means, with its standard error, interval and two-sided p-value."""

    difference: float
    error: float
    interval: tuple[float, float]
    p: float


def expected_maximum(count: int) -> float:
    """The expected largest of `count` independent standard normal numbers.

    The integral of x · n φ(x) Φ(x)ⁿ⁻¹, by the trapezoidal rule.

    Raises:
        ValueError: a count below 1.
    """
    check_integer("count", count, minimum=1)
    x = np.linspace(-12, 12, 4801)
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    return float((x * count * density * below ** (count - 1)).sum() * (x[1] - x[0]))


def standard_error(values: Values) -> float:
    """s / √n of at least two values: how far their mean is from the true mean, typically."""
    values = _sample("values", values)
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def accuracy_error(accuracy: float, images: int) -> float:
    """√(p (1 − p) / n): the standard error of an accuracy measured on `images` images.

    Raises:
        ValueError: an accuracy outside [0, 1], or no image.
    """
    check_rule("accuracy", accuracy, lambda value: 0 <= value <= 1, "a number in [0, 1]")
    check_integer("images", images, minimum=1)
    return math.sqrt(accuracy * (1 - accuracy) / images)


def accuracy_interval(
    accuracy: float, images: int, *, level: float = 0.95, wilson: bool = True
) -> tuple[float, float]:
    """An interval that covers the true accuracy in about `level` of all test sets.

    Args:
        wilson: Wilson's interval, good near 0 and 1 too; otherwise p ± z √(p (1 − p) / n).
    """
    error = accuracy_error(accuracy, images)
    z = _quantile(level)
    if not wilson:
        return accuracy - z * error, accuracy + z * error
    shrink = 1 / (1 + z * z / images)
    centre = shrink * (accuracy + z * z / (2 * images))
    half = shrink * z * math.sqrt(error**2 + z * z / (4 * images**2))
    return centre - half, centre + half


def t_interval(values: Values, *, level: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean of at least two values."""
    from scipy.stats import t

    values = _sample("values", values)
    _check_level(level)
    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * standard_error(values)
    return float(values.mean()) - half, float(values.mean()) + half


def bootstrap_interval(
    values: Values, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the mean, from resamples drawn with replacement.

    Raises:
        ValueError: fewer than two values, no resample, or a level outside (0, 1).
    """
    values = _sample("values", values)
    _check_level(level)
    check_integer("resamples", resamples, minimum=1)
    n = len(values)
    rows = np.random.default_rng(seed).integers(n, size=(resamples, n))
    low, high = np.quantile(values[rows].mean(axis=1), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def paired_comparison(first: Values, second: Values, *, level: float = 0.95) -> Comparison:
    """Compare two methods that were run on the same seeds, in the same order, by their differences.

    Raises:
        ValueError: unequal lengths, or fewer than two seeds.
    """
    from scipy.stats import t

    differences = _differences(first, second)
    mean, error = float(differences.mean()), standard_error(differences)
    p = 2 * float(t.sf(abs(mean) / error, len(differences) - 1)) if error else float(mean == 0)
    return Comparison(mean, error, t_interval(differences, level=level), p)


def unpaired_comparison(first: Values, second: Values, *, level: float = 0.95) -> Comparison:
    """Compare two independent groups of runs, by Welch's t (the variances may differ)."""
    from scipy.stats import t

    first, second = _sample("first", first), _sample("second", second)
    _check_level(level)
    mean = float(first.mean() - second.mean())
    one, two = standard_error(first) ** 2, standard_error(second) ** 2
    error = math.sqrt(one + two)
    if not error:
        return Comparison(mean, 0.0, (mean, mean), float(mean == 0))
    freedom = (one + two) ** 2 / (one**2 / (len(first) - 1) + two**2 / (len(second) - 1))
    half = float(t.ppf(0.5 + level / 2, freedom)) * error
    p = 2 * float(t.sf(abs(mean) / error, freedom))
    return Comparison(mean, error, (mean - half, mean + half), p)


def sign_flip_test(differences: Values, *, flips: int = 9999, seed: int = 0) -> float:
    """The two-sided p-value of a mean difference: how often random signs do as well or better.

    If the two methods were the same, each difference could as well have had the other sign. Up to
    16 differences all sign patterns are counted; otherwise `flips` are drawn, and the data's own
    pattern counts as one more.

    Raises:
        ValueError: fewer than two differences, or flips below 1.
    """
    values = _sample("differences", differences)
    check_integer("flips", flips, minimum=1)
    n = len(values)
    exact = n <= MOST_EXACT
    if exact:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
    else:
        signs = np.random.default_rng(seed).choice((1, -1), size=(flips, n))
    observed = abs(values.mean())
    as_large = np.abs((signs * values).mean(axis=1)) >= observed - 1e-12 * np.abs(values).max()
    if exact:  # the data's own signs are among them, so this is never 0
        return float(as_large.mean())
    return float((as_large.sum() + 1) / (flips + 1))


def mcnemar_test(first_right: np.ndarray, second_right: np.ndarray) -> float:
    """The exact two-sided p-value of two classifiers on the same images, each right or wrong.

    Only the images on which they differ count: half of them should go to each.

    Args:
        first_right, second_right: booleans, (images,).

    Raises:
        ValueError: unequal lengths.
    """
    first, second = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"first_right {first.shape}, second_right {second.shape}: equal lengths")
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def holm(p_values: Values) -> np.ndarray:
    """Adjusted p-values, in the order given: below α, the chance of any false alarm is ≤ α.

    The smallest p is multiplied by m, the next by m − 1, …, and none may fall below the one before.

    Raises:
        ValueError: a p-value outside [0, 1], or none.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or len(p) == 0 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values={p_values!r}: numbers in [0, 1] are needed")
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    answer = np.empty_like(p)
    answer[order] = adjusted
    return answer


def power(seeds: int, difference: float, spread: float, *, alpha: float = 0.05) -> float:
    """The chance that a two-sided paired t test on `seeds` seeds sees a true `difference`.

    Args:
        difference: the true mean difference, in the units of `spread`.
        spread: the standard deviation of the differences from seed to seed.

    Raises:
        ValueError: fewer than two seeds, spread ≤ 0, or alpha outside (0, 1).
    """
    from scipy.stats import nct, t

    check_integer("seeds", seeds, minimum=2)
    check_rule("spread", spread, lambda value: 0 < value < math.inf, "a number above 0")
    check_rule("alpha", alpha, lambda value: 0 < value < 1, "a number in (0, 1)")
    limit = float(t.ppf(1 - alpha / 2, seeds - 1))
    shift = abs(difference) / spread * math.sqrt(seeds)
    return float(nct.sf(limit, seeds - 1, shift) + nct.cdf(-limit, seeds - 1, shift))


def seeds_needed(
    difference: float, spread: float, *, wanted: float = 0.8, alpha: float = 0.05
) -> int:
    """The fewest seeds for which :func:`power` is at least `wanted`.

    Raises:
        ValueError: a difference of 0, or `wanted` outside (0, 1).
    """
    check_rule("difference", difference, lambda value: value != 0, "a number other than 0")
    check_rule("wanted", wanted, lambda value: 0 < value < 1, "a number in (0, 1)")
    low, high = 1, 2
    while power(high, difference, spread, alpha=alpha) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(middle, difference, spread, alpha=alpha) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return high


def _sample(name: str, values: Values) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{name} has the shape {array.shape}: at least 2 numbers are needed")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: every number must be finite")
    return array


def _differences(first: Values, second: Values) -> np.ndarray:
    one, two = _sample("first", first), _sample("second", second)
    if len(one) != len(two):
        raise ValueError(f"first has {len(one)} numbers, second {len(two)}: pairs are needed")
    return one - two


def _check_level(level: float) -> None:
    check_rule("level", level, lambda value: 0 < value < 1, "a number in (0, 1)")


def _quantile(level: float) -> float:
    _check_level(level)
    return NormalDist().inv_cdf(0.5 + level / 2)
