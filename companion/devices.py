"""Run every recipe on one kind of device and write down what happened, level by level.

The five levels of evidence are never merged: ``cpu`` ran here; ``cuda`` ran on the named GPU;
``xla-cpu`` ran through XLA on the CPU; ``tpu-compiled`` was compiled by the TPU compiler for a
described TPU; ``tpu`` ran on a TPU. An evidence file holds one level of one machine; the book's
device tables are made from these files alone.

A run on anything but the CPU is compared with the same recipe on the CPU of the same machine:
same seed, same batches, single precision, the largest difference of the first training losses.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from companion import techniques
from companion.techniques import Technique

if TYPE_CHECKING:
    from companion.training import FitResult

#: What ``--accelerator`` takes, and the level of evidence that a run there gives.
ACCELERATORS = {"cpu": "cpu", "gpu": "cuda", "xla-cpu": "xla-cpu", "tpu": "tpu"}

#: Losses of the first steps that are compared with the CPU's: later ones drift apart by rounding.
COMPARED_STEPS = 10


@dataclass(frozen=True)
class Outcome:
    """What one recipe did on one accelerator.

    Attributes:
        status: ``"ran"``, ``"failed"``, ``"not run"`` or ``"not applicable"``.
        reason: why, unless it ran.
        seconds: wall-clock time of the run, data loading and set-up included.
        steps: optimizer steps taken.
        first_loss, last_loss: training loss of the first and the last step.
        max_loss_difference: largest relative difference of the first training losses to the
            CPU's, ``|a - b| / max(|b|, 1)``; None on the CPU itself.
    """

    status: str
    reason: str | None = None
    seconds: float | None = None
    steps: int | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    max_loss_difference: float | None = None


def require_accelerator(name: str) -> str:
    """Return the evidence level of `name`.

    Raises:
        ValueError: `name` is unknown, or this machine has no such device.
    """
    if name not in ACCELERATORS:
        raise ValueError(
            f"accelerator={name!r} is unknown: it must be one of {', '.join(ACCELERATORS)}"
        )
    missing = available()[name]
    if missing is not None:
        raise ValueError(f"accelerator={name!r} cannot be used here: {missing}")
    return ACCELERATORS[name]


def available() -> dict[str, str | None]:
    """For each accelerator None if it can be used here, else why not and what to do."""
    import torch

    gpu = None
    if not torch.cuda.is_available():
        gpu = "PyTorch sees no CUDA GPU"
        if torch.version.cuda is None:
            gpu += (
                " and is a build without CUDA; on a machine with one, install the default build"
                " (make TORCH=cuda, or pip install torch)"
            )
    xla = None
    if importlib.util.find_spec("torch_xla") is None:
        xla = "torch_xla is not installed (make test-tpu sets up an environment that has it)"
    elif os.environ.get("PJRT_DEVICE") != "CPU":
        xla = "the environment variable PJRT_DEVICE must be CPU"
    tpu = None
    if importlib.util.find_spec("torch_xla") is None:
        tpu = "torch_xla is not installed (on a TPU machine: pip install 'companion[tpu]')"
    else:
        from pytorch_lightning.accelerators import XLAAccelerator

        if not XLAAccelerator.is_available():
            tpu = "Lightning finds no TPU on this machine"
    return {"cpu": None, "gpu": gpu, "xla-cpu": xla, "tpu": tpu}


def run(
    technique: Technique,
    accelerator: str = "cpu",
    *,
    steps: int | None = None,
    devices: int = 1,
    precision: str | None = None,
    progress: bool = False,
) -> FitResult:
    """Run a technique's recipe; its check runs too unless `steps` cuts the run short.

    `precision` is used where the recipe does not set its own.

    Raises:
        ValueError: unknown or missing accelerator; ``steps`` or ``devices`` below 1; a technique
            that does not apply there.
        AssertionError: the recipe's own check failed.
    """
    import torch

    from companion.training import fit

    level = require_accelerator(accelerator)
    if level in technique.devices:
        raise ValueError(
            f"accelerator={accelerator!r} does not apply to {technique.name}: "
            f"{technique.devices[level]}"
        )
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if devices < 1:
        raise ValueError(f"devices={devices} must be at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same initial weights on every device
        recipe = techniques.load(technique.recipe)()
    options = dict(recipe.trainer_options)
    options.update(accelerator=accelerator, progress=progress)
    if precision is not None:
        options.setdefault("precision", precision)
    if devices != 1:
        options["devices"] = devices
    if steps is not None:
        options["max_steps"] = steps
    if accelerator == "xla-cpu":
        from companion.xla import XLACPUAccelerator

        options["accelerator"] = XLACPUAccelerator()
    result = fit(recipe.module, recipe.data, **options)
    if steps is None:
        recipe.check(result)
    return result


def evidence(
    accelerator: str,
    *,
    chosen: Iterable[Technique] | None = None,
    steps: int | None = None,
    announce: Callable[[Technique, int, int], None] = lambda technique, number, total: None,
) -> dict[str, Any]:
    """Run recipes on `accelerator` and return the evidence as plain data.

    Args:
        accelerator: one of :data:`ACCELERATORS`.
        chosen: the techniques to run, all of the table by default.
        steps: cut each run to so many steps; then the recipes' checks are left out, and the
            evidence says so.
        announce: called before each recipe with the technique, its number and how many there are.
    """
    level = require_accelerator(accelerator)
    rows = list(techniques.TECHNIQUES if chosen is None else chosen)
    results: dict[str, dict[str, Any]] = {}
    for number, technique in enumerate(rows, start=1):
        announce(technique, number, len(rows))
        outcome = _outcome(technique, accelerator, level, steps)
        results[technique.name] = {k: v for k, v in asdict(outcome).items() if v is not None}
    return {
        "level": level,
        "accelerator": accelerator,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware(accelerator),
        "versions": versions(),
        "checks": "left out: runs were cut short" if steps else "run",
        "compared_steps": COMPARED_STEPS,
        "results": results,
    }


def _outcome(technique: Technique, accelerator: str, level: str, steps: int | None) -> Outcome:
    if level in technique.devices:
        return Outcome("not applicable", reason=technique.devices[level])
    start = time.perf_counter()
    try:
        result = run(technique, accelerator, steps=steps)
    except Exception as error:  # a recipe that fails is a result, not the end of the others
        text = str(error).strip().splitlines()
        return Outcome("failed", reason=f"{type(error).__name__}: {text[0] if text else ''}")
    seconds = time.perf_counter() - start
    losses = result.step_losses
    difference = None
    if accelerator != "cpu":
        # In single precision on both sides: bfloat16's rounding is not what is compared.
        short = min(COMPARED_STEPS, len(losses))
        there, here = (
            run(technique, name, steps=short, precision="32-true").step_losses
            for name in (accelerator, "cpu")
        )
        difference = max(abs(a - b) / max(abs(b), 1.0) for a, b in zip(there, here, strict=True))
    return Outcome(
        "ran",
        seconds=round(seconds, 2),
        steps=len(losses),
        first_loss=losses[0],
        last_loss=losses[-1],
        max_loss_difference=difference,
    )


def write_evidence(path: Path, data: Mapping[str, Any]) -> None:
    """Write an evidence file: whole or not at all.

    Raises:
        ValueError: the folder does not exist or cannot be written to.
    """
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise ValueError(f"out={str(path)!r} cannot be written: {error.strerror}") from error


def hardware(accelerator: str) -> dict[str, Any]:
    """Name and size of the processor, and of the GPU where `accelerator` is one."""
    import torch

    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if accelerator == "gpu":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = properties.name
        found["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("torch", "pytorch-lightning", "torch_xla", "tensorflow", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None
