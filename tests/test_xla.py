"""The TPU path on the CPU: Lightning's XLA strategy through XLA's CPU client (make test-tpu)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from companion.techniques import TECHNIQUES, Technique

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(
        importlib.util.find_spec("torch_xla") is None or os.environ.get("PJRT_DEVICE") != "CPU",
        reason="needs torch_xla and PJRT_DEVICE=CPU: make test-tpu",
    ),
]

EVIDENCE = """
import json, sys
import companion.xla
from companion import devices, techniques
chosen = [techniques.get(sys.argv[1])]
print(json.dumps(devices.evidence("xla-cpu", chosen=chosen, steps=4)["results"][sys.argv[1]]))
"""

#: Draw random masks in training: another generator there, other numbers, another loss.
RANDOM = {"dropout"}


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.name)
def test_a_recipe_trains_through_xla_as_on_the_cpu(technique: Technique) -> None:
    """In a process of its own: a failed XLA graph would take the recipes after it along."""
    if "xla-cpu" in technique.devices:
        pytest.skip(technique.devices["xla-cpu"])
    command = [sys.executable, "-c", EVIDENCE, technique.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["status"] == "ran", row.get("reason")
    if technique.name not in RANDOM:
        assert row["max_loss_difference"] <= 1e-5


def test_the_accelerator_answers_for_xlas_cpu_client() -> None:
    from companion.xla import XLACPUAccelerator

    assert XLACPUAccelerator.is_available()
    assert XLACPUAccelerator.parse_devices("2") == 2
    assert [str(d) for d in XLACPUAccelerator.get_parallel_devices(1)] == ["xla:0"]
