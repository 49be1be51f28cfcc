"""Early stopping: end where the validation metric no longer improves, and keep the best weights.

The metric is looked at after every validation pass. After `patience` passes in a row without a
new best one the training stops, and at its end the module gets the weights of the best pass: the
last weights are `patience` passes too old.

Source: Prechelt, "Automatic early stopping using cross validation", Neural Networks 11, 1998.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from companion.arguments import check_integer, check_rule
from companion.optimization.base import is_not_negative


class EarlyStopping(Callback):
    """Stop after `patience` validation passes without improvement; restore the best weights.

    Args:
        monitor: a validation metric that the module logs, such as ``"val_loss"``.
        patience: passes without improvement that end the training, at least 1.
        min_delta: by how much a metric must be better to count, at least 0.
        mode: ``"min"`` or ``"max"``: which metric is better.

    Attributes:
        best: the best value so far, or None.
        best_epoch: in which epoch (from 0) it was reached, or None.
        waited: passes since then.

    Raises:
        ValueError: an argument out of range, a `monitor` of the training or test set; in ``fit``,
            one that is not logged.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 3,
        min_delta: float = 0.0,
        mode: str = "min",
    ) -> None:
        if not monitor.startswith("val"):
            raise ValueError(
                f"monitor={monitor!r}: a validation metric is needed, 'val_…'; stopping by the "
                "test set is training on it"
            )
        check_integer("patience", patience, minimum=1)
        check_rule("min_delta", min_delta, is_not_negative, "a finite number of at least 0")
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r}: 'min' or 'max' is needed")
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.mode = mode
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.waited = 0
        self._weights: dict[str, Tensor] = {}

    def improves(self, value: float) -> bool:
        """Say whether `value` is better than the best so far; NaN never is."""
        if self.best is None:
            return value == value
        if self.mode == "min":
            return value < self.best - self.min_delta
        return value > self.best + self.min_delta

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start anew with each training; a checkpoint's state comes after this."""
        if stage == "fit":
            self._reset()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the metric; keep the weights or count."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"monitor={self.monitor!r}: not logged; there is {known}")
        value = float(trainer.callback_metrics[self.monitor])
        if self.improves(value):
            self.best, self.best_epoch, self.waited = value, trainer.current_epoch, 0
            self._weights = {k: v.detach().clone() for k, v in pl_module.state_dict().items()}
        else:
            self.waited += 1
            trainer.should_stop = trainer.should_stop or self.waited >= self.patience

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the best weights (and buffers) in."""
        if self._weights:
            with torch.no_grad():
                for name, value in pl_module.state_dict().items():
                    value.copy_(self._weights[name])

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "weights": self._weights,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]
        self.waited, self._weights = state_dict["waited"], dict(state_dict["weights"])
