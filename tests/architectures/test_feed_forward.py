"""The feed-forward layers equal torch's functions; their defaults have equal sizes."""

from __future__ import annotations

import pytest
import torch
from architectures import transformer_checks as checks
from torch.nn import functional as F

from companion.architectures import feed_forward as module
from companion.architectures.feed_forward import (
    FeedForward,
    SwiGLU,
    default_hidden_dim,
    make_feed_forward,
)


def test_feed_forward_layers_equal_torch_over_random_shapes():
    checks.check_feed_forward(module)


def test_the_two_gelus_differ_by_less_than_five_in_ten_thousand_but_differ():
    x = torch.linspace(-8, 8, 100_001).double()
    largest = (F.gelu(x) - module.gelu_tanh(x)).abs().max()
    assert 4.5e-4 < largest < 5e-4


@pytest.mark.parametrize("dim", [48, 64, 96, 768])
def test_swiglu_has_as_many_parameters_as_the_wide_layer_to_four_percent(dim):
    wide = sum(p.numel() for p in FeedForward(dim, bias=False).parameters())
    gated = sum(p.numel() for p in SwiGLU(dim).parameters())
    assert wide <= gated <= 1.04 * wide
    assert default_hidden_dim("swiglu", dim) % 8 == 0


def test_the_name_makes_the_layer():
    assert make_feed_forward("gelu", 4).approximate == "none"
    assert make_feed_forward("gelu_tanh", 4).approximate == "tanh"
    assert isinstance(make_feed_forward("swiglu", 4, 6, bias=False), SwiGLU)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_feed_forward("relu", 4), "feed_forward='relu': one of gelu, gelu_tanh"),
        (lambda: FeedForward(4, approximate="erf"), "approximate='erf'"),
        (lambda: FeedForward(0), "embed_dim=0"),
        (lambda: FeedForward(4, 0), "hidden_dim=0"),
        (lambda: SwiGLU(4, -1), "hidden_dim=-1"),
        (lambda: SwiGLU(0), "embed_dim=0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
