r"""Lion: the sign of an interpolated momentum, and one buffer a parameter.

    c ← β₁ m + (1 − β₁) g
    θ ← θ − η (sign(c) + λ θ)
    m ← β₂ m + (1 − β₂) g

Two interpolations of the same m and g: c, with the smaller β₁, decides this step and is thrown
away; m, with the larger β₂, is what the next step remembers. Every number moves by exactly η (or
by 0 where c is 0), whatever the size of its gradient.

Source: Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from companion.optimization.base import ForeachOptimizer, Group, State, buffers


def lion_step(
    theta: Tensor,
    g: Tensor,
    m: Tensor,
    eta: float = 1e-4,
    beta_1: float = 0.9,
    beta_2: float = 0.99,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return (θ, m) after one step, line by line as in algorithm 2 of the paper.

    Args:
        theta, g: parameters and gradient, of one shape.
        m: the momentum before this step, zeros at first.
        eta, beta_1, beta_2: the paper's names and defaults.
        weight_decay: λ, decoupled.
    """
    c = beta_1 * m + (1 - beta_1) * g
    theta = theta - eta * (c.sign() + weight_decay * theta)
    m = beta_2 * m + (1 - beta_2) * g
    return theta, m


class Lion(ForeachOptimizer):
    """Lion. Where AdamW does well, try a third to a tenth of its `lr` and the decay times that.

    Args:
        params: parameters or groups of them.
        lr: η, above 0: by how much each number moves.
        betas: β₁ and β₂, each in [0, 1).
        weight_decay: λ ≥ 0, decoupled.

    Raises:
        ValueError: as :class:`companion.optimization.base.ForeachOptimizer`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)

    def update(
        self, params: list[Tensor], grads: list[Tensor], states: list[State], group: Group
    ) -> None:
        """Change `params` and `states` in place."""
        lr, (beta_1, beta_2), decay = group["lr"], group["betas"], group["weight_decay"]
        momentum = buffers(states, params, "exp_avg")
        direction = torch._foreach_mul(momentum, beta_1)
        torch._foreach_add_(direction, grads, alpha=1 - beta_1)
        torch._foreach_sign_(direction)
        if decay > 0:
            torch._foreach_mul_(params, 1 - lr * decay)
        torch._foreach_add_(params, direction, alpha=-lr)
        torch._foreach_mul_(momentum, beta_2)
        torch._foreach_add_(momentum, grads, alpha=1 - beta_2)
