"""Planted mistakes in the recurrent modules: each is caught by a check that passes without it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
from architectures import rnn_checks as checks
from architectures.test_truncated import check_one_batch
from planting import mutant

from companion.architectures import bptt, cells, clipping, lags, rnn, sequences, truncated


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_a_gradient_that_is_not_added_up_over_time_is_caught():
    assert_caught(checks.check_elman, bptt, "grad_w_hh += delta.T", "grad_w_hh = delta.T")


def test_a_gradient_of_the_input_weights_that_is_not_added_up_is_caught():
    assert_caught(checks.check_elman, bptt, "grad_w_ih += delta.T", "grad_w_ih = delta.T")


def test_a_missing_derivative_of_tanh_is_caught():
    old, new = "delta = total * (1 - h[:, t + 1] ** 2)", "delta = total"
    assert_caught(checks.check_elman, bptt, old, new)


def test_the_slope_of_the_state_before_instead_of_after_is_caught():
    old, new = "(1 - h[:, t + 1] ** 2)", "(1 - h[:, t] ** 2)"
    assert_caught(checks.check_elman, bptt, old, new)


def test_a_gradient_that_does_not_come_back_from_the_next_step_is_caught():
    old, new = "total = grad_h[:, t] + arriving", "total = grad_h[:, t]"
    assert_caught(checks.check_elman, bptt, old, new)


def test_the_state_after_in_place_of_the_state_before_is_caught():
    old, new = "delta.T @ h[:, t]\n", "delta.T @ h[:, t + 1]\n"
    assert_caught(checks.check_elman, bptt, old, new)


def test_a_recurrent_weight_transposed_on_the_way_back_is_caught():
    old, new = "arriving = delta @ w_hh", "arriving = delta @ w_hh.T"
    assert_caught(checks.check_elman, bptt, old, new)


def test_a_missing_derivative_of_tanh_in_the_cell_is_caught():
    old, new = "delta = grad_h * (1 - h * h)", "delta = grad_h"
    assert_caught(partial(checks.check_cell, kind="RNN"), cells, old, new)


def test_forget_gate_and_input_gate_swapped_are_caught():
    old, new = "i, f, g, o = (a + b)", "f, i, g, o = (a + b)"
    assert_caught(partial(checks.check_cell, kind="LSTM"), cells, old, new)


def test_an_output_gate_on_the_cell_itself_instead_of_its_tanh_is_caught():
    old, new = "squashed = torch.tanh(c_new)", "squashed = c_new"
    assert_caught(partial(checks.check_cell, kind="LSTM"), cells, old, new)


def test_a_cell_gradient_that_forgets_the_way_through_the_output_is_caught():
    old, new = "grad_c = grad_c + grad_h * o * (1 - squashed * squashed)", "grad_c = grad_c"
    assert_caught(partial(checks.check_cell, kind="LSTM"), cells, old, new)


def test_a_cell_gradient_that_is_not_multiplied_by_the_forget_gate_is_caught():
    old, new = "(torch.zeros_like(grad_h), grad_c * f)", "(torch.zeros_like(grad_h), grad_c)"
    assert_caught(partial(checks.check_cell, kind="LSTM"), cells, old, new)


def test_a_reset_gate_before_the_product_is_caught():
    """The paper's GRU in place of torch.nn's: r on the state, not on its product."""
    old = "after, kept = self.step(a, b, *before)\n"
    new = old + (
        "        if self.gates == 3:\n"
        "            (r, z, *_), h, rows = kept, before[0], 2 * self.hidden_size\n"
        "            bias = None if self.bias_hh is None else self.bias_hh[rows:]\n"
        "            product = linear_forward(r * h, self.weight_hh[rows:], bias)\n"
        "            n = torch.tanh(a[:, rows:] + product)\n"
        "            after = ((1 - z) * n + z * h,)\n"
    )
    assert_caught(partial(checks.check_cell, kind="GRU"), cells, old, new)


def test_a_reset_gate_that_is_left_out_is_caught():
    old, new = "n = torch.tanh(a_n + r * b_n)", "n = torch.tanh(a_n + b_n)"
    assert_caught(partial(checks.check_cell, kind="GRU"), cells, old, new)


def test_an_update_gate_the_other_way_round_is_caught():
    old, new = "return ((1 - z) * n + z * h,)", "return (z * n + (1 - z) * h,)"
    assert_caught(partial(checks.check_cell, kind="GRU"), cells, old, new)


def test_a_gru_whose_state_gradient_leaves_out_the_direct_way_is_caught():
    old, new = "return grad_a, grad_b, (grad_h * z,)", "return grad_a, grad_b, (0 * grad_h,)"
    assert_caught(partial(checks.check_cell, kind="GRU"), cells, old, new)


def test_a_mask_that_is_left_out_of_the_state_is_caught():
    old, new = "torch.where(real, new, old) for new, old in", "new for new, old in"
    for kind in checks.KINDS:
        assert_caught(partial(checks.check_unroll, kind=kind), bptt, old, new)


def test_a_padded_step_that_does_not_hand_the_gradient_on_is_caught():
    old, new = (
        "passed_by = tuple(g * ~real for g in grad)",
        "passed_by = tuple(0 * g for g in grad)",
    )
    assert_caught(partial(checks.check_unroll, kind="LSTM"), bptt, old, new)


def test_weight_gradients_in_the_order_of_the_way_back_are_caught():
    old, new = "torch.stack(grads_a[::-1], 1)", "torch.stack(grads_a, 1)"
    assert_caught(partial(checks.check_unroll, kind="GRU"), bptt, old, new)


def test_layers_taken_back_without_the_layers_above_are_caught():
    old, new = "grad, first[layer], gradients = ", "_, first[layer], gradients = "
    assert_caught(partial(checks.check_layers, kind="RNN"), rnn, old, new)


def test_a_last_state_from_the_padding_is_caught():
    old, new = "pooled = sequences.last_step(output, lengths)", "pooled = output[:, -1]"
    assert_caught(partial(checks.check_classifier, cell="lstm", pool="last"), rnn, old, new)


def test_a_mean_over_the_padding_is_caught():
    old, new = "pooled = sequences.masked_mean(output, lengths)", "pooled = output.mean(1)"
    assert_caught(partial(checks.check_classifier, cell="gru", pool="mean"), rnn, old, new)


def test_a_mask_that_is_one_step_too_long_is_caught():
    old, new = "< lengths.unsqueeze(1)\n\n\ndef lengths", "<= lengths.unsqueeze(1)\n\n\ndef lengths"
    assert_caught(checks.check_mask, sequences, old, new)


def test_clipping_by_value_instead_of_norm_is_caught():
    old, new = "gradient.mul_(factor)", "gradient.clamp_(-max_norm, max_norm)"
    assert_caught(checks.check_clipping, clipping, old, new)


def test_clipping_each_parameter_by_its_own_norm_is_caught():
    old, new = "gradient.mul_(factor)", "gradient.mul_((max_norm / gradient.norm()).clamp(max=1))"
    assert_caught(checks.check_clipping, clipping, old, new)


def test_clipping_that_stretches_short_gradients_is_caught():
    old, new = "(max_norm / (norm + 1e-6)).clamp(max=1)", "max_norm / (norm + 1e-6)"
    assert_caught(checks.check_clipping, clipping, old, new)


def test_a_jacobian_without_the_slope_of_tanh_is_caught():
    old, new = "(product * slopes.unsqueeze(1)) @ w_hh", "product @ w_hh"
    assert_caught(checks.check_lags, lags, old, new)


def test_a_state_that_is_not_detached_is_caught():
    """Here autograd itself objects: the graph of the window before is gone."""
    old, new = "state = detach(state)", "state = state"
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        check_one_batch(mutant(truncated, old, new))


def test_a_state_that_is_thrown_away_instead_of_detached_is_caught():
    old, new = "state = detach(state)", "state = None"
    assert_caught(check_one_batch, truncated, old, new)


def test_a_state_detached_at_every_step_is_caught():
    """Windows of one step: the gradient sees no lag at all."""
    old = "logits, state = self.network.advance(ids, state)"
    new = (
        "parts = []\n"
        "            for step in ids.split(1, dim=1):\n"
        "                part, state = self.network.advance(step, state)\n"
        "                state = detach(state)\n"
        "                parts.append(part)\n"
        "            logits = __import__('torch').cat(parts, 1)"
    )
    assert_caught(check_one_batch, truncated, old, new)


def test_gradients_that_are_never_cleared_between_windows_are_caught():
    assert_caught(check_one_batch, truncated, "optimizer.zero_grad()", "pass")
