"""Operations that make an array smaller: sum, mean, largest and smallest element.

All take `dim` (an axis, several, or None for all) and `keepdim` as torch does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from companion.backprop.primitive import constant, primitive
from companion.backprop.tensor_views import broadcast_to, reshape

Dims = int | Sequence[int] | None


def reduced_dims(dim: Dims, ndim: int) -> tuple[int, ...]:
    """`dim` as a sorted tuple of axes counted from the front.

    Raises:
        ValueError: an axis that is not there, or one named twice.
    """
    named = range(ndim) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    dims = sorted(d + ndim if d < 0 else d for d in named)
    if any(not 0 <= d < ndim for d in dims) or len(set(dims)) < len(dims):
        raise ValueError(f"dim={dim} must name different axes of the {ndim}")
    return tuple(dims)


def _spread(reduced: Any, shape: Sequence[int], dims: tuple[int, ...]) -> Any:
    """Give a reduced array its lost axes back and repeat it along them."""
    kept = [1 if i in dims else size for i, size in enumerate(shape)]
    return broadcast_to(reshape(reduced, kept), shape)


@primitive
def _sum(x: torch.Tensor, *, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    return x.sum(dims, keepdim) if dims else x.clone()


_sum.gradients(lambda grad, out, x, dims, keepdim: _spread(grad, x.shape, dims))


def sum(x: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """Sum over `dim`; every element of a sum gets the gradient of the sum."""
    return _sum(x, dims=reduced_dims(dim, len(x.shape)), keepdim=keepdim)


def mean(x: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """Mean over `dim`; NaN where there is nothing to take the mean of."""
    count = math.prod(x.shape[d] for d in reduced_dims(dim, len(x.shape)))
    return sum(x, dim, keepdim) / count


@primitive
def _amax(x: torch.Tensor, *, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    return x.amax(dims, keepdim) if dims else x.clone()


def share_of_amax(out: Any, x: Any, dims: tuple[int, ...]) -> torch.Tensor:
    """Part of the gradient of the largest element that each element gets; ties share it."""
    values = constant(x)
    is_largest = (values == _spread(constant(out), x.shape, dims)).to(values.dtype)
    return is_largest / is_largest.sum(dims, keepdim=True) if dims else is_largest


_amax.gradients(
    lambda grad, out, x, dims, keepdim: _spread(grad, x.shape, dims) * share_of_amax(out, x, dims)
)


def amax(x: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """Largest element over `dim`. Ties share the gradient evenly, as in `torch.amax`.

    Raises:
        ValueError: there is no element to choose from.
    """
    dims = reduced_dims(dim, len(x.shape))
    if any(x.shape[d] == 0 for d in dims):
        raise ValueError(f"dim={dim} of shape {tuple(x.shape)} is empty: it has no largest element")
    return _amax(x, dims=dims, keepdim=keepdim)


def amin(x: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """Smallest element over `dim`; ties and errors as in :func:`amax`."""
    return -amax(-x, dim, keepdim)
