"""Every page of the built book, in a browser: nothing missing, nothing foreign, all readable."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser.book_pages import EXTRA, toc_pages
from browser.visiting import Visit

# One group: pytest-xdist then keeps to one browser, whose cache holds what all pages share.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.timeout(120)]

# Console errors that a reader's browser may show: pattern -> why it is harmless.
ALLOWED_ERRORS: dict[str, str] = {}


PAGES = [*toc_pages(), *EXTRA]
every_page = pytest.mark.parametrize("page", PAGES)
See = Callable[[str], Visit]


def is_described(image: dict) -> bool:
    """A picture says in words what it shows; beside its name in a link, a logo says nothing."""
    if image["beside_text"]:
        return image["alt"] is not None
    alt = (image["alt"] or "").strip()
    return len(alt) > 10 and not alt.endswith((".png", ".svg"))


def test_the_build_has_exactly_the_pages_of_the_toc(html: Path) -> None:
    built = {p.relative_to(html).with_suffix("").as_posix() for p in html.rglob("*.html")}
    built = {page for page in built if not page.startswith(("_static/", "_modules/", "reports/"))}
    assert built == {*PAGES, "index"}


@every_page
def test_it_opens_without_a_console_error(visit: See, page: str) -> None:
    seen = visit(page)
    unexpected = [e for e in seen.errors if not any(re.search(p, e) for p in ALLOWED_ERRORS)]
    assert unexpected == []
    assert seen.failed == []


@every_page
def test_it_asks_no_other_host(visit: See, page: str) -> None:
    assert visit(page).foreign == []


@every_page
def test_every_formula_is_set(visit: See, page: str) -> None:
    seen = visit(page)
    assert seen.formulas["rendered"] == seen.formulas["expected"]
    assert seen.formulas["errors"] == []
    assert seen.raw_tex == []


@every_page
def test_no_image_is_missing_and_each_has_a_text(visit: See, page: str) -> None:
    images = visit(page).images
    assert [image["source"] for image in images if image["width"] == 0] == []
    assert [image["source"] for image in images if not is_described(image)] == []


@every_page
def test_it_does_not_scroll_sideways_on_a_phone(visit: See, page: str) -> None:
    assert visit(page).overflow["culprits"] == []
    assert visit(page).overflow["wide"] <= 400


@every_page
def test_axe_finds_nothing_serious_in_the_light_theme(visit: See, page: str) -> None:
    assert visit(page).axe_light == []


@every_page
def test_axe_finds_nothing_serious_in_the_dark_theme(visit: See, page: str) -> None:
    assert visit(page).axe_dark == []


class Page(HTMLParser):
    """The ids and the links of an HTML file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            elif name == "href" and tag == "a" and value:
                self.links.append(value)


@functools.cache
def parse(path: Path) -> Page:
    return Page(path)


@every_page
def test_no_link_inside_the_book_is_dead(html: Path, page: str) -> None:
    path = html / f"{page}.html"
    dead = []
    for link in dict.fromkeys(parse(path).links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.exists():
            dead.append(link)
        elif parts.fragment and unquote(parts.fragment) not in parse(target).ids:
            dead.append(link)  # a browser would quietly show the top of the page
    assert dead == []
