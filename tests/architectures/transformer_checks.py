"""Checks of the Transformer's parts against torch.nn, as functions of the module under test.

The ordinary tests call them with the real module, test_transformer_mistakes.py with planted
mistakes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from backprop.layer_checks import TIGHT, normal, one_bug, seeds
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from companion.architectures import transformer
from companion.architectures.cache import KeyValueCache
from companion.architectures.masks import causal_mask
from companion.architectures.positions import RotaryPositions
from companion.backprop.base import ManualFunction

sizes = st.integers(1, 5)
KINDS = st.sampled_from(("none", "causal", "padding", "any"))


def random_mask(kind: str, batch: int, queries: int, keys: int, seed: int) -> Tensor | None:
    """A (B, 1, T, S) mask in which every query may look somewhere; None for "none"."""
    if kind == "none":
        return None
    if kind == "causal":
        return causal_mask(queries, max(queries, keys))[:, :keys].expand(batch, 1, -1, -1)
    shape = (batch, 1, 1 if kind == "padding" else queries, keys)
    mask = normal(shape, seed) > 0
    mask[..., 0] |= ~mask.any(-1)
    return mask.expand(batch, 1, queries, keys)


def gradients(output: Tensor, leaves: tuple[Tensor, ...], seed: int = 7) -> tuple[Tensor, ...]:
    return torch.autograd.grad(output, leaves, normal(tuple(output.shape), seed))


def attention_inputs(
    batch: int, heads: int, queries: int, keys: int, dim: int, width: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((queries, dim), (keys, dim), (keys, width))
    q, k, v = (normal((batch, heads, *s), seed + i) for i, s in enumerate(shapes))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def check_attention(attention: ModuleType) -> None:
    """By hand, by autograd of the hand-written forward, and fused: outputs and all gradients."""

    @one_bug
    @given(sizes, sizes, sizes, sizes, sizes, sizes, KINDS, seeds)
    def run(b: int, h: int, t: int, s: int, d: int, e: int, kind: str, seed: int) -> None:
        s = max(s, t) if kind == "causal" else s
        leaves = attention_inputs(b, h, t, s, d, e, seed)
        mask = random_mask(kind, b, t, s, seed + 9)
        expected = F.scaled_dot_product_attention(*leaves, attn_mask=mask)
        outputs = {
            "by hand": ManualFunction.apply(attention.ScaledDotProduct, *leaves, mask),
            "naive": attention.scaled_dot_product(*leaves, mask)[0],
            "fused": attention.attention(*leaves, mask),
        }
        if kind == "causal":
            outputs["naive, causal"] = attention.scaled_dot_product(*leaves, causal=True)[0]
            outputs["fused, causal"] = attention.attention(*leaves, causal=True)
        wanted = gradients(expected, leaves)
        for name, output in outputs.items():
            assert_close(output, expected, **TIGHT, msg=lambda text, name=name: f"{name}: {text}")
            for mine, theirs in zip(gradients(output, leaves), wanted, strict=True):
                assert_close(mine, theirs, **TIGHT, msg=lambda text, n=name: f"{n}: {text}")

    run()


def check_causal(attention: ModuleType) -> None:
    """Token t's output is the same whatever stands after it, and depends on token t itself."""
    for length in (1, 2, 6):
        q, k, v = (normal((length, 3), seed) for seed in range(3))
        before = attention.scaled_dot_product(q, k, v, causal=True)[0]
        for t in range(length):
            changed = v.clone()
            changed[t] += 1
            after = attention.scaled_dot_product(q, k, changed, causal=True)[0]
            moved = (after - before).abs().sum(-1) > 1e-12
            assert not moved[:t].any(), f"position {t} leaks into an earlier one"
            assert moved[t:].all(), f"position {t} is not seen by itself or by a later one"


def copy_to_torch(ours: Any, theirs: nn.MultiheadAttention) -> None:
    """Give torch's module our projections, stacked as it stores them."""
    with torch.no_grad():
        for name, value in (("weight", theirs.in_proj_weight), ("bias", theirs.in_proj_bias)):
            if value is not None:
                parts = [getattr(p, name) for p in (ours.query, ours.key, ours.value)]
                value.copy_(torch.cat(parts))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def check_multi_head(attention: ModuleType) -> None:
    """Against torch.nn.MultiheadAttention: output, gradients of x, context and all weights."""

    @one_bug
    @given(sizes, sizes, sizes, sizes, sizes, st.booleans(), st.booleans(), KINDS, seeds)
    def run(
        b: int, h: int, t: int, s: int, d: int, bias: bool, cross: bool, kind: str, seed: int
    ) -> None:
        s = s if cross else t
        kind = "any" if cross and kind == "causal" else kind
        torch.manual_seed(seed)
        causal = kind == "causal"
        ours = attention.MultiHeadAttention(h * d, h, bias=bias, causal=causal).double()
        theirs = nn.MultiheadAttention(h * d, h, bias=bias, batch_first=True).double()
        copy_to_torch(ours, theirs)
        x = normal((b, t, h * d), seed).requires_grad_()
        context = normal((b, s, h * d), seed + 1).requires_grad_() if cross else x
        mask = random_mask(kind, b, t, s, seed + 2)
        forbidden = None if mask is None else ~mask.expand(b, h, t, s).reshape(b * h, t, s)
        expected = theirs(x, context, context, attn_mask=forbidden, need_weights=False)[0]
        if kind == "padding":
            mask = mask[:, 0, 0]
        elif mask is not None:
            mask = None if causal else mask[:, 0]
        output = ours(x, mask, context=context if cross else None)
        assert_close(output, expected, **TIGHT)
        leaves = (x, context) if cross else (x,)
        mine = gradients(output, (*leaves, *ours.parameters()))
        other = gradients(expected, (*leaves, *theirs.parameters()))
        named = dict(
            zip([n for n, _ in theirs.named_parameters()], other[len(leaves) :], strict=True)
        )
        for one, two in zip(mine, other[: len(leaves)], strict=False):
            assert_close(one, two, **TIGHT)
        got = dict(zip([n for n, _ in ours.named_parameters()], mine[len(leaves) :], strict=True))
        for part in ("weight", "bias") if bias else ("weight",):
            stacked = torch.cat([got[f"{n}.{part}"] for n in ("query", "key", "value")])
            assert_close(stacked, named[f"in_proj_{part}"], **TIGHT)
            assert_close(got[f"output.{part}"], named[f"out_proj.{part}"], **TIGHT)

    run()


