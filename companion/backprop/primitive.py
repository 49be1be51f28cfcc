"""What an operation of the tape is, and how to add one.

**A new operation** is a function on plain torch arrays and one gradient rule per input::

    from companion.backprop.primitive import primitive
    from companion.backprop.tensor_ops import sigmoid

    @primitive
    def softplus(x):                     # arrays in, one new array out; options by keyword only
        return torch.log1p(torch.exp(x))

    softplus.gradients(
        lambda grad, out, x: grad * sigmoid(x),
    )

    softplus(Tensor([0.0, 1.0], requires_grad=True)).sum().backward()

A rule is called as ``rule(grad, out, *inputs, **options)``: `grad` is ∂L/∂out and has the shape of
`out`. All of them are :class:`~companion.backprop.tensor.Tensor`, so the rule is itself made of
operations of the tape, and that is all it takes for derivatives of any order. It returns ∂L/∂x, a
Tensor of the shape of *its* input `x`: where broadcasting stretched an input, the result goes
through ``sum_to(…, x.shape)`` of :mod:`companion.backprop.tensor_views`. What is constant, a mask
for instance, may be computed from the plain array, ``constant(x)``. Rules of inputs that need no
gradient are never called. Numbers among the inputs stay numbers.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

Rule = Callable[..., Any]
_counter: ContextVar[Counter[str] | None] = ContextVar("counter", default=None)


def elements(out: torch.Tensor, *inputs: Any, **options: Any) -> int:
    """Cost of an elementwise operation or a reduction: elements of its largest array."""
    return max(out.numel(), *(x.numel() for x in inputs if isinstance(x, torch.Tensor)))


class Primitive:
    """An operation: how to compute it, and how a gradient passes back through it.

    Args:
        forward: function of torch arrays (and numbers) that returns one new array.
        cost: ``cost(out, *arrays, **options) -> int``, scalar operations of one call.
    """

    def __init__(self, forward: Callable[..., torch.Tensor], cost: Callable[..., int] = elements):
        self.forward = forward
        self.cost = cost
        self._rules: tuple[Rule, ...] | Rule = ()
        functools.update_wrapper(self, forward)

    @property
    def name(self) -> str:
        return self.forward.__name__.lstrip("_")

    def gradients(self, *rules: Rule) -> None:
        """Set the gradient rules, one for each input in order."""
        self._rules = rules

    def gradients_of_any(self, rule: Rule) -> None:
        """Set one rule for any number of inputs: ``rule(position, grad, out, *inputs, …)``."""
        self._rules = rule

    def rule(self, position: int) -> Rule:
        """The gradient rule of the input at `position`.

        Raises:
            ValueError: the operation was given no rule for that input.
        """
        if callable(self._rules):
            return functools.partial(self._rules, position)
        if position >= len(self._rules):
            raise ValueError(
                f"{self.name} has {len(self._rules)} gradient rules, input {position} needs one: "
                f"call {self.name}.gradients(…) with a rule for each input"
            )
        return self._rules[position]

    def evaluate(self, *arrays: Any, **options: Any) -> torch.Tensor:
        """Compute on plain arrays; nothing is recorded but the count of operations."""
        out = self.forward(*arrays, **options)
        counter = _counter.get()
        if counter is not None:
            counter[self.name] += self.cost(out, *arrays, **options)
        return out

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Apply to Tensors, Duals, arrays and numbers: the most special kind decides how.

        A kind of number takes part by having `_level` (the highest decides) and
        `_apply(primitive, inputs, options)`.
        """
        leader = max(inputs, key=lambda x: getattr(x, "_level", -1))
        if hasattr(leader, "_level"):
            return leader._apply(self, inputs, options)
        return self.evaluate(*inputs, **options)

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"


def primitive(forward: Callable[..., torch.Tensor] | None = None, **settings: Any) -> Any:
    """Make a function of arrays an operation: ``@primitive`` or ``@primitive(cost=…)``."""
    if forward is None:
        return lambda function: Primitive(function, **settings)
    return Primitive(forward)


def constant(x: Any) -> Any:
    """The plain array (or number) behind a Tensor or Dual; no gradient passes through it."""
    while hasattr(x, "value"):
        x = x.value
    return x


@contextmanager
def count_operations() -> Iterator[Counter[str]]:
    """Count scalar operations by primitive inside a ``with`` block.

    An elementwise operation or a reduction counts the elements of its largest array, a matrix
    product two for each multiplication and addition, a view nothing.
    """
    counter: Counter[str] = Counter()
    token = _counter.set(counter)
    try:
        yield counter
    finally:
        _counter.reset(token)
