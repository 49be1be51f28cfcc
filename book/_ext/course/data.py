"""Read and check the data that the generated pages are made of.

Everything is read from files under `book/_data` and from `companion/techniques.py`, which is
loaded by its path: the package need not be installed and nothing heavy is imported. Whatever is
wrong with a file raises DataError, one line that names file, entry and rule.
"""

from __future__ import annotations

import datetime
import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from course.checks import (
    DataError,
    check_keys,
    letters,
    read_json,
    read_rows,
    read_yaml,
    require,
    require_chapter,
    require_unique,
    strings,
)

STATUSES = ("ran", "failed", "not run", "not applicable")


@dataclass(frozen=True)
class Chapter:
    """A chapter of the course, built or to come."""

    number: int
    folder: str
    title: str
    question: str
    holds: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One of the source articles; `letter` is what rows of other files call it."""

    letter: str
    title: str
    english: str
    about: str


@dataclass(frozen=True)
class Mistake:
    """A widespread mistake: `chapter` is a number or "appendix", `page` is None while unwritten."""

    id: str
    chapter: int | str
    page: str | None
    sources: tuple[str, ...]
    mistake: str
    truth: str

    @property
    def label(self) -> str:
        return f"mistake-{self.id.lower()}"


@dataclass(frozen=True)
class Topic:
    """A row of the syllabus: what a source names, and where the course treats it."""

    chapter: int | str
    topic: str
    sources: tuple[str, ...]
    page: str | None
    techniques: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One evidence file: what was measured at one level, on which machine, when."""

    level: str
    accelerator: str
    hardware: Mapping[str, Any]
    versions: Mapping[str, Any]
    date: str
    results: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Course:
    """All data at once; `order` are the docnames of `_toc.yml`, from first to last."""

    techniques: ModuleType
    chapters: tuple[Chapter, ...]
    sources: Mapping[str, Source]
    mistakes: tuple[Mistake, ...]
    topics: tuple[Topic, ...]
    runs: tuple[Run, ...]
    costs: Mapping[str, Mapping[str, float]]
    order: tuple[str, ...] = ()


def load_course(root: Path) -> Course:
    """Read every data file of the checkout at `root`.

    Raises:
        DataError: a file is missing, is not YAML or JSON, or breaks a rule.
    """
    data = root / "book" / "_data"
    techniques = load_techniques(root / "companion" / "techniques.py")
    chapters = read_chapters(data / "chapters.yml")
    sources = read_sources(data / "sources.yml")
    numbers = {chapter.number for chapter in chapters}
    return Course(
        techniques=techniques,
        chapters=chapters,
        sources=sources,
        mistakes=read_mistakes(data / "mistakes.yml", sources, numbers),
        topics=read_topics(data / "syllabus.yml", sources, numbers),
        runs=read_runs(data / "devices", techniques.LEVELS),
        costs=read_costs(data / "pages.json"),
        order=tuple(read_order(root / "_toc.yml")),
    )


def data_files(root: Path) -> list[Path]:
    """Every file that :func:`load_course` may read: a page made from them depends on these."""
    found = sorted((root / "book" / "_data").rglob("*.yml"))
    found += sorted((root / "book" / "_data").rglob("*.json"))
    for pattern in ("*recipes.py", "techniques.py", "rows.py"):
        found += sorted((root / "companion").rglob(pattern))
    return [*found, root / "_toc.yml"]


def load_techniques(path: Path) -> ModuleType:
    """Import `companion.techniques` of the checkout that `path` lies in.

    The rows are data, so neither torch nor an installed companion is needed: whatever of the
    package is already imported is set aside meanwhile.
    """
    if not path.exists():
        raise DataError(f"{path}: is missing")
    aside = {name: module for name, module in sys.modules.items() if _of_companion(name)}
    for name in aside:
        del sys.modules[name]
    sys.path.insert(0, str(path.parents[1]))
    importlib.invalidate_caches()
    try:
        return importlib.import_module("companion.techniques")
    except Exception as error:
        raise DataError(f"{path}: cannot be executed: {error}") from error
    finally:
        sys.path.remove(str(path.parents[1]))
        for name in [name for name in sys.modules if _of_companion(name)]:
            del sys.modules[name]
        sys.modules.update(aside)


def _of_companion(module: str) -> bool:
    return module.split(".")[0] == "companion"


