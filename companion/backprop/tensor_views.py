"""Operations that move numbers without changing them, and the sum that undoes a broadcast.

They come in pairs, each the other's gradient, because each is linear and the other is its
transpose: reshape with reshape, permute with the inverse permutation, :func:`index` with
:func:`put`, :func:`broadcast_to` with :func:`sum_to`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from companion.backprop.primitive import primitive

Shape = tuple[int, ...]


def _free(out: torch.Tensor, *inputs: Any, **options: Any) -> int:
    return 0


@primitive(cost=_free)
def _broadcast_to(x: torch.Tensor, *, shape: Shape) -> torch.Tensor:
    return x.expand(shape)


@primitive
def _sum_to(x: torch.Tensor, *, shape: Shape) -> torch.Tensor:
    lead = x.ndim - len(shape)
    stretched = [lead + i for i, size in enumerate(shape) if size == 1]
    return x.sum((*range(lead), *stretched), keepdim=True).reshape(shape)


_broadcast_to.gradients(lambda grad, out, x, shape: sum_to(grad, x.shape))
_sum_to.gradients(lambda grad, out, x, shape: broadcast_to(grad, x.shape))


def broadcast_to(x: Any, shape: Sequence[int]) -> Any:
    """Repeat `x` along new leading axes and along axes of size one, without copying.

    Raises:
        ValueError: `x` does not broadcast to `shape`.
    """
    if tuple(x.shape) == tuple(shape):
        return x
    try:
        return _broadcast_to(x, shape=tuple(shape))
    except RuntimeError:
        raise ValueError(f"shape {tuple(x.shape)} does not broadcast to {tuple(shape)}") from None


def sum_to(x: Any, shape: Sequence[int]) -> Any:
    """Sum `x` over the axes along which `shape` was broadcast: the transpose of broadcasting.

    One number that was used at many places gets the sum of the gradients of all of them.
    """
    if tuple(x.shape) == tuple(shape):
        return x
    return _sum_to(x, shape=tuple(shape))


@primitive(cost=_free)
def _reshape(x: torch.Tensor, *, shape: Shape) -> torch.Tensor:
    return x.reshape(shape)


_reshape.gradients(lambda grad, out, x, shape: reshape(grad, x.shape))


def reshape(x: Any, shape: Sequence[int]) -> Any:
    """The same numbers in another shape; one size may be -1 and is then worked out.

    Raises:
        ValueError: the sizes do not multiply to the number of elements.
    """
    shape, count = tuple(shape), math.prod(x.shape)
    if shape.count(-1) == 1:
        rest = -math.prod(shape)
        if rest > 0 and count % rest == 0:
            shape = tuple(count // rest if size == -1 else size for size in shape)
    if min(shape, default=1) < 0 or math.prod(shape) != count:
        raise ValueError(f"shape={shape} does not hold the {count} elements of {tuple(x.shape)}")
    return _reshape(x, shape=shape)


@primitive(cost=_free)
def _permute(x: torch.Tensor, *, dims: Shape) -> torch.Tensor:
    return x.permute(dims)


def _inverse(dims: Shape) -> Shape:
    return tuple(sorted(range(len(dims)), key=dims.__getitem__))


_permute.gradients(lambda grad, out, x, dims: permute(grad, _inverse(dims)))


def permute(x: Any, dims: Sequence[int]) -> Any:
    """Axes in another order: axis ``i`` of the result is axis ``dims[i]`` of `x`.

    Raises:
        ValueError: `dims` is not a permutation of the axes.
    """
    ndim = len(x.shape)
    dims = tuple(d + ndim if d < 0 else d for d in dims)
    if sorted(dims) != list(range(ndim)):
        raise ValueError(f"dims={dims} is not a permutation of the {ndim} axes")
    return _permute(x, dims=dims)


def transpose(x: Any, dim0: int = -2, dim1: int = -1) -> Any:
    """Exchange two axes, the last two unless told otherwise."""
    dims = list(range(len(x.shape)))
    try:
        dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    except IndexError:
        raise ValueError(f"dim0={dim0}, dim1={dim1}: shape is {tuple(x.shape)}") from None
    return permute(x, dims)


@primitive(cost=_free)
def index(x: torch.Tensor, *, key: Any) -> torch.Tensor:
    """``x[key]``: numbers, slices, None, ``...``, masks and integer arrays."""
    return x[key]


@primitive
def put(x: torch.Tensor, *, key: Any, shape: Shape) -> torch.Tensor:
    """Zeros of `shape` with `x` added at `key`: the transpose of :func:`index`.

    *Added*: an element that was picked twice gets both gradients.
    """
    out = x.new_zeros(shape)
    if _is_basic(key):  # slices and numbers never pick an element twice
        out[key] = x
        return out
    places = torch.arange(out.numel(), device=x.device).reshape(shape)[key]
    return out.view(-1).index_add(0, places.reshape(-1), x.reshape(-1)).view(shape)


index.gradients(lambda grad, out, x, key: put(grad, key=key, shape=tuple(x.shape)))
put.gradients(lambda grad, out, x, key, shape: index(grad, key=key))


def _is_basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return all(p is None or p is ... or type(p) in (int, slice) for p in parts)


@primitive
def _concatenate(*arrays: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.cat(arrays, dim)


@_concatenate.gradients_of_any
def _part(position: int, grad: Any, out: Any, *inputs: Any, dim: int) -> Any:
    start = sum(x.shape[dim] for x in inputs[:position])
    part = slice(start, start + inputs[position].shape[dim])
    return index(grad, key=(slice(None),) * dim + (part,))


def concatenate(inputs: Sequence[Any], dim: int = 0) -> Any:
    """Join along the axis `dim`; every other size must agree.

    Raises:
        ValueError: nothing to join, no such axis, or sizes that do not agree.
    """
    if len(inputs) == 0:
        raise ValueError("inputs is empty: there is nothing to concatenate")
    shapes = [tuple(x.shape) for x in inputs]
    axis = dim + len(shapes[0]) if dim < 0 else dim
    if not 0 <= axis < len(shapes[0]):
        raise ValueError(f"dim={dim} is no axis of shape {shapes[0]}")
    if len({(len(s), s[:axis], s[axis + 1 :]) for s in shapes}) > 1:
        raise ValueError(f"inputs of shapes {shapes} differ outside dim={dim}")
    return _concatenate(*inputs, dim=axis)


def stack(inputs: Sequence[Any], dim: int = 0) -> Any:
    """Join along a *new* axis `dim`; all shapes must be equal.

    Raises:
        ValueError: nothing to stack, or unequal shapes.
    """
    if len({tuple(x.shape) for x in inputs}) != 1:
        raise ValueError(f"inputs must share one shape, got {[tuple(x.shape) for x in inputs]}")
    shape = list(inputs[0].shape)
    shape.insert(dim if dim >= 0 else dim + len(shape) + 1, 1)
    return concatenate([reshape(x, shape) for x in inputs], dim if dim >= 0 else dim + len(shape))
