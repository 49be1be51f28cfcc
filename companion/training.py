"""Train a network: Regressor, Classifier, LanguageModel, and ``fit`` with fast defaults.

    result = fit(Classifier(network), Digits(), epochs=5)
    result.metrics["val_accuracy"], result.step_losses

The modules are plain LightningModules and run under any ``Trainer``. ``fit`` builds a Trainer
whose defaults suit a small machine: whole batches, channels_last convolutions, a fused
optimizer, bfloat16 autocast where the processor multiplies in it, metrics on epoch end only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from companion import fitting
from companion.fitting import NonFiniteLossError as NonFiniteLossError

Loss = Callable[[Tensor, Tensor], Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], Any]


class Learner(pl.LightningModule):
    """What the three modules below share: loss, optimizer, metrics averaged over samples.

    The epoch's metrics are weighted by batch size, so a smaller last batch counts for what it
    is; they stay on the device until the epoch ends, and are combined over all processes.

    Args:
        network: the module to train.
        loss: ``loss(prediction, target) -> scalar``, the mean over the batch.
        optimizer: ``optimizer(parameters) -> Optimizer``; AdamW with learning rate 1e-3 if None.
        scheduler: ``scheduler(optimizer) -> LRScheduler``, or None.
        scheduler_interval: ``"step"`` or ``"epoch"``: when the scheduler advances.

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
                raise ValueError(f"{name}={value!r}: a callable or None is needed")
        if scheduler_interval not in ("step", "epoch"):
            raise ValueError(f"scheduler_interval={scheduler_interval!r}: 'step' or 'epoch'")
        self.network = network
        self.loss = loss
        self.optimizer_factory = optimizer
        self.scheduler_factory = scheduler
        self.scheduler_interval = scheduler_interval
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._checked = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output for a batch `x`."""
        return self.network(x)

    def measure(self, batch: Any) -> tuple[dict[str, Tensor], int]:
        """Return the metrics of a batch, means under their names, and how many they average."""
        raise NotImplementedError

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

    def on_fit_start(self) -> None:
        """Check the first batch of this run."""
        self._checked = False

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's sums."""
        self._reset("train")

    def on_validation_epoch_start(self) -> None:
        """Forget the last pass's sums."""
        self._reset("val")

    def on_test_epoch_start(self) -> None:
        """Forget the last pass's sums."""
        self._reset("test")

    def on_train_epoch_end(self) -> None:
        """Log ``train_loss``."""
        self._log_means("train")

    def on_validation_epoch_end(self) -> None:
        """Log the ``val_`` metrics."""
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        """Log the ``test_`` metrics."""
        self._log_means("test")

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its scheduler."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("network has no trainable parameter")
        if self.optimizer_factory is not None:
            optimizer = self.optimizer_factory(parameters)
        else:
            fused = fitting.can_fuse(parameters, str(self.trainer.precision))
            optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=fused)
        if self.scheduler_factory is None:
            return optimizer
        scheduler = self.scheduler_factory(optimizer)
        config = {"scheduler": scheduler, "interval": self.scheduler_interval}
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            config["monitor"] = "val_loss"
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _add(self, stage: str, metrics: dict[str, Tensor], samples: int) -> None:
        for name, value in metrics.items():
            value = value.detach()
            if value.dtype in (torch.float16, torch.bfloat16):
                value = value.float()
            key = f"{stage}_{name}"
            weighted = value * samples
            self._sums[key] = self._sums[key] + weighted if key in self._sums else weighted
            self._counts[key] = self._counts.get(key, 0) + samples

    def _reset(self, stage: str) -> None:
        for key in [key for key in self._sums if key.startswith(f"{stage}_")]:
            del self._sums[key], self._counts[key]

    def _log_means(self, stage: str) -> None:
        for key, total in self._sums.items():
            if key.startswith(f"{stage}_"):
                samples = self._counts[key]
                self.log(key, total / samples, batch_size=samples, sync_dist=True)
        self._reset(stage)


class Regressor(Learner):
    """Fit a network to real targets; logs ``train_loss``, ``val_loss`` and ``test_loss``.

    Batches are ``(x, y)``; with the default loss (mean squared error) the prediction must have
    the shape of ``y``, because broadcasting (n, 1) against (n,) gives a wrong loss in silence.

    Args, Raises: as :class:`Learner`.
    """

    def measure(self, batch: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], int]:
        """Return the loss of a batch and its number of samples."""
        x, y = batch
        prediction = self(x)
        if self.loss is not None:
            return {"loss": self.loss(prediction, y)}, len(y)
        if prediction.shape != y.shape:
            raise ValueError(
                f"prediction of shape {tuple(prediction.shape)} and target of shape "
                f"{tuple(y.shape)}: they must be equal"
            )
        return {"loss": F.mse_loss(prediction, y)}, len(y)


