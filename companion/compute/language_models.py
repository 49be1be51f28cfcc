r"""The size and the compute of a Transformer, in closed form and for published models.

    shape = PUBLISHED["GPT-3 175B"].shape
    parameters(shape), flops_per_token(shape, 2048), key_value_cache_bytes(shape, 2048)

With L layers of width d (and an MLP of width 4d), almost everything is in the blocks: attention
has four matrices of d², the MLP two of 4d², so N ≈ 12 L d². Each weight takes one multiply-add a
token, hence 2N operations forward, and twice that backward: 6N a token, 6ND for D tokens
(Kaplan et al. 2020, section 2.1). What 6N leaves out is the attention itself, ``Q Kᵀ`` and the
weighted sum: 4 L T d operations a token for T positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from companion.arguments import check_integer
from companion.compute import operations
from companion.compute.operations import Cost


@dataclass(frozen=True)
class TransformerShape:
    """The sizes that decide what a GPT or a BERT has and does.

    Attributes:
        num_layers, embed_dim, num_heads: L blocks of width d with as many heads.
        vocab_size, context_length: rows of the token table and of the table of positions.
        hidden_dim: width of the MLP, 4 d by default.
        num_kv_heads: heads of keys and values, by default as many as heads.
        num_segments: rows of BERT's third table, which tells sentence A from B.
        causal: a GPT: with a norm at the end and the token table as its output. Otherwise a
            BERT: with a norm after the tables and a pooler, a d × d layer on the first token.

    Raises:
        ValueError: a size below 1, heads that do not divide the width or each other.
    """

    num_layers: int
    embed_dim: int
    num_heads: int
    vocab_size: int
    context_length: int
    hidden_dim: int | None = None
    num_kv_heads: int | None = None
    num_segments: int = 0
    causal: bool = True

    def __post_init__(self) -> None:
        for name in ("num_layers", "embed_dim", "num_heads", "vocab_size", "context_length"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("num_segments", self.num_segments, minimum=0)
        for name in ("hidden_dim", "num_kv_heads"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads}: it must divide embed_dim={self.embed_dim}"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads}: it must divide num_heads={self.num_heads}"
            )

    @property
    def mlp_dim(self) -> int:
        """Width of the MLP."""
        return 4 * self.embed_dim if self.hidden_dim is None else self.hidden_dim

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def kv_dim(self) -> int:
        """Width of all keys (or values) of a token together."""
        return self.kv_heads * (self.embed_dim // self.num_heads)


def block_parameters(shape: TransformerShape) -> int:
    """Return the parameters of the L blocks: weights, biases and two norms each."""
    d, kv, h = shape.embed_dim, shape.kv_dim, shape.mlp_dim
    attention = 2 * (d * d + d) + 2 * (d * kv + kv)
    mlp = d * h + h + h * d + d
    return shape.num_layers * (attention + mlp + 2 * 2 * d)


def parameters(shape: TransformerShape) -> int:
    """Return all parameters: tables, blocks, and norm and pooler where there are any."""
    d = shape.embed_dim
    tables = (shape.vocab_size + shape.context_length + shape.num_segments) * d
    pooler = 0 if shape.causal else d * d + d
    return tables + block_parameters(shape) + 2 * d + pooler


def rule_of_thumb(shape: TransformerShape) -> int:
    """Return 12 L d², the weights of the blocks where the MLP is four times as wide."""
    return 12 * shape.num_layers * shape.embed_dim**2


def forward_cost(shape: TransformerShape, tokens: int, *, batch: int = 1) -> Cost:
    """Return the operations of a GPT on ``batch`` sequences of `tokens`, with logits for each.

    All pairs of positions are counted, as they are computed by a kernel that masks afterwards.

    Raises:
        ValueError: more tokens than the context holds, or fewer than 1.
    """
    check_integer("tokens", tokens, minimum=1)
    check_integer("batch", batch, minimum=1)
    if tokens > shape.context_length:
        raise ValueError(f"tokens={tokens}: at most context_length={shape.context_length}")
    d, rows = shape.embed_dim, batch * tokens
    norm = operations.normalization(rows * d)
    mixing = operations.attention(batch, shape.num_heads, tokens, tokens, d // shape.num_heads)
    block = (
        operations.linear(rows, d, d) * 2
        + operations.linear(rows, d, shape.kv_dim) * 2
        + mixing
        + operations.feed_forward(rows, d, shape.mlp_dim)
        + norm * 2
        + operations.elementwise(rows * d, backward=0) * 2  # the two residual sums
    )
    tables = operations.embedding(rows, d) * 2 + operations.elementwise(rows * d, backward=0)
    head = operations.linear(rows, d, shape.vocab_size, bias=False)
    return tables + block * shape.num_layers + norm + head


def flops_per_token(shape: TransformerShape, tokens: int) -> Mapping[str, int]:
    """Return where a token's forward products go, as ``{"weights", "attention", "logits"}``."""
    check_integer("tokens", tokens, minimum=1)
    d = shape.embed_dim
    weights = 2 * shape.num_layers * (2 * d * d + 2 * d * shape.kv_dim + 2 * d * shape.mlp_dim)
    attention = 4 * shape.num_layers * tokens * d
    return {"weights": weights, "attention": attention, "logits": 2 * d * shape.vocab_size}


