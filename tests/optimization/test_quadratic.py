"""Closed forms of convergence against iterations that really ran."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimization.sgd_checks import normal
from torch import Tensor

from companion.optimization.quadratic import (
    condition_number,
    contraction,
    measured_rate,
    step_limit,
    steps_to_shrink,
    tuned_gradient_descent,
    tuned_heavy_ball,
    tuned_nesterov,
)
from companion.optimization.sgd import descend


def spectrum(condition: float, size: int = 8, smallest: float = 0.3) -> Tensor:
    return torch.logspace(0, math.log10(condition), size, dtype=torch.float64) * smallest


def rotated(values: Tensor, seed: int = 0) -> Tensor:
    basis = torch.linalg.qr(normal((len(values), len(values)), seed)).Q
    hessian = basis @ values.diag() @ basis.T
    return (hessian + hessian.T) / 2


def errors(hessian: Tensor, steps: int, **options) -> Tensor:
    """Distance from the minimum, 0, after each step."""
    start = torch.linalg.eigh(hessian).eigenvectors.sum(1)  # every direction takes part
    return descend(lambda w: hessian @ w, start, steps=steps, **options).norm(dim=1)


@pytest.mark.parametrize("condition", [2.0, 30.0, 1000.0])
def test_gradient_descent_converges_just_below_two_over_l_and_diverges_just_above(condition):
    values = spectrum(condition)
    hessian = rotated(values)
    limit = step_limit(values[-1].item())
    assert limit == pytest.approx(2 / values[-1].item(), rel=1e-15)
    top = torch.linalg.eigh(hessian).eigenvectors[:, -1]
    for factor, grows in ((0.999, False), (1.001, True)):
        path = descend(lambda w: hessian @ w, top, steps=2000, lr=factor * limit).norm(dim=1)
        assert (path[-1] > 5) if grows else (path[-1] < 0.05)


@pytest.mark.parametrize("condition", [3.0, 30.0, 1000.0])
def test_gradient_descent_s_measured_rate_is_the_closed_form(condition):
    values = spectrum(condition)
    lr, momentum, rate = tuned_gradient_descent(values[0].item(), values[-1].item())
    assert momentum == 0
    assert rate == pytest.approx((condition - 1) / (condition + 1), rel=1e-12)
    steps = math.ceil(40 * condition)
    found = measured_rate(errors(rotated(values), min(steps, 12_000), lr=lr)[: steps + 1])
    assert found == pytest.approx(rate, rel=1e-8)


@pytest.mark.parametrize("condition", [3.0, 30.0, 1000.0])
def test_heavy_ball_s_measured_rate_is_the_closed_form(condition):
    values = spectrum(condition)
    lr, momentum, rate = tuned_heavy_ball(values[0].item(), values[-1].item())
    root = math.sqrt(condition)
    assert rate == pytest.approx((root - 1) / (root + 1), rel=1e-12)
    steps = math.ceil(100 * root / math.log(10))
    found = measured_rate(
        errors(rotated(values), steps, lr=lr, momentum=momentum), double_root=True
    )
    assert found == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize("condition", [3.0, 30.0, 1000.0])
def test_nesterov_s_measured_rate_is_the_closed_form(condition):
    values = spectrum(condition)
    lr, momentum, rate = tuned_nesterov(values[0].item(), values[-1].item())
    assert rate == pytest.approx(1 - 1 / math.sqrt(condition), rel=1e-12)
    steps = math.ceil(60 * math.sqrt(condition) / math.log(10))
    path = errors(rotated(values), steps, lr=lr, momentum=momentum, nesterov=True)
    assert measured_rate(path, double_root=True) == pytest.approx(rate, rel=3e-3)


def test_a_double_root_s_error_is_a_line_times_a_power_to_ten_digits():
    """One direction, tuned heavy ball: e_t = (1 + c t) zᵗ e_0, z = ±√μ, from the first step on."""
    lr, momentum, rate = tuned_heavy_ball(0.25, 9.0)
    for curvature, sign in ((0.25, 1.0), (9.0, -1.0)):
        start = torch.ones((), dtype=torch.float64)
        path = descend(lambda w, c=curvature: c * w, start, steps=60, lr=lr, momentum=momentum)
        root = sign * rate
        slope = (1 - lr * curvature) / root - 1
        t = torch.arange(61, dtype=torch.float64)
        torch.testing.assert_close(path, (1 + slope * t) * root**t, rtol=1e-10, atol=1e-14)


@settings(max_examples=60)
@given(st.floats(0.05, 5), st.floats(0.01, 0.5), st.floats(0, 0.95), st.sampled_from((False, True)))
def test_contraction_is_the_spectral_radius_of_the_iteration(curvature, lr, momentum, nesterov):
    """Against the eigenvalues of the 2 × 2 matrix that maps (e, e before) to (e next, e)."""
    a = 1 - lr * curvature
    top = [(1 + momentum) * a, -momentum * a] if nesterov else [a + momentum, -momentum]
    matrix = torch.tensor([top, [1.0, 0.0]], dtype=torch.float64)
    expected = torch.linalg.eigvals(matrix).abs().max()
    found = contraction(
        torch.tensor(curvature, dtype=torch.float64), lr=lr, momentum=momentum, nesterov=nesterov
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)  # √eps at double roots


@given(st.floats(0.01, 10), st.floats(1.01, 1e6))
def test_the_tuned_settings_give_their_rate_at_both_ends_and_less_between(smallest, condition):
    largest = smallest * condition
    values = torch.linspace(smallest, largest, 50, dtype=torch.float64)
    for tune, nesterov in (
        (tuned_gradient_descent, False),
        (tuned_heavy_ball, False),
        (tuned_nesterov, True),
    ):
        lr, momentum, rate = tune(smallest, largest)
        factors = contraction(values, lr=lr, momentum=momentum, nesterov=nesterov)
        assert factors[0].item() == pytest.approx(rate, rel=1e-5, abs=1e-5)
        assert factors.max().item() <= rate + 1e-5


def test_no_other_learning_rate_beats_the_tuned_one():
    values = spectrum(50.0)
    best = tuned_gradient_descent(values[0].item(), values[-1].item())
    for lr in torch.linspace(0.5, 1.02, 60, dtype=torch.float64) * step_limit(values[-1].item()):
        assert contraction(values, lr=lr.item()).max() >= best.rate - 1e-12


def test_condition_number_is_the_ratio_of_the_curvatures():
    assert condition_number(rotated(spectrum(250.0))) == pytest.approx(250, rel=1e-10)
    assert condition_number(torch.eye(3)) == 1
    assert condition_number(torch.tensor([[2.0]])) == 1


def test_steps_to_shrink_counts_whole_steps():
    assert steps_to_shrink(0.5, 0.125) == 3
    assert steps_to_shrink(0.5, 0.124) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: step_limit(0.0), "smallest=0.0, largest=0.0: .* 0 < smallest <= largest"),
        (lambda: tuned_heavy_ball(2.0, 1.0), "smallest=2.0, largest=1.0"),
        (lambda: tuned_nesterov(-1.0, 1.0), "smallest=-1.0"),
        (lambda: tuned_gradient_descent(1.0, float("inf")), "largest=inf"),
        (lambda: condition_number(torch.ones(2, 3)), r"hessian has shape \(2, 3\)"),
        (lambda: condition_number(torch.ones(2, 2)), "it must be above 0"),
        (lambda: condition_number(torch.tensor([[1.0, 2], [0, 1]])), "hessian is not symmetric"),
        (lambda: measured_rate(torch.ones(3)), r"errors has shape \(3,\)"),
        (lambda: measured_rate(torch.tensor([1.0, 1, 0, 1])), "not positive and finite"),
        (lambda: steps_to_shrink(1.0, 0.5), "rate=1.0, factor=0.5: both must lie"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
