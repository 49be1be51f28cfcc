"""Write down the learning rate and momentum that each training step was taken with."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class RateRecorder(Callback):
    """Record the rate and the momentum of the first parameter group before each batch.

        recorder = RateRecorder()
        fit(module, data, callbacks=[recorder])
        recorder.rates

    Attributes:
        rates: the learning rate of each batch.
        momenta: its momentum, or first beta; 0 where the optimizer has neither.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.momenta: list[float] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write down what the optimizer holds now."""
        group = trainer.optimizers[0].param_groups[0]
        self.rates.append(float(group["lr"]))
        self.momenta.append(float(group.get("momentum", group.get("betas", (0.0,))[0])))
