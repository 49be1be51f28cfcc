"""`Tensor`: an array that remembers how it was computed.

The array underneath is a torch tensor, used for arithmetic only; torch's own autograd takes no
part. So everything here runs wherever torch runs, and `torch.autograd` is left free as the judge::

    x = Tensor([1.0, 2.0], requires_grad=True)
    loss = (x * x).sum()
    loss.backward()
    x.grad                                    # Tensor([2., 4.])
    tape.grad((x * x).sum(), [x], create_graph=True)    # itself on the tape

The operations live in :mod:`~companion.backprop.tensor_ops` (arithmetic),
:mod:`~companion.backprop.tensor_views` and :mod:`~companion.backprop.tensor_reductions`; the walk
back in :mod:`~companion.backprop.tape`; how to add an operation in
:mod:`~companion.backprop.primitive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch

from companion.backprop import tape
from companion.backprop import tensor_ops as ops
from companion.backprop import tensor_reductions as reductions
from companion.backprop import tensor_views as views
from companion.backprop.primitive import Primitive, constant
from companion.backprop.tape import Node

Dims = int | Sequence[int] | None


def _sizes(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """Accept both ``f(2, 3)`` and ``f((2, 3))``."""
    if len(arguments) == 1 and not isinstance(arguments[0], int):
        return tuple(arguments[0])
    return arguments


class Operators:
    """The operators and methods shared by every kind of number the tape's operations take."""

    __slots__ = ()
    value: Any
    __array_ufunc__ = None  # makes `numpy_array * tensor` ask us instead of looping over elements

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def T(self) -> Any:
        """The last two axes exchanged."""
        return views.transpose(self)

    def __add__(self, other: Any) -> Any:
        return ops.add(self, other)

    def __radd__(self, other: Any) -> Any:
        return ops.add(other, self)

    def __sub__(self, other: Any) -> Any:
        return ops.sub(self, other)

    def __rsub__(self, other: Any) -> Any:
        return ops.sub(other, self)

    def __mul__(self, other: Any) -> Any:
        return ops.mul(self, other)

    def __rmul__(self, other: Any) -> Any:
        return ops.mul(other, self)

    def __truediv__(self, other: Any) -> Any:
        return ops.div(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return ops.div(other, self)

    def __pow__(self, exponent: Any) -> Any:
        if isinstance(exponent, int | float):
            return ops.power(self, exponent=exponent)
        return ops.pow(self, exponent)

    def __rpow__(self, base: Any) -> Any:
        return ops.pow(base, self)

    def __matmul__(self, other: Any) -> Any:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return ops.matmul(other, self)

    def __neg__(self) -> Any:
        return ops.neg(self)

    def __getitem__(self, key: Any) -> Any:
        return views.index(self, key=key)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a single number has no length")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(constant(self))

    # A comparison has no gradient: it gives a plain boolean array, for `where` or as an index.
    def __gt__(self, other: Any) -> Any:
        return constant(self) > constant(other)

    def __lt__(self, other: Any) -> Any:
        return constant(self) < constant(other)

    def __ge__(self, other: Any) -> Any:
        return constant(self) >= constant(other)

    def __le__(self, other: Any) -> Any:
        return constant(self) <= constant(other)

    def exp(self) -> Any:
        return ops.exp(self)

    def log(self) -> Any:
        return ops.log(self)

    def sqrt(self) -> Any:
        return ops.sqrt(self)

    def sin(self) -> Any:
        return ops.sin(self)

    def cos(self) -> Any:
        return ops.cos(self)

    def tanh(self) -> Any:
        return ops.tanh(self)

    def sigmoid(self) -> Any:
        return ops.sigmoid(self)

    def relu(self) -> Any:
        return ops.relu(self)

    def abs(self) -> Any:
        return ops.abs(self)

    def sum(self, dim: Dims = None, keepdim: bool = False) -> Any:
        return reductions.sum(self, dim, keepdim)

    def mean(self, dim: Dims = None, keepdim: bool = False) -> Any:
        return reductions.mean(self, dim, keepdim)

    def amax(self, dim: Dims = None, keepdim: bool = False) -> Any:
        return reductions.amax(self, dim, keepdim)

    def amin(self, dim: Dims = None, keepdim: bool = False) -> Any:
        return reductions.amin(self, dim, keepdim)

    def reshape(self, *shape: Any) -> Any:
        return views.reshape(self, _sizes(shape))

    def transpose(self, dim0: int = -2, dim1: int = -1) -> Any:
        return views.transpose(self, dim0, dim1)

    def permute(self, *dims: Any) -> Any:
        return views.permute(self, _sizes(dims))

    def broadcast_to(self, *shape: Any) -> Any:
        return views.broadcast_to(self, _sizes(shape))


class Tensor(Operators):
    """A floating-point array on the tape.

    Args:
        value: torch tensor, numpy array, number or nested list. A torch tensor is *shared*, not
            copied. All arrays of one operation must have the same dtype; plain numbers adapt.
        requires_grad: make it a leaf that `backward` collects a gradient for in `.grad`.

    Raises:
        ValueError: `value` is a Tensor, or not of a floating-point dtype.
    """

    __slots__ = ("value", "requires_grad", "grad", "node")
    _level = 0

    def __init__(self, value: Any, *, requires_grad: bool = False) -> None:
        if isinstance(value, Operators):
            raise ValueError("value is on a tape already; use x.detach() for a copy off the tape")
        array = torch.as_tensor(value).detach()
        if not array.is_floating_point():
            raise ValueError(
                f"value has dtype {array.dtype}: only floating-point arrays have gradients; "
                "convert it, for example with .double()"
            )
        self.value: torch.Tensor = array
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self.node: Node | None = None

    @classmethod
    def _of(cls, array: torch.Tensor) -> Tensor:
        """Wrap the result of an operation, of which nothing needs to be checked."""
        out = cls.__new__(cls)
        out.value, out.requires_grad, out.grad, out.node = array, False, None, None
        return out

    def _apply(self, primitive: Primitive, inputs: Sequence[Any], options: dict[str, Any]) -> Self:
        """Compute, and record the call if any input needs a gradient."""
        tensors = tuple(
            Tensor(x) if isinstance(x, torch.Tensor) or hasattr(x, "__array__") else x
            for x in inputs
        )
        arrays = [x.value if isinstance(x, Tensor) else x for x in tensors]
        dtypes = {x.dtype for x in arrays if isinstance(x, torch.Tensor)}
        if len(dtypes) > 1:
            raise ValueError(
                f"{primitive.name}: inputs have dtypes {sorted(map(str, dtypes))}; convert them "
                "to one"
            )
        out = Tensor._of(primitive.evaluate(*arrays, **options))
        if tape.is_recording() and any(map(tape.needs_gradient, tensors)):
            out.requires_grad = True
            out.node = Node(primitive, tensors, options, tape.versions(tensors, out))
        return out

    def backward(
        self,
        grad_output: Any = None,
        *,
        retain_graph: bool = False,
        create_graph: bool = False,
    ) -> None:
        """Add gradients to the leaves; see :func:`companion.backprop.tape.backward`."""
        tape.backward(self, grad_output, retain_graph=retain_graph, create_graph=create_graph)

    def detach(self) -> Tensor:
        """The same numbers as a constant: no gradient flows back past this point."""
        return Tensor(self.value)

    def item(self) -> float:
        return self.value.item()

    def __repr__(self) -> str:
        numbers = str(self.value).removeprefix("tensor(").removesuffix(")")
        if self.node is not None:
            return f"Tensor({numbers}, from={self.node.primitive.name})"
        return (
            f"Tensor({numbers}, requires_grad=True)"
            if self.requires_grad
            else (f"Tensor({numbers})")
        )


def softmax(x: Any, dim: int = -1) -> Any:
    """eˣ / Σ eˣ over `dim`, from shifted values so that nothing overflows."""
    powers = (x - constant(x).amax(dim, keepdim=True)).exp()
    return powers / powers.sum(dim, keepdim=True)


def log_softmax(x: Any, dim: int = -1) -> Any:
    """log softmax in one piece: x − m − log Σ e^(x−m) with the maximum m held constant."""
    shifted = x - constant(x).amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def cross_entropy(logits: Any, labels: torch.Tensor) -> Any:
    """Mean of −log softmax(logits) at the right class.

    Args:
        logits: (batch, classes).
        labels: (batch,), integers, a plain torch tensor.

    Raises:
        ValueError: the shapes are not those.
    """
    if len(logits.shape) != 2 or tuple(labels.shape) != tuple(logits.shape[:1]):
        raise ValueError(
            f"logits must be (batch, classes) and labels (batch,), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    rows = torch.arange(len(labels), device=labels.device)
    return -log_softmax(logits)[rows, labels].mean()
