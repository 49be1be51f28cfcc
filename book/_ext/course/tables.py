"""Turn the course's data into MyST text: one pure function for each generated page or box.

What depends on the state of the book comes in as `pages`, the docnames that it really has
(``"book/backprop/losses"``): a link to a page that is not written yet would be a dead one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from course.checks import DataError
from course.data import Course, Run

LEVEL_NAMES = {
    "cpu": "CPU",
    "cuda": "GPU (CUDA)",
    "xla-cpu": "XLA on the CPU",
    "tpu-compiled": "TPU, compiled only",
    "tpu": "TPU",
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]], name: str = "") -> str:
    """A Markdown table; `name` becomes a class of its own, for the style sheet."""
    head = list(head)
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
    return "\n".join([f"{{.course-table .{name}}}" if name else "{.course-table}", *lines, ""])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def page_link(page: str | None, pages: set[str], short: bool = False) -> str:
    """A link that shows the page's own title (or only its file's name), or "to come"."""
    if page is None:
        return "to come"
    if f"book/{page}" in pages:
        name = page.rpartition("/")[2].replace("_", " ")
        return f"{{doc}}`{name} </book/{page}>`" if short else f"{{doc}}`/book/{page}`"
    return f"`{page}`, to come"


def chapter_name(course: Course, chapter: int | str) -> str:
    if chapter == "appendix":
        return "Appendix"
    return next(f"{c.number} · {c.title}" for c in course.chapters if c.number == chapter)


def chapter_number(course: Course, folder: str, place: str) -> int:
    for chapter in course.chapters:
        if chapter.folder == folder:
            return chapter.number
    raise DataError(f"{place}: chapter={folder!r} is none of chapters.yml")


# --- techniques ---------------------------------------------------------------------------------


def techniques_page(course: Course, pages: set[str], root: Path) -> str:
    """The index of all techniques, then the cookbook: each recipe's source."""
    rows_of: dict[int, list[Any]] = {}
    for technique in course.techniques.TECHNIQUES:
        place = f"companion/techniques.py: {technique.name}"
        number = chapter_number(course, technique.chapter, place)
        for letter in technique.sources:
            if letter not in course.sources:
                raise DataError(f"{place}: sources: {letter!r} is no source")
        if technique.form not in course.techniques.FORMS:
            raise DataError(f"{place}: form={technique.form!r} is unknown")
        rows_of.setdefault(number, []).append(technique)
    if not rows_of:
        return "The table of techniques is still empty.\n"
    parts = ["## Index\n"]
    for number in sorted(rows_of):
        parts.append(f"**{chapter_name(course, number)}**\n")
        parts.append(
            table(
                ["technique", "form", "module and name", "page", "sources"],
                (
                    [
                        f"[{t.name}](#technique-{t.name})",
                        t.form,
                        "<br>".join(f"`{part}`" for part in t.target.split(":")),
                        page_link(t.page, pages, short=True),
                        ", ".join(t.sources) or "added",
                    ]
                    for t in rows_of[number]
                ),
                "techniques",
            )
        )
    parts.append("## Cookbook\n")
    for number in sorted(rows_of):
        parts += [_recipe(technique, pages, root) for technique in rows_of[number]]
    return "\n".join(parts)


def _recipe(technique: Any, pages: set[str], root: Path) -> str:
    source = recipe_source(root, technique.recipe)
    package, _, name = technique.target.partition(":")
    return (
        f"(technique-{technique.name})=\n"
        f"### {technique.name}\n\n"
        f"`from {package} import {name}` · {page_link(technique.page, pages)} · "
        f"`companion run {technique.name}`\n\n"
        f"``````python\n{source}\n``````\n\n"
        f"::::{{dropdown}} Where it ran\n:::{{evidence}} {technique.name}\n:::\n::::\n"
    )


def recipe_source(root: Path, target: str) -> str:
    """The source of the function that ``"package.module:name"`` names, without importing it.

    Raises:
        DataError: there is no such file, or no such function in it.
    """
    module, _, name = target.partition(":")
    path = root / Path(*module.split(".")).with_suffix(".py")
    if not path.exists():
        raise DataError(f"companion/techniques.py: recipe={target!r}: {path.name} does not exist")
    text = path.read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            source = ast.get_source_segment(text, node)
            assert source is not None
            return source
    raise DataError(f"companion/techniques.py: recipe={target!r}: no such function")


# --- devices ------------------------------------------------------------------------------------


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


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
    rows = []
    for technique in course.techniques.TECHNIQUES:
        row = [f"[{technique.name}](#technique-{technique.name})"]
        row += [_cell(course, level, technique) for level in levels]
        rows.append(row)
    if not rows:
        return "The table of techniques is still empty.\n"
    parts = [
        "## Results\n",
        table(["technique", *(LEVEL_NAMES[level] for level in levels)], rows, "devices"),
        "## Runs\n",
    ]
    if not course.runs:
        return "\n".join([*parts, "No run has been recorded yet.\n"])
    parts.append(
        table(
            ["level", "machine", "date", "versions", "ran", "failed"],
            (
                [
                    LEVEL_NAMES[run.level],
                    machine(run),
                    run.date[:10],
                    ", ".join(f"{name} {version}" for name, version in run.versions.items()),
                    str(_count(run, "ran")),
                    str(_count(run, "failed")),
                ]
                for run in reversed(course.runs)
            ),
            "runs",
        )
    )
    return "\n".join(parts)


def _cell(course: Course, level: str, technique: Any) -> str:
    if level in technique.devices:
        return f"not applicable: {technique.devices[level]}"
    found = latest(course, level, technique.name)
    if not found:
        return "not run"
    _, result = found[0]
    if result["status"] == "ran":
        return f"ran, {seconds(result['seconds'])}" if "seconds" in result else "ran"
    return outcome(result)


def _count(run: Run, status: str) -> int:
    return sum(result["status"] == status for result in run.results.values())


def _technique(course: Course, name: str) -> Any:
    for technique in course.techniques.TECHNIQUES:
        if technique.name == name:
            return technique
    raise DataError(f"technique={name!r} is not in companion/techniques.py")
