"""Arithmetic, elementwise functions and matrix products, each with its gradient rules.

In the rules `grad` is :math:`\\bar y = \\partial L / \\partial y` of the result ``out``. Two inputs
broadcast as in torch; :func:`~companion.backprop.tensor_views.sum_to` brings the gradient
back to the shape of the input.
"""

from __future__ import annotations

from typing import Any

import torch

from companion.backprop.primitive import Primitive, constant, primitive
from companion.backprop.tensor_views import reshape, sum_to, transpose


def _check_broadcast(name: str, *shapes: Any) -> None:
    shapes = tuple(map(tuple, shapes))
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(
            f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast; counted from "
            "the last axis, sizes must be equal or one of them 1"
        ) from None


class _Binary(Primitive):
    """An elementwise operation of several inputs, which says clearly when shapes do not fit."""

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        try:
            return super().__call__(*inputs, **options)
        except RuntimeError:
            _check_broadcast(self.name, *(getattr(x, "shape", ()) for x in inputs))
            raise


@_Binary
def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a + b


@_Binary
def sub(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a - b


@_Binary
def mul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a * b


@_Binary
def div(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a / b


add.gradients(
    lambda grad, out, a, b: sum_to(grad, a.shape),
    lambda grad, out, a, b: sum_to(grad, b.shape),
)
sub.gradients(
    lambda grad, out, a, b: sum_to(grad, a.shape),
    lambda grad, out, a, b: sum_to(-grad, b.shape),
)
mul.gradients(
    lambda grad, out, a, b: sum_to(grad * b, a.shape),
    lambda grad, out, a, b: sum_to(grad * a, b.shape),
)
div.gradients(
    lambda grad, out, a, b: sum_to(grad / b, a.shape),
    lambda grad, out, a, b: sum_to(-grad * ((a / b) / b), b.shape),
)


@primitive
def neg(x: torch.Tensor) -> torch.Tensor:
    return -x


@primitive
def power(x: torch.Tensor, *, exponent: float) -> torch.Tensor:
    """``x ** exponent`` for a fixed number; see :func:`pow` for an exponent on the tape."""
    return x**exponent


@_Binary
def pow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a ** b``, both on the tape; as in torch, 0 to a power has gradient 0 in `b` for b ≥ 0."""
    return torch.pow(a, b)


def _power_gradient(grad: Any, out: Any, x: Any, exponent: float) -> Any:
    if exponent == 0:  # x**-1 would make 0 · inf at x = 0
        return grad * 0.0
    return grad * (exponent * x ** (exponent - 1))


def pow_slope_of_base(out: Any, a: Any, b: Any) -> Any:
    """∂(aᵇ)/∂a = b aᵇ⁻¹, and 0 where b = 0."""
    flat = torch.as_tensor(constant(b) == 0, device=constant(a).device)
    return where(flat, 0.0, mul(b, pow(a, b - 1)))


def pow_slope_of_exponent(out: Any, a: Any, b: Any) -> Any:
    """∂(aᵇ)/∂b = aᵇ log a, and 0 where a = 0 and b ≥ 0."""
    base = torch.as_tensor(constant(a), dtype=constant(b).dtype, device=constant(b).device)
    at_zero = (base == 0) & (constant(b) >= 0)
    return where(at_zero, 0.0, mul(out, log(a) if hasattr(a, "shape") else base.log()))


neg.gradients(lambda grad, out, x: -grad)
power.gradients(_power_gradient)
pow.gradients(
    lambda grad, out, a, b: sum_to(grad * pow_slope_of_base(out, a, b), a.shape),
    lambda grad, out, a, b: sum_to(grad * pow_slope_of_exponent(out, a, b), b.shape),
)


@primitive
def exp(x: torch.Tensor) -> torch.Tensor:
    return x.exp()


@primitive
def log(x: torch.Tensor) -> torch.Tensor:
    return x.log()


@primitive
def sqrt(x: torch.Tensor) -> torch.Tensor:
    return x.sqrt()


@primitive
def sin(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


@primitive
def cos(x: torch.Tensor) -> torch.Tensor:
    return x.cos()


@primitive
def tanh(x: torch.Tensor) -> torch.Tensor:
    return x.tanh()


@primitive
def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + e⁻ˣ)."""
    return x.sigmoid()


@primitive
def abs(x: torch.Tensor) -> torch.Tensor:
    """|x|; its gradient at 0 is 0."""
    return x.abs()


@primitive
def relu(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0); its gradient at 0 is 0."""
    return x.relu()


exp.gradients(lambda grad, out, x: grad * out)
log.gradients(lambda grad, out, x: grad / x)
sqrt.gradients(lambda grad, out, x: grad / (2 * out))
sin.gradients(lambda grad, out, x: grad * cos(x))
cos.gradients(lambda grad, out, x: -grad * sin(x))
tanh.gradients(lambda grad, out, x: grad * (1 - out * out))
sigmoid.gradients(lambda grad, out, x: grad * (out * (1 - out)))
abs.gradients(lambda grad, out, x: grad * constant(x).sign())
relu.gradients(lambda grad, out, x: where(constant(out) <= 0, 0.0, grad))


@_Binary
def _where(a: torch.Tensor, b: torch.Tensor, *, condition: torch.Tensor) -> torch.Tensor:
    return torch.where(condition, a, b)


_where.gradients(
    lambda grad, out, a, b, condition: sum_to(where(condition, grad, 0.0), a.shape),
    lambda grad, out, a, b, condition: sum_to(where(condition, 0.0, grad), b.shape),
)


def where(condition: torch.Tensor, a: Any, b: Any) -> Any:
    """`a` where `condition` (a boolean torch array) is true, else `b`; each gets its own part."""
    try:
        return _where(a, b, condition=condition)
    except RuntimeError:
        shapes = (getattr(x, "shape", ()) for x in (condition, a, b))
        _check_broadcast("where", *shapes)
        raise


@_Binary
def maximum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Elementwise larger one; equal elements get half the gradient each, as in torch."""
    like = a if isinstance(a, torch.Tensor) else b
    return torch.maximum(
        torch.as_tensor(a, dtype=like.dtype, device=like.device),
        torch.as_tensor(b, dtype=like.dtype, device=like.device),
    )


def share_of_maximum(mine: Any, other: Any) -> torch.Tensor:
    """Part of the gradient of max(mine, other) that goes to `mine`: 1, ½ for a tie, 0."""
    mine, other = constant(mine), constant(other)
    return 1 - (mine < other).to(mine.dtype) - 0.5 * (mine == other).to(mine.dtype)


maximum.gradients(
    lambda grad, out, a, b: sum_to(grad * share_of_maximum(a, b), a.shape),
    lambda grad, out, a, b: sum_to(grad * share_of_maximum(b, a), b.shape),
)


def minimum(a: Any, b: Any) -> Any:
    """Elementwise smaller one; equal elements get half the gradient each."""
    return -maximum(-a, -b)


def _multiply_adds(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> int:
    return 2 * out.numel() * a.shape[-1]


@primitive(cost=_multiply_adds)
def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b


_matmul.gradients(
    lambda grad, out, a, b: sum_to(grad @ transpose(b), a.shape),
    lambda grad, out, a, b: sum_to(transpose(a) @ grad, b.shape),
)


def matmul(a: Any, b: Any) -> Any:
    """Matrix product ``(…, n, k) @ (…, k, m) -> (…, n, m)``; leading axes broadcast.

    A vector counts as one row on the left and one column on the right, as in torch.

    Raises:
        ValueError: a number as input, inner sizes that differ, or leading axes that do not fit.
    """
    left, right = tuple(a.shape), tuple(b.shape)
    if not left or not right or left[-1] != right[-2:][0]:
        raise ValueError(f"matmul: shapes {left} and {right} do not meet in their inner sizes")
    rows, columns = left[-2:-1], right[1:][-1:]
    try:
        out = _matmul(
            a if rows else reshape(a, (1, *left)), b if columns else reshape(b, (*right, 1))
        )
    except RuntimeError:
        _check_broadcast("matmul (leading axes)", left[:-2], right[:-2])
        raise
    if rows and columns:
        return out
    return reshape(out, (*tuple(out.shape)[:-2], *rows, *columns))
