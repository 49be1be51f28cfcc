"""Random expressions: directed graphs of operations over random shapes, for our tape and for torch.

A program is a list of steps; each takes earlier results (any of them, also twice) and appends one.
Operations are chained through bounded functions so that values stay small and rounding, not
cancellation of huge terms, is all that two right implementations can differ by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch.testing import assert_close

from companion.backprop import tape
from companion.backprop import tensor_ops as ops
from companion.backprop import tensor_views as views
from companion.backprop.tensor import Tensor

F64 = torch.float64


class Step(NamedTuple):
    ours: Callable[..., Any]
    theirs: Callable[..., torch.Tensor]
    operands: tuple[int, ...]
    name: str


class Program(NamedTuple):
    shapes: tuple[tuple[int, ...], ...]  # of the leaves
    steps: tuple[Step, ...]
    seed: int

    def leaves(self) -> list[torch.Tensor]:
        return [normal(shape, self.seed + i) for i, shape in enumerate(self.shapes)]

    def directions(self) -> list[torch.Tensor]:
        return [normal(shape, self.seed + 100 + i) for i, shape in enumerate(self.shapes)]

    def ours(self, *leaves: Any) -> Any:
        return self._run([step.ours for step in self.steps], leaves)

    def theirs(self, *leaves: torch.Tensor) -> torch.Tensor:
        return self._run([step.theirs for step in self.steps], leaves)

    def _run(self, functions: Sequence[Callable[..., Any]], leaves: Sequence[Any]) -> Any:
        """All results, weighted by fixed random numbers and summed to one number."""
        results = list(leaves)
        for function, step in zip(functions, self.steps, strict=True):
            results.append(function(*(results[i] for i in step.operands)))
        total = 0.0
        for i, x in enumerate(results):
            total = total + (x.sin() * normal(tuple(x.shape), self.seed + 200 + i)).sum()
        return total

    def __repr__(self) -> str:
        steps = ", ".join(f"{s.name}{s.operands}" for s in self.steps)
        return f"Program({self.shapes}, {steps}, seed={self.seed})"


def normal(shape: Sequence[int], seed: int) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=F64)


def both(function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Operators and methods that torch tensors have under the same name."""
    return function, function


UNARY = {
    "neg": both(lambda x: -x),
    "exp": both(lambda x: x.sin().exp()),
    "log": both(lambda x: (x * x + 1.0).log()),
    "sqrt": both(lambda x: (x * x + 0.5).sqrt()),
    "tanh": both(lambda x: x.tanh()),
    "sigmoid": both(lambda x: x.sigmoid()),
    "relu": both(lambda x: x.relu()),
    "abs": both(lambda x: x.abs()),
    "cube": both(lambda x: x.sin() ** 3),
    "power": both(lambda x: (x * x + 0.5) ** -1.5),
    "power_zero": both(lambda x: x**0),
    "cos": both(lambda x: x.cos()),
    "reciprocal": both(lambda x: 2 / (x * x + 1)),
    "from_one": both(lambda x: 1 - x),
    "exponent": both(lambda x: 1.5 ** x.tanh()),
}
BINARY = {
    "add": both(lambda a, b: a + b),
    "sub": both(lambda a, b: a - b),
    "mul": both(lambda a, b: a.tanh() * b),
    "div": both(lambda a, b: a / (b * b + 1)),
    "pow": both(lambda a, b: (a.sin() + 2) ** b.tanh()),
    "maximum": (ops.maximum, torch.maximum),
    "minimum": (ops.minimum, torch.minimum),
    "where": (
        lambda a, b: ops.where(a > b, a, b.sin()),
        lambda a, b: torch.where(a > b, a, b.sin()),
    ),
}


def programs(longest: int = 8) -> st.SearchStrategy[Program]:
    return st.composite(_draw_program)(longest)


def _draw_program(draw: Callable[..., Any], longest: int) -> Program:
    sizes = draw(st.lists(st.integers(0, 3), min_size=0, max_size=3))
    shapes = []
    for _ in range(draw(st.integers(1, 3))):
        shape = [draw(st.sampled_from([size, size, 1])) for size in sizes]
        shapes.append(tuple(shape[draw(st.integers(0, len(shape))) :]))
    if draw(st.booleans()):
        shapes.append((2, 3))
    known = list(shapes)
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, longest))):
        step = draw(st.sampled_from(DRAWERS))(draw, known)
        steps.append(step)
        known.append(_shape_after(step, known))
    return Program(tuple(shapes), tuple(steps), draw(st.integers(0, 10_000)))


