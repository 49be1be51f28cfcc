"""Prove a chapter's graders: the machine that every homework's tests use.

For chapter C the folder ``tests/homework/C`` holds ``reference.py``, ``alternative_1.py`` to
``alternative_3.py`` (right, and differently written) and ``mistakes.py`` with ``MISTAKES``; a test
module calls :func:`check_stub`, :func:`check_right` and :func:`check_mistakes`. What a check counts
it hands to pytest as a property, and ``conftest.py`` prints the figures at the end of the run.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from companion import homework
from companion.homework import Grader, Report

FOLDER = Path(__file__).resolve().parent
REQUIRED = 0.95
RIGHT = ("reference", "alternative_1", "alternative_2", "alternative_3")
Record = Callable[[str, object], None]


@dataclass(frozen=True)
class Mistake:
    """The reference with one piece of its text replaced.

    Attributes:
        task: whose mistake it is.
        name: what is wrong, in words.
        old, new: the text; `old` occurs exactly once in the reference.
    """

    task: str
    name: str
    old: str
    new: str

    def plant(self, source: str) -> str:
        """Return `source` with the mistake in it.

        Raises:
            ValueError: `old` is not there exactly once, or nothing would change.
        """
        if source.count(self.old) != 1 or self.old == self.new:
            count = source.count(self.old)
            raise ValueError(f"{self.task}, {self.name!r}: old={self.old!r} occurs {count} times")
        return source.replace(self.old, self.new)


@functools.cache
def grader(chapter: str) -> Grader:
    """One grader a test process: its server forks, so that submissions share nothing."""
    import atexit

    started = Grader(chapter).__enter__()
    atexit.register(started.__exit__, None, None, None)
    return started


def source(chapter: str, name: str) -> str:
    """Return the text of a solution."""
    return (FOLDER / chapter / f"{name}.py").read_text(encoding="utf-8")


def mistakes(chapter: str, task: str) -> list[Mistake]:
    """Return the planted mistakes of one task."""
    module = importlib.import_module(f"homework.{chapter}.mistakes")
    return [mistake for mistake in module.MISTAKES if mistake.task == task]


def task_names(chapter: str) -> list[str]:
    """Return the names of a chapter's tasks."""
    tasks = importlib.import_module(f"companion.homework.{chapter}.tasks").TASKS
    return [task.name for task in tasks]


def dependants(chapter: str, name: str) -> set[str]:
    """Return the task and all that build on it, directly or not."""
    tasks = importlib.import_module(f"companion.homework.{chapter}.tasks").TASKS
    found = {name}
    for task in tasks:  # in order: a task builds on earlier ones
        if found & set(task.builds_on):
            found.add(task.name)
    return found


def failures(report: Report) -> dict[str, str]:
    """Return the message of every failed task."""
    return {task.name: task.message for task in report.tasks if not task.passed}


def check_stub(chapter: str, record: Record) -> None:
    """The untouched stub fails every task, each with a message."""
    report = grader(chapter).grade_source(homework.stub(chapter))
    record("homework", (chapter, "the stub fails", f"{len(failures(report))}/{len(report.tasks)}"))
    assert all(not task.passed and task.message for task in report.tasks)
    assert report.total == 0


def check_right(chapter: str, name: str, record: Record, *, seeds: int = 3) -> None:
    """A right solution gets all points, whatever inputs are drawn."""
    text = source(chapter, name)
    reports = [grader(chapter).grade_source(text, seed=seed) for seed in range(seeds)]
    full = sum(report.passed for report in reports)
    record("homework", (chapter, f"{name} gets all points", f"{full}/{seeds}"))
    for report in reports:
        assert report.passed, f"seed {report.seed}: {failures(report)}"
        assert report.total == report.possible == 100


def check_mistakes(chapter: str, task: str, record: Record) -> None:
    """At least REQUIRED of a task's planted mistakes fail it, and no task that is not concerned."""
    planted = mistakes(chapter, task)
    assert len(planted) >= 10
    assert len({mistake.name for mistake in planted}) == len(planted)
    concerned = dependants(chapter, task)
    right = source(chapter, "reference")
    # Whether a task that builds on this one fails with it says nothing either way.
    only = {name for name in task_names(chapter) if name not in concerned} | {task}
    missed, elsewhere, hints = [], [], 0
    for mistake in planted:
        report = grader(chapter).grade_source(mistake.plant(right), only=only)
        failed = failures(report)
        if task not in failed:
            missed.append(mistake.name)
        elif report[task].hint:
            hints += 1
        if set(failed) - {task}:
            elsewhere.append((mistake.name, sorted(set(failed) - {task})))
    rejected = len(planted) - len(missed)
    what = f"{task}: planted mistakes rejected ({hints} with a hint)"
    record("homework", (chapter, what, f"{rejected}/{len(planted)}"))
    assert not elsewhere, f"tasks that are not concerned failed too: {elsewhere}"
    assert rejected >= REQUIRED * len(planted), f"not rejected: {missed}"
