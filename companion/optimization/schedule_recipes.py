"""Recipes of the page `schedules`: a small classifier under each schedule, and the range test.

Every check wants the rates of all steps: those of torch's scheduler where there is one, else the
formula written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler as theirs

from companion.data.digits import Digits
from companion.optimization.range_test import LearningRateRangeTest
from companion.optimization.recording import RateRecorder
from companion.optimization.schedules import plateau, schedule
from companion.techniques import Recipe
from companion.training import Classifier, FitResult

PEAK = 0.1
EPOCHS = 3
STEPS = EPOCHS * 20  # 1,293 training images in whole batches of 64


def classifier(**options: Any) -> Classifier:
    """A network with one hidden layer, and SGD with momentum."""
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Classifier(network, optimizer=partial(torch.optim.SGD, lr=PEAK, momentum=0.9), **options)


def digits() -> Digits:
    """Vectors of 64 pixels; no smaller last batch, which would compile once more on a TPU."""
    return Digits(flatten=True, drop_last=True)


def by_torch(build: Callable[[torch.optim.Optimizer], Any]) -> list[float]:
    """The rates of `STEPS` steps under one of torch's schedulers."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=PEAK, momentum=0.9)
    scheduler, rates = build(optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def following(expected: list[float], name: str, **options: Any) -> Recipe:
    """Train under a schedule that advances each step; its rates must be the `expected` ones."""
    recorder = RateRecorder()

    def check(result: FitResult) -> None:
        rates = recorder.rates[-STEPS:]
        assert len(rates) == STEPS, f"{len(rates)} steps, {STEPS} are needed"
        for step, (rate, wanted) in enumerate(zip(rates, expected, strict=True)):
            close = math.isclose(rate, wanted, rel_tol=1e-6, abs_tol=1e-9)
            assert close, f"step {step} was taken with rate {rate}, not {wanted}"
        assert result.metrics["val_accuracy"] > 0.75

    module = classifier(scheduler=schedule(name, **options), scheduler_interval="step")
    trainer = {"epochs": EPOCHS, "precision": "32-true", "callbacks": [recorder]}
    return Recipe(module, digits(), trainer, check)


def step_decay() -> Recipe:
    """Half the rate every 15 steps, as StepLR."""
    expected = by_torch(partial(theirs.StepLR, step_size=15, gamma=0.5))
    return following(expected, "step_decay", step_size=15, gamma=0.5)


def exponential_decay() -> Recipe:
    """Three per cent less each step, as ExponentialLR."""
    expected = by_torch(partial(theirs.ExponentialLR, gamma=0.97))
    return following(expected, "exponential", gamma=0.97)


def cosine_schedule() -> Recipe:
    """Half a cosine, as CosineAnnealingLR."""
    expected = by_torch(partial(theirs.CosineAnnealingLR, T_max=STEPS))
    return following(expected, "cosine", total_steps=STEPS)


def cosine_restarts() -> Recipe:
    """Cosines of 4, 8, 16, 32 steps, as CosineAnnealingWarmRestarts."""
    expected = by_torch(partial(theirs.CosineAnnealingWarmRestarts, T_0=4, T_mult=2))
    return following(expected, "cosine_restarts", period=4, growth=2)


def linear_warmup() -> Recipe:
    """From a twentieth of the rate to all of it, as LinearLR."""
    expected = by_torch(partial(theirs.LinearLR, start_factor=1 / 20, total_iters=19))
    return following(expected, "linear_warmup", warmup_steps=20)


def one_cycle() -> Recipe:
    """Up and down once, as OneCycleLR."""
    expected = by_torch(partial(theirs.OneCycleLR, max_lr=PEAK, total_steps=STEPS))
    return following(expected, "one_cycle", total_steps=STEPS)


def inverse_square_root() -> Recipe:
    """Up in ten steps, then 1 over the root of the step."""
    counts = range(1, STEPS + 1)
    expected = [PEAK * 10**0.5 * min(n**-0.5, n * 10**-1.5) for n in counts]
    return following(expected, "inverse_square_root", warmup_steps=10)


def warmup_stable_decay() -> Recipe:
    """Up in ten steps, flat for thirty, down to nothing in twenty."""
    up = [PEAK * n / 10 for n in range(1, 11)]
    down = [PEAK * n / 20 for n in range(20, 0, -1)]
    expected = [*up, *([PEAK] * 30), *down]
    options = {"total_steps": STEPS, "warmup_steps": 10, "decay_steps": 20}
    return following(expected, "warmup_stable_decay", **options)


def reduce_on_plateau() -> Recipe:
    """Each epoch has the rate that the validation losses of the epochs before it ask for."""
    options = {"gamma": 0.5, "patience": 0, "threshold": 0.5}
    recorder = RateRecorder()

    def check(result: FitResult) -> None:
        losses = [epoch.get("val_loss", 0.0) for epoch in result.history]
        wanted = [PEAK * plateau(losses[:epoch], **options) for epoch in range(5)]
        assert wanted[-1] < PEAK, "the rate was never reduced"
        rates = recorder.rates[-100:]
        assert len(rates) == 100, f"{len(rates)} steps, 100 are needed"
        for step, rate in enumerate(rates):
            assert math.isclose(rate, wanted[step // 20], rel_tol=1e-6)

    module = classifier(scheduler=schedule("plateau", **options))
    trainer = {"epochs": 5, "precision": "32-true", "callbacks": [recorder]}
    return Recipe(module, digits(), trainer, check)


def learning_rate_range_test() -> Recipe:
    """A sweep up to rates that diverge, and then the training as if it had not been."""
    test = LearningRateRangeTest(1e-5, 10.0, steps=60)
    module = classifier()
    start = [parameter.detach().cpu().clone() for parameter in module.parameters()]

    def check(result: FitResult) -> None:
        twin = classifier()
        with torch.no_grad():
            for parameter, value in zip(twin.parameters(), start, strict=True):
                parameter.copy_(value)
        data = digits()
        data.setup()
        x, y = next(iter(data.train_dataloader()))
        first = nn.functional.cross_entropy(twin(x), y).item()
        assert math.isclose(result.step_losses[0], first, rel_tol=1e-3), "it left a trace"
        assert test.smoothed[-1] > min(test.smoothed), "it never saw too large a rate"
        assert 1e-4 < test.suggestion() < 2.0
        assert result.metrics.get("val_accuracy", 0.0) > 0.85

    trainer = {"epochs": EPOCHS, "precision": "32-true", "callbacks": [test]}
    return Recipe(module, digits(), trainer, check)
