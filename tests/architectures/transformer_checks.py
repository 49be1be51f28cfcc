"""Checks of norms, feed-forward layers, blocks and whole models, as functions of the module.

The ordinary tests call them with the real module, test_transformer_mistakes.py with planted
mistakes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from architectures.attention_checks import copy_to_torch, gradients, random_mask, sizes, spread_out
from backprop.layer_checks import TIGHT, normal, one_bug, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from companion.architectures import transformer
from companion.backprop.base import ManualFunction

few = settings(one_bug, max_examples=60)  # whole models and blocks take their time


def check_cache(transformer: ModuleType, **options: Any) -> None:
    """Logits from a cache, in pieces of any size, equal those of one pass."""

    @few
    @given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3), seeds)
    def run(pieces: list[int], batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        config = transformer.TransformerConfig(11, 16, 2, 4, 16, **options)
        model = transformer.GPT(config).double().eval()
        spread_out(model, seed)
        ids = torch.randint(11, (batch, sum(pieces)))
        with torch.no_grad():
            cache = model.new_cache()
            parts = [model(piece, cache) for piece in ids.split(pieces, dim=1)]
            assert cache.length == sum(pieces)
            assert_close(torch.cat(parts, 1), model(ids), **TIGHT)

    run()


def check_no_leak(transformer: ModuleType) -> None:
    """Changing a token changes no logits before it."""
    torch.manual_seed(0)
    for positions in ("learnt", "sinusoidal", "rotary"):
        config = transformer.TransformerConfig(7, 8, 2, 2, 8, positions=positions)
        model = transformer.GPT(config).double().eval()
        spread_out(model)
        ids = torch.randint(7, (2, 8))
        before = model(ids)
        for t in range(8):
            changed = ids.clone()
            changed[:, t] = (changed[:, t] + 1) % 7
            moved = (model(changed) - before).abs().amax(-1) > 1e-12
            assert not moved[:, :t].any(), f"token {t} is seen before its time"
            assert moved[:, t:].all(), f"token {t} is not seen"


def check_block(transformer: ModuleType, *, norm_first: bool = True) -> None:
    """Against torch.nn.TransformerEncoderLayer with the same weights: output and all gradients."""

    @few
    @given(st.integers(1, 3), sizes, sizes, sizes, st.integers(1, 9), seeds)
    def run(b: int, h: int, t: int, d: int, hidden: int, seed: int) -> None:
        torch.manual_seed(seed)
        config = transformer.TransformerConfig(
            3, 5, 1, h, h * d, hidden_dim=hidden, causal=False, norm_first=norm_first
        )
        ours = transformer.Block(config).double()
        theirs = nn.TransformerEncoderLayer(
            h * d, h, hidden, 0.0, "gelu", batch_first=True, norm_first=norm_first
        ).double()
        spread_out(ours, seed)
        copy_to_torch(ours.attention, theirs.self_attn)
        pairs = [
            (ours.attention_norm, theirs.norm1),
            (ours.feed_forward_norm, theirs.norm2),
            (ours.feed_forward.up, theirs.linear1),
            (ours.feed_forward.down, theirs.linear2),
        ]
        for mine, other in pairs:
            other.load_state_dict(mine.state_dict())
        pairs.append((ours.attention.output, theirs.self_attn.out_proj))
        x = normal((b, t, h * d), seed).requires_grad_()
        mask = random_mask("padding", b, t, t, seed)[:, 0, 0]
        output, expected = ours(x, mask), theirs(x, src_key_padding_mask=~mask)
        # A layer norm over one feature, or of nearly equal ones, amplifies rounding.
        loose = TIGHT if h * d > 1 else {"rtol": 1e-6, "atol": 1e-9}
        assert_close(output, expected, **loose)
        mine_leaves = (x, *(p for m, _ in pairs for p in m.parameters()))
        other_leaves = (x, *(p for _, m in pairs for p in m.parameters()))
        for one, two in zip(
            gradients(output, mine_leaves), gradients(expected, other_leaves), strict=True
        ):
            assert_close(one, two, **loose)

    run()


def check_rms_norm(normalization: ModuleType) -> None:
    """By hand and fused against torch.nn.RMSNorm, also for tiny x, where eps decides."""

    @one_bug
    @given(
        st.lists(st.integers(0, 4), max_size=2).map(tuple),
        st.integers(1, 6),
        st.sampled_from((1e-4, 1.0, 1e3)),
        st.sampled_from((1e-6, 1e-5, 1e-2)),
        seeds,
    )
    def run(shape: tuple[int, ...], dim: int, scale: float, eps: float, seed: int) -> None:
        x = (normal((*shape, dim), seed) * scale).requires_grad_()
        ours, theirs = normalization.RMSNorm(dim, eps).double(), nn.RMSNorm(dim, eps).double()
        spread_out(theirs, seed)
        ours.load_state_dict(theirs.state_dict())
        expected = theirs(x)
        wanted = gradients(expected, (x, theirs.weight))
        by_hand = ManualFunction.apply(normalization.RMSNorm, x, ours.weight, eps)
        for output in (ours(x), by_hand):
            assert_close(output, expected, **TIGHT)
            for mine, other in zip(gradients(output, (x, ours.weight)), wanted, strict=True):
                assert_close(mine, other, **TIGHT)

    run()


def same_feed_forward(ours: nn.Module, reference: Callable[[Tensor], Tensor], seed: int) -> None:
    """Output and all gradients of a feed-forward layer equal those of `reference`."""
    x = normal((2, 3, ours.down.out_features), seed).requires_grad_()
    leaves = (x, *ours.parameters())
    output, expected = ours(x), reference(x)
    assert_close(output, expected, **TIGHT)
    for mine, other in zip(gradients(output, leaves), gradients(expected, leaves), strict=True):
        assert_close(mine, other, **TIGHT)


def check_feed_forward(feed_forward: ModuleType) -> None:
    """Both GELUs and SwiGLU against torch's own functions, also at ±5, where the GELUs part."""

    @one_bug
    @given(sizes, sizes, st.booleans(), seeds)
    def run(dim: int, hidden: int, bias: bool, seed: int) -> None:
        torch.manual_seed(seed)
        for approximate in ("none", "tanh"):
            ours = feed_forward.FeedForward(dim, hidden, bias, approximate).double()
            spread_out(ours, seed)
            gelu = nn.GELU(approximate)
            same_feed_forward(ours, lambda x, o=ours, g=gelu: o.down(g(o.up(x))), seed)
        ours = feed_forward.SwiGLU(dim, hidden, bias).double()
        spread_out(ours, seed)
        same_feed_forward(ours, lambda x: ours.down(nn.SiLU()(ours.gate(x)) * ours.up(x)), seed)

    run()
    x = torch.linspace(-5, 5, 101).double()
    assert_close(feed_forward.gelu_tanh(x), F.gelu(x, approximate="tanh"), **TIGHT)
    assert_close(feed_forward.silu(x), F.silu(x), **TIGHT)


