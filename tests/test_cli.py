"""The command line: every command once, every mistake of a user in one line with status 2."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import toy_recipes

from companion import cli, techniques


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr(techniques, "TECHNIQUES", toy_recipes.TOYS)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `companion ARGUMENTS` in this process; returns (status, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["companion", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out = capsys.readouterr()
        return int(stopped.value.code or 0), out.out, out.err

    return run


def assert_one_line(status: int, out: str, err: str, *words: str) -> None:
    assert status == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("companion: ")
    for word in words:
        assert word in err
    assert "Traceback" not in err


def test_help_answers_within_a_second_of_cpu_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(
        [sys.executable, "-m", "companion.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    for command in ("techniques", "run", "devices", "doctor", "data", "check"):
        assert command in out.stdout
    assert seconds < 1.0


def test_version_is_the_packages(call) -> None:
    import companion

    assert call("--version") == (0, companion.__version__ + "\n", "")


def test_techniques_lists_the_whole_table(call) -> None:
    status, out, _ = call("techniques")
    assert status == 0
    for technique in techniques.TECHNIQUES:
        assert technique.name in out


def test_techniques_as_json_can_be_read_back(call) -> None:
    status, out, _ = call("techniques", "--json")
    assert status == 0
    assert [row["name"] for row in json.loads(out)] == [t.name for t in techniques.TECHNIQUES]


def test_an_unknown_chapter_is_refused(call) -> None:
    assert_one_line(*call("techniques", "--chapter", "alchemy"), "chapter='alchemy'", "backprop")


def test_run_trains_and_checks(call, toys) -> None:
    status, out, _ = call("run", "good-toy")
    assert status == 0
    assert "passed" in out
    assert "train_loss" in out


def test_run_with_steps_leaves_the_check_out_and_says_so(call, toys) -> None:
    status, out, _ = call("run", "wrong-toy", "--steps", "2", "--json")
    assert status == 0
    summary = json.loads(out)
    assert summary["steps"] == 2
    assert summary["check"] == "left out (--steps)"


def test_a_failed_check_is_status_1_with_its_reason(call, toys) -> None:
    status, out, err = call("run", "wrong-toy")
    assert status == 1
    assert err.strip() == "wrong-toy: the check failed: the loss is not 42"


def test_an_unknown_technique_is_refused_with_the_nearest_name(call, toys) -> None:
    assert_one_line(*call("run", "goodtoy"), "name='goodtoy'", "did you mean good-toy")


def test_an_unknown_accelerator_is_refused(call, toys) -> None:
    arguments = ("run", "good-toy", "--accelerator", "abacus")
    assert_one_line(*call(*arguments), "accelerator='abacus'", "cpu, gpu, xla-cpu, tpu")


def test_a_gpu_where_there_is_none_is_refused_with_the_next_step(call, toys, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ("run", "good-toy", "--accelerator", "gpu")
    assert_one_line(*call(*arguments), "accelerator='gpu'", "no CUDA GPU")


def test_a_technique_that_does_not_apply_gives_its_reason(call, toys) -> None:
    assert_one_line(*call("run", "no-cpu-toy"), "does not apply", "crystal ball")


@pytest.mark.parametrize("option", ["--steps", "--devices"])
def test_counts_below_one_are_refused(call, toys, option) -> None:
    assert_one_line(*call("run", "good-toy", option, "0"), f"{option[2:]}=0", "at least 1")


def test_devices_writes_evidence_for_every_row(call, toys, tmp_path: Path) -> None:
    out_file = tmp_path / "cpu.json"
    status, out, err = call("devices", "--out", str(out_file))
    assert status == 1  # two of the toys are made to fail
    found = json.loads(out_file.read_text())
    assert found["level"] == "cpu"
    assert found["results"]["good-toy"]["status"] == "ran"
    assert found["results"]["wrong-toy"]["reason"] == "AssertionError: the loss is not 42"
    assert found["results"]["broken-toy"]["reason"] == "RuntimeError: the recipe itself is broken"
    assert found["results"]["no-cpu-toy"] == {
        "status": "not applicable",
        "reason": "it needs a crystal ball",
    }
    assert "1 not applicable, 1 ran" in out
    assert "wrong-toy" in err
    assert [p.name for p in tmp_path.iterdir()] == ["cpu.json"]


def test_devices_refuses_a_folder_that_is_not_there(call, toys, tmp_path: Path) -> None:
    assert_one_line(
        *call("devices", "--out", str(tmp_path / "no" / "cpu.json")), "out=", "there is no folder"
    )
    assert list(tmp_path.iterdir()) == []


def test_data_list_names_every_data_set(call) -> None:
    from companion.data import sources

    status, out, _ = call("data", "list", "--json")
    assert status == 0
    assert {row["name"] for row in json.loads(out)} == {"digits", *sources.DATASETS}


def test_fetching_an_unknown_data_set_is_refused(call) -> None:
    assert_one_line(*call("data", "fetch", "imagenet"), "name='imagenet'", "fashion-mnist")


def test_check_without_a_file_is_refused(call) -> None:
    assert_one_line(*call("check", "backprop"), "FILE.py is missing")


def test_check_refuses_an_unknown_chapter_and_a_missing_file(call, tmp_path: Path) -> None:
    missing = tmp_path / "nothing.py"
    assert_one_line(*call("check", "alchemy", str(missing)), "chapter='alchemy'")
    assert_one_line(*call("check", "backprop", str(missing)), "nothing.py")


def test_the_stub_of_a_chapter_is_valid_python(call) -> None:
    status, out, _ = call("check", "backprop", "--stub")
    assert status == 0
    compile(out, "stub.py", "exec")
    assert "def " in out


def test_check_grades_the_stub_with_no_points_and_status_1(call, tmp_path: Path) -> None:
    file = tmp_path / "homework.py"
    file.write_text(call("check", "backprop", "--stub")[1])
    status, out, _ = call("check", "backprop", str(file), "--json")
    assert status == 1
    assert all(not task["passed"] for task in json.loads(out)["tasks"])


def test_doctor_says_what_there_is_and_what_to_do(call) -> None:
    status, out, _ = call("doctor")
    assert status == 0
    assert "yes  Python" in out
    assert "TPU" in out
    assert all(line.startswith(("yes  ", " no  ")) for line in out.splitlines())