def training_flops(parameters: float, tokens: float) -> float:
    """Return 6 N D: operations of a training run over D tokens with N parameters.

    Raises:
        ValueError: a number that is not positive and finite.
    """
    for name, value in (("parameters", parameters), ("tokens", tokens)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value!r}: a positive, finite number is needed")
    return 6.0 * parameters * tokens


def key_value_cache_bytes(
    shape: TransformerShape, tokens: int, *, batch: int = 1, bytes_per_number: int = 2
) -> int:
    """Return the memory of the keys and values of `tokens` positions, in bytes.

    Raises:
        ValueError: an argument below 1.
    """
    for name, value in (
        ("tokens", tokens),
        ("batch", batch),
        ("bytes_per_number", bytes_per_number),
    ):
        check_integer(name, value, minimum=1)
    return 2 * shape.num_layers * shape.kv_dim * tokens * batch * bytes_per_number


@dataclass(frozen=True)
class PublishedModel:
    """A model as its paper describes it.

    Attributes:
        shape: its sizes.
        parameters: as published, rounded as there.
        source: key in the bibliography, and the place in the paper.
    """

    shape: TransformerShape
    parameters: float
    source: str


def _bert(layers: int, width: int, heads: int) -> TransformerShape:
    return TransformerShape(layers, width, heads, 30522, 512, num_segments=2, causal=False)


def _gpt(layers: int, width: int, heads: int, context: int) -> TransformerShape:
    return TransformerShape(layers, width, heads, 50257, context)


_BERT, _GPT2, _GPT3 = "devlin2019bert, 3", "radford2019language, table 2", "brown2020language, 2.1"

#: Sizes and published parameter counts. GPT-2's paper gives 117, 345, 762 and 1542 million.
#: GPT-3's table 2.1 prints a width of 5140 for 13B; 40 heads of 128 make 5120, which is also what
#: agrees with the 12,850 million parameters of its table D.1.
PUBLISHED: Mapping[str, PublishedModel] = MappingProxyType(
    {
        "BERT-base": PublishedModel(_bert(12, 768, 12), 110e6, _BERT),
        "BERT-large": PublishedModel(_bert(24, 1024, 16), 340e6, _BERT),
        "GPT-2": PublishedModel(_gpt(12, 768, 12, 1024), 117e6, _GPT2),
        "GPT-2 medium": PublishedModel(_gpt(24, 1024, 16, 1024), 345e6, _GPT2),
        "GPT-2 large": PublishedModel(_gpt(36, 1280, 20, 1024), 762e6, _GPT2),
        "GPT-2 XL": PublishedModel(_gpt(48, 1600, 25, 1024), 1542e6, _GPT2),
        "GPT-3 13B": PublishedModel(_gpt(40, 5120, 40, 2048), 13e9, _GPT3),
        "GPT-3 175B": PublishedModel(_gpt(96, 12288, 96, 2048), 175e9, _GPT3),
    }
)
