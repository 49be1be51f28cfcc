"""The generated pages about what the course teaches: mistakes, source map, costs."""

from __future__ import annotations

from course.checks import DataError
from course.data import Course, Mistake, Topic
from course.tables import chapter_name, page_link, table


def mistakes_page(course: Course, pages: set[str]) -> str:
    """Every widespread mistake, chapter by chapter, each with a link to its box."""
    parts = []
    for chapter in _in_order(course, {mistake.chapter for mistake in course.mistakes}):
        parts.append(f"## {chapter_name(course, chapter)}\n")
        parts += [_mistake(m, course, pages) for m in course.mistakes if m.chapter == chapter]
    return "\n".join(parts)


def _mistake(mistake: Mistake, course: Course, pages: set[str]) -> str:
    if mistake.page is not None and f"book/{mistake.page}" in pages:
        box = f"{{ref}}`its box <{mistake.label}>`"
        where = f"Shown and mended in {box} on {{doc}}`/book/{mistake.page}`."
    elif mistake.chapter == "appendix":
        where = "Treated in this appendix."
    else:
        where = f"Its box comes with chapter {chapter_name(course, mistake.chapter)}."
    noun = "Source" if len(mistake.sources) == 1 else "Sources"
    return (
        f":::{{admonition}} {mistake.id}\n:class: mistake\n"
        f"{mistake.mistake.strip()}\n\n"
        f"**What holds:** {mistake.truth.strip()}\n\n"
        f"{noun} {' and '.join(mistake.sources)}. {where}\n:::\n"
    )


def source_map_page(course: Course, pages: set[str]) -> str:
    """The articles, then every topic they name with the page and the techniques it became."""
    known = {technique.name for technique in course.techniques.TECHNIQUES}
    covered = sum(_is_there(topic, pages) for topic in course.topics)
    parts = [
        "## The sources\n",
        table(
            ["letter", "article", "in English", "what it covers"],
            ([s.letter, s.title, s.english, s.about.strip()] for s in course.sources.values()),
            "sources",
        ),
        "## Topics\n",
        f"{covered} of {len(course.topics)} topics are in the book so far.\n",
    ]
    for chapter in _in_order(course, {topic.chapter for topic in course.topics}):
        topics = [topic for topic in course.topics if topic.chapter == chapter]
        parts.append(f"### {chapter_name(course, chapter)}\n")
        parts.append(
            table(
                ["topic", "sources", "page", "techniques"],
                (
                    [
                        topic.topic,
                        ", ".join(topic.sources) or "added",
                        page_link(topic.page, pages, short=True),
                        _techniques(topic, known, pages),
                    ]
                    for topic in topics
                ),
                "source-map",
            )
        )
    return "\n".join(parts)


def _is_there(topic: Topic, pages: set[str]) -> bool:
    return topic.page is not None and f"book/{topic.page}" in pages


def _techniques(topic: Topic, known: set[str], pages: set[str]) -> str:
    for name in topic.techniques:
        if name not in known and _is_there(topic, pages):
            raise DataError(
                f"syllabus.yml: {topic.topic}: its page is in the book, "
                f"but technique {name!r} is not in companion/techniques.py"
            )
    return ", ".join(
        f"[{name}](#technique-{name})" if name in known else name for name in topic.techniques
    )


def page_costs(course: Course, folder: str, pages: set[str]) -> str:
    """Seconds and memory of each page of a chapter, as `make test` measured them.

    Raises:
        DataError: no chapter has that folder.
    """
    if folder not in {chapter.folder for chapter in course.chapters}:
        raise DataError(f"page-costs: {folder!r} is no chapter of chapters.yml")
    index = f"book/{folder}/index"
    rows, total = [], 0.0
    inside = (page for page in pages if page.startswith(f"book/{folder}/") and page != index)
    for page in sorted(inside, key=course.order.index):
        cost = course.costs.get(page)
        shown = ["not measured", "not measured"]
        if cost:
            total += cost["seconds"]
            shown = [f"{cost['seconds']:.0f} s", f"{cost['peak_mb']:,.0f} MB"]
        rows.append([f"{{doc}}`/{page}`", *shown])
    if total:
        rows.append(["**all pages**", f"**{total:.0f} s**", ""])
    return table(["page", "time", "peak memory"], rows, "costs")


def _in_order(course: Course, chapters: set[int | str]) -> list[int | str]:
    numbered = [c.number for c in course.chapters if c.number in chapters]
    return [*numbered, *(["appendix"] if "appendix" in chapters else [])]
