"""Forward mode: derivatives computed along with the values, by dual numbers.

A dual number :math:`x + \\dot x\\,\\varepsilon` with :math:`\\varepsilon^2 = 0` obeys

.. math:: f(x + \\dot x \\varepsilon) = f(x) + f'(x)\\,\\dot x\\,\\varepsilon

(Wengert 1964; Baydin et al. 2018, section 3.1). One pass gives the Jacobian times one direction,
where reverse mode gives a direction times the Jacobian:

==============  ====================  =========================
f: ℝⁿ → ℝᵐ      one pass gives        the full Jacobian takes
==============  ====================  =========================
forward mode    J v, v of length n    n passes
reverse mode    uᵀ J, u of length m   m passes
==============  ====================  =========================

The parts of a :class:`Dual` may be plain arrays or Tensors. With Tensors the tangent is itself on
the tape, and reverse mode over forward mode gives Hessian–vector products (Pearlmutter 1994).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Self

import torch

from companion.backprop import tape
from companion.backprop import tensor_ops as ops
from companion.backprop import tensor_reductions as reductions
from companion.backprop import tensor_views as views
from companion.backprop.primitive import Primitive, constant
from companion.backprop.tensor import Operators, Tensor

_levels = count(1)


class Dual(Operators):
    """A value and its tangent, of the same shape.

    Args:
        value: array, number, Tensor, or a Dual of an outer derivative.
        tangent: how fast `value` changes; zeros if None.
        level: which derivative it belongs to; nested calls of :func:`jvp` use rising levels, so
            that the inner one treats what the outer one varies as a constant.

    Raises:
        ValueError: the shapes differ.
    """

    __slots__ = ("value", "tangent", "_level")

    def __init__(self, value: Any, tangent: Any = None, level: int = 1) -> None:
        self.value = _array(value)
        if tangent is None:
            tangent = torch.zeros_like(constant(self.value))
        self.tangent = _array(tangent, like=constant(self.value))
        self._level = level
        if tuple(self.tangent.shape) != tuple(self.value.shape):
            raise ValueError(
                f"tangent has shape {tuple(self.tangent.shape)}, value {tuple(self.value.shape)}: "
                "they must be equal"
            )

    def _apply(self, primitive: Primitive, inputs: Sequence[Any], options: dict[str, Any]) -> Self:
        """Compute, and push the tangents of the inputs through the operation's derivative."""
        mine = [isinstance(x, Dual) and x._level == self._level for x in inputs]
        values = [x.value if own else x for x, own in zip(inputs, mine, strict=True)]
        out = primitive(*values, **options)
        tangent = None
        for position, (x, own) in enumerate(zip(inputs, mine, strict=True)):
            if own:
                part = _push(primitive, position, x.tangent, out, values, options)
                tangent = part if tangent is None else tangent + part
        return Dual(out, tangent, self._level)

    def __repr__(self) -> str:
        return f"Dual({self.value}, tangent={self.tangent})"


def _array(x: Any, like: torch.Tensor | None = None) -> Any:
    if isinstance(x, Operators | torch.Tensor):
        return x
    return torch.as_tensor(x, dtype=torch.float64 if like is None else like.dtype)


Rule = Callable[..., Any]

# What an operation does to numbers, it does to tangents: f(x + ẋε) = f(x) + f(ẋ)ε.
LINEAR = {
    ops.neg,
    views._broadcast_to,
    views._sum_to,
    views._reshape,
    views._permute,
    views.index,
    views.put,
    reductions._sum,
}

# The Jacobian is diagonal, hence its own transpose: the gradient rule also does for tangents.
ELEMENTWISE = {
    ops.abs,
    ops.cos,
    ops.exp,
    ops.log,
    ops.power,
    ops.relu,
    ops.sigmoid,
    ops.sin,
    ops.sqrt,
    ops.tanh,
}

