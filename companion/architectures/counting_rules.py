"""How `companion.compute.counting` counts this chapter's layers: what each does by itself.

    count(GPT(config), ids, rules=RULES)

A Linear or a norm inside a block is counted where it is called; what is left for these rules are
the products of attention, the activations, the sums on the residual stream, and the experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from companion.architectures.attention import MultiHeadAttention
from companion.architectures.feed_forward import FeedForward, SwiGLU
from companion.architectures.mixture_of_experts import MixtureOfExperts
from companion.architectures.normalization import RMSNorm
from companion.architectures.positions import (
    LearntPositions,
    RotaryPositions,
    SinusoidalPositions,
)
from companion.architectures.transformer import Block
from companion.compute import operations
from companion.compute.counting_rules import Rule, elementwise_rule, normalization_rule
from companion.compute.operations import Cost


def _attention(part: MultiHeadAttention, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    """All pairs, also under a mask: a kernel that computes first and masks afterwards."""
    source = inputs.get("context")
    keys = (inputs["x"] if source is None else source).shape[1]
    if inputs.get("cache") is not None:
        keys += inputs["cache"].length
    batch, queries = output.shape[:2]
    return operations.attention(batch, part.num_heads, queries, keys, part.head_dim)


def _activation(part: FeedForward, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    return operations.elementwise(output.numel() // output.shape[-1] * part.up.out_features)


def _gated(part: SwiGLU, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    numbers = output.numel() // output.shape[-1] * part.up.out_features
    return operations.elementwise(numbers, forward=2, backward=3)


def _block(part: Block, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    """Two sums on the stream; on the way back each adds two gradients."""
    return operations.elementwise(2 * output.numel())


def _experts(part: MixtureOfExperts, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    """All but the router, which is a Linear; with a capacity, its places are what is computed."""
    tokens = output.numel() // part.embed_dim
    sizes = (part.embed_dim, part.hidden_dim)
    bias = part.up_bias is not None
    softmax = operations.elementwise(tokens * part.num_experts, forward=5, backward=4)
    mix = operations.elementwise(tokens * part.top_k * part.embed_dim, forward=2, backward=3)
    rows = part.num_experts * part.capacity(tokens) if part.capacity_factor else tokens * part.top_k
    return operations.feed_forward(rows, *sizes, bias=bias) + softmax + mix


#: Rules for :func:`companion.compute.counting.count`.
RULES: dict[type[nn.Module], Rule] = {
    MultiHeadAttention: _attention,
    FeedForward: _activation,
    SwiGLU: _gated,
    Block: _block,
    MixtureOfExperts: _experts,
    RMSNorm: normalization_rule("rms"),
    LearntPositions: elementwise_rule(),
    SinusoidalPositions: elementwise_rule(1, 0),
    RotaryPositions: elementwise_rule(3, 3),  # four products and two sums for each pair
}
