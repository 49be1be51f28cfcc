"""Sphinx extension of the course: pages, boxes and pictures that are made from data.

Directives: ``{techniques}``, ``{devices}``, ``{mistakes}``, ``{source-map}``, ``{api-index}`` and
``{api} FOLDER`` fill the generated pages of the appendix; ``{start-here}`` and ``{course-map}``
the cover; ``{page-costs} CHAPTER`` a chapter's first page; ``{evidence} TECHNIQUE`` stands in a
page's "On a GPU" tab; ``{picture} FILE`` puts an SVG drawing into the page itself, so that it
follows the light and the dark theme.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from course import accessible
from course.directives import DIRECTIVES
from course.page import tidy_page


def setup(app: Sphinx) -> dict[str, Any]:
    for name, directive in DIRECTIVES.items():
        app.add_directive(name, directive)
    app.connect("html-page-context", tidy_page, priority=900)
    accessible.set_up(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
