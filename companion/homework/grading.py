"""Grade a homework file: ``grade("backprop", "my.py")``.

The file runs in a process of its own, which answers in plain arrays; what is right is worked out
here, from inputs drawn afresh for every grading. So a file can print, exit, hang or patch whatever
it finds: points come from right answers only.
"""

from __future__ import annotations

import importlib
import json
import math
import secrets
import textwrap
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from companion.homework.rules import Submission
    from companion.homework.tasks import Task

FOLDER = Path(__file__).resolve().parent
IMPORT_S = 15.0
TIMEOUT_S = 180.0
MAX_SOURCE_BYTES = 2**20
WIDTH = 88


@dataclass(frozen=True)
class TaskResult:
    """What became of one task.

    Attributes:
        name: of the task.
        title: what was asked.
        points: what the task is worth.
        passed: whether it is right; there are no points for half a task.
        message: what is wrong, one line; empty if passed.
        hint: what it is probably due to; may be empty.
        output: the last part of what the file printed while it ran.
        seconds: wall-clock time.
    """

    name: str
    title: str
    points: int
    passed: bool
    message: str = ""
    hint: str = ""
    output: str = ""
    seconds: float = 0.0

    @property
    def earned(self) -> int:
        return self.points if self.passed else 0


@dataclass(frozen=True)
class Report:
    """The grading of one file.

    Attributes:
        chapter: whose homework it is.
        file: the file's name.
        seed: what the inputs were drawn from; ``grade(…, seed=…)`` repeats a grading.
        tasks: one result a task, in order.
    """

    chapter: str
    file: str
    seed: int
    tasks: tuple[TaskResult, ...]

    @property
    def total(self) -> int:
        """The points earned."""
        return sum(task.earned for task in self.tasks)

    @property
    def possible(self) -> int:
        """The points there are."""
        return sum(task.points for task in self.tasks)

    @property
    def passed(self) -> bool:
        """Whether every task is right."""
        return all(task.passed for task in self.tasks)

    def __getitem__(self, name: str) -> TaskResult:
        """Return the result of the task called `name`."""
        return {task.name: task for task in self.tasks}[name]

    def to_json(self) -> str:
        """Return the report as JSON text."""
        tasks = [{**asdict(task), "earned": task.earned} for task in self.tasks]
        summary = {"total": self.total, "possible": self.possible, "passed": self.passed}
        head = {"chapter": self.chapter, "file": self.file, "seed": self.seed}
        return json.dumps({**head, **summary, "tasks": tasks}, indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """Return the report as lines to read."""
        lines = []
        for task in self.tasks:
            mark = "passed" if task.passed else "FAILED"
            lines.append(f"{mark}  {task.earned:2d}/{task.points:<2d}  {task.name}")
            remarks = [task.message, f"hint: {task.hint}" if task.hint else ""]
            if task.output.strip() and not task.passed:
                remarks.append(f"it printed, last: {task.output.strip().splitlines()[-1]}")
            for remark in filter(None, remarks):
                indent = " " * 15
                lines += textwrap.wrap(
                    remark, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  "
                )
        lines.append(f"{self.total} of {self.possible} points")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()


@dataclass(frozen=True)
class Clock:
    """The time limits of one grading: the monotonic `deadline`, and a cap on each process."""

    deadline: float
    longest_s: float

    def limit(self, seconds: float) -> float:
        """Return `seconds`, or what is left of them."""
        return min(seconds, self.longest_s, self.deadline - time.monotonic())


class Grader:
    """Grades any number of files with one server process; a context manager.

    Args:
        chapter: one of :func:`chapters`.
        method: how processes start, see :class:`companion.homework.sandbox.Sandbox`.

    Raises:
        ValueError: an unknown chapter.
        RuntimeError: the system cannot run a sandbox.
    """

    def __init__(self, chapter: str, *, method: str | None = None) -> None:
        require_chapter(chapter)
        from companion.homework.sandbox import Sandbox

        self.chapter = chapter
        self._sandbox = Sandbox([f"companion.homework.scenarios.{chapter}"], method=method)

    def __enter__(self) -> Grader:
        self._sandbox.__enter__()  # its server loads torch while the next line does so here
        try:
            module = importlib.import_module(f"companion.homework.{self.chapter}.tasks")
        except BaseException:
            self._sandbox.__exit__(None, None, None)
            raise
        self.tasks: tuple[Task, ...] = module.TASKS
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sandbox.__exit__(kind, error, trace)

    def grade(
        self,
        file: Path | str,
        *,
        timeout_s: float = TIMEOUT_S,
        seed: int | None = None,
        only: Collection[str] | None = None,
    ) -> Report:
        """Grade one file; arguments and errors as in :func:`grade`, `only` names some tasks."""
        source = read_source(Path(file))
        return self.grade_source(source, Path(file).name, timeout_s=timeout_s, seed=seed, only=only)

    def grade_source(
        self,
        source: str,
        name: str = "submission.py",
        *,
        timeout_s: float = TIMEOUT_S,
        longest_s: float = math.inf,
        seed: int | None = None,
        only: Collection[str] | None = None,
    ) -> Report:
        """Grade a submission given as text; `longest_s` caps the limits of import and tasks."""
        seed = secrets.randbits(32) if seed is None else seed
        clock = Clock(time.monotonic() + timeout_s, longest_s)
        chosen = [task for task in self.tasks if only is None or task.name in only]
        fault, submission = self._examine(source, clock)
        results: list[TaskResult] = []
        for task in chosen:
            result = TaskResult(task.name, task.title, task.points, False)
            if submission is None:
                result = replace(result, **fault)
            else:
                result = self._grade_task(result, task, submission, source, seed, clock)
            lame = [r.name for r in results if r.name in task.builds_on and not r.passed]
            written = submission is not None and not result.message.startswith("is not written")
            if lame and not result.passed and written:
                first = f"it builds on {' and '.join(lame)}: mend that first"
                result = replace(result, hint="; ".join(filter(None, [first, result.hint])))
            results.append(result)
        return Report(self.chapter, name, seed, tuple(results))

    def _examine(self, source: str, clock: Clock) -> tuple[dict[str, Any], Submission | None]:
        """Parse the file and import it once; returns what to report if that does not go well."""
        from companion.homework.rules import Submission

        try:
            submission = Submission(source)
        except SyntaxError as error:
            line = f" (line {error.lineno})" if error.lineno else ""
            return {"message": f"importing your file: SyntaxError: {error.msg}{line}"}, None
        if breach := submission.grader_import():
            told = f"your file mentions {breach.name} (line {breach.line}): graders are off limits"
            return {"message": told}, None
        limit = clock.limit(IMPORT_S)
        outcome = self._sandbox.run(source, None, {}, timeout_s=limit)
        if outcome.values is None:
            hint = ""
            if "still running" in outcome.fault:
                hint = "is there a loop or a training run at the top level of the file?"
            told = f"importing your file: {outcome.fault}"
            return {"message": told, "hint": hint, "output": outcome.output}, None
        return {}, submission

    def _grade_task(
        self,
        result: TaskResult,
        task: Task,
        submission: Submission,
        source: str,
        seed: int,
        clock: Clock,
    ) -> TaskResult:
        import numpy as np

        from companion.homework.tasks import Answers, Wrong

        if breach := submission.breach(task.defines, task.forbidden):
            told = f"{' / '.join(task.defines)} must do without {breach.name} (line {breach.line})"
            return replace(result, message=told, hint="the task's text lists what it may not use")
        limit = clock.limit(task.seconds)
        if limit <= 0:
            return replace(result, message="not run: the time for the whole file is used up")
        inputs = task.draw(np.random.default_rng([seed, self.tasks.index(task)]))
        public = {name: value for name, value in inputs.items() if not name.startswith("_")}
        outcome = self._sandbox.run(source, task.scenario, public, timeout_s=limit)
        result = replace(result, output=outcome.output, seconds=round(outcome.seconds, 3))
        if outcome.values is None:
            return replace(result, message=outcome.fault)
        try:
            with np.errstate(all="ignore"):
                task.judge(inputs, Answers(outcome.values))
        except Wrong as wrong:
            return replace(result, message=str(wrong), hint=wrong.hint)
        return replace(result, passed=True)


def grade(
    chapter: str, file: Path | str, *, timeout_s: float = TIMEOUT_S, seed: int | None = None
) -> Report:
    """Grade `file`, a student's solution of a chapter's homework.

    Args:
        chapter: one of :func:`chapters`.
        file: a Python file; it is run, in a process of its own.
        timeout_s: wall-clock limit for the whole file; every task has its own besides.
        seed: repeat an earlier grading (its report has the seed); by default a fresh one.

    Raises:
        ValueError: an unknown chapter; a file that is missing, too large or not a .py.
        RuntimeError: this system cannot run a sandbox.
    """
    require_chapter(chapter)
    read_source(Path(file))
    if not timeout_s > 0:
        raise ValueError(f"timeout_s={timeout_s}: a number of seconds above 0 is needed")
    with Grader(chapter) as grader:
        return grader.grade(file, timeout_s=timeout_s, seed=seed)


def chapters() -> tuple[str, ...]:
    """Return the chapters that have homework."""
    return tuple(sorted(tasks.parent.name for tasks in FOLDER.glob("*/tasks.py")))


def stub(chapter: str) -> str:
    """Return the text of the file that a chapter's homework starts from.

    Raises:
        ValueError: an unknown chapter.
    """
    require_chapter(chapter)
    return (FOLDER / "stubs" / f"{chapter}.py").read_text(encoding="utf-8")


def require_chapter(chapter: str) -> None:
    """Raise ValueError unless `chapter` has homework."""
    if chapter not in chapters():
        raise ValueError(
            f"chapter={chapter!r} has no homework: it must be one of {', '.join(chapters())}"
        )


def read_source(path: Path) -> str:
    """Return the text of a submission.

    Raises:
        ValueError: the file is missing, not a .py file, too large, or not text in UTF-8.
    """
    if not path.exists():
        raise ValueError(f"file={str(path)!r}: there is no such file")
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(f"file={str(path)!r}: it must be a Python file, something.py")
    if path.stat().st_size > MAX_SOURCE_BYTES:
        raise ValueError(f"file={str(path)!r}: it is larger than {MAX_SOURCE_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"file={str(path)!r}: it is not text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"file={str(path)!r}: it cannot be read ({error.strerror})") from None
