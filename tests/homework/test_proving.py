"""The machine that proves graders is itself able to fail."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from homework import proving, summary

from companion.homework import Report
from companion.homework.grading import TaskResult


def nothing(name: str, value: object) -> None:
    del name, value


class Lenient:
    """A grader that passes everything but the stub of one task."""

    def __init__(self, failing: set[str]) -> None:
        self.failing = failing

    def grade_source(self, source: str, *, only=None, seed: int = 0) -> Report:
        names = [n for n in proving.task_names("backprop") if only is None or n in only]
        tasks = [TaskResult(n, n, 100 // 6, n not in self.failing, "no") for n in names]
        return Report("backprop", "x.py", seed, tuple(tasks))


@pytest.fixture
def lenient(monkeypatch):
    def install(*failing: str) -> None:
        monkeypatch.setattr(proving, "grader", lambda chapter: Lenient(set(failing)))

    return install


def test_a_grader_that_passes_a_stub_is_caught(lenient) -> None:
    lenient("rms-norm")
    with pytest.raises(AssertionError):
        proving.check_stub("backprop", nothing)


def test_a_grader_that_fails_a_right_solution_is_caught(lenient) -> None:
    lenient("train")
    with pytest.raises(AssertionError, match="train"):
        proving.check_right("backprop", "reference", nothing)


def test_a_grader_that_passes_mistakes_is_caught(lenient) -> None:
    lenient()
    with pytest.raises(AssertionError, match="not rejected"):
        proving.check_mistakes("backprop", "rms-norm", nothing)


def test_a_grader_that_fails_other_tasks_for_a_mistake_is_caught(lenient) -> None:
    lenient("rms-norm", "logsumexp")
    with pytest.raises(AssertionError, match="not concerned"):
        proving.check_mistakes("backprop", "rms-norm", nothing)


def test_failures_of_tasks_that_build_on_a_mistake_are_not_counted(lenient) -> None:
    lenient("rms-norm", "rms-norm-layer", "train")
    proving.check_mistakes("backprop", "rms-norm", nothing)


def test_a_mistake_must_occur_once_and_change_something() -> None:
    mistake = proving.Mistake("t", "m", "a", "b")
    assert mistake.plant("x a y") == "x b y"
    for source in ("x", "a a"):
        with pytest.raises(ValueError, match="occurs"):
            mistake.plant(source)
    with pytest.raises(ValueError, match="occurs"):
        proving.Mistake("t", "m", "a", "a").plant("a")


def test_every_task_has_ten_mistakes_and_every_mistake_can_be_planted() -> None:
    right = proving.source("backprop", "reference")
    for task in proving.task_names("backprop"):
        planted = proving.mistakes("backprop", task)
        assert len(planted) >= 10
        assert len({mistake.plant(right) for mistake in planted}) == len(planted)


def test_the_figures_are_printed_with_their_sum() -> None:
    lines: list[str] = []
    rows = [("c", "t: planted mistakes rejected", "9/10"), ("c", "u: planted mistakes", "10/10")]
    reports = [SimpleNamespace(user_properties=[("homework", row)]) for row in rows]
    reporter = SimpleNamespace(stats={"passed": reports}, section=lines.append, line=lines.append)
    summary.write_summary(reporter)
    assert any("9/10" in line for line in lines)
    assert lines[-1] == "planted mistakes rejected: 19 of 20 (95.0%)"
