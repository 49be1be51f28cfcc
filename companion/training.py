"""Train a network: Regressor, Classifier, LanguageModel, and ``fit`` with fast defaults.

    result = fit(Classifier(network), Digits(), epochs=5)
    result.metrics["val_accuracy"], result.step_losses

The modules are plain LightningModules and run under any ``Trainer``. ``fit`` builds a Trainer
whose defaults suit a small machine: whole batches, channels_last convolutions, a fused
optimizer, bfloat16 autocast where the processor multiplies in it, metrics on epoch end only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F

from companion import checkpoints, fitting, journal
from companion.arguments import check_integer
from companion.journal import NonFiniteLossError
from companion.learner import Learner, OptimizerFactory, SchedulerFactory

__all__ = [
    "Classifier",
    "FitResult",
    "LanguageModel",
    "Learner",
    "NonFiniteLossError",
    "OptimizerFactory",
    "Regressor",
    "SchedulerFactory",
    "evaluate",
    "fit",
]


def _in_full(output: Tensor) -> Tensor:
    """Return `output` in single precision if it has less.

    Autocast computes torch's own losses in single precision; a loss of the caller's would be
    computed in bfloat16, with three digits.
    """
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


class Regressor(Learner):
    """Fit a network to real targets; logs ``train_loss``, ``val_loss`` and ``test_loss``.

    Batches are ``(x, y)``. With the default loss, the mean squared error, the prediction must
    have the shape of ``y``: broadcasting (n, 1) against (n,) gives a wrong loss in silence.

    Args and errors: as :class:`companion.learner.Learner`.
    """

    def measure(self, batch: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], int]:
        """Return the loss of a batch and its number of samples."""
        x, y = batch
        prediction = self(x)
        if self.loss is not None:
            return {"loss": self.loss(_in_full(prediction), y)}, len(y)
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

    Args and errors: as :class:`companion.learner.Learner`.
    """

    def measure(self, batch: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], int]:
        """Return loss and, outside of training, accuracy of a batch, and its number of samples."""
        x, y = batch
        logits = self(x)
        if not self._checked:
            self._check(logits, y)
        loss = self.criterion(logits, y)
        if self.training:
            return {"loss": loss}, len(y)
        return {"loss": loss, "accuracy": (logits.argmax(dim=-1) == y).to(loss).mean()}, len(y)

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss of logits (batch, classes) against class indices (batch,)."""
        return F.cross_entropy(logits, y) if self.loss is None else self.loss(_in_full(logits), y)

    def _check(self, logits: Tensor, y: Tensor) -> None:
        """Check the shapes, and that there is an output for every class."""
        if logits.dim() != 2 or y.shape != logits.shape[:1]:
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} and targets of shape {tuple(y.shape)}: "
                "(batch, classes) and (batch,) are needed"
            )
        if y.is_floating_point():
            raise ValueError(f"targets of type {y.dtype}: class indices are integers")
        data = self._trainer.datamodule if self._trainer is not None else None
        classes = getattr(data, "num_classes", None) or (int(y.max()) + 1 if len(y) else 0)
        if classes > logits.shape[1]:
            raise ValueError(
                f"network has {logits.shape[1]} outputs and the data {classes} classes: "
                "the last layer needs an output for every class"
            )
        self._checked = True


class LanguageModel(Learner):
    """Fit a network to the next token; logs ``…_loss`` (nats a token) and ``…_perplexity``.

    Batches are ``(x, y)`` of token ids ``(batch, time)``; or ``x`` alone, which is then predicted
    from itself, shifted by one. The network returns logits ``(batch, time, vocabulary)``. A
    target of -100 does not count. ``loss`` takes ``(batch * time, vocabulary)`` and
    ``(batch * time,)``, by default the cross-entropy.

    Args and errors: as :class:`companion.learner.Learner`.
    """

    IGNORED = -100

    def measure(self, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss of a batch and its number of tokens that count."""
        if isinstance(batch, tuple | list) and len(batch) == 1:
            batch = batch[0]
        x, y = (batch[:, :-1], batch[:, 1:]) if isinstance(batch, Tensor) else batch
        logits = self(x)
        if logits.dim() != 3 or logits.shape[:2] != y.shape:
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} and targets of shape {tuple(y.shape)}: "
                "(batch, time, vocabulary) and (batch, time) are needed"
            )
        loss = F.cross_entropy if self.loss is None else self.loss
        return {"loss": loss(_in_full(logits).flatten(0, 1), y.flatten())}, (
            y != self.IGNORED
        ).sum()

    def derive(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the perplexity, ``exp(loss)`` of the epoch's mean loss."""
        return {"perplexity": means["loss"].exp()}


@dataclass(frozen=True)
class FitResult:
    """What a training run gave.

    Attributes:
        module: the trained LightningModule.
        trainer: the Lightning Trainer that trained it.
        step_losses: training loss at each optimizer step (under manual optimization, of each
            batch), the mean over all processes. After resuming it begins at step 0 too.
        history: for each epoch, the metrics at its end.
        metrics: the last value of every metric.
        seconds: wall-clock time of the call.
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

    The same arguments, data and initial weights give the same result, bit for bit, on one
    machine: `seed` governs the order of the batches and all random numbers of the training,
    which start anew in every epoch from ``(seed, epoch, process)``. Initial weights are made
    before: call ``torch.manual_seed`` ahead of building the network. The caller's random states
    (Python, NumPy, PyTorch) and choice of deterministic algorithms are restored at the end.

    Args:
        module: a LightningModule. Under manual optimization its ``training_step`` must return
            the loss.
        data: a LightningDataModule, or a loader of training batches.
        epochs: passes over the training data, at least 1.
        max_steps: stop after this many optimizer steps *instead of* after `epochs`.
        accelerator: ``"cpu"``, ``"gpu"``, ``"cuda"``, ``"mps"``, ``"tpu"``, ``"auto"``, or an
            instance of Lightning's ``Accelerator``.
        devices: how many, or which, as in Lightning's Trainer.
        strategy: as in Lightning's Trainer.
        precision: as in Lightning's Trainer. ``"auto"`` takes ``"64-true"`` for a float64
            network, else ``"bf16-mixed"`` where the device multiplies in bfloat16 and the
            optimization is automatic, else ``"32-true"``.
        seed: a non-negative integer.
        callbacks: further Lightning callbacks.
        checkpoint_dir: write ``last.ckpt`` there, atomically, at the end of each whole epoch.
        resume_from: such a file, or its directory, to go on from. The result is that of an
            undisturbed run, with the steps before.
        progress: show a progress bar.
        test: evaluate on the test set at the end.
        channels_last: store convolution weights in channels_last order. Activations then have it
            too: after a convolution use ``flatten`` or ``reshape``, not ``view``.
        trainer_options: any other argument of Lightning's Trainer.

    Raises:
        ValueError: an argument that cannot be met, in one line.
        NonFiniteLossError: the loss became infinite or not a number; names step and causes.
    """
    start = time.perf_counter()
    check_integer("epochs", epochs, minimum=1)
    check_integer("seed", seed, minimum=0)
    if max_steps is not None:
        check_integer("max_steps", max_steps, minimum=1)
    fitting.check_inputs(module, data, callbacks, trainer_options)
    fitting.check_devices(accelerator, devices)
    checkpoint = None if resume_from is None else checkpoints.find(resume_from)
    epoch = 0 if checkpoint is None else journal.resume_epoch(checkpoint, seed)
    if max_steps is None and epoch > epochs:
        raise ValueError(f"epochs={epochs}: the checkpoint {checkpoint} has {epoch} already")
    if test:
        _check_part(data, "test")
    if precision == "auto":
        precision = fitting.choose_precision(module, accelerator, devices)
    directory = None if checkpoint_dir is None else checkpoints.prepare(checkpoint_dir)
    diary = journal.Journal(seed, data, directory)
    with fitting.quiet(), fitting.isolated(trainer_options):
        trainer = fitting.make_trainer(
            trainer_options,
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            precision=precision,
            max_epochs=epochs if max_steps is None else -1,
            max_steps=-1 if max_steps is None else max_steps,
            callbacks=[*callbacks, diary],
            enable_progress_bar=progress,
        )
        if channels_last:
            fitting.use_channels_last(module, accelerator)
        if hasattr(data, "order_seed"):
            data.order_seed = seed
        journal.seed_everything(seed, epoch)
        try:
            trainer.fit(module, data, ckpt_path=checkpoint)
        except Exception as error:
            if cause := journal.cause_in_process(error):
                raise cause from error
            if "Error(s) in loading state_dict" in str(error):
                raise ValueError(
                    f"resume_from={str(resume_from)!r}: its weights are of another network"
                ) from error
            if channels_last and "view size is not compatible" in str(error):
                error.add_note(
                    "fit stores convolutions in channels_last order: use flatten or reshape "
                    "instead of view, or pass channels_last=False"
                )
            raise
        diary.collect()
        if not diary.step_losses and not trainer.global_step:
            raise ValueError("data: it gives no training batch")
        metrics = fitting.as_floats(trainer.callback_metrics) or dict(*diary.history[-1:])
        if test:
            metrics |= _evaluate(trainer, module, data, "test")
    seconds = time.perf_counter() - start
    return FitResult(module, trainer, diary.step_losses, diary.history, metrics, seconds)


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
    """Return the metrics of `module` on one part of `data`; it is not trained.

    Args:
        split: ``"test"`` or ``"validation"``; says nothing if `data` is a loader.
        module, data, accelerator, devices, strategy, precision, seed, trainer_options: as in
            :func:`fit`.

    Raises:
        ValueError: an argument that cannot be met, in one line.
    """
    if split not in ("test", "validation"):
        raise ValueError(f"split={split!r}: 'test' or 'validation' is needed")
    check_integer("seed", seed, minimum=0)
    fitting.check_inputs(module, data, (), trainer_options)
    fitting.check_devices(accelerator, devices)
    _check_part(data, split)
    if precision == "auto":
        precision = fitting.choose_precision(module, accelerator, devices)
    with fitting.quiet(), fitting.isolated(trainer_options):
        trainer = fitting.make_trainer(
            trainer_options,
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            precision=precision,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        journal.seed_everything(seed, 0)
        return _evaluate(trainer, module, data, split)


def _check_part(data: Any, split: str) -> None:
    """Raise ValueError if `data` is known to have no such part."""
    if getattr(data, "train", None) is not None and getattr(data, split, data) is None:
        raise ValueError(f"data: it has no {split} set")


def _evaluate(
    trainer: pl.Trainer, module: pl.LightningModule, data: Any, split: str
) -> dict[str, float]:
    results = (trainer.test if split == "test" else trainer.validate)(module, data, verbose=False)
    if not results or not results[0]:
        raise ValueError(f"data: it has no {split} set")
    return fitting.as_floats(results[0])