class Classifier(Learner):
    """Fit a network to class indices; logs ``…_loss``, ``val_accuracy`` and ``test_accuracy``.

    Batches are ``(x, y)`` with ``y`` of shape ``(batch,)``, int64; the network returns logits
    ``(batch, classes)``. The default loss is the cross-entropy of the logits.

    Args, Raises: as :class:`Learner`.
    """

    def measure(self, batch: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], int]:
        """Return loss and accuracy of a batch and its number of samples."""
        x, y = batch
        logits = self(x)
        if not self._checked:
            self._check(logits, y)
        loss = F.cross_entropy(logits, y) if self.loss is None else self.loss(logits, y)
        if self.training:
            return {"loss": loss}, len(y)
        return {"loss": loss, "accuracy": (logits.argmax(-1) == y).float().mean()}, len(y)

    def _check(self, logits: Tensor, y: Tensor) -> None:
        """Check shapes, and that the network has an output for every class (once a run)."""
        if logits.dim() != 2 or y.dim() != 1 or len(logits) != len(y):
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} and targets of shape {tuple(y.shape)}: "
                "(batch, classes) and (batch,) are needed"
            )
        if y.is_floating_point():
            raise ValueError(f"targets of type {y.dtype}: class indices are integers")
        data = getattr(self._trainer, "datamodule", None)
        classes = getattr(data, "num_classes", None) or int(y.max()) + 1
        if classes > logits.shape[1]:
            raise ValueError(
                f"network gives {logits.shape[1]} logits for {classes} classes: "
                "its last layer needs an output for every class"
            )
        self._checked = True


class LanguageModel(Learner):
    """Fit a network to the next token; logs ``…_loss`` (nats a token) and ``…_perplexity``.

    Batches are ``(x, y)`` of token ids ``(batch, time)``, or ``x`` alone, which is then predicted
    from itself shifted by one. The network returns logits ``(batch, time, vocabulary)``. A
    target of -100 is not counted.

    Args, Raises: as :class:`Learner`; `loss` takes ``(batch * time, vocabulary)`` and
    ``(batch * time,)``.
    """

    def measure(self, batch: Any) -> tuple[dict[str, Tensor], int]:
        """Return the loss of a batch and its number of tokens."""
        if isinstance(batch, tuple | list) and len(batch) == 1:
            batch = batch[0]
        x, y = batch if isinstance(batch, tuple | list) else (batch[:, :-1], batch[:, 1:])
        logits = self(x)
        if not self._checked:
            if logits.dim() != 3 or logits.shape[:2] != y.shape:
                raise ValueError(
                    f"logits of shape {tuple(logits.shape)} and targets of shape "
                    f"{tuple(y.shape)}: (batch, time, vocabulary) and (batch, time) are needed"
                )
            self._checked = True
        loss = F.cross_entropy if self.loss is None else self.loss
        return {"loss": loss(logits.flatten(0, 1), y.flatten())}, y.numel()

    def _log_means(self, stage: str) -> None:
        key = f"{stage}_loss"
        if key in self._sums:
            mean = self._sums[key] / self._counts[key]
            if self.trainer.world_size > 1:
                mean = self.trainer.strategy.reduce(mean, reduce_op="mean")
            self.log(f"{stage}_perplexity", mean.exp())
        super()._log_means(stage)


@dataclass(frozen=True)
class FitResult:
    """What a training run gave.

    Attributes:
        module: the trained LightningModule.
        trainer: the Lightning Trainer that trained it.
        step_losses: training loss at each optimizer step (each batch under manual
            optimization), from step 0 also when the run was resumed.
        history: for each epoch, the metrics logged by its end.
        metrics: the last values of all metrics.
        seconds: wall-clock time of the training (and test).
    """

    module: pl.LightningModule
    trainer: pl.Trainer
    step_losses: list[float]
    history: list[dict[str, float]]
    metrics: dict[str, float]
    seconds: float


