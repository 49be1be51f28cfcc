"""The repairs of the book's HTML: signatures, bibliography, texts of the figures."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from course.accessible import (  # noqa: E402
    describe_images,
    descriptions,
    png_description,
    repair_signatures,
)


def png(**texts: str) -> bytes:
    """A one-pixel PNG with these texts inside, written by Pillow."""
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "png", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize("text", ["A plain text.", "Loss against η, 损失", "a & b < c"])
def test_the_description_in_a_png_is_read(text: str) -> None:
    assert png_description(png(Software="none", Description=text)) == text


def test_a_png_without_a_description_has_none() -> None:
    assert png_description(png(Software="none")) is None
    assert png_description(b"") is None


def test_a_stored_figure_gets_its_description_as_alt(tmp_path: Path) -> None:
    drawn, silent = png(Description='The loss falls to "zero".'), png(Software="none")
    outputs = [
        {"data": {"image/png": base64.b64encode(content).decode()}} for content in (drawn, silent)
    ]
    notebook = tmp_path / "page.ipynb"
    cells = [{"outputs": outputs}, {"cell_type": "markdown"}]
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    names = [hashlib.sha256(content).hexdigest() for content in (drawn, silent)]
    body = "".join(
        f'<p><img alt="../{name}.png" src="../_images/{name}.png" /></p>' for name in names
    )
    mended = describe_images(body, descriptions(notebook))
    assert 'alt="Figure' not in mended
    assert f'alt="The loss falls to &quot;zero&quot;." src="../_images/{names[0]}.png"' in mended
    assert f'alt="../{names[1]}.png"' in mended


def test_a_long_signature_loses_its_list_and_keeps_its_parameters() -> None:
    body = (
        '<dl class="py"><dt><span class="sig-paren">(</span>\n\n<dl>\n<dd><em>a</em>,</dd>\n'
        '<dd><em>b</em>,</dd>\n</dl>\n\n<span class="sig-paren">)</span></dt><dd>text</dd></dl>'
    )
    mended = repair_signatures(body)
    assert mended.count("<dl") == 1
    assert '<span class="sig-line"><em>a</em>,</span>' in mended
    assert "<dd>text</dd></dl>" in mended


def test_a_short_signature_stays_as_it_is() -> None:
    body = '<dt><span class="sig-paren">(</span><em>a</em><span class="sig-paren">)</span></dt>'
    assert repair_signatures(body) == body
