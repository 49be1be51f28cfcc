"""Checks of the schedules against torch.optim.lr_scheduler and closed forms, of a given module."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.optim import lr_scheduler as theirs
from torch.testing import assert_close

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
PEAK = 0.3
STEPS = 60


def optimizer(kind: Any = torch.optim.SGD, **options: Any) -> torch.optim.Optimizer:
    """Two parameter groups, the second with a tenth of the rate."""
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(2, dtype=torch.float64))], "lr": rate}
        for rate in (PEAK, PEAK / 10)
    ]
    return kind(groups, **options)


def follow(build: Callable[[Any], Any], steps: int, kind: Any = torch.optim.SGD) -> torch.Tensor:
    """Rates of both groups, then their momenta, at each step: (steps, 4)."""
    options = {"momentum": 0.5} if kind is torch.optim.SGD else {}
    moved = optimizer(kind, **options)
    scheduler = build(moved)
    rows = []
    for _ in range(steps):
        momenta = [group.get("momentum") or group["betas"][0] for group in moved.param_groups]
        rows.append([group["lr"] for group in moved.param_groups] + momenta)
        moved.step()
        scheduler.step()
    return torch.tensor(rows, dtype=torch.float64)


def by_sequence(parts: list[Callable[[Any], Any]], milestones: list[int]) -> Callable[[Any], Any]:
    return lambda moved: theirs.SequentialLR(
        moved, [part(moved) for part in parts], milestones=milestones
    )


def warm(steps: int) -> Callable[[Any], Any]:
    return partial(theirs.LinearLR, start_factor=1 / steps, total_iters=steps - 1)


def falling(final: float, steps: int) -> Callable[[Any], Any]:
    return partial(theirs.LinearLR, start_factor=1.0, end_factor=final, total_iters=steps)


CASES: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any]]] = {
    "step decay": (
        "step_decay",
        {"step_size": 7, "gamma": 0.3},
        partial(theirs.StepLR, step_size=7, gamma=0.3),
    ),
    "exponential": ("exponential", {"gamma": 0.9}, partial(theirs.ExponentialLR, gamma=0.9)),
    "cosine": (
        "cosine",
        {"total_steps": STEPS - 1},
        partial(theirs.CosineAnnealingLR, T_max=STEPS - 1),
    ),
    "cosine after a warm-up": (
        "cosine",
        {"total_steps": STEPS, "warmup_steps": 10},
        by_sequence([warm(10), partial(theirs.CosineAnnealingLR, T_max=STEPS - 10)], [10]),
    ),
    "cosine with restarts": (
        "cosine_restarts",
        {"period": 7},
        partial(theirs.CosineAnnealingWarmRestarts, T_0=7),
    ),
    "cosine with longer and longer periods": (
        "cosine_restarts",
        {"period": 3, "growth": 2},
        partial(theirs.CosineAnnealingWarmRestarts, T_0=3, T_mult=2),
    ),
    "linear warm-up": ("linear_warmup", {"warmup_steps": 20}, warm(20)),
    "warm-up, stable, decay": (
        "warmup_stable_decay",
        {"total_steps": STEPS - 1, "warmup_steps": 8, "decay_steps": 21, "final": 0.1},
        by_sequence(
            [warm(8), partial(theirs.ConstantLR, factor=1.0), falling(0.1, 21)], [8, STEPS - 22]
        ),
    ),
    "stable, decay": (
        "warmup_stable_decay",
        {"total_steps": STEPS - 1, "decay_steps": 20},
        by_sequence([partial(theirs.ConstantLR, factor=1.0), falling(0.0, 20)], [STEPS - 21]),
    ),
}


def check_against_torch(schedules: ModuleType, case: str) -> None:
    name, options, reference = CASES[case]
    ours = follow(schedules.schedule(name, **options), STEPS)
    assert_close(ours, follow(reference, STEPS), **TIGHT)


def check_cosine_final(schedules: ModuleType) -> None:
    """The final factor is torch's eta_min over the peak; one group, as eta_min is one number."""
    parameter = torch.nn.Parameter(torch.ones(1))
    for final in (0.0, 0.05, 1.0):
        moved = torch.optim.SGD([parameter], lr=PEAK)
        reference = theirs.CosineAnnealingLR(moved, T_max=STEPS, eta_min=PEAK * final)
        for step in range(STEPS + 1):
            factor = schedules.cosine(step, total_steps=STEPS, final=final)
            assert_close(PEAK * factor, moved.param_groups[0]["lr"], **TIGHT)
            moved.step()
            reference.step()


