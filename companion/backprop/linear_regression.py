"""Linear regression: the closed forms, ridge, gradient descent, and one Lightning module.

    Ŷ = X W + b,    L = (1/N) Σ (Ŷ − Y)² + (λ/2) ‖W‖²,    N = number of elements of Y

With the column of ones in X̃ = [X 1] and θ = [W; b], setting ∇L = (2/N) X̃ᵀ(X̃θ − Y) to zero gives
the *normal equation* X̃ᵀX̃ θ = X̃ᵀY: the residual is normal (orthogonal) to every column.

    normal_equation    Cholesky of X̃ᵀX̃: short, and squares the condition number
    least_squares      QR of X; the smallest solution where there are many
    ridge              QR of X stacked on √(Nλ/2) I; the intercept is not penalised
    gradient_descent   the gradient by hand; full batch, mini-batch or one sample
    LeastSquares       one epoch over any loader, on any accelerator, gives the closed form

Sources: Golub, Van Loan, *Matrix Computations*, 4th ed., chapter 5; Hastie, Tibshirani, Friedman,
*The Elements of Statistical Learning*, 2nd ed., sections 3.2 and 3.4.1.
Letters in shapes: n rows, p features, k outputs; a y of shape (n,) gives W (p,) and b ().
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from companion.backprop.features import _check_matrix


class LinearModel(NamedTuple):
    """weight (p,) or (p, k); bias () or (k,). In the units of the y it was fitted to."""

    weight: Tensor
    bias: Tensor

    def predict(self, x: Tensor) -> Tensor:
        """x: (n, p) -> (n,) or (n, k)."""
        return x @ self.weight + self.bias


class Descent(NamedTuple):
    """What a gradient descent did.

    Attributes:
        model: where it ended.
        losses: the full objective at the start and after each step, ``steps + 1`` numbers.
        path: (steps + 1, (p + 1)·k), weights then bias, flattened.
    """

    model: LinearModel
    losses: list[float]
    path: Tensor


def _check(x: Tensor, y: Tensor, weight_decay: float = 0.0) -> None:
    _check_matrix("x", x)
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(
            f"y has shape {tuple(y.shape)}: it must be ({len(x)},) or ({len(x)}, outputs)"
        )
    if y.dtype != x.dtype:
        raise ValueError(f"y has dtype {y.dtype}: it must be that of x, {x.dtype}")
    for name, values in (("x", x), ("y", y)):
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinity: every value must be finite")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"weight_decay={weight_decay}: it must be finite and not negative")


def with_ones(x: Tensor) -> Tensor:
    """[X 1]: (n, p) -> (n, p + 1)."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


@torch.no_grad()
def normal_equation(x: Tensor, y: Tensor) -> LinearModel:
    """Solve X̃ᵀX̃ θ = X̃ᵀy by Cholesky.

    Short and fast, and fit only for well-conditioned features: cond(X̃ᵀX̃) = cond(X̃)², so half
    of the digits are gone before the solve begins. Prefer :func:`least_squares`.

    Raises:
        ValueError: X̃ᵀX̃ is not positive definite in this precision (dependent features, or
            fewer rows than unknowns).
    """
    _check(x, y)
    design = with_ones(x)
    gram = design.T @ design
    factor, failed_at = torch.linalg.cholesky_ex(gram)
    if len(x) < design.shape[1] or int(failed_at) > 0:
        raise ValueError(
            f"x has {len(x)} rows and {x.shape[1]} features, and with the intercept they are "
            f"linearly dependent in {x.dtype}: use least_squares or ridge"
        )
    right = design.T @ y.reshape(len(y), -1)
    solution = torch.cholesky_solve(right, factor)
    return LinearModel(solution[:-1].reshape(-1, *y.shape[1:]), solution[-1].reshape(y.shape[1:]))


@torch.no_grad()
def least_squares(x: Tensor, y: Tensor, *, intercept: bool = True) -> LinearModel:
    """The minimiser of the mean squared error, by QR; of many minimisers the shortest weights.

    X = QR with QᵀQ = I turns X W = y into the triangular R W = Qᵀy, whose condition number is that
    of X, not its square. The intercept is taken out first by centring both sides: at the minimum
    the residuals have mean zero.

    Args:
        x: (n, p); y: (n,) or (n, k), of one floating-point dtype.
        intercept: False fixes b at 0.
    """
    _check(x, y)
    x_mean = x.mean(dim=0) if intercept else torch.zeros_like(x[0])
    y_mean = y.mean(dim=0) if intercept else torch.zeros_like(y[0])
    centred, target = x - x_mean, (y - y_mean).reshape(len(y), -1)
    q, r = torch.linalg.qr(centred)
    scales = torch.linalg.svdvals(r)
    # Centring leaves rounding of the size eps·|mean| behind, which is no direction of its own.
    size = max(float(scales.max()), float(torch.linalg.vector_norm(x)))
    tolerance = max(x.shape) * torch.finfo(x.dtype).eps * size
    if len(x) >= x.shape[1] and float(scales.min()) > tolerance:
        weight = torch.linalg.solve_triangular(r, q.T @ target, upper=True)
    else:
        weight = torch.linalg.pinv(centred, atol=tolerance, rtol=0.0) @ target
    weight = weight.reshape(-1, *y.shape[1:])
    return LinearModel(weight, y_mean - x_mean @ weight)


