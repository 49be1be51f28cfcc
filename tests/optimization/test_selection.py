"""Selection: scores against scikit-learn, and a cross-validation that finds nothing in noise."""

from __future__ import annotations

import pytest
import torch
from optimization import preprocessing_checks as checks
from torch import nn

from companion.optimization import selection
from companion.optimization.selection import (
    SelectBest,
    cross_validated_accuracy,
    f_scores,
    l1_scores,
    mutual_information,
    nearest_mean_accuracy,
    variance_scores,
)

X, Y = checks.normal(8, 3), torch.arange(8) % 2


@pytest.mark.parametrize(
    "check",
    [
        checks.check_f_scores,
        checks.check_mutual_information,
        checks.check_the_best_are_kept,
        checks.check_noise_predicts_nothing,
    ],
)
def test_selection_is_right(check) -> None:
    check(selection)


def test_variance_is_that_of_the_column() -> None:
    x = X * torch.tensor([1.0, 3.0, 0.0])
    expected = torch.from_numpy(x.numpy().var(0))
    torch.testing.assert_close(variance_scores(x, Y), expected, rtol=1e-10, atol=1e-12)


def test_information_about_itself_is_the_entropy() -> None:
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    shares = torch.tensor([3.0, 2.0, 1.0]).double() / 6
    x = torch.stack([y.double(), torch.full((6,), 5.0).double()], dim=1)
    entropy = -(shares * shares.log()).sum()
    expected = torch.stack([entropy, torch.zeros(()).double()])
    found = mutual_information(x, y, bins=3)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_an_l1_penalty_leaves_the_columns_that_count() -> None:
    x, y = checks.normal(200, 20), torch.arange(200) % 2
    x[:, 4] += 2 * y
    x[:, 11] -= 2 * y
    x[:, 11] *= 0.01  # a small unit makes no difference
    scores = l1_scores(x, y, strength=0.02)
    assert set(scores.topk(2).indices.tolist()) == {4, 11}
    assert (scores == 0).sum() > 10
    assert (l1_scores(x, y, strength=10.0) == 0).sum() < 5


def test_nearest_mean_answers_with_the_closest_class() -> None:
    x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    y = torch.tensor([3, 3, 7, 7])
    assert nearest_mean_accuracy(x, y, torch.tensor([[5.0], [7.0]]), torch.tensor([3, 3])) == 0.5


def test_a_real_signal_is_found_honestly() -> None:
    x, y = checks.normal(60, 300), torch.arange(60) % 2
    x[:, 17] += 4 * y
    assert cross_validated_accuracy(x, y, 1) > 0.9


def test_the_choice_travels_with_the_network() -> None:
    x = checks.normal(50, 6)
    y = torch.arange(50) % 2
    x[:, 2] += 5 * y
    other = nn.Sequential(SelectBest(checks.normal(50, 6, seed=1), y, 1))
    other.load_state_dict(nn.Sequential(SelectBest(x, y, 1)).state_dict())
    torch.testing.assert_close(other(x), x[:, [2]])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: f_scores(X, Y[:5]), r"x of shape \(8, 3\) and y of shape \(5,\)"),
        (lambda: f_scores(X * torch.nan, Y), "x holds 24 values that are NaN"),
        (lambda: f_scores(X[:0], Y[:0]), "is empty"),
        (lambda: f_scores(X, Y - 1), "y reaches from -1 to 0"),
        (lambda: f_scores(X, Y * 0), "y holds only class 0: at least two"),
        (lambda: f_scores(X[:2], Y[:2]), "x has 2 rows for 2 classes"),
        (lambda: mutual_information(X, Y, bins=1), "bins=1: an integer of at least 2"),
        (lambda: l1_scores(X, Y, strength=0.0), "strength=0.0: a positive number"),
        (lambda: SelectBest(X, Y, 4), "count=4: at most the number of features, 3"),
        (lambda: SelectBest(X, Y, 0), "count=0: an integer of at least 1"),
        (lambda: SelectBest(X, Y, 2)(X[:, :2]), r"x of shape \(8, 2\): \(samples, 3\)"),
        (lambda: cross_validated_accuracy(X, Y, 1, folds=9), "folds=9: at most one a sample, 8"),
    ],
)
def test_bad_input_is_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
