r"""AdaGrad and RMSProp: each number's step is divided by the size of its past gradients.

    AdaGrad   G ← G + g²                     θ ← θ − η g / (√G + ε)
    RMSProp   v ← ρ v + (1 − ρ) g²           θ ← θ − η g / (√v + ε)

All operations are on each number alone. AdaGrad adds up all squares since the beginning, so its
steps can only shrink; RMSProp forgets them at the rate ρ.

Sources: Duchi, Hazan and Singer, JMLR 12 (2011), the diagonal form of section 1.1 (ε keeps the
first division finite); Tieleman and Hinton, Coursera lecture 6.5 (2012); Graves,
arXiv:1308.0850, section 4.2, for the centred form with momentum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from companion.optimization.base import (
    ForeachOptimizer,
    Group,
    State,
    buffers,
    count_steps,
    coupled_decay,
)


def adagrad_step(
    theta: Tensor, g: Tensor, G: Tensor, eta: float = 0.01, epsilon: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Return (θ, G) after one step; all three tensors have one shape, and G begins at 0."""
    G = G + g * g
    return theta - eta * g / (G.sqrt() + epsilon), G


def rmsprop_step(
    theta: Tensor,
    g: Tensor,
    v: Tensor,
    eta: float = 0.01,
    rho: float = 0.99,
    epsilon: float = 1e-8,
) -> tuple[Tensor, Tensor]:
    """Return (θ, v) after one step; all three tensors have one shape, and v begins at 0."""
    v = rho * v + (1 - rho) * g * g
    return theta - eta * g / (v.sqrt() + epsilon), v


class Adagrad(ForeachOptimizer):
    """AdaGrad, equal to `torch.optim.Adagrad`.

    Args:
        params: parameters or groups of them.
        lr: η, above 0.
        lr_decay: η at step t is ``lr / (1 + (t − 1) lr_decay)``.
        weight_decay: λ ≥ 0; λθ is added to the gradient.
        initial_accumulator_value: where G begins.
        eps: ε ≥ 0, added after the root.

    Raises:
        ValueError: as :class:`companion.optimization.base.ForeachOptimizer`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )

    def update(
        self, params: list[Tensor], grads: list[Tensor], states: list[State], group: Group
    ) -> None:
        """Change `params` and `states` in place."""
        steps = count_steps(states)
        sums = buffers(states, params, "sum", group["initial_accumulator_value"])
        grads = coupled_decay(grads, params, group["weight_decay"])
        torch._foreach_addcmul_(sums, grads, grads)
        scale = torch._foreach_sqrt(sums)
        torch._foreach_add_(scale, group["eps"])
        rates = [-group["lr"] / (1 + (t - 1) * group["lr_decay"]) for t in steps]
        torch._foreach_addcdiv_(params, grads, scale, rates)


class RMSprop(ForeachOptimizer):
    """RMSProp, equal to `torch.optim.RMSprop`.

    Args:
        params: parameters or groups of them.
        lr: η, above 0.
        alpha: ρ in [0, 1), the share of v that a step keeps.
        eps: ε ≥ 0, added after the root.
        weight_decay: λ ≥ 0; λθ is added to the gradient.
        momentum: in [0, 1); if above 0, ``b ← momentum b + g / (√v + ε)`` and θ moves by −ηb.
        centered: divide by the root of the estimated *variance*, v minus the squared mean.

    Raises:
        ValueError: as :class:`companion.optimization.base.ForeachOptimizer`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
        )

    def update(
        self, params: list[Tensor], grads: list[Tensor], states: list[State], group: Group
    ) -> None:
        """Change `params` and `states` in place."""
        count_steps(states)
        rho = group["alpha"]
        squares = buffers(states, params, "square_avg")
        grads = coupled_decay(grads, params, group["weight_decay"])
        torch._foreach_mul_(squares, rho)
        torch._foreach_addcmul_(squares, grads, grads, 1 - rho)
        if group["centered"]:
            means = buffers(states, params, "grad_avg")
            torch._foreach_lerp_(means, grads, 1 - rho)
            scale = torch._foreach_addcmul(squares, means, means, -1)
            # A constant gradient has variance 0, which rounding may turn negative.
            torch._foreach_clamp_min_(scale, 0)
            torch._foreach_sqrt_(scale)
        else:
            scale = torch._foreach_sqrt(squares)
        torch._foreach_add_(scale, group["eps"])
        if group["momentum"] > 0:
            moving = buffers(states, params, "momentum_buffer")
            torch._foreach_mul_(moving, group["momentum"])
            torch._foreach_addcdiv_(moving, grads, scale)
            torch._foreach_add_(params, moving, alpha=-group["lr"])
        else:
            torch._foreach_addcdiv_(params, grads, scale, -group["lr"])
