"""Automatic differentiation of scalars: the smallest tape that is right.

Every operation stores its inputs, each with the *local derivative* ∂out/∂input. The chain rule
then says that the derivative of the result with respect to any number is the sum, over all paths
that lead there, of the product of the local derivatives along the path (Bauer 1974; Griewank and
Walther 2008, section 3.2):

.. math:: \\bar v_i = \\sum_{j \\text{ uses } i} \\bar v_j \\, \\frac{\\partial v_j}{\\partial v_i}.

:func:`backward_over_paths` takes this literally and needs time exponential in the depth;
:meth:`Scalar.backward` visits each number once. Arrays follow in :mod:`companion.backprop.tensor`.
"""

from __future__ import annotations

import math


class Scalar:
    """A number that remembers how it was computed.

    Args:
        value: the number.
        label: its name in pictures.

    Attributes:
        grad: derivative of the last result that `backward` was called on; adds up over calls.
        inputs: pairs (input, local derivative), empty for a number that was given.
        operation: what made it, empty for a number that was given.

    Raises:
        ValueError: `value` is not a number.
    """

    __slots__ = ("value", "grad", "inputs", "operation", "label")

    def __init__(self, value: float, label: str = "") -> None:
        if isinstance(value, Scalar) or not hasattr(value, "__float__"):
            raise ValueError(f"value={value!r} is not a number")
        self.value = float(value)
        self.grad = 0.0
        self.inputs: tuple[tuple[Scalar, float], ...] = ()
        self.operation = ""
        self.label = label

    def named(self, label: str) -> Scalar:
        """Set the name that pictures show, and return the number itself."""
        self.label = label
        return self

    def __add__(self, other: Scalar | float) -> Scalar:
        other = _scalar(other)
        return _record("+", self.value + other.value, (self, 1.0), (other, 1.0))

    def __mul__(self, other: Scalar | float) -> Scalar:
        other = _scalar(other)
        return _record("×", self.value * other.value, (self, other.value), (other, self.value))

    def __sub__(self, other: Scalar | float) -> Scalar:
        other = _scalar(other)
        return _record("−", self.value - other.value, (self, 1.0), (other, -1.0))

    def __truediv__(self, other: Scalar | float) -> Scalar:
        other = _scalar(other)
        out = self.value / other.value
        return _record("÷", out, (self, 1 / other.value), (other, -out / other.value))

    def __pow__(self, exponent: float) -> Scalar:
        slope = exponent * self.value ** (exponent - 1) if exponent else 0.0
        return _record(f"^{exponent:g}", self.value**exponent, (self, slope))

    def __neg__(self) -> Scalar:
        return self * -1.0

    def __radd__(self, other: float) -> Scalar:
        return _scalar(other) + self

    def __rmul__(self, other: float) -> Scalar:
        return _scalar(other) * self

    def __rsub__(self, other: float) -> Scalar:
        return _scalar(other) - self

    def __rtruediv__(self, other: float) -> Scalar:
        return _scalar(other) / self

    def exp(self) -> Scalar:
        out = math.exp(self.value)
        return _record("exp", out, (self, out))

    def log(self) -> Scalar:
        return _record("log", math.log(self.value), (self, 1 / self.value))

    def sin(self) -> Scalar:
        return _record("sin", math.sin(self.value), (self, math.cos(self.value)))

    def tanh(self) -> Scalar:
        out = math.tanh(self.value)
        return _record("tanh", out, (self, 1 - out * out))

    def relu(self) -> Scalar:
        """max(x, 0); the derivative at 0 is 0."""
        return _record("relu", max(self.value, 0.0), (self, float(self.value > 0)))

    def backward(self) -> None:
        """Add the derivative of this number to `.grad` of everything it was computed from."""
        derivative: dict[int, float] = {id(self): 1.0}
        for node in reversed(topological_order(self)):
            complete = derivative[id(node)]  # all users of `node` have been visited
            node.grad += complete
            for x, local in node.inputs:
                derivative[id(x)] = derivative.get(id(x), 0.0) + complete * local

    def __repr__(self) -> str:
        name = f"{self.label}=" if self.label else ""
        return f"Scalar({name}{self.value:.6g}, grad={self.grad:.6g})"


def _scalar(x: Scalar | float) -> Scalar:
    return x if isinstance(x, Scalar) else Scalar(x)


def _record(operation: str, value: float, *inputs: tuple[Scalar, float]) -> Scalar:
    out = Scalar(value)
    out.operation, out.inputs = operation, inputs
    return out


def topological_order(root: Scalar) -> list[Scalar]:
    """All numbers that `root` was computed from and `root`, every one after its inputs."""
    order: list[Scalar] = []
    seen: set[int] = set()
    stack: list[tuple[Scalar, bool]] = [(root, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((x, False) for x, _ in node.inputs)
    return order


def backward_over_paths(root: Scalar, weight: float = 1.0) -> int:
    """The chain rule taken literally: one visit for each *path*, right but exponential.

    Adds to `.grad` what :meth:`Scalar.backward` adds.

    Returns:
        How many visits were made.
    """
    root.grad += weight
    return 1 + sum(backward_over_paths(x, weight * local) for x, local in root.inputs)
