r"""Adam, AMSGrad and AdamW: a running mean of g over the root of a running mean of g².

    m ← β₁ m + (1 − β₁) g                  m̂ = m / (1 − β₁ᵗ)        t = 1, 2, 3, …
    v ← β₂ v + (1 − β₂) g²                 v̂ = v / (1 − β₂ᵗ)
    θ ← θ − α m̂ / (√v̂ + ε)

m and v begin at 0, so after t steps their weights add up to 1 − βᵗ only: hence the corrections.
ε stands outside of the root and after the correction. AMSGrad divides by the largest v so far.
Weight decay in Adam goes through m and v (``g ← g + λθ``); in AdamW it does not
(``θ ← θ − αλθ``).

Sources: Kingma and Ba, ICLR 2015, algorithm 1; Reddi, Kale and Kumar, ICLR 2018, algorithm 2
(which has no bias correction; here, as in torch.optim, the maximum is over the uncorrected v and
the correction comes after it); Loshchilov and Hutter, ICLR 2019, algorithm 2 with the schedule
multiplier of η folded into `lr`, as torch.optim does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from companion.arguments import check_integer
from companion.optimization.base import (
    ForeachOptimizer,
    Group,
    State,
    buffers,
    count_steps,
    coupled_decay,
)


def adam_step(
    theta: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    t: int,
    alpha: float = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (θ, m, v) after step t, line by line as in algorithm 1 of the paper.

    Args:
        theta, g: parameters and gradient, of one shape.
        m, v: both moments after step t − 1; zeros before the first step.
        t: number of this step, from 1.
        alpha, beta_1, beta_2, epsilon: the paper's names and defaults.

    Raises:
        ValueError: t is below 1, where both corrections would divide by 0.
    """
    check_integer("t", t, minimum=1)
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g * g
    m_hat = m / (1 - beta_1**t)
    v_hat = v / (1 - beta_2**t)
    return theta - alpha * m_hat / (v_hat.sqrt() + epsilon), m, v


def adamw_step(
    theta: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    t: int,
    alpha: float = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (θ, m, v) after step t: Adam's step, and θ shrunk by the factor 1 − αλ beside it.

    Args and errors: as :func:`adam_step`; `weight_decay` is λ.
    """
    shrunk = theta - alpha * weight_decay * theta
    return adam_step(shrunk, g, m, v, t, alpha, beta_1, beta_2, epsilon)


class Adam(ForeachOptimizer):
    """Adam, equal to `torch.optim.Adam`.

    Args:
        params: parameters or groups of them.
        lr: α, above 0.
        betas: β₁ and β₂, each in [0, 1).
        eps: ε ≥ 0, added after the root of the corrected second moment.
        weight_decay: λ ≥ 0; λθ is added to the gradient, so it is divided by √v̂ as well.
        amsgrad: divide by the largest second moment so far.

    Raises:
        ValueError: as :class:`companion.optimization.base.ForeachOptimizer`.
    """

    decoupled = False  # does the weight decay bypass the moments?

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
        )

    def update(
        self, params: list[Tensor], grads: list[Tensor], states: list[State], group: Group
    ) -> None:
        """Change `params` and `states` in place."""
        adam_update(params, grads, states, group, decoupled=self.decoupled)


def adam_update(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    group: Group,
    *,
    decoupled: bool,
) -> None:
    """Take one step for lists of tensors, in place; the group's options are those of `Adam`."""
    lr, (beta_1, beta_2), decay = group["lr"], group["betas"], group["weight_decay"]
    steps = count_steps(states)
    first = buffers(states, params, "exp_avg")
    second = buffers(states, params, "exp_avg_sq")
    if not decoupled:
        grads = coupled_decay(grads, params, decay)
    elif decay > 0:
        torch._foreach_mul_(params, 1 - lr * decay)
    torch._foreach_lerp_(first, grads, 1 - beta_1)
    torch._foreach_mul_(second, beta_2)
    torch._foreach_addcmul_(second, grads, grads, 1 - beta_2)
    if group["amsgrad"]:
        largest = buffers(states, params, "max_exp_avg_sq")
        torch._foreach_maximum_(largest, second)
        second = largest
    # The corrections are numbers, not tensors: √v̂ = √v / √(1 − β₂ᵗ), and α takes up 1 − β₁ᵗ.
    scale = torch._foreach_sqrt(second)
    torch._foreach_div_(scale, [(1 - beta_2**t) ** 0.5 for t in steps])
    torch._foreach_add_(scale, group["eps"])
    torch._foreach_addcdiv_(params, first, scale, [-lr / (1 - beta_1**t) for t in steps])


class AdamW(Adam):
    """Adam with decoupled weight decay, equal to `torch.optim.AdamW`.

    Args and errors: as :class:`Adam`, except that each step shrinks the parameters by the factor
    ``1 − lr · weight_decay``, whatever the gradients are.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)
