"""Classic mistakes planted in attention, positions, norms and the model, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from architectures import attention_checks
from architectures import transformer_checks as checks
from planting import mutant

from companion.architectures import (
    attention,
    cache,
    configuration,
    feed_forward,
    masks,
    normalization,
    positions,
    transformer,
)


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_scores_without_the_scale_are_caught():
    old, new = "scale = 1 / math.sqrt(query.shape[-1])", "scale = 1.0"
    assert_caught(attention_checks.check_attention, attention, old, new)


def test_scores_divided_by_d_instead_of_its_root_are_caught():
    old, new = "1 / math.sqrt(query.shape[-1])", "1 / query.shape[-1]"
    assert_caught(attention_checks.check_attention, attention, old, new)


def test_softmax_over_the_queries_is_caught():
    old, new = "return scores.softmax(-1)", "return scores.softmax(-2)"
    assert_caught(attention_checks.check_attention, attention, old, new)


def test_a_mask_after_the_softmax_is_caught():
    old = "scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)"
    assert_caught(attention_checks.check_attention, attention, old, "scores.softmax(-1)")
    assert_caught(attention_checks.check_causal, attention, old, "scores.softmax(-1)")


def test_a_mask_the_other_way_round_is_caught():
    old = "mask = full_mask(query, key, value, mask, causal)\n    output"
    new = "mask = full_mask(query, key, value, None if mask is None else ~mask, causal)\n    output"
    assert_caught(attention_checks.check_attention, attention, old, new)


def with_masks(planted: ModuleType) -> ModuleType:
    """The attention module, with `full_mask` of a planted one."""
    name = planted.__name__
    return mutant(
        attention,
        "from companion.architectures.masks import check_shapes, full_mask, mask_on_heads",
        f"check_shapes, full_mask, mask_on_heads = (getattr(__import__('sys').modules['{name}'], n)"
        " for n in ('check_shapes', 'full_mask', 'mask_on_heads'))",
    )


@pytest.mark.parametrize("shift", ["+ 1", "- 1"])
def test_an_off_by_one_causal_mask_is_caught(shift):
    old = "torch.bool).tril(keys - queries)\n    return past if"
    planted = mutant(masks, old, old.replace("keys - queries", f"keys - queries {shift}"))
    with pytest.raises(AssertionError):
        attention_checks.check_causal(with_masks(planted))


def test_a_causal_mask_that_counts_a_cached_query_from_zero_is_caught():
    old = "torch.bool).tril(keys - queries)\n    return past if"
    planted = mutant(masks, old, old.replace("keys - queries", "0"))
    with pytest.raises(AssertionError):
        attention_checks.check_layer_cache(with_masks(planted))


def test_the_unplanted_masks_pass():
    module = with_masks(masks)
    attention_checks.check_causal(module)
    attention_checks.check_layer_cache(module)


def test_a_softmax_gradient_without_its_mean_is_caught():
    old, new = "weights * (grad_weights - mean) * scale", "weights * grad_weights * scale"
    assert_caught(attention_checks.check_attention, attention, old, new)


def test_a_key_gradient_without_the_scale_is_caught():
    old = "grad_key = grad_scores.transpose(-2, -1) @ query"
    assert_caught(attention_checks.check_attention, attention, old, f"{old} / scale")


def test_a_value_gradient_by_the_untransposed_weights_is_caught():
    """One query more and one key fewer would not fit: squares are among the random shapes."""
    old, new = "weights.transpose(-2, -1) @ grad_output", "weights @ grad_output"

    def square(module: ModuleType) -> None:
        q, k, v = attention_checks.attention_inputs(1, 1, 3, 3, 2, 2, 0)
        by_hand = attention_checks.ManualFunction.apply(module.ScaledDotProduct, q, k, v, None)
        expected = attention_checks.F.scaled_dot_product_attention(q, k, v)
        for mine, theirs in zip(
            attention_checks.gradients(by_hand, (q, k, v)),
            attention_checks.gradients(expected, (q, k, v)),
            strict=True,
        ):
            attention_checks.assert_close(mine, theirs, **attention_checks.TIGHT)

    square(attention)
    assert_caught(square, attention, old, new)


def test_heads_split_by_reshape_without_transpose_are_caught():
    old = "return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)"
    new = "return x.reshape(x.shape[0], heads, x.shape[1], self.head_dim)"
    assert_caught(attention_checks.check_multi_head, attention, old, new)


def test_heads_merged_without_transpose_are_caught():
    old, new = "x.transpose(1, 2).flatten(2)", "x.reshape(x.shape[0], x.shape[2], -1)"
    assert_caught(attention_checks.check_multi_head, attention, old, new)


def test_key_value_heads_dealt_round_instead_of_in_groups_are_caught():
    old, new = "x.repeat_interleave(group, dim=1)", "x.repeat(1, group, 1, 1)"
    assert_caught(attention_checks.check_grouped_queries, attention, old, new)


def test_rotary_positions_that_forget_the_cache_are_caught():
    old, new = "self.rotary(query, offset), self.rotary(key, offset)", "self.rotary(query), "
    assert_caught(attention_checks.check_layer_cache, attention, old, f"{new}self.rotary(key)")


def test_learnt_positions_that_forget_the_cache_are_caught():
    old, new = "0 if cache is None else cache.length", "0"
    assert_caught(checks.check_cache, transformer, old, new)


def test_a_cache_that_is_never_advanced_is_caught():
    assert_caught(checks.check_cache, transformer, "cache.advance(ids.shape[1])", "pass")


def test_all_layers_writing_to_the_first_layers_cache_are_caught():
    old, new = "x = block(x, mask, cache, layer)", "x = block(x, mask, cache, 0)"
    assert_caught(checks.check_cache, transformer, old, new)


def test_rotary_pairs_of_the_other_layout_are_caught():
    assert_caught(
        attention_checks.check_rotary, positions, "    if interleaved:", "    if not interleaved:"
    )


def test_a_rotation_the_wrong_way_in_one_number_is_caught():
    old = "turned = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)"
    assert_caught(
        attention_checks.check_rotary, positions, old, old.replace("a * cos -", "a * cos +")
    )


def test_frequencies_with_the_exponent_of_half_the_size_are_caught():
    old, new = "dtype=np.float64) / dim)", "dtype=np.float64) / (2 * dim))"
    assert_caught(attention_checks.check_rotary, positions, old, new)
    assert_caught(attention_checks.check_sinusoids, positions, old, new)


def test_sines_and_cosines_side_by_side_instead_of_in_turn_are_caught():
    old = "torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)"
    new = "torch.cat((angles.sin(), angles.cos()), dim=-1)"
    assert_caught(attention_checks.check_sinusoids, positions, old, new)


def test_eps_outside_of_the_root_is_caught():
    old = "torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)"
    new = "1 / (x.square().mean(-1, keepdim=True).sqrt() + eps)"
    assert_caught(checks.check_rms_norm, normalization, old, new)


def test_an_rms_norm_that_takes_the_mean_out_is_caught():
    old, new = "x_hat = x * inverse", "x_hat = (x - x.mean(-1, keepdim=True)) * inverse"
    assert_caught(checks.check_rms_norm, normalization, old, new)


def test_an_rms_norm_gradient_without_its_second_term_is_caught():
    old, new = "inverse * (g - x_hat * (g * x_hat).mean(-1, keepdim=True))", "inverse * g"
    assert_caught(checks.check_rms_norm, normalization, old, new)


def test_the_other_gelu_is_caught():
    old, new = "F.gelu(self.up(x), approximate=self.approximate)", "F.gelu(self.up(x))"
    assert_caught(checks.check_feed_forward, feed_forward, old, new)


def test_swiglu_with_the_gate_on_the_wrong_branch_is_caught():
    old, new = "F.silu(self.gate(x)) * self.up(x)", "self.gate(x) * F.silu(self.up(x))"
    assert_caught(checks.check_feed_forward, feed_forward, old, new)


def test_the_norm_after_the_residual_is_caught():
    old, new = "if self.norm_first:", "if not self.norm_first:"
    assert_caught(checks.check_block, transformer, old, new)


def test_a_residual_from_the_normalised_stream_is_caught():
    old = "mixed = self.attention(self.attention_norm(x), mask, cache=cache, layer=layer)"
    new = f"x = self.attention_norm(x)\n            {old.replace('self.attention_norm(x)', 'x')}"
    assert_caught(checks.check_block, transformer, old, new)


def test_a_missing_residual_is_caught():
    old, new = "x = x + self.dropout(mixed)\n            return", "x = mixed\n            return"
    assert_caught(checks.check_block, transformer, old, new)


def test_weight_tying_by_a_copy_is_caught():
    old = "self.head.weight = self.token_embedding.weight"
    new = "self.head.weight.data = self.token_embedding.weight.data.clone()"
    assert_caught(checks.check_tied, transformer, old, new)


def test_a_missing_final_norm_is_caught():
    old, new = "return self.final_norm(x)", "return x"
    assert_caught(checks.check_final_norm, transformer, old, new)


def test_a_model_that_is_not_causal_is_caught():
    old, new = "causal=config.causal", "causal=False"
    assert_caught(checks.check_no_leak, transformer, old, new)


def test_a_formula_that_counts_the_tied_table_twice_is_caught():
    old, new = "(1 if config.tie_embeddings else 2)", "2"
    assert_caught(checks.check_parameter_count, configuration, old, new)


def test_a_cache_that_writes_over_its_start_is_caught():
    old = "keys[..., self.length : end, :] = key"
    planted = mutant(cache, old, "keys[..., : key.shape[-2], :] = key")
    with pytest.raises(AssertionError):
        attention_checks.check_cache_object(planted)
    attention_checks.check_cache_object(cache)
