"""XLA on the CPU as a Lightning accelerator: the TPU's software path without a TPU.

Lightning's ``accelerator="tpu"`` looks for a chip on the PCI bus. This subclass answers for the
CPU client of XLA instead, so that Lightning's own XLA strategy, launcher and precision code run:
lazy tensors, HLO, the XLA compiler; everything but the chip. It needs torch_xla (its own
environment, ``make test-tpu``) and ``PJRT_DEVICE=CPU``.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch_xla
from pytorch_lightning.accelerators import XLAAccelerator

# XLA's client must exist before the first backward pass on the CPU, or later ones on XLA hang.
torch_xla.device()


class XLACPUAccelerator(XLAAccelerator):
    """Give an instance to the Trainer: ``Trainer(accelerator=XLACPUAccelerator())``."""

    @staticmethod
    def parse_devices(devices: int | str | list[int]) -> int | list[int]:
        return int(devices) if isinstance(devices, str) else devices

    @staticmethod
    def get_parallel_devices(devices: int | list[int]) -> list[torch.device]:
        indices = range(devices) if isinstance(devices, int) else devices
        return [torch.device("xla", index) for index in indices]

    @staticmethod
    def auto_device_count() -> int:
        return int(os.environ.get("CPU_NUM_DEVICES", "1"))

    @staticmethod
    def is_available() -> bool:
        return os.environ.get("PJRT_DEVICE") == "CPU"

    @classmethod
    def register_accelerators(cls, accelerator_registry: Any) -> None:
        """Stay out of Lightning's registry: the name "tpu" keeps its meaning."""
