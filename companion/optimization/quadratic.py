r"""What a quadratic teaches: how long a step may be, and how fast each method can be.

For f(w) = ½ wᵀHw with eigenvalues ℓ = λ₁ ≤ … ≤ λ_d = L of H, every method of `sgd.py` treats each
eigenvector alone, and the error e along one follows a recursion of second order,

    e₊ = (1 − ηλ) e + μ (e − e₋)                  heavy ball
    e₊ = (1 + μ)(1 − ηλ) e − μ (1 − ηλ) e₋        Nesterov

whose larger root |z| is the factor an error shrinks by per step. With κ = L/ℓ, the condition
number, the best that fixed η and μ can do is

    gradient descent   η = 2/(L + ℓ)                          (κ − 1)/(κ + 1)
    Nesterov           η = 1/L,  μ = (√κ − 1)/(√κ + 1)        1 − 1/√κ
    heavy ball         η = 4/(√L + √ℓ)²,  μ = rate²           (√κ − 1)/(√κ + 1)

(For Nesterov this is the usual choice; a slightly longer step would be slightly better still.)

Sources: Polyak, USSR Comput. Math. 4 (1964), for the heavy ball; Bottou, Curtis, Nocedal, SIAM
Review 60 (2018), sections 4 and 7.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Tuning(NamedTuple):
    """Learning rate and momentum, and the factor per step that the error shrinks by with them."""

    lr: float
    momentum: float
    rate: float


def step_limit(largest: float) -> float:
    """2/L: gradient descent converges below this learning rate and diverges above it."""
    _check_curvature(largest, largest)
    return 2 / largest


def condition_number(hessian: Tensor) -> float:
    """κ = L/ℓ of a symmetric positive definite matrix (d, d).

    Raises:
        ValueError: not square, not symmetric, or an eigenvalue that is 0 (to rounding) or below.
    """
    values = eigenvalues(hessian)
    floor = len(values) * torch.finfo(values.dtype).eps * float(values[-1].abs())
    if float(values[0]) <= floor:
        raise ValueError(
            f"hessian has the smallest eigenvalue {float(values[0]):.3g}: it must be above 0; "
            "a direction in which nothing changes has no condition number"
        )
    return float(values[-1] / values[0])


def eigenvalues(hessian: Tensor) -> Tensor:
    """The eigenvalues of a symmetric (d, d), ascending: (d,)."""
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or not len(hessian):
        raise ValueError(f"hessian has shape {tuple(hessian.shape)}: it must be square")
    if not torch.allclose(hessian, hessian.T, rtol=1e-6, atol=0):
        raise ValueError("hessian is not symmetric: second derivatives are")
    return torch.linalg.eigvalsh(hessian)


def contraction(
    curvature: Tensor, *, lr: float, momentum: float = 0.0, nesterov: bool = False
) -> Tensor:
    """The factor per step by which the error along each eigenvector shrinks in the long run.

    The larger |z| of z² − s z + p = 0 with s, p from the recursions above: √p where the roots are
    complex, (|s| + √(s² − 4p))/2 where they are real.

    Args:
        curvature: eigenvalues λ, any shape.

    Returns:
        Factors of that shape; above 1 the error grows.
    """
    if nesterov:
        s, p = (1 + momentum) * (1 - lr * curvature), momentum * (1 - lr * curvature)
    else:
        s, p = 1 + momentum - lr * curvature, torch.full_like(curvature, momentum)
    gap = s * s - 4 * p
    return torch.where(gap < 0, p.clamp(min=0).sqrt(), (s.abs() + gap.clamp(min=0).sqrt()) / 2)


def tuned_gradient_descent(smallest: float, largest: float) -> Tuning:
    """The fixed learning rate that serves both ends of the spectrum equally well."""
    _check_curvature(smallest, largest)
    return Tuning(2 / (largest + smallest), 0.0, (largest - smallest) / (largest + smallest))


def tuned_heavy_ball(smallest: float, largest: float) -> Tuning:
    """Polyak's choice: all roots complex or double, hence all errors shrink by √μ."""
    _check_curvature(smallest, largest)
    low, high = math.sqrt(smallest), math.sqrt(largest)
    rate = (high - low) / (high + low)
    return Tuning(4 / (high + low) ** 2, rate**2, rate)


def tuned_nesterov(smallest: float, largest: float) -> Tuning:
    """The usual choice η = 1/L, and the momentum that gives ℓ a double root."""
    _check_curvature(smallest, largest)
    low, high = math.sqrt(smallest), math.sqrt(largest)
    return Tuning(1 / largest, (high - low) / (high + low), 1 - low / high)


def measured_rate(errors: Tensor, *, double_root: bool = False) -> float:
    """The factor per step in a series of positive errors (steps + 1,): slope of the logarithm.

    It is read off the second half, where the fast directions have died out.

    Args:
        double_root: the error is (a + b t) zᵗ, not a zᵗ; take out the t.

    Raises:
        ValueError: fewer than four errors, or one that is not a positive number.
    """
    if errors.ndim != 1 or len(errors) < 4:
        raise ValueError(f"errors has shape {tuple(errors.shape)}: it must be (4 or more,)")
    if not bool((errors > 0).all()) or not bool(errors.isfinite().all()):
        raise ValueError("errors holds a value that is not positive and finite")
    first, last = (len(errors) - 1) // 2, len(errors) - 1
    ratio = float(errors[last].log() - errors[first].log())
    if double_root:
        ratio -= math.log(last / first)
    return math.exp(ratio / (last - first))


def steps_to_shrink(rate: float, factor: float) -> int:
    """How many steps an error needs to shrink by `factor` (for instance 1e-6) at this rate."""
    if not 0 < rate < 1 or not 0 < factor < 1:
        raise ValueError(f"rate={rate}, factor={factor}: both must lie between 0 and 1")
    return math.ceil(math.log(factor) / math.log(rate))


def _check_curvature(smallest: float, largest: float) -> None:
    if not (0 < smallest <= largest and math.isfinite(largest)):
        raise ValueError(
            f"smallest={smallest}, largest={largest}: curvatures must satisfy "
            "0 < smallest <= largest"
        )
