from __future__ import annotations

import importlib.util

from companion import devices, doctor


def topics(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.topic: finding for finding in findings}


def test_the_report_covers_software_hardware_accelerators_and_data() -> None:
    found = topics(doctor.examine())
    assert {"Python", "torch", "processor", "CUDA GPU", "XLA on the CPU", "TPU"} <= set(found)
    assert "data set digits" in found
    assert found["data set digits"].ok


def test_everything_missing_comes_with_a_next_step(monkeypatch) -> None:
    real = importlib.util.find_spec
    hidden = {"tensorflow", "jupyterlab"}
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in hidden else real(name, *rest),
    )
    found = topics(doctor.examine())
    assert not found["tensorflow"].ok
    assert "pip install tensorflow" in found["tensorflow"].text
    assert not found["jupyterlab"].ok


def test_a_machine_with_a_gpu_is_told_the_command(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(
        devices, "available", lambda: {"cpu": None, "gpu": None, "xla-cpu": "no", "tpu": "no"}
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Imaginary GPU")
    found = topics(doctor.examine())
    assert found["CUDA GPU"].ok
    assert "Imaginary GPU" in found["CUDA GPU"].text
    assert "--accelerator gpu" in found["CUDA GPU"].text


def test_a_small_machine_is_warned(monkeypatch) -> None:
    small = {"cpu": "Tiny", "cores": 1, "memory_gib": 2.0}
    monkeypatch.setattr(devices, "hardware", lambda accelerator: small)
    assert not topics(doctor.examine())["processor"].ok
