"""``grade``: what it accepts, what it reports, and what it costs to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from homework import proving

from companion import homework
from companion.homework.grading import FOLDER, MAX_SOURCE_BYTES, Report, TaskResult


@pytest.fixture(scope="module")
def report() -> Report:
    source = proving.source("backprop", "reference").replace("return x / r * gain", "return x / r")
    return proving.grader("backprop").grade_source(source, "my.py", seed=7)


def test_grade_takes_a_file_from_any_directory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(homework.stub("backprop"), encoding="utf-8")
    report = homework.grade("backprop", Path("my.py"))
    assert (report.chapter, report.file, report.total, report.possible) == (
        "backprop",
        "my.py",
        0,
        100,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["my.py"]


def test_a_report_counts_points_and_tells_what_is_wrong(report: Report) -> None:
    assert not report.passed
    assert not report["rms-norm"].passed
    assert report["rms-norm"].earned == 0
    assert report["rms-norm"].hint == "gain is left out"
    assert report["gradient-check"].earned == report["gradient-check"].points == 15
    assert report.total == sum(task.earned for task in report.tasks) == 50


def test_a_task_that_builds_on_a_failed_one_says_so(report: Report) -> None:
    assert report["rms-norm-layer"].hint.startswith("it builds on rms-norm: mend that first")


def test_the_report_as_text_has_a_line_a_task_and_the_total(report: Report) -> None:
    lines = str(report).splitlines()
    assert lines[0].split() == ["passed", "15/15", "gradient-check"]
    assert lines[1].split() == ["FAILED", "0/20", "rms-norm"]
    assert lines[2].strip().startswith("y for x of shape (5, 7)")
    assert "               hint: gain is left out" in lines
    assert max(map(len, lines)) <= 88
    assert lines[-1] == "50 of 100 points"
    assert report.to_text() == str(report)


def test_what_a_failed_task_printed_last_is_shown() -> None:
    task = TaskResult("t", "a task", 5, False, "is wrong", output="one\ntwo\n\n")
    text = Report("c", "my.py", 0, (task,)).to_text()
    assert "it printed, last: two" in text


def test_the_report_as_json_is_complete(report: Report) -> None:
    data = json.loads(report.to_json())
    assert (data["total"], data["possible"], data["passed"], data["seed"]) == (50, 100, False, 7)
    assert [task["name"] for task in data["tasks"]] == [task.name for task in report.tasks]
    assert set(data["tasks"][0]) == {
        *("name", "title", "points", "earned", "passed", "message", "hint", "output", "seconds")
    }


def test_a_grading_repeats_from_its_seed_and_is_fresh_without() -> None:
    source = proving.source("backprop", "reference").replace("return x / r * gain", "return x / r")
    grade = proving.grader("backprop").grade_source
    first, again = (grade(source, seed=7, only={"rms-norm"})["rms-norm"] for _ in range(2))
    assert first.message == again.message
    fresh = [grade(source, only={"rms-norm"}) for _ in range(2)]
    assert fresh[0].seed != fresh[1].seed


def test_tasks_for_which_no_time_is_left_are_not_run() -> None:
    source = f"import time\ntime.sleep(0.4)\n{_without_future()}"
    report = proving.grader("backprop").grade_source(
        source, only={"gradient-check", "rms-norm"}, timeout_s=0.7
    )
    assert not any(task.passed for task in report.tasks)
    assert report.tasks[1].message == "not run: the time for the whole file is used up"


def _without_future() -> str:
    text = proving.source("backprop", "reference")
    return text.replace("from __future__ import annotations\n", "")


@pytest.mark.parametrize("chapter", ["", "losses", "../backprop", "scenarios", "stubs"])
def test_an_unknown_chapter_is_named(chapter: str) -> None:
    for call in (lambda: homework.grade(chapter, "x.py"), lambda: homework.stub(chapter)):
        with pytest.raises(
            ValueError, match="has no homework: it must be one of architectures, backprop"
        ) as error:
            call()
        assert repr(chapter) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_graded_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder.py"
    folder.mkdir()
    text = tmp_path / "notes.txt"
    text.write_text("x = 1")
    latin = tmp_path / "latin.py"
    latin.write_bytes(b"# \xe9\n")
    large = tmp_path / "large.py"
    large.write_bytes(b"#" * (MAX_SOURCE_BYTES + 1))
    for path, rule in [
        (tmp_path / "missing.py", "no such file"),
        (folder, "must be a Python file"),
        (text, "must be a Python file"),
        (latin, "not text in UTF-8"),
        (large, "larger than"),
    ]:
        with pytest.raises(ValueError, match=rule) as error:
            homework.grade("backprop", path)
        assert repr(str(path)) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_limit_must_be_positive(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "my.py"
    path.write_text("")
    with pytest.raises(ValueError, match="timeout_s"):
        homework.grade("backprop", path, timeout_s=seconds)


def test_every_chapter_has_a_stub_that_names_what_its_tasks_ask_for() -> None:
    from importlib import import_module

    assert {"architectures", "backprop"} <= set(homework.chapters())
    for chapter in homework.chapters():
        text = homework.stub(chapter)
        compile(text, "stub.py", "exec")
        for task in import_module(f"companion.homework.{chapter}.tasks").TASKS:
            assert all(name in text for name in task.defines)
            assert f"{task.name} ({task.points} points)" in text


def test_importing_the_graders_loads_nothing_heavy() -> None:
    code = "import sys, companion.homework as h; h.chapters(); h.stub('backprop'); "
    code += "print([m for m in ('numpy', 'torch', 'pytorch_lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reference_solutions_are_not_in_the_package() -> None:
    names = {path.stem for path in FOLDER.rglob("*.py")}
    assert not any("reference" in name or "alternative" in name for name in names)
