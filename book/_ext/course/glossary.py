"""The glossary: `book/_data/glossary/*.yml` turned into MyST text, in both directions.

Each file holds the terms of one chapter. A term has an English name, Chinese names with their
pinyin (the order of a Chinese dictionary), abbreviations, the letters of the sources that use it,
the page that treats it, and one sentence. Sphinx's own ``{glossary}`` directive gets them, so that
every name is an anchor, a target of ``{term}`` and an entry of the book's search.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from course.checks import check_keys, read_yaml, require, require_unique, strings
from course.data import Course
from course.tables import chapter_name

REQUIRED = {"en", "sources", "text"}
OPTIONAL = {"zh", "pinyin", "abbreviations", "page"}
LISTS = ("sources", "zh", "pinyin", "abbreviations")


@dataclass(frozen=True)
class Term:
    """One entry; `page` is None where no page treats it yet, `chapter` is the one that will."""

    en: str
    sources: tuple[str, ...]
    text: str
    chapter: int
    zh: tuple[str, ...] = ()
    pinyin: tuple[str, ...] = ()
    abbreviations: tuple[str, ...] = ()
    page: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.en, *self.zh, *self.abbreviations)


def read_terms(folder: Path) -> list[Term]:
    """Every term of the files in `folder`.

    Raises:
        DataError: an entry lacks a key or has an unknown one, has not one pinyin for each Chinese
            name, or a name occurs twice.
    """
    terms: list[Term] = []
    for path in sorted(folder.glob("*.yml")):
        content = read_yaml(path)
        check_keys(content, str(path), {"chapter", "title", "terms"})
        for number, row in enumerate(content["terms"], start=1):
            terms.append(_term(row, content["chapter"], f"{path}: row {number}"))
    require_unique((name.casefold() for term in terms for name in term.names), folder, "name")
    return terms


def _term(row: Any, chapter: int, place: str) -> Term:
    require(isinstance(row, dict), place, "must map names to values")
    check_keys({key: row[key] for key in row if key not in OPTIONAL}, place, REQUIRED)
    lists = {key: strings(row.get(key, []), place, key) for key in LISTS}
    require(
        len(lists["zh"]) == len(lists["pinyin"]), place, "needs one pinyin for each Chinese name"
    )
    return Term(row["en"], text=row["text"], chapter=chapter, page=row.get("page"), **lists)


def glossary_page(course: Course, pages: set[str], root: Path) -> str:
    """All terms in the order of their English names, a heading for each letter."""
    terms = sorted(read_terms(root / "book" / "_data" / "glossary"), key=lambda t: _order(t.en))
    parts = []
    for letter, group in groupby(terms, key=lambda term: _order(term.en)[0].upper()):
        parts.append(f"## {letter}\n\n```{{glossary}}")
        parts += [_entry(term, course, pages) for term in group]
        parts.append("```\n")
    return "\n".join(parts)


def _entry(term: Term, course: Course, pages: set[str]) -> str:
    where = f"Chapter {chapter_name(course, term.chapter)}"
    if term.page is not None and f"book/{term.page}" in pages:
        where += f": {{doc}}`/book/{term.page}`"
    if term.sources:
        plural = "s" if len(term.sources) > 1 else ""
        where += f" · source{plural} {', '.join(term.sources)}"
    names = "\n".join(term.names)
    return f"{names}\n   {' '.join(term.text.split())}\n\n   {{.glossary-where}}\n   {where}\n"


def chinese_index(root: Path) -> str:
    """Every Chinese name in the order of its pinyin, each a link to its entry."""
    named = [
        (pinyin, zh, term.en)
        for term in read_terms(root / "book" / "_data" / "glossary")
        for zh, pinyin in zip(term.zh, term.pinyin, strict=True)
    ]
    named.sort(key=lambda row: _syllables(row[0]))
    parts = []
    for letter, group in groupby(named, key=lambda row: _order(row[0])[0].upper()):
        parts.append(f"**{letter}**\n")
        parts.append(" · ".join(f"{{term}}`{zh}` {english}" for _, zh, english in group) + "\n")
    return "\n".join(parts)


def _order(text: str) -> str:
    """Sorting key: lower case, accents and the dots of ü left out."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in plain if not unicodedata.combining(character))


def _syllables(pinyin: str) -> Iterable[str]:
    """Chinese dictionaries compare syllable by syllable: *da xing* stands before *dai*."""
    return tuple(_order(pinyin).split())
