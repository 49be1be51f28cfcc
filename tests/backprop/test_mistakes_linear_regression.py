"""Widespread mistake E17: noise with a mean, and a "test" on the training data; and the fixes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from companion.backprop.linear_regression import least_squares, standard_errors

DRAWS = 1000


def tutorial_data(seed: int, *, centred: bool = False, n: int = 100) -> tuple[Tensor, Tensor]:
    """y = 2x + 1 + u, x and u uniform on [0, 1); the fix takes the noise's mean away."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    noise = torch.rand(n, generator=generator, dtype=torch.float64)
    return x, 2 * x[:, 0] + 1 + noise - (0.5 if centred else 0.0)


def fits(*, centred: bool) -> tuple[Tensor, Tensor]:
    """Fitted intercepts of many data sets, and their standard errors."""
    found, errors = [], []
    for seed in range(DRAWS):
        x, y = tutorial_data(seed, centred=centred)
        found.append(least_squares(x, y).bias)
        errors.append(standard_errors(x, y).bias)
    return torch.stack(found), torch.stack(errors)


def test_e17_the_intercept_is_one_and_a_half_and_never_near_one():
    intercepts, errors = fits(centred=False)
    # The mean of DRAWS intercepts, to within four of its own standard errors.
    assert abs(float(intercepts.mean()) - 1.5) < 4 * float(intercepts.std()) / math.sqrt(DRAWS)
    assert float(intercepts.min()) > 1.2
    holds_one = (intercepts - 1).abs() < 1.96 * errors
    assert float(holds_one.double().mean()) == 0


def test_e17_the_interval_holds_one_and_a_half_as_often_as_it_says():
    intercepts, errors = fits(centred=False)
    covered = ((intercepts - 1.5).abs() < 1.96 * errors).double().mean()
    assert 0.92 < float(covered) < 0.97


def test_e17_noise_with_mean_zero_gives_the_intercept_that_was_announced():
    intercepts, errors = fits(centred=True)
    assert abs(float(intercepts.mean()) - 1) < 4 * float(intercepts.std()) / math.sqrt(DRAWS)
    assert 0.92 < float(((intercepts - 1).abs() < 1.96 * errors).double().mean()) < 0.97


def test_e17_the_loss_on_the_training_data_is_optimistic_and_fresh_data_say_so():
    seen, fresh = [], []
    for seed in range(DRAWS):
        x, y = tutorial_data(seed)
        line = least_squares(x, y)
        new_x, new_y = tutorial_data(seed + DRAWS)
        seen.append((line.predict(x) - y).square().mean())
        fresh.append((line.predict(new_x) - new_y).square().mean())
    seen, fresh = torch.stack(seen), torch.stack(fresh)
    noise, margin = 1 / 12, 4 / math.sqrt(DRAWS)
    # Two coefficients, a hundred rows: the expectation is exactly σ² (1 − 2/100).
    assert abs(float(seen.mean()) - 0.98 * noise) < margin * float(seen.std())
    assert float(seen.mean()) < noise - 2 * float(seen.std()) / math.sqrt(DRAWS)
    assert float(fresh.mean()) > noise + 2 * float(fresh.std()) / math.sqrt(DRAWS)
