"""The tape: how a call is recorded, and the walk back that gives gradients.

Reverse mode, for a number :math:`L` computed through :math:`y = f(x_1, \\dots, x_k)`: visit
the operations in the opposite order, and add to every input its share

.. math:: \\bar x_i \\mathrel{+}= \\bar y \\, \\frac{\\partial y}{\\partial x_i},
    \\qquad \\bar v := \\frac{\\partial L}{\\partial v}.

Source: Linnainmaa (1976); Griewank and Walther (2008), chapter 3. How to add an operation: see
:mod:`companion.backprop.primitive`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from companion.backprop.primitive import Primitive

if TYPE_CHECKING:
    from companion.backprop.tensor import Tensor

_recording: ContextVar[bool] = ContextVar("recording", default=True)


class Node(NamedTuple):
    """How a Tensor came about: one entry of the tape.

    The node points to its inputs, never to its output: no cycle of references, so the tape's
    memory is given back as soon as nobody holds the result.
    """

    primitive: Primitive
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    versions: tuple[int, ...]  # of the inputs' and the output's memory when they were recorded


def _freed() -> torch.Tensor:
    raise RuntimeError("a freed node computes nothing")


FREED = Node(Primitive(_freed), (), {}, ())


def version(x: Any) -> int:
    """How often the memory behind `x` was written in place (torch counts it for us)."""
    array = getattr(x, "value", None)
    return 0 if array is None or array.is_inference() else array._version


def versions(inputs: Sequence[Any], out: Tensor) -> tuple[int, ...]:
    return (*(version(x) for x in inputs), version(out))


def is_recording() -> bool:
    return _recording.get()


@contextmanager
def recording(on: bool) -> Iterator[None]:
    """Switch the tape on or off inside a ``with`` block."""
    token = _recording.set(on)
    try:
        yield
    finally:
        _recording.reset(token)


def no_grad() -> AbstractContextManager[None]:
    """``with no_grad():`` nothing is recorded inside, so nothing is kept for a backward pass."""
    return recording(False)


def needs_gradient(x: Any) -> bool:
    return getattr(x, "requires_grad", False)


def topological_order(root: Tensor) -> list[Tensor]:
    """Everything that `root` was computed from and that needs a gradient, inputs before users.

    A depth-first walk with its own stack: Python's recursion limit plays no part.

    Raises:
        RuntimeError: part of the graph was freed by an earlier backward pass.
    """
    order: list[Tensor] = []
    seen: set[int] = set()
    stack: list[tuple[Tensor, bool]] = [(root, False)]
    while stack:
        tensor, inputs_done = stack.pop()
        if inputs_done:
            order.append(tensor)
            continue
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if tensor.node is FREED:
            raise RuntimeError(
                "this graph was freed by an earlier backward pass; "
                "give that one retain_graph=True to walk it twice"
            )
        stack.append((tensor, True))
        if tensor.node is not None:
            stack.extend((x, False) for x in tensor.node.inputs if needs_gradient(x))
    return order


def _walk_back(order: Sequence[Tensor], seed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every Tensor of `order` with its finished gradient, users before inputs."""
    gradients: dict[int, Tensor] = {id(order[-1]): seed}
    for tensor in reversed(order):
        grad = gradients.pop(id(tensor))
        yield tensor, grad
        if tensor.node is None:
            continue
        operation, inputs, options, recorded = tensor.node
        if versions(inputs, tensor) != recorded:
            raise RuntimeError(
                f"an input or the output of {operation.name} was changed in place after it was "
                "recorded; the gradient would be computed from the new values"
            )
        for position, x in enumerate(inputs):
            if not needs_gradient(x):
                continue
            share = operation.rule(position)(grad, tensor, *inputs, **options)
            if share.shape != x.shape:
                raise ValueError(
                    f"gradient rule {position} of {operation.name} returned shape "
                    f"{tuple(share.shape)} for an input of shape {tuple(x.shape)}"
                )
            known = gradients.get(id(x))
            gradients[id(x)] = share if known is None else known + share


