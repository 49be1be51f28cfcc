"""Attention equals torch's, forward and backward, over random shapes and masks."""

from __future__ import annotations

import pytest
import torch
from architectures import attention_checks as checks
from backprop.layer_checks import TIGHT, normal
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from companion.architectures import attention as module
from companion.architectures.attention import (
    MultiHeadAttention,
    ScaledDotProduct,
    attention,
    masked_softmax,
    scaled_dot_product,
)
from companion.architectures.cache import KeyValueCache
from companion.architectures.positions import RotaryPositions
from companion.backprop.base import ManualFunction


def test_attention_by_hand_and_fused_equal_torch_over_random_shapes_and_masks():
    checks.check_attention(module)


def test_a_causal_query_sees_itself_and_the_past_and_nothing_else():
    checks.check_causal(module)


def test_multi_head_attention_equals_torch_with_the_same_weights():
    checks.check_multi_head(module)


def test_grouped_queries_equal_full_attention_with_copied_heads():
    checks.check_grouped_queries(module)


def test_token_by_token_from_a_cache_equals_one_pass():
    checks.check_layer_cache(module)


def test_gradcheck_accepts_the_backward_pass_by_hand():
    q, k, v = checks.attention_inputs(1, 2, 3, 4, 2, 3, seed=0)
    mask = checks.random_mask("any", 1, 3, 4, 5)

    def by_hand(*inputs: torch.Tensor) -> torch.Tensor:
        return ManualFunction.apply(ScaledDotProduct, *inputs, mask)

    assert gradcheck(by_hand, (q, k, v))
    assert gradgradcheck(by_hand, (q, k, v))


@pytest.mark.parametrize("attend", [lambda *a: scaled_dot_product(*a)[0], attention])
def test_a_query_that_may_look_nowhere_gets_zero_and_sends_no_gradient(attend):
    q, k, v = checks.attention_inputs(1, 1, 3, 4, 2, 2, seed=0)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False
    output = attend(q, k, v, mask)
    assert torch.equal(output[0, 0, 1], torch.zeros(2).double())
    grads = checks.gradients(output, (q, k, v))
    assert all(g.isfinite().all() for g in grads)
    assert torch.equal(grads[0][0, 0, 1], torch.zeros(2).double())


def test_weights_are_rows_of_probabilities_and_a_single_key_takes_all():
    q, k, v = checks.attention_inputs(2, 2, 3, 5, 4, 4, seed=0)
    weights = scaled_dot_product(q, k, v, causal=True)[1]
    assert_close(weights.sum(-1), torch.ones(2, 2, 3).double(), **TIGHT)
    alone = attention(q, k[..., :1, :], v[..., :1, :])
    assert_close(alone, v[..., :1, :].expand(2, 2, 3, 4), **TIGHT)


def test_masked_softmax_survives_scores_of_any_size():
    scores = torch.tensor([[1e4, -1e4, 0.0], [-1e30, -1e30, 1e30]]).double()
    mask = torch.tensor([[False, True, True], [True, True, False]])
    expected = torch.tensor([[0, 0, 1], [0.5, 0.5, 0]]).double()
    assert_close(masked_softmax(scores, mask), expected, **TIGHT)


def test_without_positions_attention_does_not_know_the_order():
    layer = MultiHeadAttention(8, 2).double()
    x, order = normal((1, 6, 8), 0), torch.randperm(6)
    assert_close(layer(x)[:, order], layer(x[:, order]), **TIGHT)


def test_the_weights_shown_are_those_that_are_used():
    rotary = RotaryPositions(8, 4).double()
    layer = MultiHeadAttention(8, 2, 1, rotary=rotary, causal=True).double()
    x, padding = normal((2, 5, 8), 0), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    values = layer.share(layer.split(layer.value(x), 1))
    expected = layer.output(layer.merge(layer.weights(x, padding) @ values))
    assert_close(layer(x, padding), expected, **TIGHT)


def test_padding_changes_nothing_for_real_tokens():
    layer = MultiHeadAttention(8, 2).double()
    x = normal((1, 5, 8), 0)
    mask = torch.tensor([[True, True, True, False, False]])
    assert_close(layer(x, mask)[:, :3], layer(x[:, :3]), **TIGHT)


q, k, v = normal((2, 3, 4), 0), normal((2, 5, 4), 1), normal((2, 5, 4), 2)
layer = MultiHeadAttention(8, 2).double()
x = normal((2, 3, 8), 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiHeadAttention(10, 4), "embed_dim=10: it must be a multiple of num_heads=4"),
        (lambda: MultiHeadAttention(12, 6, 4), "num_heads=6: .* multiple of num_kv_heads=4"),
        (lambda: MultiHeadAttention(8, 0), "num_heads=0: an integer of at least 1"),
        (lambda: MultiHeadAttention(8, 2, 0), "num_kv_heads=0"),
        (lambda: layer(normal((2, 3, 7), 0)), r"x has shape \(2, 3, 7\); it must be"),
        (lambda: layer(normal((2, 0, 8), 0)), "at least one time step"),
        (lambda: layer(x, context=normal((2, 0, 8), 0)), r"context has shape \(2, 0, 8\)"),
        (lambda: layer(x, torch.ones(2, 4).bool()), r"mask has shape \(2, 4\).*\(2, 3\)"),
        (lambda: layer(x, torch.ones(3, 3, 3).bool()), r"mask has shape \(3, 3, 3\)"),
        (lambda: layer(x, torch.ones(2, 3)), "mask has dtype torch.float32; it must be boolean"),
        (
            lambda: layer(x, context=x.clone(), cache=KeyValueCache(1, 4)),
            "context: another sequence",
        ),
        (lambda: attention(q, k[..., :3], v), "query has 4 features and key 3"),
        (lambda: attention(q, k, v[:, :4]), "key has 5 positions and value 4"),
        (lambda: attention(q[:, :0], k, v), "at least one of each"),
        (lambda: attention(k, q, q, causal=True), "5 queries cannot be the last of 3 keys"),
        (lambda: attention(q, k, v, torch.ones(3, 4).bool()), r"mask has shape \(3, 4\)"),
        (lambda: scaled_dot_product(q, k, v, torch.ones(3, 5)), "mask has dtype torch.float32"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_same_parameters_as_torch():
    ours = sum(p.numel() for p in MultiHeadAttention(12, 3).parameters())
    assert ours == sum(p.numel() for p in nn.MultiheadAttention(12, 3).parameters())