def _shape_after(step: Step, known: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(step.theirs(*(torch.zeros(known[i], dtype=F64) for i in step.operands)).shape)


def _any(draw: Callable[..., Any], known: Sequence[Any]) -> int:
    return draw(st.integers(0, len(known) - 1))


def _unary(draw: Callable[..., Any], known: Sequence[Any]) -> Step:
    name = draw(st.sampled_from(sorted(UNARY)))
    return Step(*UNARY[name], (_any(draw, known),), name)


def _binary(draw: Callable[..., Any], known: Sequence[Any]) -> Step:
    name, a = draw(st.sampled_from(sorted(BINARY))), _any(draw, known)
    fitting = [i for i, shape in enumerate(known) if _broadcast(known[a], shape)]
    pair = (a, draw(st.sampled_from(fitting)))
    return Step(*BINARY[name], pair[:: draw(st.sampled_from([1, -1]))], name)


def _broadcast(a: Sequence[int], b: Sequence[int]) -> bool:
    try:
        torch.broadcast_shapes(tuple(a), tuple(b))
    except RuntimeError:
        return False
    return True


def _reduction(draw: Callable[..., Any], known: Sequence[Any]) -> Step:
    a = _any(draw, known)
    axes = list(range(-len(known[a]), 0))
    keepdim = draw(st.booleans())
    chosen = draw(st.lists(st.sampled_from(axes), min_size=1, unique=True)) if axes else []
    dim = tuple(chosen) if chosen and draw(st.booleans()) else None
    empty = 0 in (known[a][d] for d in (axes if dim is None else dim))
    kind = draw(st.sampled_from(["sum"] if empty else ["sum", "mean", "amax", "amin"]))

    def theirs(x: torch.Tensor) -> torch.Tensor:
        if kind in ("amax", "amin"):
            return getattr(x, kind)(() if dim is None else dim, keepdim)
        return getattr(x, kind)(dim, keepdim)

    return Step(lambda x: getattr(x, kind)(dim, keepdim), theirs, (a,), f"{kind}[{dim},{keepdim}]")


def _view(draw: Callable[..., Any], known: Sequence[Any]) -> Step:
    a = _any(draw, known)
    shape = known[a]
    kind = draw(st.sampled_from(["permute", "reshape", "flatten", "broadcast", "index", "pick"]))
    if kind == "permute":
        dims = tuple(draw(st.permutations(range(len(shape)))))
        return Step(*both(lambda x: x.permute(dims)), (a,), f"permute{dims}")
    if kind == "reshape":
        new = (*shape, 1) if draw(st.booleans()) else (1, *shape)
        return Step(*both(lambda x: x.reshape(new)), (a,), f"reshape{new}")
    if kind == "flatten" and 0 not in shape:
        return Step(*both(lambda x: x.reshape(-1)), (a,), "flatten")
    if kind == "broadcast":
        new = (draw(st.integers(0, 2)), *(draw(st.integers(0, 2)) if n == 1 else n for n in shape))
        return Step(
            lambda x: x.broadcast_to(new), lambda x: x.broadcast_to(new), (a,), f"broadcast{new}"
        )
    if kind == "pick" and shape and shape[0] > 0:
        rows = torch.tensor(draw(st.lists(st.integers(-shape[0], shape[0] - 1), max_size=4))).long()
        return Step(*both(lambda x: x[rows]), (a,), f"pick{rows.tolist()}")
    key = _draw_key(draw, shape)
    return Step(*both(lambda x: x[key]), (a,), f"index{key}")


def _draw_key(draw: Callable[..., Any], shape: Sequence[int]) -> tuple[Any, ...]:
    key: list[Any] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        choice = draw(st.sampled_from(["slice", "number", "none"]))
        if choice == "number" and size > 0:
            key.append(draw(st.integers(-size, size - 1)))
            continue
        if choice == "none":
            key.append(None)
        key.append(slice(draw(st.integers(0, 2)), None, draw(st.integers(1, 2))))
    takes_all = sum(part is not None for part in key) == len(shape)
    return (..., *key) if takes_all and draw(st.booleans()) else tuple(key)


def _matmul(draw: Callable[..., Any], known: Sequence[Any]) -> Step:
    a = _any(draw, known)

    def meets(b: Sequence[int]) -> bool:
        left = known[a]
        if not left or not b or left[-1] != b[-2:][0]:
            return False
        return _broadcast(left[:-2], b[:-2])

    fitting = [i for i, shape in enumerate(known) if meets(shape)]
    if fitting:
        b = draw(st.sampled_from(fitting))
        return Step(*both(lambda a, b: a.tanh() @ b.tanh()), (a, b), "matmul")
    if len(known[a]) < 2:
        return _unary(draw, known)
    return Step(
        lambda x: x.tanh() @ x.transpose(-2, -1).sin(),
        lambda x: x.tanh() @ x.transpose(-2, -1).sin(),
        (a,),
        "gram",
    )


def _join(draw: Callable[..., Any], known: Sequence[Any]) -> Step:
    a = _any(draw, known)
    same = [i for i, shape in enumerate(known) if shape == known[a]]
    parts = (a, *draw(st.lists(st.sampled_from(same), max_size=2)))
    if draw(st.booleans()) or not known[a]:
        dim = draw(st.integers(-len(known[a]) - 1, len(known[a])))
        return Step(
            lambda *xs: views.stack(xs, dim), lambda *xs: torch.stack(xs, dim), parts, f"stack{dim}"
        )
    dim = draw(st.integers(-len(known[a]), len(known[a]) - 1))
    return Step(
        lambda *xs: views.concatenate(xs, dim), lambda *xs: torch.cat(xs, dim), parts, f"cat{dim}"
    )


DRAWERS = [_unary, _unary, _binary, _binary, _binary, _reduction, _view, _view, _matmul, _join]


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to 1e-10; what may cancel to zero is measured against the largest element."""
    largest = float(theirs.abs().max()) if theirs.numel() else 0.0
    assert_close(ours, theirs, rtol=1e-10, atol=1e-12 * max(1.0, largest))


def assert_like_torch(
    ours: Callable[..., Any], theirs: Callable[..., torch.Tensor], arrays: Sequence[torch.Tensor]
) -> None:
    """Value and gradients under a random seed agree to 1e-10, NaN and infinity included."""
    mine = [Tensor(x, requires_grad=True) for x in arrays]
    other = [x.clone().requires_grad_() for x in arrays]
    out, expected = ours(*mine), theirs(*other)
    assert out.shape == tuple(expected.shape)
    close = {"rtol": 1e-10, "atol": 1e-12, "equal_nan": True}
    assert_close(out.value, expected.detach(), **close)
    seed = normal(out.shape, 99)
    gradients = tape.grad(out, mine, seed, allow_unused=True)
    wanted = torch.autograd.grad(expected, other, seed, allow_unused=True, materialize_grads=True)
    for a, b in zip(gradients, wanted, strict=True):
        assert_close(a.value, b, **close)
