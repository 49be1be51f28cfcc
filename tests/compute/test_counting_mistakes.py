"""Classic mistakes planted in the counting, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from compute import counting_checks as checks
from compute.counting_checks import assert_equal_to_library, numbers
from planting import mutant
from torch import nn

from companion.compute import counting, counting_rules, operations


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    check(module)
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_a_multiply_add_counted_as_one_operation_is_caught():
    old, new = "product = 2 * rows * in_features", "product = rows * in_features"
    assert_caught(checks.check_linear, operations, old, new)


def test_a_forgotten_bias_is_caught():
    old, new = "added = rows * out_features if bias else 0", "added = 0"
    assert_caught(checks.check_linear, operations, old, new)


def test_a_grouped_convolution_that_is_not_divided_is_caught():
    old, new = "(in_channels // groups)", "in_channels"
    assert_caught(checks.check_convolution, operations, old, new)


def test_attention_with_one_of_its_two_products_is_caught():
    old, new = "forward = Flops(scores + mixing, 6 * pairs)", "forward = Flops(scores, 6 * pairs)"
    assert_caught(checks.check_attention, operations, old, new)


def test_a_backward_pass_of_attention_that_costs_what_the_forward_pass_does_is_caught():
    old, new = "Flops(2 * (scores + mixing) +", "Flops((scores + mixing) +"
    assert_caught(checks.check_attention, operations, old, new)


def test_a_causal_mask_without_its_diagonal_is_caught():
    old, new = "queries * (queries + 1) // 2 if causal", "queries * (queries - 1) // 2 if causal"
    assert_caught(checks.check_causal_attention, operations, old, new)


def test_experts_that_all_work_for_each_token_are_caught():
    assert_caught(checks.check_experts, operations, "expert * top_k", "expert * num_experts")


def test_a_lstm_with_three_gates_is_caught():
    old, new = '"lstm": _Cell(4, 13, 24)', '"lstm": _Cell(3, 13, 24)'
    assert_caught(checks.check_recurrent, operations, old, new)


def test_a_gradient_for_the_first_state_that_nobody_asked_for_is_caught():
    old, new = "if not state_gradient:", "if state_gradient:"
    assert_caught(checks.check_recurrent, operations, old, new)


def with_rules(rules: ModuleType) -> ModuleType:
    """The counting module, told to take these rules."""
    return mutant(
        counting,
        "known = {**RULES, **(rules or {})}",
        f"known = __import__('sys').modules[{rules.__name__!r}].RULES",
    )


def check_network(module: ModuleType) -> None:
    module = with_rules(module)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert_equal_to_library(module, network, numbers(2, 5, 3))


def test_an_input_gradient_counted_for_the_first_layer_is_caught():
    old = '"input_gradient": isinstance(first, Tensor) and first.requires_grad'
    assert_caught(check_network, counting_rules, old, '"input_gradient": True')


def test_a_sequence_counted_as_one_row_is_caught():
    assert_caught(check_network, counting_rules, "prod(output.shape[:-1]),", "output.shape[0],")


def check_layers_and_directions(module: ModuleType) -> None:
    module = with_rules(module)
    assert_equal_to_library(module, nn.LSTM(3, 4, 2, bidirectional=True), numbers(5, 2, 3))


def test_a_second_direction_that_is_left_out_is_caught():
    assert_caught(
        check_layers_and_directions, counting_rules, "return cost * directions", "return cost"
    )


def test_a_second_layer_with_the_first_one_s_inputs_is_caught():
    old = "part.input_size if layer == 0 else part.hidden_size * directions"
    assert_caught(check_layers_and_directions, counting_rules, old, "part.input_size")
