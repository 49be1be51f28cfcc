"""Last touches on every HTML page."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def tidy_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.Node
) -> None:
    """Drop Thebe's scripts: live code is off, and loading them twice is an error in the console."""
    context["script_files"] = [
        script for script in context.get("script_files", []) if not _is_thebe(script)
    ]


def _is_thebe(script: Any) -> bool:
    body = getattr(script, "attributes", {}).get("body", "")
    return "thebe" in str(getattr(script, "filename", script)).lower() or "thebe" in body.lower()
