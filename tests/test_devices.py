from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy_recipes

from companion import devices
from companion.techniques import TECHNIQUES
from companion.training import FitResult

GOOD, WRONG, BROKEN, NO_CPU = toy_recipes.TOYS


def test_a_recipe_runs_with_its_own_options_and_its_check() -> None:
    result = devices.run(GOOD)
    assert isinstance(result, FitResult)
    assert len(result.step_losses) == 12  # 3 epochs of 4 batches
    with pytest.raises(AssertionError, match="not 42"):
        devices.run(WRONG)


def test_steps_cut_the_run_short() -> None:
    assert len(devices.run(WRONG, steps=5).step_losses) == 5


def test_the_same_recipe_gives_the_same_losses_twice() -> None:
    assert devices.run(GOOD).step_losses == devices.run(GOOD).step_losses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerator": "abacus"}, "accelerator='abacus' is unknown"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"devices": 0}, "devices=0 must be at least 1"),
    ],
)
def test_bad_arguments_name_argument_value_and_rule(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        devices.run(GOOD, **options)


def test_every_missing_accelerator_has_a_reason() -> None:
    found = devices.available()
    assert set(found) == set(devices.ACCELERATORS)
    assert found["cpu"] is None
    for name, reason in found.items():
        assert reason is None or len(reason) > 10, name


def test_evidence_holds_hardware_versions_date_and_losses() -> None:
    found = devices.evidence("cpu", chosen=[GOOD])
    assert found["level"] == "cpu"
    assert found["hardware"]["cores"] >= 1
    assert {"python", "torch", "pytorch-lightning"} <= set(found["versions"])
    assert found["checks"] == "run"
    row = found["results"]["good-toy"]
    assert row["steps"] == 12
    assert row["last_loss"] < row["first_loss"]
    assert "max_loss_difference" not in row  # nothing to compare the CPU with


def test_evidence_of_a_cut_run_says_that_the_checks_were_left_out() -> None:
    found = devices.evidence("cpu", chosen=[WRONG], steps=2)
    assert found["results"]["wrong-toy"]["status"] == "ran"
    assert found["checks"] != "run"


def test_a_failing_recipe_does_not_stop_the_others() -> None:
    found = devices.evidence("cpu", chosen=[BROKEN, GOOD])["results"]
    assert found["broken-toy"]["status"] == "failed"
    assert found["good-toy"]["status"] == "ran"


def test_evidence_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    devices.write_evidence(path, {"level": "cpu"})
    assert json.loads(path.read_text()) == {"level": "cpu"}
    with pytest.raises(TypeError):
        devices.write_evidence(path, {"level": object()})
    assert json.loads(path.read_text()) == {"level": "cpu"}
    assert [p.name for p in tmp_path.iterdir()] == ["cpu.json"]


def test_evidence_into_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out=.*cannot be written"):
        devices.write_evidence(tmp_path / "file" / "cpu.json", {})


@pytest.mark.cuda
def test_a_gpu_run_is_compared_with_the_cpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU on this machine")
    row = devices.evidence("gpu", chosen=[GOOD])["results"]["good-toy"]
    assert row["status"] == "ran"
    assert row["max_loss_difference"] < 1e-4


@pytest.mark.cuda
@pytest.mark.timeout(900)
@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.name)
def test_a_recipe_passes_its_check_on_a_gpu_and_starts_as_on_the_cpu(technique) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU on this machine")
    if "cuda" in technique.devices:
        pytest.skip(technique.devices["cuda"])
    row = devices.evidence("gpu", chosen=[technique])["results"][technique.name]
    assert row["status"] == "ran", row.get("reason")
    # Ten steps in single precision: sums in another order, and nothing else.
    assert row["max_loss_difference"] <= 1e-3
