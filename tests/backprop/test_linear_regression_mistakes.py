"""Classic mistakes planted in linear_regression.py and least_squares.py, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from backprop import test_least_squares as one_pass
from backprop import test_linear_regression as checks
from planting import mutant

from companion.backprop import least_squares, linear_regression


def assert_caught(
    check: Callable[[ModuleType], None],
    old: str,
    new: str,
    module: ModuleType = linear_regression,
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_a_weight_gradient_without_one_over_n_is_caught():
    assert_caught(
        checks.check_gradient_descent, "2 / yb.numel() * xb.T @ error", "2 * xb.T @ error"
    )


def test_a_gradient_without_the_two_of_the_square_is_caught():
    old = "2 / yb.numel() * xb.T @ error"
    assert_caught(checks.check_gradient_descent, old, "1 / yb.numel() * xb.T @ error")


def test_dividing_a_short_last_batch_by_the_batch_size_is_caught():
    old = "2 / yb.numel() * xb.T @ error"
    assert_caught(checks.check_gradient_descent, old, "2 / size * xb.T @ error")


def test_walking_up_instead_of_down_is_caught():
    old = "weight -= rate(step) * weight_grad"
    assert_caught(checks.check_gradient_descent, old, "weight += rate(step) * weight_grad")


def test_summing_the_intercepts_gradient_over_all_outputs_is_caught():
    assert_caught(checks.check_gradient_descent, "error.sum(dim=0)", "error.sum()")


def test_a_penalised_intercept_in_the_descent_is_caught():
    old = "bias -= rate(step) * bias_grad"
    new = "bias -= rate(step) * (bias_grad + weight_decay * bias)"
    assert_caught(checks.check_gradient_descent, old, new)


def test_updating_the_weights_before_the_intercepts_gradient_is_caught():
    old = (
        "bias_grad = 2 / yb.numel() * error.sum(dim=0)\n        weight -= rate(step) * weight_grad"
    )
    new = (
        "weight -= rate(step) * weight_grad\n        error = xb @ weight + bias - yb\n"
        "        bias_grad = 2 / yb.numel() * error.sum(dim=0)"
    )
    assert_caught(checks.check_gradient_descent, old, new)


def test_an_order_drawn_once_and_never_again_is_caught():
    old = "order = torch.randperm(len(x), generator=generator).to(x.device)"
    new = "order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))"
    assert_caught(checks.check_gradient_descent, old, new)


def test_batches_of_x_with_unshuffled_y_are_caught():
    assert_caught(checks.check_gradient_descent, "x[rows], y[rows]", "x[rows], y[: len(rows)]")


def test_ridge_without_the_number_of_samples_is_caught():
    old = "math.sqrt(y.numel() * weight_decay / 2)"
    assert_caught(checks.check_ridge, old, "math.sqrt(weight_decay / 2)")


def test_ridge_with_a_penalised_intercept_is_caught():
    old = "    root = math.sqrt(y.numel() * weight_decay / 2)\n    p = x.shape[1]\n"
    new = (
        "    root = math.sqrt(y.numel() * weight_decay / 2)\n    p = x.shape[1] + 1\n"
        "    x, target = with_ones(x), y.reshape(len(y), -1)\n    x_mean = torch.zeros_like(x[0])\n"
    )
    both = mutant(linear_regression, old, new)
    solve = both.ridge

    def as_model(x, y, *, weight_decay):
        whole = solve(x, y, weight_decay=weight_decay).weight
        return both.LinearModel(whole[:-1], whole[-1])

    both.ridge = as_model
    with pytest.raises(AssertionError):
        checks.check_ridge(both)


def test_a_normal_equation_without_the_column_of_ones_is_caught():
    old = "design = with_ones(x)\n    gram"
    new = "design = torch.cat([x, torch.zeros_like(x[:, :1])], 1)\n    gram"
    with pytest.raises((AssertionError, ValueError)):
        checks.check_closed_forms(mutant(linear_regression, old, new))


def test_an_intercept_that_forgets_the_means_of_x_is_caught():
    shape = "    weight = weight.reshape(-1, *y.shape[1:])\n"
    old = shape + "    return LinearModel(weight, y_mean - x_mean"
    new = old.replace("x_mean", "0 * x_mean")
    assert_caught(checks.check_closed_forms, old, new)


def test_q_in_place_of_its_transpose_is_caught():
    old = "solve_triangular(r, q.T @ target, upper=True)"
    new = "solve_triangular(r.T, q.T @ target, upper=False)"
    assert_caught(checks.check_closed_forms, old, new)


def test_a_standard_error_that_forgets_the_fitted_parameters_is_caught():
    assert_caught(checks.check_standard_errors, "/ freedom).sqrt()", "/ len(x)).sqrt()")


def test_a_hessian_that_penalises_the_intercept_is_caught():
    assert_caught(checks.check_hessian, "penalty[-1] = 0", "penalty[-1] = weight_decay")


def test_solving_for_the_last_batch_alone_is_caught():
    old = "kept = () if self._triangle is None else (self._triangle,)"
    with pytest.raises((AssertionError, ValueError)):
        one_pass.check_one_pass(mutant(least_squares, old, "kept = ()"))


def test_a_penalty_scaled_by_the_last_batch_is_caught():
    old = "self._elements += y.numel()"
    assert_caught(one_pass.check_one_pass, old, "self._elements = y.numel()", least_squares)


def test_one_pass_with_a_penalised_intercept_is_caught():
    old = "triangle.new_zeros(columns - 1, triangle.shape[1])"
    new = "triangle.new_zeros(columns, triangle.shape[1])"
    assert_caught(one_pass.check_one_pass, old, new, least_squares)
