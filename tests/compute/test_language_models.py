"""Closed forms for Transformers against published numbers and other implementations."""

from __future__ import annotations

import math

import pytest

from companion.compute import language_models as lm
from companion.compute.language_models import PUBLISHED, TransformerShape

GPT3 = PUBLISHED["GPT-3 175B"].shape


@pytest.mark.parametrize("name", PUBLISHED)
def test_exact_counts_agree_with_the_published_ones_as_far_as_those_go(name):
    """GPT-2's paper is off by up to 6 %; its authors' code says 124, 355, 774, 1558 million."""
    model = PUBLISHED[name]
    tolerance = 0.07 if name.startswith("GPT-2") else 0.015
    assert math.isclose(lm.parameters(model.shape), model.parameters, rel_tol=tolerance)


def test_exact_counts_equal_those_of_an_independent_library():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    with torch.device("meta"):
        for name in ("BERT-base", "BERT-large"):
            shape = PUBLISHED[name].shape
            config = transformers.BertConfig(
                hidden_size=shape.embed_dim,
                num_hidden_layers=shape.num_layers,
                num_attention_heads=shape.num_heads,
                intermediate_size=shape.mlp_dim,
            )
            model = transformers.BertModel(config)
            assert model.num_parameters() == lm.parameters(shape)
        for name in ("GPT-2", "GPT-2 XL"):
            shape = PUBLISHED[name].shape
            config = transformers.GPT2Config(
                n_embd=shape.embed_dim, n_layer=shape.num_layers, n_head=shape.num_heads
            )
            model = transformers.GPT2LMHeadModel(config)
            assert model.num_parameters() == lm.parameters(shape)


def test_the_rule_of_thumb_leaves_out_what_grows_slower_than_the_square_of_the_width():
    for name, low in (("GPT-2", 0.6), ("GPT-3 175B", 0.995)):
        shape = PUBLISHED[name].shape
        assert low < lm.rule_of_thumb(shape) / lm.parameters(shape) < 1
        biases_and_norms = shape.num_layers * 13 * shape.embed_dim
        assert lm.block_parameters(shape) == lm.rule_of_thumb(shape) + biases_and_norms


def test_gpt3_s_training_run_is_six_n_d():
    """Brown et al. 2020, table D.1: 174,600 million parameters, 300 billion tokens, 3.14e23."""
    assert f"{lm.training_flops(lm.parameters(GPT3), 300e9):.2e}" == "3.14e+23"


def test_the_parts_of_a_token_add_up_to_the_whole_model_s_products():
    shape = TransformerShape(3, 32, 4, 50, 64, num_kv_heads=2)
    for tokens in (1, 16, 64):
        parts = lm.flops_per_token(shape, tokens)
        assert sum(parts.values()) * tokens * 5 == (
            lm.forward_cost(shape, tokens, batch=5).forward.products
        )


def test_attention_overtakes_the_weights_where_twice_the_positions_exceed_twelve_widths():
    parts = lm.flops_per_token(GPT3, 6 * GPT3.embed_dim)
    assert parts["attention"] == parts["weights"]


def test_the_cache_holds_a_key_and_a_value_for_each_layer_and_position():
    assert lm.key_value_cache_bytes(GPT3, 2048) == 2 * 96 * 12288 * 2048 * 2
    grouped = TransformerShape(2, 64, 8, 10, 10, num_kv_heads=2)
    alone = TransformerShape(2, 64, 8, 10, 10)
    assert lm.key_value_cache_bytes(alone, 5) == 4 * lm.key_value_cache_bytes(grouped, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TransformerShape(0, 8, 2, 5, 5), "num_layers=0"),
        (lambda: TransformerShape(1, 8, 3, 5, 5), "num_heads=3: it must divide embed_dim=8"),
        (lambda: TransformerShape(1, 8, 4, 5, 5, num_kv_heads=3), "num_kv_heads=3"),
        (lambda: TransformerShape(1, 8, 4, 5, 5, hidden_dim=0), "hidden_dim=0"),
        (lambda: lm.forward_cost(GPT3, 4096), "tokens=4096: at most context_length=2048"),
        (lambda: lm.training_flops(math.nan, 1), "parameters=nan"),
        (lambda: lm.training_flops(1, 0), "tokens=0"),
        (lambda: lm.key_value_cache_bytes(GPT3, 0), "tokens=0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
