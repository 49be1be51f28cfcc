"""What this machine has, what of the course would run on it, and the next step for the rest."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the report: `topic`, whether all is well, and a sentence that says it."""

    topic: str
    ok: bool
    text: str


def examine() -> list[Finding]:
    """Look at the machine; never raises because something is missing."""
    return [
        _python(),
        *_packages(),
        _processor(),
        *_accelerators(),
        *_data(),
        _browser(),
    ]


def _python() -> Finding:
    return Finding("Python", True, ".".join(map(str, sys.version_info[:3])))


def _packages() -> list[Finding]:
    from importlib import metadata

    wanted = [
        ("torch", "torch", "pip install torch"),
        ("pytorch-lightning", "pytorch_lightning", "pip install pytorch-lightning"),
        ("tensorflow", "tensorflow", "pip install tensorflow (only the Keras pages need it)"),
        ("jupyterlab", "jupyterlab", "pip install jupyterlab (only to open the notebooks here)"),
    ]
    found = []
    for name, module, remedy in wanted:
        if importlib.util.find_spec(module) is None:
            found.append(Finding(name, False, f"not installed: {remedy}"))
        else:
            found.append(Finding(name, True, metadata.version(name)))
    return found


def _processor() -> Finding:
    from companion.devices import hardware

    machine = hardware("cpu")
    memory = machine["memory_gib"]
    text = f"{machine['cpu']}, {machine['cores']} cores, {memory} GiB of memory"
    if memory is not None and memory < 4:
        return Finding("processor", False, f"{text}; close other programs: pages take up to 1.5 GB")
    return Finding("processor", True, f"{text}; every page of the course runs on it")


def _accelerators() -> list[Finding]:
    from companion.devices import available

    if importlib.util.find_spec("torch") is None:
        return [Finding("accelerators", False, "cannot be looked for without torch")]
    import torch

    names = {"gpu": "CUDA GPU", "xla-cpu": "XLA on the CPU", "tpu": "TPU"}
    found = []
    for accelerator, why_not in available().items():
        if accelerator == "cpu":
            continue
        if why_not is not None:
            found.append(Finding(names[accelerator], False, why_not))
            continue
        device = f" ({torch.cuda.get_device_name(0)})" if accelerator == "gpu" else ""
        use = f"ready{device}: companion run NAME --accelerator {accelerator}"
        found.append(Finding(names[accelerator], True, use))
    return found


def _data() -> list[Finding]:
    from companion.data import sources

    found = [Finding("data set digits", True, "bundled with scikit-learn")]
    for status in sources.status():
        topic = f"data set {status.dataset.name}"
        if status.located is not None:
            found.append(Finding(topic, True, str(status.located.place)))
        else:
            broken = "".join(f"{problem}; " for problem in status.problems)
            remedy = f"companion data fetch {status.dataset.name}, or {status.dataset.package}"
            found.append(Finding(topic, False, f"{broken or 'not here: '}{remedy}"))
    return found


def _browser() -> Finding:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path:
            return Finding("browser tests", True, os.path.basename(path))
    return Finding(
        "browser tests", False, "no Chromium; they will be skipped (apt install chromium)"
    )
