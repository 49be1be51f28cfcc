"""Grade homework with plain pytest, one test a task::

    pytest -p companion.homework.pytest_plugin --homework backprop my.py [more.py …]

pytest does not import the files: every task is run and judged as ``companion check`` does it, and
``-k rms``, ``-x``, ``--junit-xml`` and the like work as usual. The points follow at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from companion.homework.grading import Grader, Report, TaskResult, require_chapter

GRADER = pytest.StashKey[Grader]()


class TaskFailed(Exception):
    """A task that did not pass; carries its result."""


class TaskItem(pytest.Item):
    """One task of a submission."""

    parent: SubmissionFile

    def runtest(self) -> None:
        report = self.parent.report
        task = report[self.name]
        self.user_properties.append(("homework_points", (report.file, task.earned, task.points)))
        if task.output.strip():
            self.add_report_section("call", "stdout", task.output)
        if not task.passed:
            raise TaskFailed(task)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Say what is wrong in one or two lines; a traceback would only show the grader."""
        if not isinstance(excinfo.value, TaskFailed):
            return super().repr_failure(excinfo, style)
        task: TaskResult = excinfo.value.args[0]
        hint = f"\nhint: {task.hint}" if task.hint else ""
        return f"{task.title}: {task.message}{hint}"

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.name}: {self.name}"


class SubmissionFile(pytest.File):
    """A file to grade; it is graded once, when the first of its tasks runs."""

    _report: Report | None = None

    def collect(self) -> Iterator[TaskItem]:
        for task in session_grader(self.config).tasks:
            yield TaskItem.from_parent(self, name=task.name)

    @property
    def report(self) -> Report:
        if self._report is None:
            self._report = session_grader(self.config).grade(self.path)
        return self._report


def session_grader(config: pytest.Config) -> Grader:
    """Return the grader of this pytest process; it is started when it is first asked for."""
    if GRADER not in config.stash:
        config.stash[GRADER] = Grader(config.getoption("homework")).__enter__()
    return config.stash[GRADER]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("homework")
    group.addoption("--homework", metavar="CHAPTER", help="grade the files given as homework")


def pytest_configure(config: pytest.Config) -> None:
    chapter = config.getoption("homework")
    if chapter is not None:
        try:
            require_chapter(chapter)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_unconfigure(config: pytest.Config) -> None:
    if GRADER in config.stash:
        config.stash[GRADER].__exit__(None, None, None)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> SubmissionFile | None:
    if parent.config.getoption("homework") is None:
        return None
    return SubmissionFile.from_parent(parent, path=module_path)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    points: dict[str, list[tuple[int, int]]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", []):
                if name == "homework_points" and report.when == "call":
                    points.setdefault(value[0], []).append((value[1], value[2]))
    for file, pairs in points.items():
        earned, possible = (sum(column) for column in zip(*pairs, strict=True))
        terminalreporter.write_line(f"{file}: {earned} of {possible} points")