# rule(tangent, out, *inputs, **options), one for each input, as in `Primitive.gradients`.
RULES: dict[Primitive, tuple[Rule, ...]] = {
    ops.add: (
        lambda tangent, out, a, b: _stretch(tangent, out),
        lambda tangent, out, a, b: _stretch(tangent, out),
    ),
    ops.sub: (
        lambda tangent, out, a, b: _stretch(tangent, out),
        lambda tangent, out, a, b: _stretch(-tangent, out),
    ),
    ops.mul: (
        lambda tangent, out, a, b: ops.mul(tangent, b),
        lambda tangent, out, a, b: ops.mul(a, tangent),
    ),
    ops.div: (
        lambda tangent, out, a, b: ops.div(tangent, b),
        lambda tangent, out, a, b: -ops.mul(ops.div(out, b), tangent),
    ),
    ops.pow: (
        lambda tangent, out, a, b: ops.mul(tangent, ops.pow_slope_of_base(out, a, b)),
        lambda tangent, out, a, b: ops.mul(tangent, ops.pow_slope_of_exponent(out, a, b)),
    ),
    ops.maximum: (
        lambda tangent, out, a, b: ops.mul(tangent, ops.share_of_maximum(a, b)),
        lambda tangent, out, a, b: ops.mul(tangent, ops.share_of_maximum(b, a)),
    ),
    ops._where: (
        lambda tangent, out, a, b, condition: _stretch(ops.where(condition, tangent, 0.0), out),
        lambda tangent, out, a, b, condition: _stretch(ops.where(condition, 0.0, tangent), out),
    ),
    ops._matmul: (
        lambda tangent, out, a, b: ops._matmul(tangent, b),
        lambda tangent, out, a, b: ops._matmul(a, tangent),
    ),
    reductions._amax: (
        lambda tangent, out, x, dims, keepdim: reductions.sum(
            ops.mul(tangent, reductions.share_of_amax(out, x, dims)), dims, keepdim
        ),
    ),
}


def _stretch(tangent: Any, out: Any) -> Any:
    return views.broadcast_to(tangent, tuple(out.shape))


def _push(
    primitive: Primitive,
    position: int,
    tangent: Any,
    out: Any,
    inputs: list[Any],
    options: dict[str, Any],
) -> Any:
    """Jacobian of the operation in one input, times the tangent of that input."""
    if primitive in LINEAR:
        return primitive(tangent, **options)
    if primitive is views._concatenate:
        others = [torch.zeros_like(constant(x)) for x in inputs]
        return primitive(*others[:position], tangent, *others[position + 1 :], **options)
    if primitive in RULES:
        return RULES[primitive][position](tangent, out, *inputs, **options)
    if primitive in ELEMENTWISE:
        return primitive.rule(position)(tangent, out, *inputs, **options)
    raise ValueError(
        f"{primitive.name} has no forward rule: add it to forward_mode.RULES, or to LINEAR or "
        "ELEMENTWISE if it is that"
    )


def jvp(function: Callable[..., Any], inputs: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """Value of `function` and its derivative along `tangents`, in one forward pass.

    Args:
        function: takes as many arrays as there are `inputs`, made of operations of the tape.
        inputs: arrays, numbers or Tensors.
        tangents: one direction for each input, of its shape.

    Returns:
        (value, tangent), the tangent being Σ (∂f/∂input) · tangent.

    Raises:
        ValueError: unequal numbers or shapes of inputs and tangents.
    """
    if len(inputs) != len(tangents):
        raise ValueError(f"tangents has {len(tangents)} entries for {len(inputs)} inputs")
    level = next(_levels)
    out = function(*(Dual(x, t, level) for x, t in zip(inputs, tangents, strict=True)))
    if isinstance(out, Dual) and out._level == level:
        return out.value, out.tangent
    return out, torch.zeros_like(_array(constant(out)))  # does not depend on the inputs


def _units(x: torch.Tensor) -> torch.Tensor:
    return torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape(x.numel(), *x.shape)


def jacobian_forward(function: Callable[[Any], Any], x: torch.Tensor) -> torch.Tensor:
    """∂f/∂x, (*output, *input), column by column: one forward pass for each input number."""
    columns = [jvp(function, [x], [unit]) for unit in _units(x)]
    if not columns:
        out = constant(function(x))
        return x.new_zeros((*out.shape, *x.shape))
    tangents = [constant(tangent) for _, tangent in columns]
    return torch.stack(tangents, -1).reshape((*tangents[0].shape, *x.shape))


def jacobian_reverse(function: Callable[[Any], Any], x: torch.Tensor) -> torch.Tensor:
    """∂f/∂x, (*output, *input), row by row: one backward pass for each output number."""
    leaf = Tensor(x, requires_grad=True)
    out = function(leaf)
    if not tape.needs_gradient(out):
        return x.new_zeros((*out.shape, *x.shape))
    rows = [tape.grad(out, [leaf], unit, retain_graph=True)[0] for unit in _units(out.value)]
    if not rows:
        return x.new_zeros((*out.shape, *x.shape))
    return torch.stack([row.value for row in rows]).reshape((*out.shape, *x.shape))
