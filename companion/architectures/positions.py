r"""Where a token stands: sinusoids that are added, a table that is learnt, a rotation of q and k.

Attention itself does not know the order of its keys. Three ways to tell it:

    sinusoidal   h_t = token_t + p_t    p_t = (sin tω₀, cos tω₀, sin tω₁, cos tω₁, …)
    learnt       h_t = token_t + P[t]   P: a parameter, (context_length, C)
    rotary       q_t → R(t) q_t,  k_s → R(s) k_s    so that  q·k depends on t − s alone

with the frequencies ω_i = base^(−2i/D), i = 0 … D/2 − 1, and R(t) a rotation by the angle t ω_i of
the i-th *pair* of numbers. Which two numbers make a pair is a convention:

    interleaved   (x₀, x₁), (x₂, x₃), …           the paper's and Meta's own code
    half-split    (x₀, x_{D/2}), (x₁, x_{D/2+1}), …    Llama's weights in `transformers`, and here

The two differ by a fixed permutation of the D numbers: weights of one have to be reordered for the
other.

Letters: B batch, H heads, T positions, D size of a head, C size of an embedding.

Sources: Vaswani et al., NeurIPS 2017, section 3.5 (sinusoids); Su et al., "RoFormer: Enhanced
Transformer with Rotary Position Embedding", arXiv:2104.09864, section 3.2 (rotary).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.arguments import check_integer


def frequencies(dim: int, base: float = 10_000.0) -> Tensor:
    """Return ω_i = base^(−2i/dim) in radians a position, (dim/2,), float64.

    Raises:
        ValueError: dim is odd or below 2, or base is not above 1.
    """
    check_integer("dim", dim, minimum=2)
    if dim % 2:
        raise ValueError(f"dim={dim}: an even number is needed, sines and cosines come in pairs")
    if not base > 1:
        raise ValueError(f"base={base}: a number above 1 is needed")
    return torch.from_numpy(base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim))


def sinusoidal_table(length: int, dim: int) -> Tensor:
    """Return the positions 0 … length − 1 of section 3.5, (length, dim), float64.

    Column 2i holds sin(t ω_i), column 2i + 1 holds cos(t ω_i).
    """
    check_integer("length", length, minimum=1)
    angles = torch.outer(_positions(length), frequencies(dim))  # (T, C/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def rotary_tables(length: int, dim: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Return cos(t ω_i) and sin(t ω_i), each (length, dim/2), float64."""
    check_integer("length", length, minimum=1)
    angles = torch.outer(_positions(length), frequencies(dim, base))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn each pair of x by its angle: (a, b) → (a cos − b sin, a sin + b cos).

    Args:
        x: (..., T, D).
        cos, sin: (T, D/2).
        interleaved: pairs are neighbours; else number i goes with number i + D/2.

    Returns:
        x's shape and dtype.
    """
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]  # (..., T, D/2)
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    else:
        a, b = x.chunk(2, dim=-1)
        turned = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return turned.to(x.dtype)  # the tables are float32 where x is bfloat16


def half_split_order(dim: int) -> Tensor:
    """Return the index that sorts interleaved numbers into half-split order, (dim,), int64.

    `rotate(x, …, interleaved=True)[..., order] == rotate(x[..., order], …)`: reorder the rows of
    the query and key projections of each head by it, and weights of one layout serve the other.
    """
    check_integer("dim", dim, minimum=2)
    return torch.cat((torch.arange(0, dim, 2), torch.arange(1, dim, 2)))


class _Tables(nn.Module):
    """Tables that follow the module to its device and are computed anew in its precision.

    They are not in the state dict. Cast to bfloat16 they would hardly tell position 256 from 257,
    so they stay float32 there; and a module made on the meta device has them when it is filled.
    """

    def _tables(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def _register(self) -> None:
        for name, table in self._tables().items():
            table = table.to(dtype=torch.get_default_dtype(), device=torch.empty(0).device)
            self.register_buffer(name, table, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for name, table in self._tables().items():
            old = getattr(self, name)
            dtype = torch.promote_types(old.dtype, torch.float32)
            setattr(self, name, table.to(dtype).to(old.device))
        return self


class SinusoidalPositions(_Tables):
    """Add the sinusoids of section 3.5; no parameters.

    Args:
        context_length: the number of positions.
        embed_dim: C, even.
    """

    table: Tensor

    def __init__(self, context_length: int, embed_dim: int) -> None:
        super().__init__()
        self.context_length, self.embed_dim = context_length, embed_dim
        self._register()

    def _tables(self) -> dict[str, Tensor]:
        return {"table": sinusoidal_table(self.context_length, self.embed_dim)}

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Return the vectors of the positions offset … offset + length − 1, (length, C)."""
        check_span(length, offset, self.context_length)
        return self.table[offset : offset + length]


class LearntPositions(nn.Module):
    """One learnt vector a position, `weight`: (context_length, C)."""

    def __init__(self, context_length: int, embed_dim: int) -> None:
        super().__init__()
        check_integer("context_length", context_length, minimum=1)
        check_integer("embed_dim", embed_dim, minimum=1)
        self.context_length = context_length
        self.weight = nn.Parameter(torch.randn(context_length, embed_dim) * 0.02)

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Return the vectors of the positions offset … offset + length − 1, (length, C)."""
        check_span(length, offset, self.context_length)
        return self.weight[offset : offset + length]


class RotaryPositions(_Tables):
    """Turn queries or keys by their position; no parameters.

    Args:
        context_length: the number of positions.
        head_dim: D, even.
        base: of the frequencies; 10,000 in the paper, 500,000 in Llama 3.
        interleaved: which numbers make a pair, see the top of the file.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        context_length: int,
        head_dim: int,
        base: float = 10_000.0,
        interleaved: bool = False,
    ) -> None:
        super().__init__()
        self.context_length, self.head_dim = context_length, head_dim
        self.base, self.interleaved = base, interleaved
        self._register()

    def _tables(self) -> dict[str, Tensor]:
        cos, sin = rotary_tables(self.context_length, self.head_dim, self.base)
        return {"cos": cos, "sin": sin}

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """Turn x: (..., T, D), whose first position is `offset`.

        Raises:
            ValueError: D is another size, or a position is beyond the context.
        """
        if x.shape[-1] != self.head_dim:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; its last dimension must be head_dim={self.head_dim}"
            )
        length = x.shape[-2]
        check_span(length, offset, self.context_length)
        span = slice(offset, offset + length)
        return rotate(x, self.cos[span], self.sin[span], self.interleaved)


def check_span(length: int, offset: int, context_length: int) -> None:
    """Raise ValueError unless there is a position, and all of them lie within the context."""
    if length < 1:
        raise ValueError(f"the sequence has length {length}; it must be at least 1")
    if offset < 0 or offset + length > context_length:
        raise ValueError(
            f"positions {offset} to {offset + length - 1} do not fit: "
            f"context_length={context_length}"
        )


def _positions(length: int) -> Tensor:
    # NumPy, so that the tables hold numbers even where a network is built on the meta device.
    return torch.from_numpy(np.arange(length, dtype=np.float64))
