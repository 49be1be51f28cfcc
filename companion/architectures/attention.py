r"""Attention: each query takes a weighted mean of the values; forward and backward by hand.

    Z = Q Kᵀ / √D         scores                 (T, S)
    P = softmax of each row of Z                 (T, S), rows add up to 1
    O = P V                                      (T, D)

and with δ = ∂L/∂O, from the last line back to the first,

    ∂L/∂V = Pᵀ δ      G = ∂L/∂P = δ Vᵀ      ∂L/∂Z = P ⊙ (G − Σ_row(P ⊙ G))
    ∂L/∂Q = ∂L/∂Z K / √D                    ∂L/∂K = (∂L/∂Z)ᵀ Q / √D

Letters: B batch, H heads, T queries, S keys, D size of a head, C size of an embedding.
A mask is boolean, True where a query *may* look. A query that may look nowhere gets 0.

`scaled_dot_product` writes all of this out and keeps the (T, S) weights; `attention` calls
`torch.nn.functional.scaled_dot_product_attention`, which never stores them.

Sources: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, sections 3.2.1 and 3.2.2;
Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
Checkpoints", EMNLP 2023, section 2.2 (fewer heads for keys and values).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.architectures.cache import KeyValueCache
from companion.architectures.masks import check_shapes, full_mask, mask_on_heads
from companion.architectures.positions import RotaryPositions
from companion.arguments import check_integer
from companion.backprop.base import Pair


def masked_softmax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over the last dimension, with weight 0 where `mask` is False.

    Args:
        scores: (..., T, S).
        mask: boolean, broadcastable to scores, or None.

    Returns:
        Weights of the same shape; rows add up to 1, or are 0 where everything is masked.
    """
    if mask is None:
        return scores.softmax(-1)
    # The smallest number and not −∞: a row without any key is then uniform, and not 0/0, until the
    # second line makes it 0. In all other rows exp() of it is exactly 0.
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~mask, 0.0)