def check_one_cycle(schedules: ModuleType, kind: Any) -> None:
    """Rate and momentum, with the defaults and without, at every step of the run."""
    for total, options, their_options in (
        (STEPS, {}, {}),
        (37, {"warmup_fraction": 0.25}, {"pct_start": 0.25}),
        (STEPS, {"start": 0.1, "end": 0.01}, {"div_factor": 10, "final_div_factor": 10}),
        (
            STEPS,
            {"momentum": (0.7, 0.9)},
            {"base_momentum": 0.7, "max_momentum": 0.9},
        ),
        (STEPS, {"momentum": None}, {"cycle_momentum": False}),
    ):
        reference = partial(
            theirs.OneCycleLR, max_lr=[PEAK, PEAK / 10], total_steps=total, **their_options
        )
        ours = schedules.schedule("one_cycle", total_steps=total, **options)
        assert_close(follow(ours, total, kind), follow(reference, total, kind), **TIGHT)


def check_inverse_square_root(schedules: ModuleType) -> None:
    """The formula as printed in "Attention Is All You Need", steps from 1, over its peak."""
    width, warmup = 512, 40
    printed = [width**-0.5 * min(n**-0.5, n * warmup**-1.5) for n in range(1, 500)]
    ours = [schedules.inverse_square_root(step, warmup_steps=warmup) for step in range(499)]
    assert_close(ours, [rate / max(printed) for rate in printed], **TIGHT)
    assert int(np.argmax(ours)) == warmup - 1


def check_square_root_decay(schedules: ModuleType) -> None:
    options = {"total_steps": 100, "decay_steps": 40, "final": 0.2, "shape": "sqrt"}
    ours = [schedules.warmup_stable_decay(step, **options) for step in range(120)]
    progress = np.clip((np.arange(120) - 60) / 40, 0, 1)
    assert_close(ours, (1 - 0.8 * np.sqrt(progress)).tolist(), **TIGHT)


def check_plateau(schedules: ModuleType) -> None:
    """The function over histories, and the scheduler, against torch's, on falling noise."""
    generator = np.random.default_rng(0)
    for patience, cooldown, threshold in ((0, 0, 1e-4), (2, 0, 0.05), (1, 3, 1e-4), (3, 1, 0.0)):
        history = (np.exp(-np.arange(80) / 25) + 0.1 * generator.random(80)).tolist()
        options = {"patience": patience, "cooldown": cooldown, "threshold": threshold}
        moved, ours_moved = optimizer(), optimizer()
        reference = theirs.ReduceLROnPlateau(moved, factor=0.7, eps=0, **options)
        ours = schedules.schedule("plateau", gamma=0.7, **options)(ours_moved)
        for end, value in enumerate(history, start=1):
            reference.step(value)
            ours.step(value)
            expected = moved.param_groups[0]["lr"]
            assert_close(ours_moved.param_groups[0]["lr"], expected, **TIGHT)
            factor = schedules.plateau(history[:end], gamma=0.7, **options)
            assert_close(PEAK * factor, expected, **TIGHT)
        assert expected < 0.7 * PEAK, "a history on which nothing happens shows nothing"


def check_first_step_is_not_wasted(schedules: ModuleType) -> None:
    for name, options in (
        ("linear_warmup", {"warmup_steps": 5}),
        ("inverse_square_root", {"warmup_steps": 5}),
        ("cosine", {"total_steps": 20, "warmup_steps": 5}),
        ("warmup_stable_decay", {"total_steps": 20, "warmup_steps": 5, "decay_steps": 5}),
    ):
        factors = [getattr(schedules, name)(step, **options) for step in range(20)]
        assert_close(factors[:5], [0.2, 0.4, 0.6, 0.8, 1.0], **TIGHT)


def check_last_step_and_after(schedules: ModuleType) -> None:
    """The last step still learns; what the Trainer asks for after it is the end, for ever."""
    for name, options in (
        ("cosine", {"total_steps": 10}),
        ("warmup_stable_decay", {"total_steps": 10, "decay_steps": 4}),
        ("one_cycle", {"total_steps": 10}),
    ):
        factor = partial(getattr(schedules, name), **options)
        end = 1 / 250_000 if name == "one_cycle" else 0.0
        assert factor(9) > 0
        assert all(math.isclose(factor(step), end, rel_tol=1e-9) for step in (10, 11, 25, 1000))
