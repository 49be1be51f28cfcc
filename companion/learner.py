"""The common part of Regressor, Classifier and LanguageModel: optimizer and averaged metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

Loss = Callable[[Tensor, Tensor], Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], Any]


class Learner(pl.LightningModule):
    """A LightningModule around a network; a subclass says with :meth:`measure` what a batch gives.

    Metrics are averages over samples, so that a smaller last batch counts for what it is. Their
    sums stay on the device until the epoch ends and are added up over all processes there.
    ``train_loss`` averages the losses met while the weights were changing.

    Args:
        network: the module to train.
        loss: ``loss(prediction, target) -> scalar``, the mean over the batch.
        optimizer: ``optimizer(parameters) -> Optimizer``, for instance
            ``functools.partial(torch.optim.SGD, lr=0.1)``; AdamW with learning rate 1e-3 if None.
        scheduler: ``scheduler(optimizer) -> LRScheduler``, or None. ``ReduceLROnPlateau``
            watches ``val_loss``.
        scheduler_interval: ``"epoch"`` or ``"step"``: after what the scheduler advances. For
            ``ReduceLROnPlateau`` it must be ``"epoch"``.

    Raises:
        ValueError: an argument of the wrong kind.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: Loss | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        scheduler_interval: str = "epoch",
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise ValueError(f"network={type(network).__name__}: an nn.Module is needed")
        for name, value in (("loss", loss), ("optimizer", optimizer), ("scheduler", scheduler)):
            if value is not None and not callable(value):
                raise ValueError(
                    f"{name}={type(value).__name__}: a callable is needed, for instance "
                    "optimizer=functools.partial(torch.optim.SGD, lr=0.1)"
                )
        if scheduler_interval not in ("epoch", "step"):
            raise ValueError(f"scheduler_interval={scheduler_interval!r}: 'epoch' or 'step'")
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self._totals: dict[str, dict[str, Any]] = {"train": {}, "val": {}, "test": {}}
        self._checked = False

    def measure(self, batch: Any) -> tuple[dict[str, Tensor], int | Tensor]:
        """Return the metrics of a batch, ``"loss"`` among them, and how many samples they average.

        Each metric is a mean over the samples (or tokens) of the batch.
        """
        raise NotImplementedError

    def derive(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return further metrics that are functions of the epoch's means."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output for a batch of inputs `x`."""
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        metrics, samples = self.measure(batch)
        self._add("train", {"loss": metrics["loss"]}, samples)
        return metrics["loss"]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        self._add("val", *self.measure(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the test metrics."""
        self._add("test", *self.measure(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the network's output for the inputs of a batch."""
        return self(batch[0] if isinstance(batch, tuple | list) else batch)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its scheduler.

        Raises:
            ValueError: nothing to train; ReduceLROnPlateau advanced after every step; what the
                optimizer or the scheduler says about its arguments.
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("network: it has no trainable parameter")
        if self.optimizer is not None:
            optimizer = self.optimizer(parameters)
        else:
            fused = _can_fuse(parameters, str(self.trainer.precision))
            optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=fused)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        config = {"scheduler": scheduler, "interval": self.scheduler_interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            if self.scheduler_interval == "step":
                raise ValueError(
                    "scheduler_interval='step': ReduceLROnPlateau watches val_loss, which exists "
                    "only after an epoch; use 'epoch'"
                )
            config["monitor"] = "val_loss"
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_fit_start(self) -> None:
        """Have the shapes of this run's first batch checked."""
        self._checked = False

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sums at zero."""
        self._totals["train"] = {}

    def on_validation_epoch_start(self) -> None:
        """Start the pass's sums at zero."""
        self._totals["val"] = {}

    def on_test_epoch_start(self) -> None:
        """Start the pass's sums at zero."""
        self._totals["test"] = {}

    def on_train_epoch_end(self) -> None:
        """Log the ``train_`` metrics."""
        self._log("train")

    def on_validation_epoch_end(self) -> None:
        """Log the ``val_`` metrics."""
        self._log("val")

    def on_test_epoch_end(self) -> None:
        """Log the ``test_`` metrics."""
        self._log("test")

    def _add(self, stage: str, metrics: dict[str, Tensor], samples: int | Tensor) -> None:
        """Add a batch's means, times its `samples`, to the sums of `stage`."""
        totals = self._totals[stage]
        for name, mean in metrics.items():
            mean = mean.detach()
            if mean.dtype in (torch.float16, torch.bfloat16):
                mean = mean.float()  # a sum over an epoch needs more than their 8 or 11 bits
            totals[name] = totals.get(name, 0) + mean * samples
        totals["samples"] = totals.get("samples", 0) + samples

    def _log(self, stage: str) -> None:
        totals = self._totals[stage]
        if not totals:
            return
        like = totals["loss"]
        sums = torch.stack([torch.as_tensor(total).to(like) for total in totals.values()])
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        means = dict(zip(totals, sums / sums[list(totals).index("samples")], strict=True))
        del means["samples"]
        for name, value in (means | self.derive(means)).items():
            self.log(f"{stage}_{name}", value, sync_dist=True)


def _can_fuse(parameters: list[nn.Parameter], precision: str) -> bool:
    """Tell whether a fused optimizer can update them.

    Not on XLA devices; and with a gradient scaler ("16-mixed") Lightning cannot clip gradients
    for a fused optimizer.
    """
    return precision != "16-mixed" and all(
        p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for p in parameters
    )
