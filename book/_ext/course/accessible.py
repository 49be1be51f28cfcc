"""Repairs of the pages' HTML for readers who listen to it, and for narrow screens.

Sphinx and docutils write three things that a screen reader trips over: a list of parameters as a
`<dl>` without terms inside a signature, a bibliography whose list has no list items, and the file's
name as the text of every figure that a notebook drew. The figures of this course carry their
description inside the PNG (:func:`companion.figures.describe`); here it becomes the `alt` text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import struct
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SIGNATURE = re.compile(
    r'(<span class="sig-paren">\(</span>\s*)<dl>(.*?)</dl>(\s*<span class="sig-paren">\))', re.S
)
IMAGE = re.compile(r"<img\b[^>]*>")
SOURCE = re.compile(r'\bsrc="[^"]*/([0-9a-f]{64})\.png"')
ALT = re.compile(r'\balt="[^"]*"')


def set_up(app: Sphinx) -> None:
    """Mend every page, and add the style sheet and the script that go with it."""
    app.connect("html-page-context", repair_page)
    app.add_css_file("accessible.css")
    app.add_js_file("accessible.js")


def repair_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.Node
) -> None:
    """Mend the body of a page before it goes into its template."""
    if not context.get("body"):
        return
    body = repair_signatures(context["body"])
    body = body.replace('role="doc-biblioentry"', 'role="listitem"')
    if pagename in app.env.found_docs:
        path = Path(app.env.doc2path(pagename))
        if path.suffix == ".ipynb":
            body = describe_images(body, descriptions(path))
    context["body"] = body


def repair_signatures(body: str) -> str:
    """Long signatures: one line a parameter, without a definition list that defines nothing."""

    def lines(match: re.Match[str]) -> str:
        opening, inner, closing = match.groups()
        inner = inner.replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
        return f"{opening}{inner}{closing}"

    return SIGNATURE.sub(lines, body)


def describe_images(body: str, texts: dict[str, str]) -> str:
    """Give every notebook figure in `body` its text; `texts` maps file names (hashes) to them."""

    def described(match: re.Match[str]) -> str:
        tag = match.group()
        source = SOURCE.search(tag)
        text = texts.get(source.group(1)) if source else None
        if text is None:
            return tag
        return ALT.sub(lambda _: f'alt="{html.escape(text)}"', tag, count=1)

    return IMAGE.sub(described, body)


def descriptions(notebook: Path) -> dict[str, str]:
    """SHA-256 of each stored PNG, which is its file name in the book -> the description in it."""
    found = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            content = output.get("data", {}).get("image/png")
            if content:
                png = base64.b64decode("".join(content))
                if text := png_description(png):
                    found[hashlib.sha256(png).hexdigest()] = text
    return found


def png_description(png: bytes) -> str | None:
    """The text in a PNG under the keyword "Description" (PNG specification, section 11.3.4)."""
    place = 8  # behind the signature
    while place + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        data = png[place + 8 : place + 8 + length]
        place += length + 12
        keyword, _, rest = data.partition(b"\0")
        if keyword != b"Description":
            continue
        if kind == b"tEXt":
            return rest.decode("latin-1")
        if kind == b"iTXt" and rest[:1] == b"\0":  # not compressed
            return rest[2:].split(b"\0", 2)[2].decode("utf-8")
    return None
