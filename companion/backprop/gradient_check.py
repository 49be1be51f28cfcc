"""Gradient checking: compare a gradient with what it claims to be, a slope.

Central differences,

.. math:: \\frac{f(x + h e_i) - f(x - h e_i)}{2h}
    = \\frac{\\partial f}{\\partial x_i} + \\frac{h^2}{6} f'''(\\xi)
    + O\\!\\left(\\frac{\\epsilon |f|}{h}\\right),

trade truncation against rounding. The sum is smallest near :math:`h \\approx \\epsilon^{1/3}`, and
about :math:`\\epsilon^{2/3}` remains: ten digits in float64, four to five in float32 (Nocedal and
Wright 2006, section 8.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from companion.backprop import tape
from companion.backprop.tensor import Tensor

Arrays = Sequence[torch.Tensor]


class GradientMismatch(AssertionError):
    """A gradient is not the slope of its function.

    Attributes:
        input: position of the input concerned; None for a random direction through all inputs.
        index: the worst element of that input, or the number of the direction.
        analytic: derivative as the gradient has it.
        numeric: derivative as central differences have it.
    """

    def __init__(
        self, input: int | None, index: tuple[int, ...], analytic: float, numeric: float
    ) -> None:
        place = f"random direction {index[0]}" if input is None else f"input {input} at {index}"
        super().__init__(f"{place}: gradient {analytic:.8g}, central difference {numeric:.8g}")
        self.input, self.index, self.analytic, self.numeric = input, index, analytic, numeric


@dataclass(frozen=True)
class GradientReport:
    """What a check that passed has seen.

    Attributes:
        largest_error: largest |gradient − central difference|.
        compared: numbers compared.
        evaluations: how often the function was computed for it.
    """

    largest_error: float
    compared: int
    evaluations: int


def default_step(dtype: torch.dtype) -> float:
    """ε^(1/3): where truncation and rounding are about equal for a function of size one."""
    return torch.finfo(dtype).eps ** (1 / 3)


def _checked(step: float | None, dtype: torch.dtype) -> float:
    step = default_step(dtype) if step is None else step
    if not step > 0:
        raise ValueError(f"step={step} must be positive")
    return step


def central_difference(
    function: Callable[[torch.Tensor], float], x: torch.Tensor, step: float | None = None
) -> torch.Tensor:
    """Slope of `function` along every element of `x`, two evaluations each.

    Args:
        function: array -> number.
        x: any shape; not changed.
        step: h; :func:`default_step` of the dtype by default.

    Returns:
        Array of the shape of `x`.

    Raises:
        ValueError: `step` is not positive.
    """
    step = _checked(step, x.dtype)
    slopes = torch.zeros_like(x)
    for i in range(x.numel()):
        shift = torch.zeros_like(x)
        shift.view(-1)[i] = step
        slopes.view(-1)[i] = _slope(function, x, shift, step)
    return slopes


def _slope(
    function: Callable[[torch.Tensor], float], x: torch.Tensor, shift: torch.Tensor, step: float
) -> float:
    return (function(x + shift) - function(x - shift)) / (2 * step)


def gradient_check(
    function: Callable[..., Any],
    inputs: Arrays,
    *,
    gradient: Callable[..., Any] | None = None,
    step: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    projections: int | None = None,
    seed: int = 0,
) -> GradientReport:
    """Check the gradient of `function` at `inputs` against central differences.

    A result of several numbers is first weighted by random numbers and summed, which checks every
    row of the Jacobian at once. Without `projections` every element of every input is moved:
    2N evaluations for N elements. With `projections` the gradient is compared along that
    many random directions through all inputs at once, two evaluations each: enough to find that
    *something* is wrong in a network of any size.

    Args:
        function: takes as many arrays as there are `inputs`. Made of operations of the tape, unless
            `gradient` is given; then it is called with torch tensors and returns one number.
        inputs: float64 arrays; not changed.
        gradient: hand-written gradient to check in place of the tape's: called like `function`,
            returns one array for each input (or the array, if there is one input).
        step: h; :func:`default_step` by default.
        rtol, atol: what |gradient − numeric| may be: atol + rtol · |numeric|.
        projections: how many random directions; None checks every element.
        seed: of the weights and the directions.

    Raises:
        GradientMismatch: with the worst place and both numbers.
        ValueError: no inputs, inputs not in float64, or a gradient of another shape.
    """
    if len(inputs) == 0:
        raise ValueError("inputs is empty: there is nothing to check")
    if projections is not None and projections < 1:
        raise ValueError(f"projections={projections} must be at least 1")
    for position, x in enumerate(inputs):
        if x.dtype != torch.float64:
            raise ValueError(
                f"inputs[{position}] has dtype {x.dtype}: rounding would hide mistakes; use float64"
            )
    inputs = [x.detach() for x in inputs]
    random = torch.Generator().manual_seed(seed)
    if gradient is None:
        value, analytic = _from_tape(function, inputs, random)
    else:
        value = lambda *arrays: float(function(*arrays))  # noqa: E731
        analytic = _from_hand(gradient, inputs)
    if projections is None:
        pairs = _each_element(value, inputs, analytic, step)
        evaluations = 2 * sum(x.numel() for x in inputs)
    else:
        pairs = _directions(value, inputs, analytic, step, projections, random)
        evaluations = 2 * projections
    largest, compared = 0.0, 0
    for position, slopes, numeric in pairs:
        error = (slopes - numeric).abs()
        excess = (error - (atol + rtol * numeric.abs())).nan_to_num(nan=torch.inf)
        compared += error.numel()
        if error.numel() == 0:
            continue
        if excess.max() > 0:
            worst = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
            raise GradientMismatch(position, worst, float(slopes[worst]), float(numeric[worst]))
        largest = max(largest, float(error.max()))
    return GradientReport(largest, compared, evaluations)


Value = Callable[..., float]
Comparison = tuple[int | None, torch.Tensor, torch.Tensor]


def _from_tape(
    function: Callable[..., Any], inputs: Arrays, random: torch.Generator
) -> tuple[Value, Arrays]:
    leaves = [Tensor(x, requires_grad=True) for x in inputs]
    out = function(*leaves)
    weights = torch.ones(out.shape, dtype=torch.float64)
    if out.ndim:
        weights = torch.randn(out.shape, generator=random, dtype=torch.float64)
    weights = weights.to(out.value.device)
    if tape.needs_gradient(out):
        analytic = [g.value for g in tape.grad(out, leaves, weights, allow_unused=True)]
    else:
        analytic = [torch.zeros_like(x) for x in inputs]

    def value(*arrays: torch.Tensor) -> float:
        with tape.no_grad():
            return float((function(*map(Tensor, arrays)).value * weights).sum())

    return value, analytic


def _from_hand(gradient: Callable[..., Any], inputs: Arrays) -> Arrays:
    given = gradient(*inputs)
    given = [given] if isinstance(given, torch.Tensor) else list(given)
    shapes = [tuple(g.shape) for g in given]
    if shapes != [tuple(x.shape) for x in inputs]:
        raise ValueError(
            f"gradient returned shapes {shapes} for inputs of shapes "
            f"{[tuple(x.shape) for x in inputs]}"
        )
    return given


def _each_element(
    value: Value, inputs: Arrays, analytic: Arrays, step: float | None
) -> Iterator[Comparison]:
    for position, x in enumerate(inputs):

        def along(moved: torch.Tensor, position: int = position) -> float:
            return value(*inputs[:position], moved, *inputs[position + 1 :])

        yield position, analytic[position], central_difference(along, x, step)


def _directions(
    value: Value,
    inputs: Arrays,
    analytic: Arrays,
    step: float | None,
    count: int,
    random: torch.Generator,
) -> Iterator[Comparison]:
    step = _checked(step, torch.float64)
    slopes, numeric = [], []
    for _ in range(count):
        directions = [torch.randn(x.shape, generator=random, dtype=x.dtype) for x in inputs]
        directions = [d.to(x.device) for d, x in zip(directions, inputs, strict=True)]
        length = sum(float((d * d).sum()) for d in directions) ** 0.5 or 1.0
        h = step / length  # so that x moves by `step` as a whole
        ahead = value(*(x + h * d for x, d in zip(inputs, directions, strict=True)))
        behind = value(*(x - h * d for x, d in zip(inputs, directions, strict=True)))
        slopes.append(sum(float((g * d).sum()) for g, d in zip(analytic, directions, strict=True)))
        numeric.append((ahead - behind) / (2 * h))
    yield None, torch.tensor(slopes).double(), torch.tensor(numeric).double()