def check_parameter_count(configuration: ModuleType) -> None:
    """The formula against numel of the model, over all choices."""

    @one_bug
    @given(
        st.integers(1, 4),
        st.sampled_from(((1, 1), (2, 1), (4, 2))),
        st.sampled_from((2, 4)),
        st.sampled_from(("layer", "rms")),
        st.sampled_from(("gelu", "gelu_tanh", "swiglu")),
        st.sampled_from(("learnt", "sinusoidal", "rotary")),
        st.tuples(st.booleans(), st.booleans(), st.booleans()),
    )
    def run(
        layers: int,
        heads: tuple[int, int],
        dim: int,
        norm: str,
        feed_forward: str,
        positions: str,
        flags: tuple[bool, bool, bool],
    ) -> None:
        config = transformer.TransformerConfig(
            5,
            3,
            layers,
            heads[0],
            heads[0] * dim,
            num_kv_heads=heads[1],
            norm=norm,
            feed_forward=feed_forward,
            positions=positions,
            bias=flags[0],
            tie_embeddings=flags[1],
            norm_first=flags[2],
        )
        counted = sum(p.numel() for p in transformer.GPT(config).parameters())
        assert configuration.parameter_count(config) == counted

    run()


def check_tied(transformer: ModuleType) -> None:
    """One tensor; its gradient is the sum of what each end would get alone."""
    torch.manual_seed(0)
    tied, loose = (
        transformer.GPT(transformer.TransformerConfig(7, 5, 1, 1, 8, tie_embeddings=tie)).double()
        for tie in (True, False)
    )
    assert tied.head.weight is tied.token_embedding.weight
    spread_out(tied)
    loose.load_state_dict(tied.state_dict())
    ids = torch.tensor([[0, 3, 3, 1, 6]])
    for model in (tied, loose):
        F.cross_entropy(model(ids)[0, :-1], ids[0, 1:]).backward()
    both = loose.head.weight.grad + loose.token_embedding.weight.grad
    assert_close(tied.token_embedding.weight.grad, both, **TIGHT)


def check_final_norm(transformer: ModuleType) -> None:
    """Each token of `hidden` has mean 0 and variance 1, whatever the blocks did."""
    torch.manual_seed(0)
    model = transformer.GPT(transformer.TransformerConfig(7, 5, 1, 1, 8)).double()
    with torch.no_grad():
        model.token_embedding.weight.normal_()  # far above the root of eps
    hidden = model.hidden(torch.tensor([[0, 3, 3, 1, 6]]))
    assert hidden.mean(-1).abs().max() < 1e-10
    assert (hidden.var(-1, correction=0) - 1).abs().max() < 1e-3
