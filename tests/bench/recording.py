"""Store what a long benchmark measured where the pages find it."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from companion.devices import hardware, versions
from companion.recorded import FOLDER


def record(name: str, measured: dict[str, Any]) -> Path:
    """Write `measured` with machine, versions and date; the file changes as a whole or not at all.

    Args:
        name: of the benchmark, as in ``make bench ONLY=name``.
        measured: its figures, JSON values.
    """
    result = {
        **measured,
        "hardware": hardware("cpu"),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "command": f"make bench ONLY={name}",
    }
    path = FOLDER / f"{name.replace('-', '_')}.json"
    FOLDER.mkdir(exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path
