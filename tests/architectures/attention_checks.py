"""Checks of attention, positions and the cache, as functions of the module under test.

The ordinary tests call them with the real module, test_transformer_mistakes.py with planted
mistakes.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from backprop.layer_checks import TIGHT, normal, one_bug, seeds
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

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
            other = [k.clone(), v.clone()]
            for tensor in other:
                tensor[t] += 1
            after = attention.scaled_dot_product(q, *other, causal=True)[0]
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


def spread_out(model: nn.Module, seed: int = 0) -> None:
    """Weights of ordinary size: near the start of training attention is too even to show much."""
    with torch.no_grad():
        for offset, parameter in enumerate(model.parameters()):
            scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.3
            noise = normal(tuple(parameter.shape), seed + offset).to(parameter) * scale
            parameter.copy_(noise if parameter.dim() > 1 else 1 + noise)


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


def check_cache_object(cache: ModuleType) -> None:
    """It returns all positions so far, layer by layer, in place."""
    held = cache.KeyValueCache(num_layers=2, capacity=6)
    key, value = normal((2, 3, 5, 4), 0), normal((2, 3, 5, 4), 1)
    addresses = set()
    for start, stop in ((0, 2), (2, 3), (3, 5)):
        for layer in (0, 1):
            new = key[..., start:stop, :] + layer, value[..., start:stop, :] - layer
            keys, values = held.update(layer, *new)
            assert torch.equal(keys, key[..., :stop, :] + layer)
            assert torch.equal(values, value[..., :stop, :] - layer)
            addresses.add(keys.data_ptr())
        held.advance(stop - start)
    assert held.length == 5
    assert len(addresses) == 2
    assert held.num_bytes() == 2 * 2 * (2 * 3 * 5 * 4) * 8
