"""What was measured on which device: the box on a page, and the page of the appendix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from course.checks import DataError
from course.data import Course, Run
from course.tables import count, table

LEVEL_NAMES = {
    "cpu": "CPU",
    "cuda": "GPU (CUDA)",
    "xla-cpu": "XLA on the CPU",
    "tpu-compiled": "TPU, compiled only",
    "tpu": "TPU",
}


def latest(course: Course, level: str, technique: str) -> list[tuple[Run, Mapping[str, Any]]]:
    """The newest result of `technique` at `level` on each kind of machine, newest first."""
    found: dict[str, tuple[Run, Mapping[str, Any]]] = {}
    for run in course.runs:  # oldest first: a later run replaces an earlier one
        if run.level == level and technique in run.results:
            found[machine(run)] = (run, run.results[technique])
    return sorted(found.values(), key=lambda pair: pair[0].date, reverse=True)


def machine(run: Run) -> str:
    """The part of a run's hardware that matters for its level, in words."""
    hardware = run.hardware
    for key in ("tpu", "topology", "gpu"):
        if hardware.get(key):
            return str(hardware[key])
    name = str(hardware.get("cpu") or hardware.get("name") or run.accelerator)
    cores = hardware.get("cores")
    return f"{name}, {cores} {'core' if cores == 1 else 'cores'}" if cores else name


def evidence(course: Course, name: str) -> str:
    """The small table under "On a GPU" and "On a TPU": one row for each level and machine.

    Raises:
        DataError: there is no such technique.
    """
    technique = _technique(course, name)
    rows = []
    for level in course.techniques.LEVELS:
        found = latest(course, level, name)
        if level in technique.devices:
            rows.append([LEVEL_NAMES[level], f"not applicable: {technique.devices[level]}", "—"])
        elif not found:
            rows.append([LEVEL_NAMES[level], "not run", "—"])
        for run, result in found if level not in technique.devices else []:
            rows.append([LEVEL_NAMES[level], outcome(result), f"{machine(run)}; {run.date[:10]}"])
    return table(["level", "what was measured", "where and when"], rows, "evidence")


def outcome(result: Mapping[str, Any]) -> str:
    """One result in words."""
    status = result["status"]
    if status != "ran":
        return f"{status}: {one_line(result['reason'])}" if result.get("reason") else status
    parts = []
    if "steps" in result and "seconds" in result:
        parts.append(f"{count(result['steps'], 'step')} in {seconds(result['seconds'])}")
    elif "seconds" in result:
        parts.append(seconds(result["seconds"]))
    if "first_loss" in result and "last_loss" in result:
        parts.append(f"loss {result['first_loss']:.3g} → {result['last_loss']:.3g}")
    if result.get("max_loss_difference") is not None:
        parts.append(f"largest loss difference to the CPU {result['max_loss_difference']:.1e}")
    for key, form in EXTRA.items():
        if result.get(key) is not None:
            parts.append(form(result[key]))
    return "; ".join(["ran", *parts]) if parts else "ran"


def seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"


def scaled(value: float, unit: str) -> str:
    """`value` with three digits and a decimal prefix: 1.23e9, "B" -> "1.23 GB"."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


EXTRA = {
    "compile_seconds": lambda value: f"compiled in {seconds(value)}",
    "flops": lambda value: f"{scaled(value, 'FLOP')} a step",
    "bytes": lambda value: f"{scaled(value, 'B')} of memory traffic",
    "bytes_accessed": lambda value: f"{scaled(value, 'B')} of memory traffic",
    "peak_memory_bytes": lambda value: f"{scaled(value, 'B')} of device memory",
    "memory_bytes": lambda value: f"{scaled(value, 'B')} of device memory",
}


def one_line(text: str) -> str:
    """Error messages come from outside: keep them on one line, out of the reach of Markdown."""
    return " ".join(str(text).split()).replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def devices_page(course: Course) -> str:
    """All techniques by all levels, then the machines that the runs were made on."""
    for run in course.runs:
        for name in run.results:
            _technique(course, name)
    levels = course.techniques.LEVELS
    notes: dict[str, str] = {}
    rows = []
    for technique in course.techniques.TECHNIQUES:
        row = [f"[{technique.name}](#technique-{technique.name})"]
        row += [_cell(course, level, technique, notes) for level in levels]
        rows.append(row)
    if not rows:
        return "The table of techniques is still empty.\n"
    parts = [
        "## Results\n",
        table(["technique", *(LEVEL_NAMES[level] for level in levels)], rows, "devices"),
        *(f"({letter}) {one_line(reason)}\n" for reason, letter in notes.items()),
        "## Runs\n",
    ]
    if not course.runs:
        return "\n".join([*parts, "No run has been recorded yet.\n"])
    head = ["level", "machine", "date", "versions", "ran", "failed"]
    runs = (
        [
            LEVEL_NAMES[run.level],
            machine(run),
            run.date[:10],
            ", ".join(f"{name} {version}" for name, version in run.versions.items()),
            str(_count(run, "ran")),
            str(_count(run, "failed")),
        ]
        for run in reversed(course.runs)
    )
    return "\n".join([*parts, table(head, runs, "runs")])


def _cell(course: Course, level: str, technique: Any, notes: dict[str, str]) -> str:
    """The newest result in a word or two; a reason becomes a letter, explained below the table."""
    result: Mapping[str, Any] = {"status": "not run"}
    if level in technique.devices:
        result = {"status": "not applicable", "reason": technique.devices[level]}
    elif found := latest(course, level, technique.name):
        result = found[0][1]
    if result["status"] == "ran":
        return f"ran, {seconds(result['seconds'])}" if "seconds" in result else "ran"
    if not result.get("reason"):
        return result["status"]
    letter = notes.setdefault(result["reason"], _letter(len(notes)))
    return f"{result['status']} ({letter})"


def _letter(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa, 27 -> ab."""
    prefix = _letter(number // 26 - 1) if number >= 26 else ""
    return prefix + "abcdefghijklmnopqrstuvwxyz"[number % 26]


def _count(run: Run, status: str) -> int:
    return sum(result["status"] == status for result in run.results.values())


def _technique(course: Course, name: str) -> Any:
    for technique in course.techniques.TECHNIQUES:
        if technique.name == name:
            return technique
    raise DataError(f"technique={name!r} is not in companion/techniques.py")
