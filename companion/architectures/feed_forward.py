r"""The feed-forward half of a block: two or three linear layers on each token alone.

    GELU      y = W_down gelu(W_up x)                          hidden = 4 C
    SwiGLU    y = W_down (silu(W_gate x) ⊙ W_up x)             hidden ≈ 8/3 C: three matrices, so
                                                               that it has as many parameters
    gelu(x) = x Φ(x)   ≈   x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))      silu(x) = x σ(x)

Φ is the distribution function of the standard normal. GPT-2's weights were trained with the tanh
form; `transformers` runs BERT's with the exact one. They differ by up to 5·10⁻⁴ a number.

Sources: Hendrycks and Gimpel, arXiv:1606.08415, section 2 (both forms); Shazeer, "GLU Variants
Improve Transformer", arXiv:2002.05202, section 2 (SwiGLU and the factor 2/3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.arguments import check_integer

FEED_FORWARDS = ("gelu", "gelu_tanh", "swiglu")


def gelu_tanh(x: Tensor) -> Tensor:
    """Return the tanh approximation of x Φ(x), as the formula has it."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    """Return x σ(x), also called swish."""
    return x * torch.sigmoid(x)


class FeedForward(nn.Module):
    """y = down(gelu(up(x))).

    Args:
        embed_dim: C.
        hidden_dim: width between the two layers; 4 C if None.
        bias: whether both layers have one.
        approximate: ``"none"`` for the exact GELU, ``"tanh"`` for GPT-2's.
    """

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int | None = None,
        bias: bool = True,
        approximate: str = "none",
    ) -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate={approximate!r}: 'none' or 'tanh' is needed")
        hidden_dim = default_hidden_dim("gelu", embed_dim) if hidden_dim is None else hidden_dim
        check_integer("embed_dim", embed_dim, minimum=1)
        check_integer("hidden_dim", hidden_dim, minimum=1)
        self.approximate = approximate
        self.up = nn.Linear(embed_dim, hidden_dim, bias=bias)
        self.down = nn.Linear(hidden_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (..., C) to (..., C)."""
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class SwiGLU(nn.Module):
    """y = down(silu(gate(x)) ⊙ up(x)).

    Args:
        embed_dim: C.
        hidden_dim: width between; 8/3 C, rounded up to a multiple of 8, if None.
        bias: whether the three layers have one; Llama's have none.
    """

    def __init__(self, embed_dim: int, hidden_dim: int | None = None, bias: bool = False) -> None:
        super().__init__()
        hidden_dim = default_hidden_dim("swiglu", embed_dim) if hidden_dim is None else hidden_dim
        check_integer("embed_dim", embed_dim, minimum=1)
        check_integer("hidden_dim", hidden_dim, minimum=1)
        self.gate = nn.Linear(embed_dim, hidden_dim, bias=bias)
        self.up = nn.Linear(embed_dim, hidden_dim, bias=bias)
        self.down = nn.Linear(hidden_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (..., C) to (..., C)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


def default_hidden_dim(kind: str, embed_dim: int) -> int:
    """Return 4 C, or for SwiGLU 8/3 C rounded up to a multiple of 8 (kernels like whole tiles)."""
    check_integer("embed_dim", embed_dim, minimum=1)
    return 8 * math.ceil(embed_dim / 3) if kind == "swiglu" else 4 * embed_dim


def make_feed_forward(
    kind: str, embed_dim: int, hidden_dim: int | None = None, bias: bool = True
) -> FeedForward | SwiGLU:
    """Build the layer called `kind`.

    Raises:
        ValueError: kind is not one of "gelu", "gelu_tanh", "swiglu".
    """
    if kind not in FEED_FORWARDS:
        raise ValueError(f"feed_forward={kind!r}: one of {', '.join(FEED_FORWARDS)} is needed")
    if kind == "swiglu":
        return SwiGLU(embed_dim, hidden_dim, bias)
    return FeedForward(embed_dim, hidden_dim, bias, "tanh" if kind == "gelu_tanh" else "none")
