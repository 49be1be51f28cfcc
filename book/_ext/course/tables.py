"""MyST text from the course's data: what all generated pages share, and the page of techniques.

What depends on the state of the book comes in as `pages`, the docnames that it really has
(``"book/backprop/losses"``): a link to a page that is not written yet would be a dead one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from course.checks import DataError
from course.data import Course


def table(head: Iterable[str], rows: Iterable[Iterable[str]], name: str = "") -> str:
    """A Markdown table; `name` becomes a class of its own, for the style sheet."""
    head = list(head)
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
    return "\n".join([f"{{.course-table .{name}}}" if name else "{.course-table}", *lines, ""])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
