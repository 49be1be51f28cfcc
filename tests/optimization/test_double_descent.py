"""Random features: the solver against NumPy, and the shape of the curve."""

from __future__ import annotations

import pytest
import torch
from optimization import regularization_checks as checks
from torch.testing import assert_close

from companion.optimization import double_descent as module
from companion.optimization.double_descent import double_descent, least_norm, noisy_labels


def test_least_norm_equals_the_pseudo_inverse_and_ridge_the_normal_equation():
    checks.check_least_norm(module)


def test_exactly_the_asked_share_of_labels_is_wrong():
    checks.check_noise(module)


def test_of_all_exact_fits_it_has_the_least_norm():
    features, targets = checks.normal((6, 15), 0), checks.normal((6, 2), 1)
    theta = least_norm(features, targets)
    assert_close(features @ theta, targets, **checks.TIGHT)
    null = torch.linalg.svd(features).Vh[6:]  # directions that change nothing in the fit
    assert_close(null @ theta, torch.zeros(9, 2).double(), **checks.TIGHT)


def test_a_repeated_column_is_no_singular_system():
    features = checks.normal((10, 3), 0)
    doubled = torch.cat([features, features], dim=1)
    targets = checks.normal((10, 1), 1)
    theta = least_norm(doubled, targets)
    assert_close(theta[:3], theta[3:], **checks.TIGHT)
    assert_close(2 * theta[:3], least_norm(features, targets), **checks.TIGHT)


def noisy_line() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    x, w = checks.normal((240, 8), 0), checks.normal((8, 1), 1)
    y = (x @ w).tanh()
    return (x[:40], y[:40] + 0.3 * checks.normal((40, 1), 2)), (x[40:], y[40:])


def test_the_peak_stands_at_as_many_features_as_samples():
    curve = double_descent(*noisy_line(), (10, 20, 40, 80, 600), draws=6)
    test, train = curve.test.mean(0), curve.train.mean(0)
    assert int(test.argmax()) == 2
    assert test[2] > 5 * test[0]
    assert test[4] < test[2] / 20
    assert train[1] > 1e-3
    assert train[3:].max() < 1e-15
    assert int(curve.norm.mean(0).argmax()) == 2


def test_ridge_removes_the_peak():
    curve = double_descent(*noisy_line(), (20, 40, 80), draws=6, ridge=0.1)
    test = curve.test.mean(0)
    assert test[1] < 1.5 * min(test[0], test[2])


def test_draws_are_reproducible_and_nested():
    data = noisy_line()
    short = double_descent(*data, (5, 10), draws=2)
    long = double_descent(*data, (5, 10, 30), draws=2)
    assert_close(short.test, long.test[:, :2], **checks.TIGHT)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: least_norm(torch.ones(2, 2), torch.ones(2, 1), -1.0), "ridge=-1.0"),
        (lambda: least_norm(torch.ones(2, 2), torch.ones(3, 1)), "features of shape"),
        (lambda: double_descent(*noisy_line(), ()), "there are none"),
        (lambda: double_descent(*noisy_line(), (0,)), "counts=0"),
        (lambda: double_descent(*noisy_line(), (3,), draws=0), "draws=0"),
        (
            lambda: noisy_labels(torch.zeros(3).long(), 1.0, 10, torch.Generator()),
            "share=1.0",
        ),
        (
            lambda: noisy_labels(torch.zeros(3).long(), 0.1, 1, torch.Generator()),
            "num_classes=1",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
