"""Checks of the learning rate range test, as functions of the module under test."""

from __future__ import annotations

import random
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.testing import assert_close

from companion.data.digits import Digits
from companion.fitting import quiet
from companion.optimization.schedules import schedule
from companion.training import Classifier, fit

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def learner(dropout: float = 0.3, **options: Any) -> Classifier:
    """Everything that has a state: running statistics, dropout, momentum, a schedule."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(dropout), nn.ReLU(), nn.Linear(16, 10)
    ).double()
    defaults = {
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "scheduler": schedule("one_cycle", total_steps=10),
        "scheduler_interval": "step",
    }
    return Classifier(network, **(defaults | options))


def data() -> Digits:
    """Five steps an epoch."""
    return Digits(32, flatten=True, limit=160, dtype=torch.float64)


class Look(Callback):
    """Note all states right after the range test, which comes before it in the list."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        optimizer = trainer.optimizers[0]
        group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
        self.seen = {
            "weights": [p.detach().clone() for p in pl_module.parameters()],
            "buffers": [b.detach().clone() for b in pl_module.buffers()],
            "gradients": [p.grad for p in pl_module.parameters()],
            "state": [dict(optimizer.state.get(p, {})) for p in pl_module.parameters()],
            "group": group,
            "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state()[1].tolist(),
            "python": random.getstate(),
            "metrics": dict(trainer.callback_metrics),
            "mode": pl_module.training,
        }


def check_no_trace(range_test: ModuleType) -> None:
    """What another callback sees after the sweep is what it sees without one."""
    seen = []
    for before in ([], [range_test.LearningRateRangeTest(steps=12)]):
        look = Look()
        fit(learner(), data(), callbacks=[*before, look])
        seen.append(look.seen)
    assert_close(seen[1], seen[0], rtol=0, atol=0)
    assert len(before[0].rates) == 12


def check_same_training(range_test: ModuleType) -> None:
    """Losses and weights of the training that follows, bit for bit."""
    runs = [
        fit(learner(), data(), epochs=2, callbacks=callbacks)
        for callbacks in ([], [range_test.LearningRateRangeTest(steps=12)])
    ]
    assert runs[0].step_losses == runs[1].step_losses
    for name, value in runs[0].module.state_dict().items():
        assert torch.equal(runs[1].module.state_dict()[name], value), name


def check_random_state(range_test: ModuleType) -> None:
    """Under a Trainer of one's own, which does not seed each epoch: dropout goes on alike."""
    weights = []
    for callbacks in ([], [range_test.LearningRateRangeTest(steps=12)]):
        module = learner()
        with quiet():
            trainer = pl.Trainer(
                max_epochs=1,
                accelerator="cpu",
                callbacks=callbacks,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            torch.manual_seed(1)
            trainer.fit(module, data())
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*weights)


def sweep_by_hand(rates: list[float], momentum: float = 0.9) -> list[float]:
    """Plain loop: one step per rate on the batches of epoch 0, round and round; no dropout."""
    network = learner(dropout=0.0).network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=momentum)
    source = data()
    source.setup()
    batches = list(source.train_dataloader())
    losses = []
    for index, rate in enumerate(rates):
        x, y = batches[index % len(batches)]
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def check_sweep(range_test: ModuleType) -> None:
    """Rates in geometric progression, and the losses of a plain loop with these rates."""
    test = range_test.LearningRateRangeTest(1e-4, 10.0, steps=21, divergence=1e9)
    momentum = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    module = learner(dropout=0.0, scheduler=None, optimizer=momentum)
    fit(module, data(), max_steps=1, callbacks=[test])
    assert_close(test.rates, np.geomspace(1e-4, 10.0, 21).tolist(), **TIGHT)
    assert_close(test.losses, sweep_by_hand(test.rates), **TIGHT)


def check_smoothing(range_test: ModuleType) -> None:
    """Weights ∝ s^age that add up to 1; a constant stays what it is, from the first value on."""
    generator = np.random.default_rng(0)
    values = generator.random(30)
    expected = []
    for end in range(1, 31):
        weights = 0.9 ** np.arange(end)[::-1]
        expected.append(float(weights @ values[:end] / weights.sum()))
    assert_close(range_test.smooth(values.tolist(), 0.9), expected, **TIGHT)
    assert_close(range_test.smooth([3.0] * 5, 0.98), [3.0] * 5, **TIGHT)


def check_suggestions(range_test: ModuleType) -> None:
    """A curve with a known steepest point: a logistic fall around 10⁻², then a rise."""
    rates = np.geomspace(1e-5, 10, 121)
    x = np.log10(rates)
    falling = 2.0 / (1 + np.exp(4 * (x + 2)))
    losses = (falling + np.exp(6 * (x - 0.5))).tolist()
    assert_close(range_test.steepest(rates.tolist(), losses), 1e-2, rtol=1e-6, atol=0)
    lowest = int(np.argmin(losses))
    down = range_test.valley(rates.tolist(), losses)  # it falls from the first value to the lowest
    assert abs(list(rates).index(down) - 2 * lowest / 3) <= 1
    bumps = np.array(losses)
    bumps[::10] += 1e-2  # a bump where it is steep would be steepest; the valley does not mind
    assert abs(np.log10(range_test.valley(rates.tolist(), bumps.tolist()) / down)) < 0.2