def fit(
    module: pl.LightningModule,
    data: Any,
    *,
    epochs: int = 1,
    max_steps: int | None = None,
    accelerator: Any = "cpu",
    devices: Any = 1,
    strategy: Any = "auto",
    precision: Any = "auto",
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    checkpoint_dir: str | Path | None = None,
    resume_from: str | Path | None = None,
    progress: bool = False,
    test: bool = False,
    channels_last: bool = True,
    **trainer_options: Any,
) -> FitResult:
    """Train `module` on `data` and return what happened.

    The same arguments, data and initial weights give the same result, bit for bit: `seed` governs
    the order of the batches and all random numbers drawn in training, which start anew from
    ``(seed, epoch, process)`` at every epoch. The initial weights are not its business (the
    network exists already): call ``torch.manual_seed`` before building it. The caller's random
    states (Python, NumPy, PyTorch) and deterministic-algorithms setting are restored afterwards.

    Args:
        module: a LightningModule. Under manual optimization its ``training_step`` must return
            the loss.
        data: a LightningDataModule, or an iterable of training batches.
        epochs: passes over the training data, at least 1.
        max_steps: stop after this many optimizer steps *instead of* after `epochs`.
        accelerator: ``"cpu"``, ``"gpu"``, ``"tpu"``, ``"mps"``, ``"auto"``, or an instance of
            Lightning's ``Accelerator``.
        devices: how many, or which, as in Lightning's Trainer.
        strategy: as in Lightning's Trainer.
        precision: as in Lightning's Trainer; ``"auto"`` takes ``"64-true"`` for a float64
            network, else ``"bf16-mixed"`` where the device multiplies in bfloat16 and
            optimization is automatic, else ``"32-true"``.
        seed: a non-negative integer.
        callbacks: more Lightning callbacks.
        checkpoint_dir: write ``last.ckpt`` there, atomically, at the end of each whole epoch.
        resume_from: such a file, or its directory, to go on from; the result is that of an
            undisturbed run, earlier steps included.
        progress: show a progress bar.
        test: evaluate on the test set at the end.
        channels_last: store convolution weights in channels_last order where the inputs are
            images ``(batch, channels, height, width)``. Activations then have that order too:
            use ``flatten`` or ``reshape``, not ``view``.
        trainer_options: any other argument of Lightning's Trainer.

    Raises:
        ValueError: an argument that cannot be met, in one line.
        NonFiniteLossError: the loss became infinite or not a number; names step and causes.
    """
    fitting.check_arguments(
        module, data, epochs, max_steps, accelerator, devices, seed, trainer_options
    )
    checkpoint = None if resume_from is None else fitting.find_checkpoint(resume_from)
    journal = fitting.Journal(seed, data, checkpoint_dir)
    start = time.perf_counter()
    with fitting.quiet(), fitting.isolated(accelerator, seed, trainer_options):
        trainer = pl.Trainer(
            **fitting.trainer_arguments(
                trainer_options,
                accelerator=accelerator,
                devices=devices,
                strategy=strategy,
                precision=fitting.choose_precision(module, accelerator, precision),
                max_epochs=epochs if max_steps is None else -1,
                max_steps=-1 if max_steps is None else max_steps,
                callbacks=[*callbacks, journal],
                enable_progress_bar=progress,
            )
        )
        if channels_last:
            fitting.use_channels_last(module, data)
        epoch = 0 if checkpoint is None else fitting.check_seed(checkpoint, seed)
        fitting.seed_epoch(seed, epoch)
        if isinstance(data, pl.LightningDataModule):
            if hasattr(data, "order_seed"):
                data.order_seed = seed
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        else:
            trainer.fit(module, data, ckpt_path=checkpoint)
        metrics = fitting.as_floats(trainer.callback_metrics)
        if test:
            metrics |= _evaluate(trainer, module, data, "test")
    seconds = time.perf_counter() - start
    return FitResult(module, trainer, journal.step_losses, journal.history, metrics, seconds)


def evaluate(
    module: pl.LightningModule,
    data: Any,
    *,
    split: str = "test",
    accelerator: Any = "cpu",
    devices: Any = 1,
    strategy: Any = "auto",
    precision: Any = "auto",
    seed: int = 0,
    **trainer_options: Any,
) -> dict[str, float]:
    """Return the metrics of `module` on the ``"test"`` or ``"validation"`` part of `data`.

    Arguments and errors as in :func:`fit`; `data` may be an iterable of batches.

    Raises:
        ValueError: an argument that cannot be met, or an unknown `split`.
    """
    if split not in ("test", "validation"):
        raise ValueError(f"split={split!r}: 'test' or 'validation'")
    fitting.check_arguments(module, data, 1, None, accelerator, devices, seed, trainer_options)
    with fitting.quiet(), fitting.isolated(accelerator, seed, trainer_options):
        trainer = pl.Trainer(
            **fitting.trainer_arguments(
                trainer_options,
                accelerator=accelerator,
                devices=devices,
                strategy=strategy,
                precision=fitting.choose_precision(module, accelerator, precision),
                enable_checkpointing=False,
                enable_progress_bar=False,
            )
        )
        fitting.seed_epoch(seed, 0)
        return _evaluate(trainer, module, data, split)


def _evaluate(
    trainer: pl.Trainer, module: pl.LightningModule, data: Any, split: str
) -> dict[str, float]:
    run = trainer.test if split == "test" else trainer.validate
    key = "datamodule" if isinstance(data, pl.LightningDataModule) else "dataloaders"
    return fitting.as_floats(run(module, verbose=False, **{key: data})[0])
