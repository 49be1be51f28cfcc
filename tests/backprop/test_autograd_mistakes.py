"""Classic mistakes planted in the tape, each caught by a check that the right code passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
from backprop import (
    test_autograd,
    test_forward_mode,
    test_gradient_check,
    test_higher_order,
    test_tape,
    test_tensor_ops,
    test_tensor_reductions,
    test_tensor_views,
)
from planting import mutant

from companion.backprop import (
    autograd,
    forward_mode,
    gradient_check,
    higher_order,
    tape,
    tensor_ops,
    tensor_reductions,
    tensor_views,
)


def assert_caught(
    module: ModuleType, check: Callable[[ModuleType], None], old: str, new: str
) -> None:
    """The check passes on the real module and fails on the one with the mistake."""
    check(module)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(mutant(module, old, new))


def arithmetic(name: str) -> Callable[[ModuleType], None]:
    return partial(test_tensor_ops.check_arithmetic, name=name)


def elementwise(name: str) -> Callable[[ModuleType], None]:
    return partial(test_tensor_ops.check_elementwise, name=name)


# The walk back


def test_overwriting_instead_of_accumulating_is_caught():
    old, new = "share if known is None else known + share", "share"
    assert_caught(tape, test_tape.check_reuse_adds, old, new)


def test_walking_without_topological_order_is_caught():
    old, new = "stack.append((tensor, True))", "order.insert(0, tensor)"
    assert_caught(tape, test_tape.check_diamond, old, new)
    assert_caught(tape, test_tape.check_chain_of_diamonds, old, new)


def test_overwriting_grad_at_the_second_call_is_caught():
    old, new = "tensor.grad = tensor.grad + gradient", "tensor.grad = gradient"
    assert_caught(tape, test_tape.check_calls_add_up, old, new)


def test_not_looking_for_changes_in_place_is_caught():
    old, new = "if versions(inputs, tensor) != recorded:", "if False:"
    assert_caught(tape, test_tape.check_change_in_place_is_noticed, old, new)


def test_never_freeing_the_graph_is_caught():
    old, new = "tensor.node = FREED", "pass"
    assert_caught(tape, test_tape.check_second_walk_is_refused, old, new)


# Broadcasting, views and reductions


def test_summing_over_the_wrong_broadcast_axis_is_caught():
    old, new = "if size == 1]", "if size != 1]"
    assert_caught(tensor_views, test_tensor_views.check_sum_over_the_right_axis, old, new)


def test_forgetting_to_sum_over_broadcast_axes_is_caught():
    old = "lambda grad, out, a, b: sum_to(grad * b, a.shape)"
    new = "lambda grad, out, a, b: (grad * b)[tuple(slice(n) for n in a.shape)]"
    assert_caught(tensor_ops, arithmetic("mul"), old, new)


def test_assigning_instead_of_adding_in_the_gradient_of_indexing_is_caught():
    assert_caught(tensor_views, test_tensor_views.check_picked_twice, ".index_add(", ".index_copy(")


def test_permuting_the_gradient_the_same_way_again_is_caught():
    old, new = "permute(grad, _inverse(dims))", "permute(grad, dims)"
    assert_caught(tensor_views, test_tensor_views.check_permute, old, new)


def test_starting_each_joined_part_at_zero_is_caught():
    old, new = "for x in inputs[:position])", "for x in inputs[:0])"
    assert_caught(tensor_views, test_tensor_views.check_concatenate, old, new)


def test_losing_keepdim_in_the_gradient_of_a_sum_is_caught():
    old, new = "broadcast_to(reshape(reduced, kept), shape)", "broadcast_to(reduced, shape)"
    assert_caught(tensor_reductions, test_tensor_reductions.check_sum, old, new)


def test_a_mean_whose_gradient_lacks_one_over_n_is_caught():
    old, new = "return sum(x, dim, keepdim) / count", "return sum(x, dim, keepdim)"
    assert_caught(tensor_reductions, test_tensor_reductions.check_mean, old, new)


def test_giving_every_tie_the_whole_gradient_is_caught():
    old = "return is_largest / is_largest.sum(dims, keepdim=True) if dims else is_largest"
    assert_caught(tensor_reductions, test_tensor_reductions.check_ties, old, "return is_largest")


# Rules of the operations


def test_a_matrix_product_without_its_right_transpose_is_caught():
    old, new = "grad @ transpose(b)", "grad @ b"
    assert_caught(tensor_ops, test_tensor_ops.check_matmul, old, new)


def test_a_matrix_product_in_the_wrong_order_is_caught():
    old, new = "transpose(a) @ grad", "grad @ transpose(a)"
    assert_caught(tensor_ops, test_tensor_ops.check_matmul, old, new)


def test_the_power_rule_without_its_factor_is_caught():
    old, new = "(exponent * x ** (exponent - 1))", "(x ** (exponent - 1))"
    assert_caught(tensor_ops, test_tensor_ops.check_power, old, new)


def test_the_power_rule_with_the_old_exponent_is_caught():
    old, new = "(exponent * x ** (exponent - 1))", "(exponent * x**exponent)"
    assert_caught(tensor_ops, test_tensor_ops.check_power, old, new)


def test_the_derivative_of_log_taken_for_log_is_caught():
    old, new = (
        "log.gradients(lambda grad, out, x: grad / x)",
        ("log.gradients(lambda grad, out, x: grad / out)"),
    )
    assert_caught(tensor_ops, elementwise("log"), old, new)


def test_the_derivative_of_tanh_from_its_input_is_caught():
    assert_caught(tensor_ops, elementwise("tanh"), "(1 - out * out)", "(1 - x * x)")


def test_the_derivative_of_sigmoid_without_its_second_factor_is_caught():
    assert_caught(tensor_ops, elementwise("sigmoid"), "(out * (1 - out))", "out")


def test_a_cosine_without_its_sign_is_caught():
    assert_caught(tensor_ops, elementwise("cos"), "-grad * sin(x)", "grad * sin(x)")


def test_a_subtraction_without_its_sign_is_caught():
    old, new = "sum_to(-grad, b.shape)", "sum_to(grad, b.shape)"
    assert_caught(tensor_ops, arithmetic("sub"), old, new)


def test_a_quotient_whose_divisor_is_not_squared_is_caught():
    assert_caught(tensor_ops, arithmetic("div"), "((a / b) / b)", "(a / b)")


def test_a_relu_that_passes_gradient_at_zero_is_caught():
    old, new = "constant(out) <= 0", "constant(out) < 0"
    assert_caught(tensor_ops, test_tensor_ops.check_relu_at_zero, old, new)


def test_a_maximum_that_gives_both_sides_a_whole_tie_is_caught():
    assert_caught(
        tensor_ops,
        test_tensor_ops.check_maximum_shares_ties,
        " - 0.5 * (mine == other)",
        (" - 0.0 * (mine == other)"),
    )


def test_where_with_its_sides_exchanged_is_caught():
    old, new = (
        "sum_to(where(condition, grad, 0.0), a.shape)",
        ("sum_to(where(condition, 0.0, grad), a.shape)"),
    )
    assert_caught(tensor_ops, test_tensor_ops.check_where, old, new)


def test_an_exponent_whose_gradient_lacks_the_logarithm_is_caught():
    old, new = 'mul(out, log(a) if hasattr(a, "shape") else base.log())', "mul(out, a / a)"
    assert_caught(tensor_ops, test_tensor_ops.check_pow_of_two_arrays, old, new)


# Scalars


def test_a_scalar_tape_that_overwrites_is_caught():
    old, new = "derivative.get(id(x), 0.0) + complete * local", "complete * local"
    assert_caught(autograd, test_autograd.check_number_used_twice, old, new)


def test_a_scalar_tape_without_topological_order_is_caught():
    old, new = "stack.append((node, True))", "order.insert(0, node)"
    assert_caught(autograd, test_autograd.check_diamond, old, new)


def test_a_scalar_grad_that_is_set_instead_of_added_is_caught():
    old, new = "node.grad += complete", "node.grad = complete"
    assert_caught(autograd, test_autograd.check_calls_add_up, old, new)


def test_a_scalar_product_with_its_factors_exchanged_is_caught():
    old, new = (
        "(self, other.value), (other, self.value)",
        "(self, self.value), (other, other.value)",
    )
    assert_caught(autograd, test_autograd.check_each_operation, old, new)


# Forward mode


def test_half_a_product_rule_is_caught():
    old, new = (
        "lambda tangent, out, a, b: ops.mul(a, tangent)",
        ("lambda tangent, out, a, b: ops.mul(0.0, tangent)"),
    )
    assert_caught(forward_mode, test_forward_mode.check_rules, old, new)


def test_confusing_the_perturbations_of_nested_derivatives_is_caught():
    old, new = "isinstance(x, Dual) and x._level == self._level", "isinstance(x, Dual)"
    assert_caught(forward_mode, test_forward_mode.check_nesting, old, new)


# Second derivatives


def test_a_gradient_that_was_not_recorded_is_caught():
    """Without create_graph the gradient is a constant, and the Hessian comes out as zero."""
    check = test_higher_order.check_hessian
    assert_caught(higher_order, check, "create_graph=True", "create_graph=False")


# Gradient checking


def test_a_gradient_check_that_lets_nan_pass_is_caught():
    check = test_gradient_check.check_not_a_number_is_a_mismatch
    assert_caught(gradient_check, check, "nan=torch.inf", "nan=0.0")


def test_a_one_sided_difference_is_caught():
    check = test_gradient_check.check_central_difference_is_of_second_order
    old, new = (
        "function(x + shift) - function(x - shift)",
        "2 * (function(x + shift) - function(x))",
    )
    assert_caught(gradient_check, check, old, new)


def test_a_difference_divided_by_one_step_is_caught():
    check = test_gradient_check.check_right_gradients_pass
    assert_caught(gradient_check, check, "/ (2 * step)", "/ step")


def test_a_tolerance_that_grows_with_the_error_is_caught():
    check = test_gradient_check.check_projections_see_every_input
    old, new = "atol + rtol * numeric.abs()", "atol + numeric.abs() + slopes.abs()"
    assert_caught(gradient_check, check, old, new)
