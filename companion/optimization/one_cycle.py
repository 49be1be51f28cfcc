"""The one-cycle schedule: learning rate up and down once, momentum down and up.

    η_t / η   half a cosine from s to 1 in the first part, then half a cosine from 1 to e
    μ_t       half a cosine from μ_high to μ_low, then back

The momentum is lowest where the rate is highest, so that the step on a steady gradient, about
η / (1 − μ), does not grow by both at once.

Source: Smith and Topin, "Super-convergence" (2018), section 4; cosines in place of their straight
lines, and the numbers, as in fast.ai and ``torch.optim.lr_scheduler.OneCycleLR``.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch.optim.lr_scheduler import LambdaLR

from companion.arguments import check_integer, check_rule


def _cycle(
    step: int, total_steps: int, warmup_fraction: float, values: tuple[float, float, float]
) -> float:
    """Go from the first value to the second in half a cosine, then likewise to the third."""
    check_integer("step", step, minimum=0)
    check_integer("total_steps", total_steps, minimum=1)
    rule = f"a number between 1 / total_steps and 1 - 1 / total_steps, total_steps={total_steps},"
    check_rule(
        "warmup_fraction", warmup_fraction, lambda f: 1 < f * total_steps < total_steps - 1, rule
    )
    top, end = warmup_fraction * total_steps - 1, total_steps - 1
    first, second, third = values
    if step <= top:
        low, high, progress = second, first, step / top
    else:
        low, high, progress = third, second, (min(step, end) - top) / (end - top)
    return low + (high - low) * (1 + math.cos(math.pi * progress)) / 2


def one_cycle(
    step: int,
    *,
    total_steps: int,
    warmup_fraction: float = 0.3,
    start: float = 1 / 25,
    end: float = 1 / 250_000,
) -> float:
    """Return half a cosine up from `start` to 1, then half a cosine down to `end`.

    The rate is highest at step ``warmup_fraction * total_steps - 1``, and `end` is the factor of
    the last step, ``total_steps - 1``.

    Source: Smith and Topin, "Super-convergence" (2018), with fast.ai's cosines in place of lines.

    Raises:
        ValueError: a negative step, a warm-up that leaves either part less than one step,
            `start` or `end` outside [0, 1].
    """
    for name, value in (("start", start), ("end", end)):
        check_rule(name, value, lambda v: 0 <= v <= 1, "a number in [0, 1]")
    return _cycle(step, total_steps, warmup_fraction, (start, 1.0, end))


def one_cycle_momentum(
    step: int,
    *,
    total_steps: int,
    warmup_fraction: float = 0.3,
    low: float = 0.85,
    high: float = 0.95,
) -> float:
    """Return the momentum that goes with :func:`one_cycle`: lowest where the rate is highest.

    Raises:
        ValueError: as :func:`one_cycle`; unless 0 <= low <= high < 1.
    """
    check_rule("low", low, lambda v: 0 <= v <= high, f"a number in [0, high={high}]")
    check_rule("high", high, lambda v: v < 1, "a number below 1")
    return _cycle(step, total_steps, warmup_fraction, (high, low, high))


class OneCycle(LambdaLR):
    """:func:`one_cycle` as a scheduler that moves the momentum as well.

    Args:
        optimizer: its learning rate is the peak. Its ``momentum``, or its first beta, is set.
        total_steps, warmup_fraction, start, end: as in :func:`one_cycle`.
        momentum: ``(low, high)`` of :func:`one_cycle_momentum`, or None to leave it alone.

    Raises:
        ValueError: as the two functions; an optimizer that has no momentum to move.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        warmup_fraction: float = 0.3,
        start: float = 1 / 25,
        end: float = 1 / 250_000,
        momentum: tuple[float, float] | None = (0.85, 0.95),
    ) -> None:
        common = {"total_steps": total_steps, "warmup_fraction": warmup_fraction}
        # Plain numbers, so that a checkpoint can hold them.
        self.momentum_options = None
        if momentum is not None:
            self.momentum_options = common | {"low": momentum[0], "high": momentum[1]}
            one_cycle_momentum(0, **self.momentum_options)
            if not {"momentum", "betas"} & set(optimizer.defaults):
                raise ValueError(
                    f"momentum={momentum!r}: {type(optimizer).__name__} has neither momentum nor "
                    "betas; None leaves it alone"
                )
        super().__init__(optimizer, partial(one_cycle, **common, start=start, end=end))

    def step(self, epoch: int | None = None) -> None:
        """Move rate and momentum on by one step."""
        super().step(epoch)
        if self.momentum_options is None:
            return
        momentum = one_cycle_momentum(self.last_epoch, **self.momentum_options)
        for group in self.optimizer.param_groups:
            if "momentum" in group:
                group["momentum"] = momentum
            else:
                group["betas"] = (momentum, *group["betas"][1:])