class ScaledDotProduct:
    """Forward and backward pass by hand, a pair for `companion.backprop.base.ManualFunction`."""

    @staticmethod
    def compute(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Pair:
        """Return (..., T, D) and what `vjp` needs; arguments as in `scaled_dot_product`."""
        scale = 1 / math.sqrt(query.shape[-1])
        weights = masked_softmax(query @ key.transpose(-2, -1) * scale, mask)  # (..., T, S)
        return weights @ value, (query, key, value, weights, scale)

    @staticmethod
    def vjp(
        grad_output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        weights: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of query, key and value (and None for the mask)."""
        grad_value = weights.transpose(-2, -1) @ grad_output  # (..., S, D)
        grad_weights = grad_output @ value.transpose(-2, -1)  # (..., T, S)
        # The softmax takes out of each row its own weighted mean; a weight of 0 passes nothing.
        mean = (weights * grad_weights).sum(-1, keepdim=True)
        grad_scores = weights * (grad_weights - mean) * scale
        grad_query = grad_scores @ key
        grad_key = grad_scores.transpose(-2, -1) @ query
        return grad_query, grad_key, grad_value, None


def scaled_dot_product(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attend, naively: the formula, with the weights in memory.

    Args:
        query: (..., T, D).
        key: (..., S, D).
        value: (..., S, E).
        mask: boolean, broadcastable to (..., T, S), True where a query may look.
        causal: hide the future as well; the queries are the last T of the S positions.

    Returns:
        Output (..., T, E) and weights (..., T, S).

    Raises:
        ValueError: shapes that do not meet, or a mask that is not boolean.
    """
    mask = full_mask(query, key, value, mask, causal)
    output, (_, _, _, weights, _) = ScaledDotProduct.compute(query, key, value, mask)
    return output, weights


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Attend with torch's fused kernels; arguments and errors as in `scaled_dot_product`.

    Returns:
        Output (..., T, E).
    """
    if causal and mask is None and query.shape[-2] == key.shape[-2]:
        check_shapes(query, key, value)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    mask = full_mask(query, key, value, mask, causal)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each on its own projection of the tokens.

    The projections are `query`, `key`, `value` and `output`, four `nn.Linear`. Head h owns the
    features h D … (h + 1) D − 1 of a projection. With fewer key-value heads than query heads
    (grouped-query attention), query head h reads key-value head h // (num_heads / num_kv_heads).

    Args:
        embed_dim: C.
        num_heads: H; D = C / H.
        num_kv_heads: heads of keys and values, a divisor of H; H if None, 1 is multi-query.
        bias: whether the four projections have one.
        rotary: turns queries and keys by their position; None leaves them.
        causal: hide the future.

    Raises:
        ValueError: sizes that do not divide.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        bias: bool = True,
        rotary: RotaryPositions | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_heads(embed_dim, num_heads, num_kv_heads)
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, num_kv_heads
        self.head_dim = embed_dim // num_heads
        self.causal = causal
        kv_dim = num_kv_heads * self.head_dim
        self.query = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.key = nn.Linear(embed_dim, kv_dim, bias=bias)
        self.value = nn.Linear(embed_dim, kv_dim, bias=bias)
        self.output = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.rotary = rotary

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        context: Tensor | None = None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Let each token look at the others.

        Args:
            x: (B, T, C), the tokens that ask.
            mask: boolean; (B, S) says which keys are real tokens and not padding, (B, T, S) which
                query may look at which key.
            context: (B, S, C), the tokens that are looked at; x itself if None.
            cache: keys and values of the tokens before x; x's own are added to it.
            layer: the number of this layer in the cache.

        Returns:
            (B, T, C).

        Raises:
            ValueError: a shape that does not fit, a sequence of length zero, or a context together
                with a cache or the causal mask.
        """
        source = x if context is None else context
        self._check(x, source, cache)
        offset = 0 if cache is None else cache.length
        query = self.split(self.query(x), self.num_heads)  # (B, H, T, D)
        key = self.split(self.key(source), self.num_kv_heads)  # (B, H_kv, S, D)
        value = self.split(self.value(source), self.num_kv_heads)
        if self.rotary is not None:
            query, key = self.rotary(query, offset), self.rotary(key, offset)
        if cache is not None:
            key, value = cache.update(layer, key, value)
        key, value = self.share(key), self.share(value)  # (B, H, S, D)
        if mask is not None:
            mask = mask_on_heads(mask, len(x), x.shape[1], key.shape[-2])
        mixed = attention(query, key, value, mask, self.causal)
        return self.output(self.merge(mixed))

    def split(self, x: Tensor, heads: int) -> Tensor:
        """Turn (B, T, heads · D) into (B, heads, T, D)."""
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """Turn (B, H, T, D) back into (B, T, C)."""
        return x.transpose(1, 2).flatten(2)

    def share(self, x: Tensor) -> Tensor:
        """Repeat each key-value head for its group of queries: (B, H_kv, S, D) to (B, H, S, D)."""
        group = self.num_heads // self.num_kv_heads
        return x if group == 1 else x.repeat_interleave(group, dim=1)

    @torch.no_grad()
    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attention weights for x: (B, T, C) as (B, H, T, T), to be looked at."""
        self._check(x, x, None)
        query = self.split(self.query(x), self.num_heads)
        key = self.split(self.key(x), self.num_kv_heads)
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)
        if mask is not None:
            mask = mask_on_heads(mask, len(x), x.shape[1], x.shape[1])
        key = self.share(key)
        return scaled_dot_product(query, key, key, mask, self.causal)[1]

    def _check(self, x: Tensor, source: Tensor, cache: KeyValueCache | None) -> None:
        for name, tensor in (("x", x), ("context", source)):
            if tensor.dim() != 3 or tensor.shape[-1] != self.embed_dim or tensor.shape[1] < 1:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}; it must be "
                    f"(batch, time, {self.embed_dim}) with at least one time step"
                )
        if source is not x and (cache is not None or self.causal):
            raise ValueError("context: another sequence has no order with x, so no cache or causal")


def check_heads(embed_dim: int, num_heads: int, num_kv_heads: int) -> None:
    """Raise ValueError unless heads divide the embedding and key-value heads the heads."""
    check_integer("embed_dim", embed_dim, minimum=1)
    check_integer("num_heads", num_heads, minimum=1)
    check_integer("num_kv_heads", num_kv_heads, minimum=1)
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim={embed_dim}: it must be a multiple of num_heads={num_heads}")
    if num_heads % num_kv_heads:
        raise ValueError(
            f"num_heads={num_heads}: it must be a multiple of num_kv_heads={num_kv_heads}"
        )
