"""The diary of a training run: losses, metrics, seeds, checkpoints, and the stop at a NaN."""

from __future__ import annotations

import math
import os
import random
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException

from companion import checkpoints
from companion.fitting import hush

READ_EVERY = 50  # steps between two looks at losses that live on an accelerator


class NonFiniteLossError(RuntimeError):
    """The training loss became infinite or not a number."""


class Journal(Checkpoint):
    """Record losses and metrics, stop at a loss that is not finite, seed and save every epoch.

    To Lightning it is a ``Checkpoint``, so its epoch-end hook comes after those of the module
    and of other callbacks, when all metrics are there.

    On one CPU each loss is read at once. On an accelerator, where reading would make the host
    wait for the device, and with several processes, which average their losses, they are read
    every 50 steps and at the epoch's end.

    Args:
        seed: of the run.
        data: looked at for NaN when the loss is not finite.
        directory: where to write ``last.ckpt`` after each whole epoch, or None.

    Attributes:
        step_losses: training loss at each optimizer step; the mean over the processes.
        history: for each epoch, the metrics at its end.
    """

    def __init__(self, seed: int, data: Any = None, directory: str | Path | None = None) -> None:
        self.seed = seed
        self.data = data
        self.directory = None if directory is None else Path(directory)
        self.step_losses: list[float] = []
        self.history: list[dict[str, float]] = []
        self._unread: list[Tensor] = []
        self._partial: Tensor | None = None
        self._steps = 0
        self._max_steps = -1
        self._seeded = False
        self._process = os.getpid()
        self._outbox = Path(tempfile.gettempdir()) / f"companion-journal-{uuid.uuid4().hex}.pt"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in a process that a strategy spawned; Lightning is to be silent there too."""
        self.__dict__.update(state)
        hush()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        losses = torch.tensor(self.step_losses, dtype=torch.float64)
        return {"seed": self.seed, "step_losses": losses, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self.step_losses = state_dict["step_losses"].tolist()
        self.history = [dict(epoch) for epoch in state_dict["history"]]

    def collect(self) -> None:
        """Take over what the journal of a spawned process left."""
        if self._outbox.exists():
            self.load_state_dict(checkpoints.load(self._outbox))
            self._outbox.unlink()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hide ``max_steps`` while Lightning restores its loops.

        With a limit of steps it takes a checkpoint from the end of an epoch for one from its
        middle, ends that epoch twice and counts epochs wrongly from then on.
        """
        self._max_steps = trainer.max_steps
        if self.history:
            trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where the optimizer stands, and finish what the checkpoint came too early for."""
        trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        self._steps = trainer.global_step
        if self.history:
            self._step_plateau_schedulers(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed what the loader draws in this epoch.

        In the run's first epoch the loader's iterator exists already, and ``fit`` has seeded it;
        but Lightning before 2.5.3, when it resumes, makes another.
        """
        makes_another = trainer.current_epoch > 0 and not hasattr(trainer.fit_loop, "is_resuming")
        if self._seeded or makes_another:
            seed_everything(self.seed, trainer.current_epoch)
        self._seeded = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed what the module draws in this epoch, differently for each share of the data."""
        if batch_idx == 0:
            rank = (trainer.distributed_sampler_kwargs or {}).get("rank", 0)
            seed_everything(self.seed, trainer.current_epoch, 1 + rank)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the loss of an optimizer step; those of accumulated batches add up to it."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            return
        loss = loss.detach()
        if self._partial is not None:
            loss = self._partial + loss
        if pl_module.automatic_optimization and trainer.global_step == self._steps:
            self._partial = loss
            return
        self._partial, self._steps = None, trainer.global_step
        self._unread.append(loss)
        at_once = loss.device.type == "cpu" and trainer.world_size == 1
        if at_once or len(self._unread) >= READ_EVERY:
            self._read(trainer, batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read what is unread, note the metrics, write the checkpoint of a whole epoch."""
        self._partial = None
        self._read(trainer, None)
        metrics = trainer.callback_metrics
        self.history.append({name: float(value) for name, value in metrics.items()})
        if self.directory is not None and trainer.is_last_batch:
            trainer.save_checkpoint(self.directory / checkpoints.LAST)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In a spawned process, leave the records for the process that started it."""
        if os.getpid() != self._process and trainer.is_global_zero:
            partial = self._outbox.with_suffix(".partial")
            checkpoints.save(self.state_dict(), self._outbox, partial)

    def _step_plateau_schedulers(self, trainer: pl.Trainer) -> None:
        """Move the schedulers that Lightning moves last in an epoch, after it was saved."""
        for config in trainer.lr_scheduler_configs:
            due = config.interval == "epoch" and trainer.current_epoch % config.frequency == 0
            if config.reduce_on_plateau and due and config.monitor in self.history[-1]:
                config.scheduler.step(self.history[-1][config.monitor])

    def _read(self, trainer: pl.Trainer, batch: Any) -> None:
        if not self._unread:
            return
        losses, self._unread = self._unread, []
        if trainer.world_size > 1:
            values = trainer.strategy.reduce(torch.stack(losses), reduce_op="mean").tolist()
        else:
            values = torch.stack(losses).tolist() if len(losses) > 1 else [losses[0].item()]
        for value in values:
            self.step_losses.append(value)
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"the training loss is {value} at step {len(self.step_losses) - 1}. "
                    f"{likely_causes(self.data, batch)}"
                )


def cause_in_process(error: Exception) -> Exception | None:
    """Return the error of ours with which a spawned process ended; it arrives as a traceback."""
    kind, _, message = str(error).strip().rpartition("\n")[2].partition(": ")
    ours = {f"{NonFiniteLossError.__module__}.{NonFiniteLossError.__name__}": NonFiniteLossError}
    ours["ValueError"] = ValueError
    if isinstance(error, ProcessRaisedException) and kind in ours:
        return ours[kind](message)
    return None


def likely_causes(data: Any, batch: Any) -> str:
    """Return in one line why the loss may have stopped being a finite number."""
    for name, part in (("training data", getattr(data, "train", None)), ("batch", batch)):
        if any(not bool(torch.isfinite(tensor).all()) for tensor in _tensors(part)):
            return f"Cause: the {name} holds NaN or infinite values; clean it first."
    return (
        "Likely causes: the learning rate is too high; the network or the loss takes the "
        "logarithm of 0 or divides by 0; a number overflows in 16-bit precision "
        "(try precision='32-true'). The data hold no NaN."
    )


def _tensors(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, Mapping):
        yield from _tensors(tuple(part.values()))
    elif isinstance(part, tuple | list):
        for item in part:
            yield from _tensors(item)


def seed_everything(seed: int, epoch: int, stream: int = 0) -> None:
    """Seed Python, NumPy and PyTorch with a function of the arguments.

    Args:
        seed: of the run.
        epoch: whose random numbers start here.
        stream: 0 for what loaders draw (equal in all processes), 1 + rank for the module.
    """
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(3, np.uint64)
    random.seed(int(state[0]))
    np.random.seed(int(state[1] >> np.uint64(32)))
    torch.manual_seed(int(state[2] >> np.uint64(1)))


def resume_epoch(path: Path, seed: int) -> int:
    """Return the epoch with which a run resumed from the checkpoint `path` goes on.

    Raises:
        ValueError: the file cannot be read, is no checkpoint of ``fit``, or had another seed.
    """
    checkpoint = checkpoints.load(path, mmap=True)
    parts = checkpoint.get("callbacks", {}) if isinstance(checkpoint, dict) else {}
    state = parts.get(Journal.__qualname__)
    if state is None:
        raise ValueError(f"resume_from={str(path)!r}: this is no checkpoint that fit has written")
    if state["seed"] != seed:
        raise ValueError(f"seed={seed}: the checkpoint {path} was made with seed {state['seed']}")
    return int(checkpoint["epoch"]) + 1
