"""What ``companion.training.fit`` is made of: checks, seeds, silence, journal, checkpoints."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import Accelerator, AcceleratorRegistry
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import CheckpointIO, TorchCheckpointIO
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

READ_EVERY = 50  # steps between two looks at the losses on an accelerator
CHECKPOINT = "last.ckpt"
KNOWN = ("cpu", "gpu", "tpu", "mps", "auto")


class NonFiniteLossError(RuntimeError):
    """The training loss became infinite or not a number."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints under a temporary name and rename them; read tensors and plain data only.

    All tensors are moved to the CPU first, so a checkpoint can be read on any machine.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write `checkpoint`; a process killed meanwhile leaves the file of before."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        try:
            with open(temporary, "wb") as stream:
                torch.save(tree_map_only(Tensor, lambda t: t.detach().cpu(), checkpoint), stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint with ``weights_only=True``, whatever the caller asks for.

        Raises:
            ValueError: the file is damaged, or holds more than tensors and plain data.
        """
        return load(Path(path))


def load(path: Path) -> dict[str, Any]:
    """Read the checkpoint `path`; errors as in :meth:`AtomicCheckpointIO.load_checkpoint`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"resume_from={str(path)!r} cannot be read: {reason}") from error


class Journal(Checkpoint):
    """Record losses and metrics, stop at a loss that is not finite, seed and save each epoch.

    A ``Checkpoint`` to Lightning, so that its epoch-end hook comes after all others. Losses
    stay on an accelerator and are read every 50 steps and at the epoch's end, so that no step
    waits for the one before; on a CPU each is read at once.
    """

    def __init__(self, seed: int, data: Any, directory: str | Path | None) -> None:
        self.seed = seed
        self.data = data
        self.directory = None if directory is None else Path(directory)
        self.step_losses: list[float] = []
        self.history: list[dict[str, float]] = []
        self._unread: list[Tensor] = []
        self._partial: Tensor | None = None
        self._steps = 0
        self._first_epoch = True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        losses = torch.tensor(self.step_losses, dtype=torch.float64)
        return {"seed": self.seed, "step_losses": losses, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self.step_losses = state_dict["step_losses"].tolist()
        self.history = [dict(epoch) for epoch in state_dict["history"]]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where the optimizer stands."""
        self._steps = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed what a loader draws in this epoch (`fit` did it for the first)."""
        if not self._first_epoch:
            seed_epoch(self.seed, trainer.current_epoch, trainer.global_rank)
        self._first_epoch = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed what the module draws in this epoch."""
        if batch_idx == 0:
            seed_epoch(self.seed, trainer.current_epoch, trainer.global_rank, stream=1)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the loss of an optimizer step; micro-batches of one step are added up."""
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
        if loss.device.type == "cpu" or len(self._unread) >= READ_EVERY:
            self._read(batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read what is unread, note the metrics, write the checkpoint of a whole epoch."""
        self._partial = None
        self._read(None)
        self.history.append(as_floats(trainer.callback_metrics))
        if self.directory is not None and trainer.is_last_batch:
            trainer.save_checkpoint(self.directory / CHECKPOINT)

    def _read(self, batch: Any) -> None:
        if not self._unread:
            return
        if len(self._unread) == 1:
            losses = [float(self._unread[0])]
        else:
            losses = torch.stack(self._unread).tolist()
        self._unread = []
        for loss in losses:
            self.step_losses.append(loss)
            if loss - loss != 0:
                raise NonFiniteLossError(
                    f"the training loss is {loss} at step {len(self.step_losses) - 1}. "
                    f"{_causes(self.data, batch)}"
                )


def _causes(data: Any, batch: Any) -> str:
    for name, part in (("training data", getattr(data, "train", None)), ("batch", batch)):
        tensors = [t for t in part or () if isinstance(t, Tensor)] if part is not batch else batch
        for tensor in tensors if isinstance(tensors, tuple | list) else [tensors]:
            if isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all()):
                return f"The {name} hold NaN or infinite values: clean them first."
    return (
        "Likely causes: the learning rate is too high; the logarithm of 0 or a division by 0 in "
        "the network or the loss; overflow in 16-bit precision (try precision='32-true')."
    )


def seed_epoch(seed: int, epoch: int, rank: int = 0, stream: int = 0) -> None:
    """Seed Python, NumPy and PyTorch with a function of the arguments."""
    state = np.random.SeedSequence([seed, epoch, rank, stream]).generate_state(3, np.uint64)
    random.seed(int(state[0]))
    np.random.seed(int(state[1] >> 32))
    torch.manual_seed(int(state[2] >> 1))


def check_seed(path: Path, seed: int) -> int:
    """Return the epoch at which the checkpoint `path` goes on; its seed must be `seed`."""
    checkpoint = load(path)
    state = checkpoint.get("callbacks", {}).get(Journal.__qualname__, {})
    if state.get("seed", seed) != seed:
        raise ValueError(f"seed={seed}: the checkpoint was made with seed {state['seed']}")
    return int(checkpoint["epoch"]) + 1


def find_checkpoint(resume_from: str | Path) -> Path:
    """Return the checkpoint file that `resume_from`, a file or its directory, means."""
    path = Path(resume_from)
    if path.is_dir():
        path = path / CHECKPOINT
    if not path.is_file():
        raise ValueError(f"resume_from={str(resume_from)!r}: there is no checkpoint {path}")
    return path


def check_arguments(
    module: Any,
    data: Any,
    epochs: Any,
    max_steps: Any,
    accelerator: Any,
    devices: Any,
    seed: Any,
    trainer_options: Mapping[str, Any],
) -> None:
    """Raise ValueError, in one line, for the first argument of ``fit`` that cannot be met."""
    if not isinstance(module, pl.LightningModule):
        raise ValueError(
            f"module={type(module).__name__}: a LightningModule is needed, "
            "for instance Classifier(network)"
        )
    for name, value, least in (
        ("epochs", epochs, 1),
        ("max_steps", max_steps, 1),
        ("seed", seed, 0),
    ):
        if name == "max_steps" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: an integer of at least {least} is needed")
    if isinstance(data, Tensor) or not (
        isinstance(data, pl.LightningDataModule) or hasattr(data, "__iter__")
    ):
        raise ValueError(
            f"data={type(data).__name__}: a LightningDataModule or an iterable of batches is needed"
        )
    known = set(inspect.signature(pl.Trainer).parameters)
    for name in trainer_options:
        if name in ("max_epochs", "enable_progress_bar"):
            raise ValueError(f"{name}: use epochs and progress")
        if name not in known:
            raise ValueError(f"{name}={trainer_options[name]!r}: no argument of fit or Trainer")
    check_accelerator(accelerator, devices)


def check_accelerator(accelerator: Any, devices: Any) -> None:
    """Raise ValueError if this machine does not have the accelerator or that many devices."""
    count: int | None = None
    if isinstance(accelerator, str):
        name = {"cuda": "gpu"}.get(accelerator, accelerator)
        if name not in KNOWN:
            raise ValueError(f"accelerator={accelerator!r} is unknown; known: {', '.join(KNOWN)}")
        kinds = {"gpu": ("cuda", "mps"), "auto": ()}.get(name, (name,))
        found = [k for k in map(AcceleratorRegistry.get, kinds) if k.is_available()]
        if kinds and not found:
            missing = {
                "gpu": f"no CUDA GPU that torch {torch.__version__} can use",
                "tpu": "no TPU that torch_xla can use",
                "mps": "no Apple GPU",
            }[name]
            raise ValueError(
                f"accelerator={accelerator!r}: this machine has {missing}; accelerator='cpu' "
                "runs everywhere"
            )
        if found and name != "cpu":
            count = found[0].auto_device_count()
    elif not isinstance(accelerator, Accelerator):
        raise ValueError(
            f"accelerator={accelerator!r}: one of {', '.join(KNOWN)} or an Accelerator is needed"
        )
    if isinstance(devices, bool) or not isinstance(devices, int | str | list | tuple):
        raise ValueError(f"devices={devices!r}: a number, a list of indices or 'auto' is needed")
    if devices == 0 or (isinstance(devices, int) and devices < -1) or devices in ("", [], ()):
        raise ValueError(f"devices={devices!r}: at least 1 is needed (-1 means all)")
    if count is not None and isinstance(devices, int) and devices > count:
        raise ValueError(f"devices={devices}: accelerator={accelerator!r} has {count} here")


def choose_precision(module: nn.Module, accelerator: Any, precision: Any) -> Any:
    """Return `precision`, or for ``"auto"`` the fastest that suits network and device."""
    if precision != "auto":
        return precision
    types = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if types == {torch.float64}:
        return "64-true"
    if types != {torch.float32} or not module.automatic_optimization:
        return "32-true"
    if accelerator == "cpu":
        fast = multiplies_bfloat16()
    else:
        fast = accelerator in ("gpu", "cuda", "auto") and _gpu_multiplies_bfloat16()
    return "bf16-mixed" if fast else "32-true"


def multiplies_bfloat16() -> bool:
    """Tell whether this processor has instructions that multiply bfloat16 numbers."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags: set[str] = set()
    for line in lines:
        if line.lower().startswith(("flags", "features")):
            flags.update(line.partition(":")[2].split())
            break
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _gpu_multiplies_bfloat16() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8


def can_fuse(parameters: list[nn.Parameter], precision: str) -> bool:
    """Tell whether the fused optimizer runs on these parameters (not on XLA devices)."""
    return precision != "16-mixed" and all(
        p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for p in parameters
    )


def use_channels_last(module: nn.Module, data: Any) -> None:
    """Store 4-D weights in channels_last order if the first batch holds images."""
    if not any(p.dim() == 4 for p in module.parameters()):
        return
    if isinstance(data, pl.LightningDataModule):
        shape = getattr(data, "input_shape", None)
        if shape is not None and len(shape) != 3:
            return
    module.to(memory_format=torch.channels_last)


def trainer_arguments(options: Mapping[str, Any], **arguments: Any) -> dict[str, Any]:
    """Return the arguments of the Trainer: our defaults, then `arguments`, then `options`."""
    defaults = {
        "logger": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1_000_000,
    }
    merged = defaults | arguments | dict(options)
    plugins = merged.get("plugins") or []
    plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())
    return merged | {"plugins": plugins}


def as_floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics as plain numbers."""
    return {name: float(value) for name, value in metrics.items()}


@contextlib.contextmanager
def isolated(accelerator: Any, seed: int, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn deterministic algorithms on and keep the caller's random states, for a while."""
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    with isolate_rng(include_cuda=accelerator != "cpu"):
        try:
            if options.get("deterministic") is None:
                torch.use_deterministic_algorithms(True, warn_only=True)
                torch.utils.deterministic.fill_uninitialized_memory = False
            yield
        finally:
            torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
            torch.utils.deterministic.fill_uninitialized_memory = fill
            torch.backends.cudnn.benchmark = benchmark


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's log lines and warnings, and nobody else's."""
    loggers = [
        logging.getLogger(name)
        for name in ("pytorch_lightning", "lightning_fabric", "lightning", "lightning.pytorch")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for category, module in itertools.product(
            (UserWarning, FutureWarning, DeprecationWarning),
            ("pytorch_lightning", "lightning_fabric", "lightning_utilities", "torchmetrics"),
        ):
            warnings.filterwarnings("ignore", category=category, module=module)
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
