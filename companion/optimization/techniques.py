"""The techniques of chapter 4: one row each, as `companion.techniques` reads them."""

from __future__ import annotations

from companion.rows import Page

PAGES: tuple[Page, ...] = ()
