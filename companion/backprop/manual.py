"""Train a network with hand-written gradients: autograd is switched off throughout.

One step of `ManualBackprop` is the whole of training, in the open:

    prediction = network(x)                        forward, each layer keeps what it needs
    network.backward(loss.backward(prediction, y)) ∂L/∂prediction, then layer by layer down
    optimizer.step()                               W ← W − η ∂L/∂W, or what the optimizer does

It is a LightningModule with `automatic_optimization = False`, so that the Trainer brings the
device, the loop and the checkpoints, and leaves the gradients to us.

Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors",
Nature 323 (1986).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from companion.backprop.losses import CROSS_ENTROPY, Loss
from companion.learner import Learner, OptimizerFactory, SchedulerFactory


class ManualBackprop(Learner):
    """Fit a network whose layers have a hand-written `backward`.

    Batches are `(x, y)`. It logs `train_loss`, `val_loss`, `test_loss` and, if `y` holds class
    numbers, `val_accuracy` and `test_accuracy`. Under several processes the gradients are
    averaged over them before the step, as DistributedDataParallel would do.

    Args:
        network: a `companion.backprop.layers.Sequential`, or any module with
            `backward(grad_output, *, input_gradient)`, which fills `.grad` of its parameters.
        loss: a pair `(forward, backward)` from `companion.backprop.losses`.
        optimizer: `optimizer(parameters) -> Optimizer`; AdamW with learning rate 1e-3 if None.
        scheduler: `scheduler(optimizer) -> LRScheduler`, or None.
        scheduler_interval: `"step"` or `"epoch"`: when the scheduler advances.

    Raises:
        ValueError: an argument of the wrong kind; in `fit`, precision "16-mixed", whose loss
            scaling hooks into autograd's backward pass, which never runs here.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: Loss = CROSS_ENTROPY,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        scheduler_interval: str = "epoch",
    ) -> None:
        super().__init__(
            network,
            optimizer=optimizer,
            scheduler=scheduler,
            scheduler_interval=scheduler_interval,
        )
        if not callable(getattr(network, "backward", None)):
            raise ValueError(
                f"network is {type(network).__name__}, which has no backward method; use "
                "companion.backprop.layers.Sequential"
            )
        if not isinstance(loss, Loss):
            raise ValueError(
                f"loss is {loss!r}; it must be a pair such as companion.backprop.losses.MSE"
            )
        self.automatic_optimization = False
        self.pair = loss

    def measure(self, batch: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], int]:
        """Return loss, accuracy where targets are class numbers, and the number of samples."""
        x, y = batch
        prediction = self(x)
        metrics = {"loss": self.pair.forward(prediction, y)}
        if y.ndim == 1 and not y.is_floating_point():
            metrics["accuracy"] = (prediction.argmax(-1) == y).float().mean()
        return metrics, len(y)

    @torch.no_grad()
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Take one step and return the loss before it."""
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        prediction = self(x)
        loss = self.pair.forward(prediction, y)
        grad_prediction = self.pair.backward(prediction, y)
        self.network.backward(grad_prediction, input_gradient=False)
        self.average_gradients()
        optimizer.step()
        if self.scheduler_interval == "step":
            self.advance_schedule()
        self._add("train", {"loss": loss}, len(y))
        return loss

    def average_gradients(self) -> None:
        """Replace each gradient by its mean over all processes; each holds 1/world of the batch."""
        if self.trainer.world_size > 1:
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    mean = self.trainer.strategy.reduce(parameter.grad, reduce_op="mean")
                    parameter.grad = mean

    def advance_schedule(self) -> None:
        """Move the learning rate on: in manual optimization the Trainer does not."""
        scheduler: Any = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            if "val_loss" not in self.trainer.callback_metrics:
                raise ValueError(
                    "scheduler=ReduceLROnPlateau: it watches val_loss, and the data have no "
                    "validation set"
                )
            scheduler.step(self.trainer.callback_metrics["val_loss"])
        elif scheduler is not None:
            scheduler.step()

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its scheduler, which `advance_schedule` moves.

        Raises:
            ValueError: as `Learner`; a `ReduceLROnPlateau` that should advance after each step,
                when there is no validation loss yet.
        """
        configured = super().configure_optimizers()
        if not isinstance(configured, dict):
            return configured
        scheduler = configured["lr_scheduler"]["scheduler"]
        if isinstance(scheduler, ReduceLROnPlateau) and self.scheduler_interval == "step":
            raise ValueError(
                "scheduler_interval='step': ReduceLROnPlateau watches val_loss, which is there "
                "at the end of an epoch; use 'epoch'"
            )
        return [configured["optimizer"]], [scheduler]

    def on_fit_start(self) -> None:
        """Refuse the one precision that would silently scale the gradients."""
        super().on_fit_start()
        if str(self.trainer.precision) == "16-mixed":
            raise ValueError(
                "precision='16-mixed' divides gradients by a loss scale that hand-written "
                "gradients do not have; use '32-true' or 'bf16-mixed'"
            )

    def on_train_epoch_end(self) -> None:
        """Log `train_loss`; advance a schedule that counts epochs."""
        super().on_train_epoch_end()
        if self.scheduler_interval == "epoch":
            self.advance_schedule()
