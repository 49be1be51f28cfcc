"""The page's widespread mistake: it is one, as stated, and its cure is right."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from companion.data.digits import Digits
from companion.optimization.double_descent import Curve, double_descent, noisy_labels

COUNTS = (5, 20, 100, 500, 2000)


def curve(ridge: float = 0.0) -> Curve:
    """100 digits, a fifth of them with a wrong label, fitted by random features."""
    data = Digits(flatten=True, dtype=torch.float64)
    data.setup()
    x, y = (part[:100] for part in data.train)
    noisy = noisy_labels(y, 0.2, 10, torch.Generator().manual_seed(0))
    targets = (F.one_hot(labels, 10).double() for labels in (noisy, data.test[1]))
    y, y_test = targets
    return double_descent((x, y), (data.test[0], y_test), COUNTS, draws=3, ridge=ridge)


def test_e25_twenty_times_as_many_features_as_samples_do_better_than_any_small_number():
    result = curve()
    test = result.test.mean(0)
    assert result.train[:, 3:].max() < 1e-15, "the wrong labels are fitted exactly"
    assert test[4] < test[:3].min()


def test_e25_the_over_fitting_is_worst_where_features_and_samples_are_as_many():
    test = curve().test.mean(0)
    assert int(test.argmax()) == 2
    assert test[2] > 20 * test[4]


def test_e25_with_ridge_a_larger_model_is_never_much_worse():
    test = curve(ridge=0.1).test.mean(0)
    assert (test[1:] < 1.02 * test[:-1]).all()
