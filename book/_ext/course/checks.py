"""Reading files and checking rows, with errors that name file, entry and rule."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import yaml


class DataError(ValueError):
    """A data file breaks its rules."""


def require(condition: Any, place: str | Path, rule: str) -> None:
    """Raise DataError with place and rule unless `condition` is true."""
    if not condition:
        raise DataError(f"{place}: {rule}")


def read_yaml(path: Path) -> Any:
    require(path.exists(), path, "is missing")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: is not JSON: {error}") from error


def read_rows(path: Path, keys: set[str], name: str | None = None) -> list[tuple[str, dict]]:
    """Return the rows of a YAML list, each with the place to name in an error."""
    content = read_yaml(path)
    require(isinstance(content, list), path, "must be a list")
    found = []
    for number, row in enumerate(content, start=1):
        called = row.get(name) if name and isinstance(row, dict) else None
        place = f"{path}: {called or f'row {number}'}"
        check_keys(row, place, keys)
        found.append((place, row))
    return found


def check_keys(row: Any, place: str, keys: set[str]) -> None:
    """`row` must have exactly these keys."""
    require(isinstance(row, dict), place, "must map names to values")
    missing, unknown = sorted(keys - set(row)), sorted(set(row) - keys)
    require(not missing, place, f"lacks {', '.join(missing)}")
    require(not unknown, place, f"has unknown {', '.join(map(str, unknown))}")


def letters(value: Any, place: str, sources: Container[str]) -> tuple[str, ...]:
    """A list of source letters, each of them known."""
    found = strings(value, place, "sources")
    for letter in found:
        require(letter in sources, place, f"sources: {letter!r} is in no row of sources.yml")
    return found


def strings(value: Any, place: str, key: str) -> tuple[str, ...]:
    right = isinstance(value, list) and all(isinstance(item, str) for item in value)
    require(right, place, f"{key}={value!r} is not a list of texts")
    return tuple(value)


def require_chapter(value: Any, place: str, chapters: set[int]) -> None:
    require(value in chapters or value == "appendix", place, f"chapter={value!r} does not exist")


def require_unique(values: Iterable[Any], path: Path, key: str) -> None:
    seen = set()
    for value in values:
        require(value not in seen, path, f"{key}={value!r} occurs twice")
        seen.add(value)
