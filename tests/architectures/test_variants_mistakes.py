"""Classic mistakes planted in the encoder and in the mixture of experts, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from architectures import variants_checks as checks
from planting import mutant

from companion.architectures import encoder, mixture_of_experts


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_a_loss_on_all_positions_is_caught():
    old, new = "ids.masked_fill(~chosen, IGNORED)", "ids"
    assert_caught(checks.check_only_blanks_count, encoder, old, new)


def test_a_loss_averaged_over_all_positions_is_caught():
    old, new = "total / blanks.clamp(min=1)", "total / targets.numel()"
    assert_caught(checks.check_only_blanks_count, encoder, old, new)


def test_blanks_that_are_always_the_mask_token_are_caught():
    old, new = "hidden = chosen & (noise[1] < 0.8)", "hidden = chosen"
    assert_caught(checks.check_corruption_rule, encoder, old, new)


def test_replacements_drawn_with_the_mask_token_among_them_are_caught():
    old, new = (
        "(noise[2] * num_tokens).long().clamp(max=num_tokens - 1)",
        ("(noise[2] * (num_tokens + 2)).long()"),
    )
    assert_caught(checks.check_corruption_rule, encoder, old, new)


def test_a_second_draw_that_reuses_the_first_is_caught():
    """Chosen means noise below 0.15, so the same number is always below 0.8."""
    old, new = "hidden = chosen & (noise[1] < 0.8)", "hidden = chosen & (noise[0] < 0.8)"
    assert_caught(checks.check_corruption_rule, encoder, old, new)


def test_targets_taken_from_the_corrupted_text_are_caught():
    old, new = "return corrupted, ids.masked_fill", "return corrupted, corrupted.masked_fill"
    assert_caught(checks.check_only_blanks_count, encoder, old, new)


def test_an_encoder_that_kept_the_causal_mask_is_caught():
    old, new = "replace(config, causal=False)", "config"
    assert_caught(checks.check_both_sides, encoder, old, new)


def test_padding_that_is_attended_to_is_caught():
    old, new = (
        "self.body.hidden(ids, self.real(ids) if mask is None else mask)",
        ("self.body.hidden(ids)"),
    )
    assert_caught(checks.check_padding, encoder, old, new)


def test_a_mean_that_takes_padding_in_is_caught():
    old, new = (
        "        if mask is None:\n            return self.head",
        ("        if True:\n            return self.head"),
    )
    assert_caught(checks.check_padding, encoder, old, new)


def test_blanks_in_the_padding_are_caught():
    old, new = "chosen = chosen & candidates", "pass"
    assert_caught(checks.check_no_blank_in_padding, encoder, old, new)


def test_router_weights_that_are_not_renormalised_are_caught():
    old, new = "weights = weights / weights.sum(-1, keepdim=True)", "pass"
    assert_caught(checks.check_identical_experts, mixture_of_experts, old, new)


def test_one_weight_renormalised_to_a_constant_is_caught():
    old, new = "top_k > 1 if renormalize is None", "True if renormalize is None"
    assert_caught(checks.check_task_teaches_the_router, mixture_of_experts, old, new)


def test_a_detached_auxiliary_loss_is_caught():
    old, new = "probabilities.mean(0)).sum()", "probabilities.mean(0)).sum().detach()"
    assert_caught(checks.check_balance_teaches_the_router, mixture_of_experts, old, new)


def test_an_auxiliary_loss_of_the_counts_alone_is_caught():
    old, new = "(share * probabilities.mean(0)).sum()", "(share * share).sum()"
    assert_caught(checks.check_balance_loss, mixture_of_experts, old, new)


def test_an_auxiliary_loss_that_is_constant_is_caught():
    """Without the counts the probabilities add up to 1, whatever the router does."""
    old, new = "(share * probabilities.mean(0)).sum()", "probabilities.mean(0).mean()"
    assert_caught(checks.check_balance_loss, mixture_of_experts, old, new)


def test_outputs_left_in_the_order_of_the_experts_are_caught():
    old, new = "weights.flatten()[order, None]", "weights.flatten()[:, None]"
    assert_caught(checks.check_equals_naive, mixture_of_experts, old, new)


def test_a_token_s_second_choice_that_overwrites_its_first_is_caught():
    old, new = ".index_add(0, source,", ".index_copy(0, source,"
    assert_caught(checks.check_equals_naive, mixture_of_experts, old, new)


def test_a_queue_that_starts_at_one_is_caught():
    old, new = (
        "in_line.gather(1, expert[:, None])[:, 0] - 1",
        ("in_line.gather(1, expert[:, None])[:, 0]"),
    )
    assert_caught(checks.check_capacity, mixture_of_experts, old, new)


def test_second_choices_that_stand_before_first_ones_are_caught():
    old, new = "expert = chosen.T.flatten()", "expert = chosen.flip(1).T.flatten()"
    assert_caught(checks.check_capacity, mixture_of_experts, old, new)
