"""Results of the long benchmarks, as `make bench ONLY=...` stored them.

A page shows in seconds what took minutes to measure: the stored figures, with the machine, the
versions and the date they come from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"


def recorded(name: str) -> dict[str, Any]:
    """Return what a benchmark measured.

    Args:
        name: of the benchmark, e.g. ``"small-cnn"``.

    Returns:
        The figures under the names that the benchmark gave them, and ``hardware``, ``versions``,
        ``date`` and ``command``.

    Raises:
        ValueError: nothing is stored under this name.
    """
    path = FOLDER / f"{name.replace('-', '_')}.json"
    if not path.exists():
        known = ", ".join(sorted(p.stem.replace("_", "-") for p in FOLDER.glob("*.json")))
        raise ValueError(f"name={name!r}: nothing is stored under this name; known: {known}")
    return json.loads(path.read_text(encoding="utf-8"))


def provenance(result: dict[str, Any]) -> str:
    """Return in one sentence where a stored result comes from."""
    hardware, versions = result["hardware"], result["versions"]
    return (
        f"Measured on {result['date']} with `{result['command']}` on {hardware['cores']} cores of "
        f"{hardware['cpu']}, PyTorch {versions['torch']}."
    )
