"""What ``fit`` decides before training: are the arguments possible, which precision, how quiet."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import (
    Accelerator,
    CPUAccelerator,
    CUDAAccelerator,
    MPSAccelerator,
    XLAAccelerator,
)
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from companion.checkpoints import AtomicCheckpointIO

NO_CUDA = f"no CUDA GPU that torch {torch.__version__} can use"
# accelerator as written -> Lightning's classes that can serve it, and what is missing without them
KNOWN: dict[str, tuple[tuple[type[Accelerator], ...], str]] = {
    "cpu": ((CPUAccelerator,), "no CPU"),
    "gpu": ((CUDAAccelerator, MPSAccelerator), NO_CUDA),
    "cuda": ((CUDAAccelerator,), NO_CUDA),
    "mps": ((MPSAccelerator,), "no Apple GPU that torch can use"),
    "tpu": ((XLAAccelerator,), "no TPU that torch_xla can use"),
    "auto": ((CPUAccelerator,), "no CPU"),
}
OURS = {
    "max_epochs": "epochs",
    "enable_progress_bar": "progress",
    "enable_checkpointing": "checkpoint_dir",
}
LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")


def check_inputs(module: Any, data: Any, callbacks: Any, options: Mapping[str, Any]) -> None:
    """Raise ValueError, in one line, for an argument of ``fit`` that is of the wrong kind."""
    if not isinstance(module, pl.LightningModule):
        raise ValueError(
            f"module={type(module).__name__}: a LightningModule is needed, "
            "for instance Classifier(network)"
        )
    loader = hasattr(data, "__iter__") and not isinstance(data, Tensor | list | tuple | dict | str)
    if not (isinstance(data, pl.LightningDataModule) or loader):
        raise ValueError(
            f"data={type(data).__name__}: a LightningDataModule or a loader is needed, "
            "for instance Arrays(train=(x, y))"
        )
    listed = isinstance(callbacks, list | tuple)
    if not (listed and all(isinstance(callback, pl.Callback) for callback in callbacks)):
        raise ValueError(f"callbacks={callbacks!r}: a list of Lightning callbacks is needed")
    known = inspect.signature(pl.Trainer).parameters
    for name, value in options.items():
        if name in OURS:
            raise ValueError(f"{name}={value!r}: use {OURS[name]} instead")
        if name not in known:
            raise ValueError(f"{name}={value!r}: neither fit nor Trainer has such an argument")


def check_devices(accelerator: Any, devices: Any) -> None:
    """Raise ValueError if this machine lacks the accelerator, or that many of it."""
    if isinstance(accelerator, Accelerator):
        return
    if not isinstance(accelerator, str) or accelerator not in KNOWN:
        raise ValueError(f"accelerator={accelerator!r} is unknown; known: {', '.join(KNOWN)}")
    classes, missing = KNOWN[accelerator]
    found = [kind for kind in classes if kind.is_available()]
    if not found:
        raise ValueError(
            f"accelerator={accelerator!r}: this machine has {missing}; accelerator='cpu' runs "
            "everywhere"
        )
    if isinstance(devices, int) and not isinstance(devices, bool):
        _check_count(accelerator, devices, found[0].auto_device_count())
    elif not (devices == "auto" or str(devices).isdecimal()) and (
        accelerator == "cpu" or not isinstance(devices, str | list | tuple)
    ):  # a GPU can also be given by its index, and Lightning knows which exist
        raise ValueError(f"devices={devices!r}: a positive number or 'auto' is needed")


def _check_count(accelerator: str, devices: int, count: int) -> None:
    if accelerator in ("cpu", "auto"):
        if devices < 1 and (accelerator, devices) != ("auto", -1):
            raise ValueError(f"devices={devices}: at least 1 is needed")
    elif devices == 0 or devices < -1:
        raise ValueError(f"devices={devices}: at least 1 is needed (-1 takes all)")
    elif devices > count:
        raise ValueError(f"devices={devices}: this machine has {count} for {accelerator!r}")


def choose_precision(module: pl.LightningModule, accelerator: Any, devices: Any) -> str:
    """Return the fastest precision that suits network and device.

    A hand-written backward pass (manual optimization) is left in the precision it was written
    for: inside autocast its matrix products would be rounded too.
    """
    types = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if types == {torch.float64}:
        return "64-true"
    if types != {torch.float32} or not module.automatic_optimization:
        return "32-true"
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        if devices != 1 and hasattr(sys, "ps1"):
            # A notebook forks its processes, which forbids asking the GPU anything before.
            return "32-true"
        return "bf16-mixed" if torch.cuda.get_device_capability()[0] >= 8 else "32-true"
    if accelerator in ("cpu", "auto"):
        return "bf16-mixed" if multiplies_bfloat16() else "32-true"
    return "32-true"


def multiplies_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Tell whether the processor has instructions that multiply bfloat16 numbers.

    Without them autocast still runs, but slower than float32. The kernel's list of features is
    read because PyTorch has no public question for it in the versions supported; where there is
    no such list the answer is no.
    """
    try:
        lines = Path(cpuinfo).read_text(errors="replace").splitlines()
    except OSError:
        return False
    features = (line.partition(":")[2].split() for line in lines if _lists_features(line))
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(next(features, ()))


def _lists_features(line: str) -> bool:
    return line.partition(":")[0].strip() in ("flags", "Features")


def use_channels_last(module: nn.Module, accelerator: Any) -> None:
    """Store the weights of 2-D convolutions in channels_last order (XLA has its own layouts)."""
    if accelerator == "tpu" or isinstance(accelerator, XLAAccelerator):
        return
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            part.to(memory_format=torch.channels_last)


def make_trainer(options: Mapping[str, Any], **arguments: Any) -> pl.Trainer:
    """Build a Trainer from our defaults, then `arguments`, then the caller's `options`.

    Raises:
        ValueError: Lightning finds the arguments impossible.
    """
    defaults = {"logger": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    merged = defaults | arguments | dict(options)
    plugins = merged.pop("plugins", None) or []
    plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())
    try:
        return pl.Trainer(**merged, plugins=plugins)
    except (MisconfigurationException, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def as_floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics as plain numbers."""
    return {name: float(value) for name, value in metrics.items()}


@contextlib.contextmanager
def isolated(options: Mapping[str, Any]) -> Iterator[None]:
    """Use deterministic algorithms and leave the caller's global states as they were.

    Restored: random states (Python, NumPy, PyTorch; CUDA if it was in use), the setting of
    deterministic algorithms and of cuDNN's benchmark. A caller who passes ``deterministic`` to
    the Trainer decides that matter alone.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    try:
        if options.get("deterministic") is None:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS is not
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, hides bugs
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's log lines and warnings, and nobody else's."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        hush()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def hush() -> None:
    """Silence Lightning in this process, until :func:`quiet` or its end."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    packages = r"(pytorch_lightning|lightning|lightning_fabric|lightning_utilities|torchmetrics)\b"
    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=packages)
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
