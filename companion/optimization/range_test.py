"""The learning rate range test: try all rates, from tiny to far too large, in one short sweep.

The rate grows geometrically from step to step,

    η_i = η_low · (η_high/η_low)^(i/(k − 1)),    i = 0 … k − 1,

and the loss of each step is recorded and smoothed. While η is too small nothing happens; then the
loss falls; then it explodes. The useful rates are where it falls.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017), section 3.3,
which lets the rate grow linearly; over several orders of magnitude geometric growth is usual.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from companion.arguments import check_fraction, check_integer, check_rule


def sweep(lowest: float, highest: float, steps: int) -> list[float]:
    """Return `steps` rates from `lowest` to `highest`, each the same factor above the last."""
    return [lowest * (highest / lowest) ** (i / (steps - 1)) for i in range(steps)]


def smooth(losses: Sequence[float], smoothing: float) -> list[float]:
    """Return running averages ``a ← s·a + (1 − s)·loss`` over ``1 − s^(i+1)``.

    Dividing takes out the start at a = 0, so the first value is the first loss.
    """
    average, smoothed = 0.0, []
    for index, loss in enumerate(losses):
        average = smoothing * average + (1 - smoothing) * loss
        smoothed.append(average / (1 - smoothing ** (index + 1)))
    return smoothed


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the loss falls fastest per factor of the rate.

    Slopes are central differences against log η, up to the lowest loss.
    """
    end = int(np.argmin(losses)) + 1
    if end < 3:
        raise ValueError("losses: they fall nowhere; the sweep must start at a lower rate")
    slopes = np.gradient(np.asarray(losses[:end]), np.log(rates[:end]))
    return float(rates[int(np.argmin(slopes))])


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate two thirds down the longest run of ever lower losses (gaps allowed).

    The longest decreasing subsequence ignores single bumps, which a slope does not.
    """
    count = len(losses)
    length, before = [1] * count, [-1] * count
    for here in range(count):
        for earlier in range(here):
            if losses[earlier] > losses[here] and length[earlier] >= length[here]:
                length[here], before[here] = length[earlier] + 1, earlier
    path = [int(np.argmax(length))]
    while before[path[-1]] >= 0:
        path.append(before[path[-1]])
    if len(path) < 3:
        raise ValueError("losses: they fall nowhere; the sweep must start at a lower rate")
    path.reverse()
    return float(rates[path[2 * len(path) // 3]])


METHODS = {"steepest": steepest, "valley": valley}


class LearningRateRangeTest(Callback):
    """Sweep the learning rate before training starts, then leave no trace of it.

        test = LearningRateRangeTest()
        fit(module, data, max_steps=1, callbacks=[test])
        test.suggestion()

    At the start of training it takes up to `steps` optimizer steps with growing rates, on the
    batches of the first epoch, and stops early when the smoothed loss is not finite or above
    `divergence` times its lowest value. Then weights, buffers, the optimizer's and the
    precision's state, schedulers and random states are put back, and what follows is, bit for
    bit, the training without it.

    Args:
        lowest: the first rate, above 0.
        highest: the last rate, above `lowest`.
        steps: of the sweep, at least 3. Where the data are shorter they are taken again.
        smoothing: share of the old in the running average of the loss, in [0, 1).
        divergence: at which multiple of the lowest smoothed loss to stop, above 1.

    Attributes:
        rates: the rates that were tried.
        losses: the training loss before each step.
        smoothed: the same, averaged.

    Raises:
        ValueError: an argument out of range; in ``fit``, manual optimization or more than one
            optimizer.
    """

    def __init__(
        self,
        lowest: float = 1e-6,
        highest: float = 10.0,
        *,
        steps: int = 100,
        smoothing: float = 0.9,
        divergence: float = 4.0,
    ) -> None:
        check_rule("lowest", lowest, lambda rate: 0 < rate < math.inf, "a number above 0")
        rule = f"a finite number above lowest={lowest!r}"
        check_rule("highest", highest, lambda rate: lowest < rate < math.inf, rule)
        check_integer("steps", steps, minimum=3)
        check_fraction("smoothing", smoothing)
        check_rule("divergence", divergence, lambda factor: factor > 1, "a number above 1")
        self.planned = sweep(lowest, highest, steps)
        self.smoothing = smoothing
        self.divergence = divergence
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.smoothed: list[float] = []

    def suggestion(self, method: str = "valley") -> float:
        """Return a rate for the training, by ``"valley"`` or ``"steepest"``.

        The first tenth of the sweep, where the average is still young, is left out.

        Raises:
            ValueError: an unknown method, a sweep that did not run, losses that never fall.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r}: one of {tuple(METHODS)} is needed")
        skip = len(self.planned) // 10
        rates, losses = self.rates[skip:], self.smoothed[skip:]
        finite = [math.isfinite(loss) for loss in losses]
        keep = finite.index(False) if False in finite else len(finite)
        if keep < 3:
            raise ValueError(f"losses: {keep} can be used; run the test, from a lower rate")
        return METHODS[method](rates[:keep], losses[:keep])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do the sweep."""
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"module={type(pl_module).__name__}: it optimizes by hand, and the range test "
                "can only drive automatic optimization"
            )
        if len(trainer.optimizers) != 1:
            raise ValueError(f"module: it has {len(trainer.optimizers)} optimizers, 1 is needed")
        if not hasattr(trainer.train_dataloader, "__iter__"):
            raise ValueError("data: one training loader is needed")
        self.rates, self.losses, self.smoothed = [], [], []
        if trainer.num_training_batches == 0:
            return
        with isolate_rng(), _restored(trainer, pl_module), _silent(pl_module):
            planned = [group["lr"] for group in trainer.optimizers[0].param_groups]
            parts = [float(rate / max(planned)) for rate in planned]
            # Batches again and again: a sweep may be longer than an epoch.
            batches = chain.from_iterable(repeat(trainer.train_dataloader))
            for index, (rate, batch) in enumerate(zip(self.planned, batches, strict=False)):
                loss = _step(trainer, [rate * part for part in parts], batch, index)
                self.rates.append(rate)
                self.losses.append(loss)
                self.smoothed = smooth(self.losses, self.smoothing)
                now = self.smoothed[-1]
                if not math.isfinite(now) or now > self.divergence * min(self.smoothed):
                    break


def _step(trainer: pl.Trainer, rates: Sequence[float], batch: Any, index: int) -> float:
    """Take one optimizer step, with a rate for each parameter group; return the loss before it."""
    optimizer, strategy = trainer.optimizers[0], trainer.strategy
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    batch = strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        output = strategy.training_step(batch, index)
        loss = output if isinstance(output, Tensor) else output["loss"]
        losses.append(loss.detach())
        strategy.backward(loss, optimizer)
        return loss

    strategy.optimizer_step(optimizer, closure)
    loss = losses[0]
    if trainer.world_size > 1:
        loss = strategy.reduce(loss, reduce_op="mean")
    return float(loss)


@contextmanager
def _restored(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Put weights, buffers, optimizer, precision and the loader's generators back at the end.

    The schedulers are never advanced; they find the rates that they have set.
    """
    optimizer = trainer.optimizers[0]
    tensors = [*module.parameters(), *module.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    state = copy.deepcopy(optimizer.state_dict())
    called = getattr(optimizer, "_opt_called", False)  # schedulers warn unless it was
    precision = copy.deepcopy(trainer.precision_plugin.state_dict())
    loader = trainer.train_dataloader
    owners = (loader, getattr(loader, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    generators = [generator for generator in found if isinstance(generator, torch.Generator)]
    drawn = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        optimizer.zero_grad()
        optimizer.load_state_dict(state)
        if hasattr(optimizer, "_opt_called"):
            optimizer._opt_called = called
        trainer.precision_plugin.load_state_dict(precision)
        for generator, before in zip(generators, drawn, strict=True):
            generator.set_state(before)


@contextmanager
def _silent(module: pl.LightningModule) -> Iterator[None]:
    """Let ``self.log`` do nothing: the sweep's losses belong to no epoch."""
    names = ("log", "log_dict")
    for name in names:
        setattr(module, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name in names:
            delattr(module, name)
