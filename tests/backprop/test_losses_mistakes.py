"""Classic mistakes planted in companion/backprop/losses.py, each caught by a check of its tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from planting import mutant

from companion.backprop import losses

_spec = importlib.util.spec_from_file_location("checks", Path(__file__).with_name("test_losses.py"))
checks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checks)


def assert_caught(check: Callable[[ModuleType], None], old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check(mutant(losses, old, new))


def test_mse_gradient_without_one_over_n_is_caught():
    assert_caught(
        checks.check_mse, "(prediction - target) / prediction.numel()", "(prediction - target)"
    )


def test_mse_gradient_without_its_factor_two_is_caught():
    assert_caught(checks.check_mse, "return 2 * (prediction", "return (prediction")


def test_mse_as_sum_instead_of_mean_is_caught():
    assert_caught(checks.check_mse, ".square().mean()", ".square().sum()")


def test_softmax_over_the_batch_axis_is_caught():
    old, new = "return exp_z / exp_z.sum(dim, keepdim=True)", "return exp_z / exp_z.sum(0)"
    assert_caught(lambda m: checks.check_activation(m, "softmax"), old, new)
    assert_caught(checks.check_cross_entropy, old, new)


def test_softmax_without_the_shift_overflows_and_is_caught():
    old = "torch.exp(z - z.amax(dim, keepdim=True))"
    assert_caught(checks.check_saturated_half_precision, old, "torch.exp(z)")
    assert_caught(checks.check_cross_entropy, old, "torch.exp(z)")


def test_log_softmax_without_the_shift_overflows_and_is_caught():
    old = "shifted = z - z.amax(dim, keepdim=True)"
    assert_caught(checks.check_saturated_half_precision, old, "shifted = z")


def test_log_of_softmax_in_two_pieces_is_caught():
    old = "return shifted - torch.log(torch.exp(shifted).sum(dim, keepdim=True))"
    assert_caught(checks.check_cross_entropy, old, "return torch.log(softmax(z, dim))")


def test_gradient_with_the_wrong_sign_is_caught():
    assert_caught(checks.check_binary_cross_entropy, "(sigmoid(z) - y)", "(y - sigmoid(z))")


def test_one_hot_off_by_one_is_caught():
    assert_caught(checks.check_cross_entropy, "== columns", "== columns + 1")


def test_cross_entropy_gradient_divided_by_classes_too_is_caught():
    assert_caught(
        checks.check_cross_entropy, ".to(z.dtype)) / z.shape[0]", ".to(z.dtype)) / z.numel()"
    )


def test_binary_cross_entropy_without_the_second_term_is_caught():
    assert_caught(checks.check_binary_cross_entropy, "(softplus(z) - y * z)", "(y * softplus(-z))")


def test_sigmoid_derivative_multiplied_in_twice_is_caught():
    assert_caught(
        checks.check_binary_cross_entropy,
        "return (sigmoid(z) - y) / z.numel()",
        "return sigmoid_backward(z, sigmoid(z) - y) / z.numel()",
    )


def test_sigmoid_that_lets_the_dropped_branch_overflow_is_caught():
    assert_caught(
        checks.check_binary_cross_entropy, "torch.exp(-z.clamp(min=0)), ", "torch.exp(-z), "
    )


def test_one_minus_sigmoid_that_cancels_is_caught():
    assert_caught(
        checks.check_small_probabilities_keep_their_digits, "* sigmoid(-z)", "* (1 - sigmoid(z))"
    )


def test_log_of_one_plus_without_log1p_is_caught():
    assert_caught(
        checks.check_small_probabilities_keep_their_digits,
        "torch.log1p(torch.exp(negative))",
        "torch.log(1 + torch.exp(negative))",
    )


def test_softmax_backward_with_the_diagonal_of_the_jacobian_only_is_caught():
    assert_caught(
        lambda m: checks.check_activation(m, "softmax"),
        "p * (grad_output - (grad_output * p).sum(dim, keepdim=True))",
        "p * (1 - p) * grad_output",
    )


def test_log_softmax_backward_that_ignores_the_normaliser_is_caught():
    assert_caught(
        lambda m: checks.check_activation(m, "log_softmax"),
        "grad_output - softmax(z, dim) * grad_output.sum(dim, keepdim=True)",
        "grad_output - softmax(z, dim)",
    )


def test_penalty_without_its_half_is_caught():
    assert_caught(
        checks.check_regularized_loss, "loss + weight_decay / 2 *", "loss + weight_decay *"
    )


def test_weight_decay_subtracted_is_caught():
    assert_caught(
        checks.check_decay_equals_sgd, "gradient + weight_decay", "gradient - weight_decay"
    )
