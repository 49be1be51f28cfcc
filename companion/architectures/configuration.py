r"""The sizes and choices of a Transformer, and how many parameters they make.

Import `TransformerConfig` from `companion.architectures.transformer` or from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from companion.architectures.attention import check_heads
from companion.architectures.feed_forward import FEED_FORWARDS, default_hidden_dim
from companion.arguments import check_fraction, check_integer
from companion.backprop.normalization import require_eps

NORMS = ("layer", "rms")
POSITIONS = ("learnt", "sinusoidal", "rotary")


@dataclass(frozen=True)
class TransformerConfig:
    """The sizes and choices of a Transformer; the defaults are a small GPT-2.

    Attributes:
        vocab_size: V, number of different tokens.
        context_length: largest number of positions.
        num_layers: L, number of blocks.
        num_heads: H, heads of queries; embed_dim / num_heads is the size of a head.
        embed_dim: C, size of the residual stream.
        num_kv_heads: heads of keys and values; as many as num_heads if None.
        hidden_dim: width of the feed-forward layers; 4 C, or 8/3 C for SwiGLU, if None.
        norm: "layer" or "rms".
        feed_forward: "gelu" (exact), "gelu_tanh" (GPT-2's) or "swiglu".
        positions: "learnt", "sinusoidal" or "rotary".
        bias: whether linear layers and layer norms have one (the output layer never has).
        tie_embeddings: whether the output layer is the token table itself.
        dropout: on the embeddings and on what each half of a block adds. Not on the attention
            weights, which the fused kernels never store.
        causal: whether a position sees only itself and the past.
        norm_first: norm before each half of a block; False is the order of 2017, after the sum.
        norm_eps: ε of the norms.
        rotary_base: base of the rotary frequencies.

    Raises:
        ValueError: a value that is out of range or does not fit the others.
    """

    vocab_size: int
    context_length: int
    num_layers: int
    num_heads: int
    embed_dim: int
    num_kv_heads: int | None = None
    hidden_dim: int | None = None
    norm: str = "layer"
    feed_forward: str = "gelu"
    positions: str = "learnt"
    bias: bool = True
    tie_embeddings: bool = True
    dropout: float = 0.0
    causal: bool = True
    norm_first: bool = True
    norm_eps: float = 1e-5
    rotary_base: float = 10_000.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "num_layers"):
            check_integer(name, getattr(self, name), minimum=1)
        check_heads(self.embed_dim, self.num_heads, self.kv_heads)
        check_integer("hidden_dim", self.feed_forward_dim, minimum=1)
        for name, known in (
            ("norm", NORMS),
            ("feed_forward", FEED_FORWARDS),
            ("positions", POSITIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: one of {', '.join(known)} is needed"
                )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"embed_dim={self.embed_dim}: with {self.num_heads} heads each has "
                f"{self.head_dim} numbers; rotary positions need an even number"
            )
        check_fraction("dropout", self.dropout)
        require_eps(self.norm_eps)

    @property
    def head_dim(self) -> int:
        """D = C / H."""
        return self.embed_dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values, resolved."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def feed_forward_dim(self) -> int:
        """Width of the feed-forward layers, resolved."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        return default_hidden_dim(self.feed_forward, self.embed_dim)


def parameter_count(config: TransformerConfig) -> int:
    """Return the number of parameters of `GPT(config)`, by formula."""
    c, h, bias = config.embed_dim, config.feed_forward_dim, int(config.bias)
    kv = config.kv_heads * config.head_dim
    norm = c * (1 + bias) if config.norm == "layer" else c
    attention = 2 * (c * c + bias * c) + 2 * (c * kv + bias * kv)
    ups = 2 if config.feed_forward == "swiglu" else 1
    feed_forward = ups * (c * h + bias * h) + h * c + bias * c
    block = attention + feed_forward + 2 * norm
    tables = config.vocab_size * c * (1 if config.tie_embeddings else 2)
    tables += config.context_length * c if config.positions == "learnt" else 0
    return tables + config.num_layers * block + (norm if config.norm_first else 0)
