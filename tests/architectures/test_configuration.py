"""The configuration refuses what does not fit, and counts what it describes."""

from __future__ import annotations

from functools import partial

import pytest
from architectures import transformer_checks as checks

from companion.architectures import configuration as module
from companion.architectures.transformer import TransformerConfig

small = partial(
    TransformerConfig, vocab_size=10, context_length=8, num_layers=2, num_heads=4, embed_dim=16
)


def test_the_formula_counts_what_is_there():
    checks.check_parameter_count(module)


def test_the_formula_gives_the_published_sizes():
    """GPT-2 small has 124 M parameters (the paper's table says 117 M, which the authors corrected);
    Llama 7B has 6.7 B (arXiv:2302.13971, table 2)."""
    gpt2 = TransformerConfig(50257, 1024, 12, 12, 768)
    assert module.parameter_count(gpt2) == 124_439_808
    llama = TransformerConfig(
        32000,
        2048,
        32,
        32,
        4096,
        hidden_dim=11008,
        norm="rms",
        feed_forward="swiglu",
        positions="rotary",
        bias=False,
        tie_embeddings=False,
    )
    assert module.parameter_count(llama) == 6_738_415_616


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"context_length": -1}, "context_length=-1"),
        ({"num_layers": 1.0}, "num_layers=1.0"),
        ({"embed_dim": 18}, "embed_dim=18: it must be a multiple of num_heads=4"),
        ({"num_kv_heads": 3}, "num_heads=4: it must be a multiple of num_kv_heads=3"),
        ({"hidden_dim": 0}, "hidden_dim=0"),
        ({"norm": "batch"}, "norm='batch': one of layer, rms"),
        ({"feed_forward": "relu"}, "feed_forward='relu': one of gelu, gelu_tanh, swiglu"),
        ({"positions": "alibi"}, "positions='alibi': one of learnt, sinusoidal, rotary"),
        ({"embed_dim": 12, "positions": "rotary"}, "rotary positions need an even number"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"norm_eps": 0.0}, "eps is 0.0"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