@torch.no_grad()
def ridge(x: Tensor, y: Tensor, *, weight_decay: float) -> LinearModel:
    """The minimiser of L = (1/N) Σ (Ŷ − Y)² + (λ/2) ‖W‖², λ = `weight_decay`; b is free.

    (XᵀX + (Nλ/2) I) W = XᵀY on centred X and Y. It is solved as the least-squares problem
    [X; √(Nλ/2) I] W ≈ [Y; 0], which has the same solution and does not square the condition
    number. scikit-learn's ``Ridge(alpha)`` is λ = 2 alpha / N.
    """
    _check(x, y, weight_decay)
    if weight_decay == 0:
        return least_squares(x, y)
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    target = (y - y_mean).reshape(len(y), -1)
    root = math.sqrt(y.numel() * weight_decay / 2)
    p = x.shape[1]
    penalty = root * torch.eye(p, dtype=x.dtype, device=x.device)
    stacked = torch.cat([x - x_mean, penalty])
    padded = torch.cat([target, target.new_zeros(p, target.shape[1])])
    weight = least_squares(stacked, padded, intercept=False).weight.reshape(-1, *y.shape[1:])
    return LinearModel(weight, y_mean - x_mean @ weight)


@torch.no_grad()
def standard_errors(x: Tensor, y: Tensor) -> LinearModel:
    """The standard error of each coefficient of :func:`least_squares`, for y of shape (n,).

    √diag(σ̂² (X̃ᵀX̃)⁻¹) with σ̂² = Σ residual² / (n − p − 1), computed from the R of X̃ = QR as
    (X̃ᵀX̃)⁻¹ = R⁻¹R⁻ᵀ. It assumes independent noise of one variance, not that it has mean zero.

    Raises:
        ValueError: y is not (n,), or n ≤ p + 1 (no residual is left to estimate σ from).
    """
    _check(x, y)
    freedom = len(x) - x.shape[1] - 1
    if y.ndim != 1 or freedom < 1:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: "
            "it takes one output and more rows than features + 1"
        )
    residual = least_squares(x, y).predict(x) - y
    r = torch.linalg.qr(with_ones(x), mode="r").R
    inverse = torch.linalg.solve_triangular(
        r, torch.eye(len(r), dtype=r.dtype, device=r.device), upper=True
    )
    errors = (inverse.square().sum(dim=1) * residual.square().sum() / freedom).sqrt()
    return LinearModel(errors[:-1], errors[-1])


@torch.no_grad()
def hessian(x: Tensor, *, weight_decay: float = 0.0) -> Tensor:
    """The second derivatives of L in [W; b]: (2/n) X̃ᵀX̃ + λ diag(1, …, 1, 0), for one output.

    Constant, because L is quadratic: (p + 1, p + 1). Its largest eigenvalue ℓ limits the step of
    gradient descent to η < 2/ℓ; the ratio of its largest to its smallest sets the pace.
    """
    _check(x, x[:, 0], weight_decay)
    design = with_ones(x)
    penalty = torch.full_like(design[0], weight_decay)
    penalty[-1] = 0
    return 2 / len(x) * design.T @ design + penalty.diag()


@torch.no_grad()
def gradient_descent(
    x: Tensor,
    y: Tensor,
    *,
    learning_rate: float | Callable[[int], float],
    steps: int,
    batch_size: int | None = None,
    weight_decay: float = 0.0,
    start: LinearModel | None = None,
    seed: int = 0,
) -> Descent:
    """Walk down L with the gradient written by hand.

    ∂L/∂W = (2/N) Xᵀ(Ŷ − Y) + λW,  ∂L/∂b = (2/N) Σ (Ŷ − Y), over the rows of the batch.

    Args:
        learning_rate: η, or a function from the step's number (from 0) to η.
        steps: number of updates.
        batch_size: rows an update; None for all of them, 1 for stochastic gradient descent. Each
            epoch visits every row once, in a new order; the last batch may be short.
        start: where to begin; zeros by default.
    """
    _check(x, y, weight_decay)
    if steps < 0:
        raise ValueError(f"steps={steps}: it must not be negative")
    size = len(x) if batch_size is None else batch_size
    if not 1 <= size <= len(x):
        raise ValueError(f"batch_size={batch_size}: it must lie between 1 and {len(x)}, the rows")
    rate = learning_rate if callable(learning_rate) else lambda step: learning_rate
    model = start or LinearModel(y.new_zeros(x.shape[1], *y.shape[1:]), y.new_zeros(y.shape[1:]))
    weight, bias = model.weight.clone(), model.bias.clone()
    generator = torch.Generator().manual_seed(seed)

    def objective() -> float:
        error = x @ weight + bias - y
        return float(error.square().mean() + weight_decay / 2 * weight.square().sum())

    def place() -> Tensor:
        return torch.cat([weight.flatten(), bias.flatten()])

    losses, path, waiting = [objective()], [place()], []
    for step in range(steps):
        if size == len(x):
            xb, yb = x, y
        else:
            if not waiting:
                order = torch.randperm(len(x), generator=generator).to(x.device)
                waiting = list(order.split(size))
            rows = waiting.pop(0)
            xb, yb = x[rows], y[rows]
        error = xb @ weight + bias - yb
        weight_grad = 2 / yb.numel() * xb.T @ error + weight_decay * weight
        bias_grad = 2 / yb.numel() * error.sum(dim=0)
        weight -= rate(step) * weight_grad
        bias -= rate(step) * bias_grad
        losses.append(objective())
        path.append(place())
    return Descent(LinearModel(weight, bias), losses, torch.stack(path))