def read_chapters(path: Path) -> tuple[Chapter, ...]:
    rows = read_rows(path, keys={"number", "folder", "title", "question", "holds"})
    found = []
    for place, row in rows:
        require(isinstance(row["number"], int), place, f"number={row['number']!r} is no integer")
        found.append(Chapter(**{**row, "holds": strings(row["holds"], place, "holds")}))
    require_unique((c.number for c in found), path, "number")
    require_unique((c.folder for c in found), path, "folder")
    return tuple(found)


def read_sources(path: Path) -> dict[str, Source]:
    content = read_yaml(path)
    require(isinstance(content, dict) and content, path, "must map letters to articles")
    found = {}
    for letter, row in content.items():
        place = f"{path}: {letter}"
        check_keys(row, place, keys={"title", "english", "about"})
        found[letter] = Source(letter=letter, **row)
    return found


def read_mistakes(
    path: Path, sources: Mapping[str, Source], chapters: set[int]
) -> tuple[Mistake, ...]:
    keys = {"id", "chapter", "page", "sources", "mistake", "truth"}
    found = []
    for place, row in read_rows(path, keys=keys, name="id"):
        sources_of = letters(row["sources"], place, sources)
        require_chapter(row["chapter"], place, chapters)
        for key in ("mistake", "truth"):
            require(isinstance(row[key], str) and row[key].strip(), place, f"{key} has no text")
        found.append(Mistake(**{**row, "sources": sources_of}))
    require_unique((m.id for m in found), path, "id")
    return tuple(found)


def read_topics(path: Path, sources: Mapping[str, Source], chapters: set[int]) -> tuple[Topic, ...]:
    keys = {"chapter", "topic", "sources", "page", "techniques"}
    found = []
    for place, row in read_rows(path, keys=keys, name="topic"):
        sources_of = letters(row["sources"], place, sources)
        techniques = strings(row["techniques"] or [], place, "techniques")
        require_chapter(row["chapter"], place, chapters)
        found.append(Topic(**{**row, "sources": sources_of, "techniques": techniques}))
    return tuple(found)


def read_runs(folder: Path, levels: tuple[str, ...]) -> tuple[Run, ...]:
    """Read the evidence files, oldest first."""
    keys = {"level", "accelerator", "hardware", "versions", "date", "results"}
    found = []
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        require(isinstance(content, dict), path, "must be an object")
        missing = sorted(keys - set(content))
        require(not missing, path, f"lacks {', '.join(missing)}")
        level = content["level"]
        require(level in levels, path, f"level={level!r} is none of {', '.join(levels)}")
        try:
            datetime.date.fromisoformat(content["date"][:10])
        except (TypeError, ValueError):
            require(False, path, f"date={content['date']!r} is not YYYY-MM-DD")
        require(isinstance(content["results"], dict), path, "results must be an object")
        for name, result in content["results"].items():
            _check_result(result, f"{path}: {name}")
        found.append(Run(**{key: content[key] for key in keys}))
    return tuple(sorted(found, key=lambda run: run.date))


def _check_result(result: Any, place: str) -> None:
    require(isinstance(result, dict), place, "must be an object")
    status = result.get("status")
    require(status in STATUSES, place, f"status={status!r} is none of {', '.join(STATUSES)}")
    needs_reason = status in ("failed", "not applicable")
    require(not needs_reason or result.get("reason"), place, f"{status!r} needs a reason")


def read_costs(path: Path) -> dict[str, dict[str, float]]:
    """Seconds and memory of each page; nothing where they were never measured."""
    if not path.exists():
        return {}
    content = read_json(path)
    require(isinstance(content, dict), path, "must map pages to costs")
    for page, cost in content.items():
        place = f"{path}: {page}"
        check_keys(cost, place, keys={"seconds", "peak_mb"})
        for key, value in cost.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            require(number and value >= 0, place, f"{key}={value!r} is not a number ≥ 0")
    return content


def read_order(path: Path) -> Iterator[str]:
    """The docnames of a table of contents in Jupyter Book's format, from first to last."""

    def walk(row: Mapping[str, Any]) -> Iterator[str]:
        yield from (row[key] for key in ("root", "file") if key in row)
        for key in ("parts", "chapters", "sections"):
            for child in row.get(key, []):
                yield from walk(child)

    content = read_yaml(path)
    require(isinstance(content, dict), path, "must map names to values")
    return walk(content)
