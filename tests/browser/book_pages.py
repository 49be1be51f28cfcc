"""Which pages the book has, read from its own files."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
# Sphinx makes these by itself.
EXTRA = ["search", "genindex", "py-modindex"]


def toc_pages() -> list[str]:
    """Every page of _toc.yml, in its order."""

    def walk(row: dict) -> list[str]:
        here = [row[key] for key in ("root", "file") if key in row]
        for key in ("parts", "chapters", "sections"):
            for child in row.get(key, []):
                here += walk(child)
        return here

    return walk(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))


def notebook_pages() -> list[str]:
    """The pages that are notebooks: their text source is a Python file."""
    return [page for page in toc_pages() if (ROOT / page).with_suffix(".py").exists()]


def repository() -> tuple[str, str]:
    """`owner/name` and branch that the launch buttons must point to."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    return "/".join(config["url"].rstrip("/").split("/")[-2:]), config["branch"]
