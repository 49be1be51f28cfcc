"""A training run that tells each step and writes checkpoints, for a test to kill.

The same run, undisturbed or resumed, can be had in the test's own process with :func:`train`.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from companion.data.digits import Digits
from companion.training import Classifier, FitResult, fit

EPOCHS = 5
STEPS = 11  # an epoch: 1,293 training images in batches of 128


class Tell(pl.Callback):
    """Print each step, so that whoever reads can stop the run at a known place."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Print the number of steps taken, and give the reader time to act on it."""
        print(trainer.global_step, flush=True)
        time.sleep(0.05)


def train(callbacks: tuple[pl.Callback, ...] = (), **options: Any) -> FitResult:
    """Train a small network with everything that has a state: dropout, momentum, a schedule."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
    )
    schedule = partial(OneCycleLR, max_lr=0.1, total_steps=EPOCHS * STEPS)
    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    module = Classifier(network, optimizer=optimizer, scheduler=schedule, scheduler_interval="step")
    return fit(module, Digits(128), epochs=EPOCHS, seed=3, callbacks=callbacks, **options)


if __name__ == "__main__":
    train(callbacks=(Tell(),), checkpoint_dir=Path(sys.argv[1]))
