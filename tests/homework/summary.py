"""The graders' figures, printed at the end of a test run (called from ``tests/conftest.py``)."""

from __future__ import annotations

from typing import Any


def figures(terminalreporter: Any) -> list[tuple[str, str, str]]:
    """Return what the proofs recorded, from all processes: chapter, what, how many of how many."""
    return [
        value
        for status in ("passed", "failed")
        for report in terminalreporter.stats.get(status, [])
        for name, value in getattr(report, "user_properties", [])
        if name == "homework"
    ]


def write_summary(terminalreporter: Any) -> None:
    """Print the figures, and how many planted mistakes were rejected altogether."""
    rows = sorted(figures(terminalreporter))
    if not rows:
        return
    terminalreporter.section("homework: what the graders were proven with")
    counts = [0, 0]
    for chapter, what, figure in rows:
        terminalreporter.line(f"{chapter:<12} {figure:>7}  {what}")
        if "planted mistakes" in what:
            counts = [a + int(b) for a, b in zip(counts, figure.split("/"), strict=True)]
    if counts[1]:
        share = counts[0] / counts[1]
        terminalreporter.line(
            f"planted mistakes rejected: {counts[0]} of {counts[1]} ({share:.1%})"
        )
