r"""Clipping by norm: shorten the gradient where it is too long, keep its direction.

    n = √(Σ over all parameters of ‖g‖²)      g ← g · min(1, max_norm / (n + 1e-6))

One factor for all parameters, so that the step still goes downhill along the gradient. Clipping
every number on its own to [−c, c] changes the direction.

Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML
2013, section 3.2. The 1e-6 against a division by 0 is torch.nn.utils'.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients in place so that their common norm is at most `max_norm`.

    Returns:
        The norm before, a scalar tensor; 0 where there is no gradient.

    Raises:
        ValueError: `max_norm` is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm={max_norm!r}: a positive number is needed")
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1)  # no branch: nothing has to leave the device
    for gradient in gradients:
        gradient.mul_(factor)
    return norm
