"""Second derivatives on the tape: the gradient is an expression too, so differentiate it.

The Hessian :math:`H_{ij} = \\partial^2 f / \\partial x_i \\partial x_j` of a function of n numbers
has n² entries, but its product with a vector costs about as much as two gradients:

.. math:: H v = \\nabla_x \\left( \\nabla f(x) \\cdot v \\right)

(Pearlmutter 1994, section 2; here reverse mode over reverse mode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from companion.backprop import tape
from companion.backprop.tensor import Tensor

Arrays = Sequence[torch.Tensor]


def gradients(function: Callable[..., Any], inputs: Arrays) -> list[torch.Tensor]:
    """∂f/∂input for each of `inputs`.

    Args:
        function: takes as many arrays as there are `inputs` and returns one number; made of
            operations of the tape.
        inputs: torch arrays.

    Raises:
        ValueError: the result is not one number or depends on no input.
    """
    leaves = [Tensor(x, requires_grad=True) for x in inputs]
    return [g.value for g in tape.grad(function(*leaves), leaves, allow_unused=True)]


def hessian_vector_product(
    function: Callable[..., Any], inputs: Arrays, directions: Arrays
) -> list[torch.Tensor]:
    """H v, the change of the gradient along `directions`, without ever forming H.

    Args:
        function, inputs: as in :func:`gradients`.
        directions: v, one array of the same shape for each input.

    Returns:
        One array for each input.

    Raises:
        ValueError: unequal numbers or shapes of inputs and directions, or as in `gradients`.
    """
    shapes = [tuple(x.shape) for x in inputs]
    if [tuple(v.shape) for v in directions] != shapes:
        raise ValueError(
            f"directions have shapes {[tuple(v.shape) for v in directions]}, inputs {shapes}: "
            "they must be equal"
        )
    leaves = [Tensor(x, requires_grad=True) for x in inputs]
    first = tape.grad(function(*leaves), leaves, create_graph=True, allow_unused=True)
    slope: Any = 0.0
    for gradient, direction in zip(first, directions, strict=True):
        slope = slope + (gradient * direction).sum()
    if not tape.needs_gradient(slope):  # the function is linear
        return [torch.zeros_like(x) for x in inputs]
    return [h.value for h in tape.grad(slope, leaves, allow_unused=True)]


def hessian(function: Callable[[Any], Any], x: torch.Tensor) -> torch.Tensor:
    """All second derivatives, (*x, *x): one Hessian–vector product for each number in `x`.

    Errors as in :func:`gradients`.
    """
    units = torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape(x.numel(), *x.shape)
    columns = [hessian_vector_product(function, [x], [unit])[0] for unit in units]
    joined = torch.stack(columns, -1) if columns else x
    return joined.reshape((*x.shape, *x.shape))


def largest_curvature(
    function: Callable[..., Any], inputs: Arrays, *, iterations: int = 50, seed: int = 0
) -> float:
    """Eigenvalue of the Hessian of largest size, by power iteration v ← Hv / ‖Hv‖.

    Gradient descent on a quadratic diverges from a learning rate of 2 divided by this number on.

    Args:
        function, inputs: as in :func:`gradients`.
        iterations: products to spend; the error shrinks by the ratio of the two largest
            eigenvalues in each.
        seed: of the first direction.

    Raises:
        ValueError: `iterations` below one, or as in `gradients`.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations} must be at least 1")
    random = torch.Generator().manual_seed(seed)
    v = [torch.randn(x.shape, generator=random, dtype=x.dtype).to(x.device) for x in inputs]
    curvature = 0.0
    for _ in range(iterations):
        length = float(sum((a * a).sum() for a in v)) ** 0.5
        if length == 0.0:
            return 0.0
        v = [a / length for a in v]
        product = hessian_vector_product(function, inputs, v)
        curvature = float(sum((a * h).sum() for a, h in zip(v, product, strict=True)))
        v = product
    return curvature
