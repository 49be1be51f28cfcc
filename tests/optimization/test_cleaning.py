"""Cleaning: against loops and cases made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimization import preprocessing_checks as checks

from companion.optimization import cleaning
from companion.optimization.cleaning import (
    check_finite,
    check_labels,
    class_thresholds,
    duplicate_rows,
    out_of_sample_probabilities,
    plant_label_noise,
    precision_and_recall,
    stratified_folds,
)

X, Y = torch.ones(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    "check",
    [
        checks.check_noise_is_planted,
        checks.check_thresholds_by_class,
        checks.check_joint_equals_the_loop,
        checks.check_absent_class,
        checks.check_out_of_sample,
        checks.check_rows_keep_their_place,
        checks.check_duplicates,
    ],
)
def test_cleaning_is_right(check) -> None:
    check(cleaning)


@given(
    count=st.integers(2, 40),
    folds=st.integers(2, 8),
    classes=st.integers(2, 5),
    seed=st.integers(0, 1000),
)
def test_every_class_is_spread_evenly_over_the_folds(
    count: int, folds: int, classes: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=generator)
    if folds > count:
        return
    fold = stratified_folds(y, folds, generator)
    assert fold.bincount(minlength=folds).max() - fold.bincount(minlength=folds).min() <= 1
    for label in range(classes):
        parts = fold[y == label].bincount(minlength=folds)
        assert parts.max() - parts.min() <= 1


def test_other_seeds_give_other_folds() -> None:
    y = torch.zeros(50, dtype=torch.int64)
    first, second = (stratified_folds(y, 5, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert not torch.equal(first, second)


def test_precision_and_recall_are_shares_of_found_and_true() -> None:
    found = torch.tensor([True, True, True, False, False])
    true = torch.tensor([True, False, True, True, True])
    assert precision_and_recall(found, true) == (2 / 3, 2 / 4)
    assert math.isnan(precision_and_recall(torch.zeros(5, dtype=torch.bool), true)[0])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: check_finite(torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]]), "pixels"),
            r"pixels holds 2 values that are NaN or infinite, the first at \[1, 0\]",
        ),
        (lambda: check_finite(torch.ones(0, 3)), r"x of shape \(0, 3\) is empty"),
        (lambda: check_labels(torch.tensor([0, 3]), 3), r"y reaches from 0 to 3: .* in \[0, 2\]"),
        (lambda: check_labels(torch.tensor([-1, 2]), 3), "y reaches from -1 to 2"),
        (lambda: check_labels(torch.tensor([0.0]), 3), "one integer a sample"),
        (lambda: check_labels(Y[:0], 3), "y is empty"),
        (lambda: duplicate_rows(torch.full((2, 2), torch.nan)), "x holds 4 values"),
        (lambda: plant_label_noise(Y, 1.5, 2, torch.Generator()), r"share=1.5: a number in \[0"),
        (lambda: plant_label_noise(Y, 0.5, 1, torch.Generator()), "num_classes=1: an integer"),
        (
            lambda: out_of_sample_probabilities(lambda x, y: lambda r: r, X, Y, 3),
            r"learn gave probabilities of shape \(2, 2\): \(2, 3\)",
        ),
        (
            lambda: out_of_sample_probabilities(lambda x, y: lambda r: r, X[:4], Y, 2),
            "x has 4 rows and y 6 labels",
        ),
        (
            lambda: out_of_sample_probabilities(lambda x, y: lambda r: r, X, Y, 2, folds=7),
            "folds=7: at most one a sample, 6",
        ),
        (
            lambda: out_of_sample_probabilities(lambda x, y: lambda r: r, X, Y, 2, folds=1),
            "folds=1: an integer of at least 2",
        ),
        (lambda: class_thresholds(torch.ones(5, 2), Y), r"probabilities of shape \(5, 2\) for 6"),
        (lambda: class_thresholds(3 * X, Y), "reach from 3 to 3: values in"),
        (lambda: class_thresholds(X * torch.nan, Y), "probabilities holds 12 values"),
        (lambda: precision_and_recall(Y, Y), "two bool vectors"),
    ],
)
def test_bad_input_is_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