def check_grouped_queries(attention: ModuleType) -> None:
    """Grouped queries equal full attention whose key and value heads are copies."""

    @one_bug
    @given(sizes, st.sampled_from(((4, 1), (4, 2), (6, 3), (6, 2))), sizes, sizes, seeds)
    def run(b: int, heads: tuple[int, int], t: int, d: int, seed: int) -> None:
        h, kv = heads
        torch.manual_seed(seed)
        ours = attention.MultiHeadAttention(h * d, h, kv, causal=True).double()
        full = attention.MultiHeadAttention(h * d, h, causal=True).double()
        state = ours.state_dict()
        for name in ("key.weight", "key.bias", "value.weight", "value.bias"):
            by_head = state[name].unflatten(0, (kv, d))
            copies = [by_head[head * kv // h] for head in range(h)]
            state[name] = torch.cat(copies)
        full.load_state_dict(state)
        x = normal((b, t, h * d), seed)
        assert_close(ours(x), full(x), **TIGHT)

    run()


def check_layer_cache(attention: ModuleType) -> None:
    """One layer with rotary positions: token by token from a cache equals one pass."""
    torch.manual_seed(0)
    rotary = RotaryPositions(9, 4).double()
    layer = attention.MultiHeadAttention(16, 4, 2, rotary=rotary, causal=True).double()
    spread_out(layer)
    x = normal((2, 9, 16), 0)
    for pieces in ([1] * 9, [4, 1, 3, 1], [9]):
        with torch.no_grad():
            cache, parts = KeyValueCache(1, 9), []
            for part in x.split(pieces, dim=1):
                parts.append(layer(part, cache=cache))
                cache.advance(part.shape[1])
            assert_close(torch.cat(parts, 1), layer(x), **TIGHT)


def check_cache(transformer: ModuleType, **options: Any) -> None:
    """Logits from a cache, in pieces of any size, equal those of one pass."""

    @one_bug
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


def spread_out(model: nn.Module, seed: int = 0) -> None:
    """Weights of ordinary size: near the start of training attention is too even to show much."""
    with torch.no_grad():
        for offset, parameter in enumerate(model.parameters()):
            scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.3
            noise = normal(tuple(parameter.shape), seed + offset).to(parameter) * scale
            parameter.copy_(noise if parameter.dim() > 1 else 1 + noise)


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

    @one_bug
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


def check_rotary(positions: ModuleType) -> None:
    """Against complex numbers, e^(itω): both layouts; and q·k depends on the distance alone."""

    @one_bug
    @given(sizes, st.integers(1, 4), st.integers(0, 6), st.sampled_from((100.0, 1e4)), seeds)
    def run(t: int, pairs: int, offset: int, base: float, seed: int) -> None:
        x = normal((2, 3, t, 2 * pairs), seed)
        i, time = torch.arange(pairs).double(), torch.arange(offset, offset + t).double()
        turn = torch.exp(1j * time[:, None] * base ** (-2 * i / (2 * pairs)))
        for interleaved in (True, False):
            table = positions.RotaryPositions(20, 2 * pairs, base, interleaved).double()
            by_pairs = (
                x.unflatten(-1, (pairs, 2))
                if interleaved
                else x.unflatten(-1, (2, pairs)).transpose(-1, -2)
            )
            turned = torch.view_as_real(torch.view_as_complex(by_pairs.contiguous()) * turn)
            if not interleaved:
                turned = turned.transpose(-1, -2)
            assert_close(table(x, offset), turned.flatten(-2), **TIGHT)

    run()
    for interleaved in (True, False):
        table = positions.RotaryPositions(64, 8, interleaved=interleaved).double()
        q, k = normal((1, 8), 0), normal((1, 8), 1)
        for distance in (0, 1, 7):
            products = [table(q, s + distance) @ table(k, s).T for s in (0, 3, 40)]
            for product in products[1:]:
                assert_close(product, products[0], **TIGHT)


def check_sinusoids(positions: ModuleType) -> None:
    """The formula of section 3.5, one number at a time."""
    table = positions.sinusoidal_table(40, 12)
    for t in range(40):
        for i in range(6):
            angle = t / 10_000 ** (2 * i / 12)
            assert math.isclose(table[t, 2 * i], math.sin(angle), rel_tol=1e-10, abs_tol=1e-12)
            assert math.isclose(table[t, 2 * i + 1], math.cos(angle), rel_tol=1e-10, abs_tol=1e-12)


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
