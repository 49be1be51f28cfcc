r"""The Transformer: blocks of attention and feed-forward around a stream of residuals.

    h⁰  = token[ids] (+ positions)                       (B, T, C)
    u   = h + attention(norm(h))          pre-norm block, one of L
    h'  = u + feed_forward(norm(u))
    logits = norm(hᴸ) · tokenᵀ                           (B, T, V)

One class, several families, by `TransformerConfig`: GPT-2 (layer norm, tanh GELU, learnt positions,
biases), Llama (RMS norm, SwiGLU, rotary positions, grouped queries, no biases), and with
`causal=False` an encoder.

Letters: B batch, T time, C embedding size, V vocabulary size, L layers.

Sources: Vaswani et al., NeurIPS 2017 (the block, in post-norm order); Radford et al., "Language
Models are Unsupervised Multitask Learners", 2019, section 2.3 (pre-norm, a final norm, residual
weights scaled by 1/√N at the start); Xiong et al., "On Layer Normalization in the Transformer
Architecture", ICML 2020; Press and Wolf, EACL 2017 (tied embeddings); Touvron et al., "LLaMA",
arXiv:2302.13971, section 2.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from companion.architectures.attention import MultiHeadAttention
from companion.architectures.cache import KeyValueCache
from companion.architectures.configuration import TransformerConfig
from companion.architectures.feed_forward import make_feed_forward
from companion.architectures.normalization import RMSNorm
from companion.architectures.positions import (
    LearntPositions,
    RotaryPositions,
    SinusoidalPositions,
    check_span,
)


def make_norm(config: TransformerConfig) -> nn.Module:
    """Build a norm over C features, as `config` says."""
    if config.norm == "rms":
        return RMSNorm(config.embed_dim, config.norm_eps)
    return nn.LayerNorm(config.embed_dim, config.norm_eps, bias=config.bias)


class Block(nn.Module):
    """One block: attention, then a feed-forward network, each added to the stream.

    Args:
        config: sizes and choices.
        rotary: shared tables of rotary positions; made here if None and `config` asks for them.
        feed_forward: used instead of the one of `config`, for instance a mixture of experts; maps
            (B, T, C) to (B, T, C).
    """

    def __init__(
        self,
        config: TransformerConfig,
        rotary: RotaryPositions | None = None,
        feed_forward: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if rotary is None and config.positions == "rotary":
            rotary = make_rotary(config)
        self.norm_first = config.norm_first
        self.attention_norm = make_norm(config)
        self.attention = MultiHeadAttention(
            config.embed_dim,
            config.num_heads,
            config.kv_heads,
            bias=config.bias,
            rotary=rotary,
            causal=config.causal,
        )
        self.feed_forward_norm = make_norm(config)
        if feed_forward is None:
            feed_forward = make_feed_forward(
                config.feed_forward, config.embed_dim, config.feed_forward_dim, config.bias
            )
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Map the stream x: (B, T, C) to (B, T, C).

        Args:
            mask, cache, layer: as in `MultiHeadAttention.forward`.
        """
        if self.norm_first:
            mixed = self.attention(self.attention_norm(x), mask, cache=cache, layer=layer)
            x = x + self.dropout(mixed)
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        mixed = self.attention(x, mask, cache=cache, layer=layer)
        x = self.attention_norm(x + self.dropout(mixed))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class GPT(nn.Module):
    """Token ids in, a score for every possible next token out, at each position.

    Parts: `token_embedding`, `positions` (None if rotary), `dropout`, `blocks`, `final_norm`,
    `head`. `embed`, the blocks in turn, `final_norm` and `head` are the whole of `forward`, so a
    model can be cut anywhere between them.

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.embed_dim)
        kinds = {"learnt": LearntPositions, "sinusoidal": SinusoidalPositions}
        self.positions: LearntPositions | SinusoidalPositions | None = None
        rotary = None
        if config.positions == "rotary":
            rotary = make_rotary(config)  # one table for all blocks
        else:
            self.positions = kinds[config.positions](config.context_length, config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, rotary) for _ in range(config.num_layers))
        # After a post-norm block the stream is normalised already.
        self.final_norm = make_norm(config) if config.norm_first else nn.Identity()
        self.head = nn.Linear(config.embed_dim, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights as GPT-2 does: spread 0.02, and less for what adds to the stream.

        2 L terms are added to the stream; a factor 1/√(2 L) on the weights that write them keeps
        its variance independent of the depth.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | LearntPositions):
                module.weight.normal_(std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        for block in self.blocks:
            for name in ("attention.output.weight", "feed_forward.down.weight"):
                block.get_parameter(name).mul_(1 / math.sqrt(2 * len(self.blocks)))

    def forward(
        self, ids: Tensor, cache: KeyValueCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return logits (B, T, V) for the token after each of ids: (B, T).

        Args:
            ids: int64 or int32, 0 … V − 1. With a cache, the tokens that follow those in it.
            cache: see `new_cache`; it is advanced by T.
            mask: as in `hidden`.

        Raises:
            ValueError: as in `hidden`.
        """
        return self.head(self.hidden(ids, mask, cache))

    def hidden(
        self, ids: Tensor, mask: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Return the stream after the last block and the final norm, (B, T, C).

        Args:
            ids: (B, T), int64 or int32.
            mask: boolean, (B, T), True for real tokens and False for padding; or (B, T, T). With a
                cache the last dimension covers the cached tokens as well.
            cache: keys and values of the tokens before ids.

        Raises:
            ValueError: ids of the wrong shape, type, length or value, or a mask of another shape.
        """
        x = self.embed(ids, 0 if cache is None else cache.length)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, cache, layer)
        if cache is not None:
            cache.advance(ids.shape[1])
        return self.final_norm(x)

    def embed(self, ids: Tensor, offset: int = 0) -> Tensor:
        """Return what enters the first block, (B, T, C), for ids: (B, T) from position `offset`."""
        if ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"ids has shape {tuple(ids.shape)} and dtype {ids.dtype}; "
                "it must be (batch, time) of int64 or int32"
            )
        length = ids.shape[1]
        check_span(length, offset, self.config.context_length)
        try:
            x = self.token_embedding(ids)
        except IndexError as error:  # the CPU notices without a check of ours
            check_ids(ids, self.config.vocab_size)
            raise error
        if self.positions is not None:
            if self.config.positions == "sinusoidal":
                x = x * math.sqrt(self.config.embed_dim)  # section 3.4 of Vaswani et al.
            x = x + self.positions(length, offset)
        return self.dropout(x)

    def new_cache(self) -> KeyValueCache:
        """Return an empty cache with room for the whole context."""
        return KeyValueCache(self.config.num_layers, self.config.context_length)


def make_rotary(config: TransformerConfig) -> RotaryPositions:
    """Build the rotary tables that `config` asks for."""
    return RotaryPositions(config.context_length, config.head_dim, config.rotary_base)


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Raise ValueError unless all ids lie in [0, vocab_size).

    It waits for the device, so call it on data and not in a training step. On the CPU `GPT` says
    the same by itself; a GPU stops with a device-side assertion that names nothing.
    """
    if not ids.numel():
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"ids reach from {low} to {high}; with vocab_size={vocab_size} they must lie in "
            f"[0, {vocab_size - 1}]"
        )
