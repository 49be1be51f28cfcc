"""The directives: each asks a pure function for text and lets the page's own parser read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from course import api, cover, devices, glossary, syllabus, tables
from course.checks import DataError
from course.data import Course, data_files, load_course


class Generated(SphinxDirective):
    """Text from the course's data in place of the directive; bad data is an error of the build.

    `render` takes the course, the docnames in the book, the checkout's root and the argument.
    """

    render: ClassVar[Callable[[Course, set[str], Path, str], str]]

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        for path in data_files(root):
            self.env.note_dependency(str(path))
        self.env.note_reread()  # what it shows also depends on which pages exist
        try:
            text = type(self).render(load(root), self.pages(), root, " ".join(self.arguments))
        except DataError as error:
            raise self.error(str(error).replace(f"{root}/", "")) from error
        holder = nodes.section()
        holder.document = self.state.document
        lines = StringList(text.splitlines(), source=self.env.doc2path(self.env.docname))
        self.state.nested_parse(lines, self.content_offset, holder, match_titles=True)
        return holder.children

    def pages(self) -> set[str]:
        return set(self.env.found_docs)


_courses: dict[Path, Course] = {}


def load(root: Path) -> Course:
    """The data of a checkout, read once a build."""
    if root not in _courses:
        _courses[root] = load_course(root)
    return _courses[root]


def generated(render: Callable[[Course, set[str], Path, str], str], arguments: int = 0) -> type:
    """A directive class with `arguments` required arguments around a render function."""
    body = {"render": staticmethod(render), "required_arguments": arguments, "has_content": False}
    return type("GeneratedDirective", (Generated,), body)


class Picture(SphinxDirective):
    """An SVG file of `book/_static` inside the page, where the theme's colours reach it."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "book" / "_static" / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.exists():
            raise self.error(f"picture: {self.arguments[0]} is not in book/_static")
        svg = path.read_text(encoding="utf-8")
        svg = svg[svg.index("<svg") :].replace("\n\n", "\n")
        return [nodes.raw("", f'<div class="course-picture">{svg}</div>', format="html")]


DIRECTIVES = {
    "chinese-index": generated(lambda course, pages, root, _: glossary.chinese_index(root)),
    "glossary-terms": generated(
        lambda course, pages, root, _: glossary.glossary_page(course, pages, root)
    ),
    "api": generated(lambda course, pages, root, folder: api.api_page(root, folder), 1),
    "api-index": generated(lambda course, pages, root, _: api.api_index(course, pages, root)),
    "course-map": generated(lambda course, pages, *_: cover.course_map(course, pages)),
    "devices": generated(lambda course, *_: devices.devices_page(course)),
    "evidence": generated(lambda course, pages, root, name: devices.evidence(course, name), 1),
    "mistakes": generated(lambda course, pages, *_: syllabus.mistakes_page(course, pages)),
    "page-costs": generated(
        lambda course, pages, root, folder: syllabus.page_costs(course, folder, pages), 1
    ),
    "picture": Picture,
    "source-map": generated(lambda course, pages, *_: syllabus.source_map_page(course, pages)),
    "start-here": generated(lambda course, pages, root, _: cover.start_here(course, pages, root)),
    "techniques": generated(
        lambda course, pages, root, _: tables.techniques_page(course, pages, root)
    ),
}