def _seed(root: Tensor, seed: Any) -> Tensor:
    if not needs_gradient(root):
        raise ValueError("output does not depend on any Tensor with requires_grad=True")
    if seed is None:
        if math.prod(root.shape) != 1:
            raise ValueError(
                f"output has shape {tuple(root.shape)}: only a single number has a gradient "
                "without a seed; give grad_output, an array of that shape"
            )
        return type(root)(torch.ones_like(root.value))
    seed = seed if isinstance(seed, type(root)) else type(root)(seed)
    if seed.shape != root.shape:
        raise ValueError(
            f"grad_output has shape {tuple(seed.shape)}, the output {tuple(root.shape)}: "
            "they must be equal"
        )
    return seed


def backward(
    root: Tensor, grad_output: Any = None, *, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Add ∂(root · grad_output)/∂leaf to `.grad` of every leaf with `requires_grad`.

    Args:
        root: the result; a single number unless `grad_output` is given.
        grad_output: array of the shape of `root`, the weights of its elements.
        retain_graph: keep the tape for another pass; else its memory is freed now.
        create_graph: record this pass too, so that the gradients can be differentiated.

    Raises:
        ValueError: `root` has no graph, or `grad_output` is missing or of another shape.
        RuntimeError: the graph was freed before, or an array was changed in place.
    """
    seed, order = _seed(root, grad_output), topological_order(root)
    given_out = {id(seed.value)}
    with recording(create_graph):
        for tensor, gradient in _walk_back(order, seed):
            if tensor.node is not None:
                continue
            if tensor.grad is not None:
                tensor.grad = tensor.grad + gradient
            else:
                tensor.grad = gradient if create_graph else _own(gradient, given_out)
    if not (retain_graph or create_graph):
        _free(order)


def _own(gradient: Tensor, given_out: set[int]) -> Tensor:
    """`gradient` in memory of its own: rules may hand one array, or views of it, to several."""
    array = gradient.value
    if array._is_view() or id(array) in given_out:
        return type(gradient)(array.clone(memory_format=torch.contiguous_format))
    given_out.add(id(array))
    return gradient


def grad(
    root: Tensor,
    inputs: Sequence[Tensor],
    grad_output: Any = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor, ...]:
    """Return the gradients of `root` with respect to `inputs`; no `.grad` is touched.

    Arguments and errors as in :func:`backward`; besides, an input that `root` does not depend
    on is a ValueError, or has a gradient of zeros with ``allow_unused=True``.
    """
    seed, order = _seed(root, grad_output), topological_order(root)
    wanted = {id(x) for x in inputs}
    found: dict[int, Tensor] = {}
    with recording(create_graph):
        for tensor, gradient in _walk_back(order, seed):
            if id(tensor) in wanted:
                found[id(tensor)] = gradient
    if not (retain_graph or create_graph):
        _free(order)
    for position, x in enumerate(inputs):
        if id(x) not in found:
            if not allow_unused:
                raise ValueError(f"inputs[{position}] plays no part in the output")
            found[id(x)] = type(root)(torch.zeros_like(x.value))
    return tuple(found[id(x)] for x in inputs)


def _free(order: Sequence[Tensor]) -> None:
    for tensor in order:
        if tensor.node is not None:
            tensor.node = FREED


class TapeSize(NamedTuple):
    """How much a result keeps alive.

    Attributes:
        nodes: recorded operations.
        arrays: different blocks of memory; views share their base's.
        bytes: their size, leaves (parameters and data) included.
    """

    nodes: int
    arrays: int
    bytes: int


def tape_size(root: Tensor) -> TapeSize:
    """Count the operations and the memory that the tape below `root` holds."""
    order = topological_order(root)
    held = [x for t in order for x in (t, *(t.node.inputs if t.node else ()))]
    storages = [x.value.untyped_storage() for x in held if hasattr(x, "value")]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return TapeSize(sum(t.node is not None for t in order), len(sizes), sum(sizes.values()))
