"""Classic mistakes planted in companion/backprop/features.py, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from backprop import test_features as checks
from planting import mutant

from companion.backprop import features

# One row has no sample variance: the mutants that ask for it are told so.
pytestmark = pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0.*")


def assert_caught(check: Callable[[ModuleType], None], old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check(mutant(features, old, new))


def test_test_rows_that_leak_into_the_scaling_are_caught():
    assert_caught(
        checks.check_standardize,
        "= Standardizer(train)",
        "= Standardizer(torch.cat([train, *others]))",
    )


def test_scaling_every_part_with_its_own_statistics_is_caught():
    assert_caught(checks.check_standardize, "tuple(scaler(x)", "tuple(Standardizer(x)(x)")


def test_dividing_by_the_variance_is_caught():
    assert_caught(checks.check_standardize, ".var(dim=0, correction=0).sqrt()", ".var(0)")


def test_the_sample_deviation_in_place_of_the_population_one_is_caught():
    assert_caught(checks.check_standardize, "correction=0", "correction=1")


def test_dividing_a_constant_column_by_its_rounding_noise_is_caught():
    assert_caught(
        checks.check_constant_column,
        "torch.where(scale <= noise, torch.ones_like(scale), scale)",
        "scale",
    )


def test_shuffling_x_without_y_is_caught():
    assert_caught(
        checks.check_split, "Part(x[rows], y[rows])", "Part(x[rows], y[rows.sort().values])"
    )


def test_a_test_part_that_is_the_training_part_is_caught():
    assert_caught(
        checks.check_split,
        "for rows in (train, validation, test)",
        "for rows in (train, validation, train)",
    )


def test_powers_without_squares_are_caught():
    old = "for chosen in combinations_with_replacement(range(x.shape[1]), d)"
    new = "for chosen in __import__('itertools').combinations(range(x.shape[1]), d)"
    assert_caught(checks.check_polynomial_features, old, new)


def test_leaving_out_the_wrong_category_is_caught():
    old = "torch.arange(first, num_classes, device=labels.device)"
    assert_caught(checks.check_one_hot, old, "torch.arange(num_classes - first)")
