"""The TPU path on the CPU: Lightning's XLA strategy through XLA's CPU client (make test-tpu)."""

from __future__ import annotations

import importlib.util
import os

import pytest

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(
        importlib.util.find_spec("torch_xla") is None or os.environ.get("PJRT_DEVICE") != "CPU",
        reason="needs torch_xla and PJRT_DEVICE=CPU: make test-tpu",
    ),
]


def test_every_recipe_trains_through_xla_as_on_the_cpu() -> None:
    from companion import devices
    from companion.techniques import TECHNIQUES

    chosen = [t for t in TECHNIQUES if "xla-cpu" not in t.devices]
    found = devices.evidence("xla-cpu", chosen=chosen, steps=4)["results"]
    for technique in chosen:
        row = found[technique.name]
        assert row["status"] == "ran", f"{technique.name}: {row.get('reason')}"
        assert row["max_loss_difference"] <= 1e-5, technique.name


def test_the_accelerator_answers_for_xlas_cpu_client() -> None:
    from companion.xla import XLACPUAccelerator

    assert XLACPUAccelerator.is_available()
    assert XLACPUAccelerator.parse_devices("2") == 2
    assert [str(d) for d in XLACPUAccelerator.get_parallel_devices(1)] == ["xla:0"]
