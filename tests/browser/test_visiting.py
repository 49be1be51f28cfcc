"""The visits themselves: a page full of defects shows each of them, a clean page none."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser.conftest import QuietHandler, Server
from browser.visiting import Visit, visit_page
from playwright.sync_api import BrowserContext

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.timeout(60)]

FRAME = """<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<title>A page</title><style>
html {{ background: #fff; color: #111; }}
html[data-theme="dark"] {{ background: #111; color: #eee; }}
{style}</style></head><body><main><h1>A page</h1>{body}</main></body></html>"""
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+k"
    "cQAAAABJRU5ErkJggg=="
)


@pytest.fixture
def see(window: BrowserContext, tmp_path: Path) -> Iterator:
    """(body, style) -> what a visit sees on a page made of them."""
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        numbers = itertools.count()  # a new name each time: the browser keeps what it has seen

        def look(body: str, style: str = "") -> Visit:
            page = tmp_path / f"{next(numbers)}.html"
            text = FRAME.format(body=f"<p>Words.</p>{body}", style=style)
            page.write_text(text, encoding="utf-8")
            return visit_page(window, f"http://127.0.0.1:{server.server_port}/{page.name}")

        yield look
        server.shutdown()


def test_a_clean_page_is_clean(see) -> None:
    seen = see(f'<p>It costs $5.</p><code>$x$</code><img src="{PIXEL}" alt="A single grey dot">')
    assert seen.errors == seen.foreign == seen.failed == seen.raw_tex == []
    assert seen.axe_light == seen.axe_dark == seen.overflow["culprits"] == []
    assert seen.formulas == {"expected": 0, "rendered": 0, "errors": []}
    assert [image["width"] for image in seen.images] == [1]


@pytest.mark.parametrize(
    "body", ["<script>console.error('planted')</script>", "<script>throw Error('planted')</script>"]
)
def test_an_error_in_the_console_is_seen(see, body: str) -> None:
    assert "planted" in "".join(see(body).errors)


@pytest.mark.parametrize(
    "body",
    [
        '<img src="https://example.org/dot.png" alt="A dot elsewhere">',
        "<script>fetch('http://localhost:1/x').catch(() => 0)</script>",
    ],
)
def test_a_request_to_another_host_is_seen_and_stopped(see, body: str) -> None:
    assert len(see(body).foreign) == 1


def test_a_missing_image_is_seen(see) -> None:
    seen = see('<img src="gone.png" alt="A picture that is not there">')
    assert [image["width"] for image in seen.images] == [0]


def test_formulas_that_were_not_set_are_seen(see) -> None:
    texts = ["$$x^2$$", r"\(x\)", r"\[x\]", "$x_1$", r"\begin{align}"]
    seen = see("".join(f"<p>So {text} holds.</p>" for text in texts))
    assert len(seen.raw_tex) == len(texts)
    assert see('<span class="math">x</span>').formulas == {
        "expected": 1,
        "rendered": 0,
        "errors": [],
    }


def test_what_is_too_wide_for_a_phone_is_seen_unless_it_scrolls_by_itself(see) -> None:
    wide = '<div style="width: 600px">wide</div>'
    assert "600px" in see(wide).overflow["culprits"][0]
    boxed = see(f'<div style="overflow-x: auto" tabindex="0">{wide}</div>').overflow
    assert boxed == {"wide": 400, "culprits": []}


def test_pale_text_is_seen_in_the_theme_that_has_it(see) -> None:
    pale = "p.pale { color: #ccc; }"
    in_light = see('<p class="pale">pale</p>', pale)
    assert "color-contrast" in in_light.axe_light[0]
    assert in_light.axe_dark == []
    in_dark = see('<p class="pale">pale</p>', 'html[data-theme="dark"] p.pale { color: #333; }')
    assert in_dark.axe_light == []
    assert "color-contrast" in in_dark.axe_dark[0]


def test_pale_text_inside_a_fold_is_seen(see) -> None:
    seen = see(
        '<details><summary>more</summary><p class="pale">pale</p></details>', ".pale {color: #ccc}"
    )
    assert "color-contrast" in seen.axe_light[0]


def test_one_pale_text_among_hundreds_is_seen(see) -> None:
    body = "<p>dark</p>" * 300 + '<div style="background: #888"><p>too close</p></div>'
    seen = see(body, "div p { color: #777 }")
    assert len(seen.axe_light) == 1


@pytest.mark.parametrize(
    ("body", "rule"),
    [("<button></button>", "button-name"), ('<img src="{PIXEL}">', "image-alt")],
)
def test_a_thing_without_a_name_is_seen(see, body: str, rule: str) -> None:
    assert rule in see(body.replace("{PIXEL}", PIXEL)).axe_light[0]
