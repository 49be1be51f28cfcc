"""Print what to install: `pins.py tested|oldest|newest [book]`, as a pip requirements file.

`tested` is requirements.txt as it stands; `oldest` puts torch and Lightning at the lowest version
that pyproject.toml admits; `newest` drops the pins, so that only pyproject's ranges hold. With
`book` only what building the book needs: that extra's packages, at the same versions, no torch.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST = ("torch", "pytorch-lightning")


def name_of(requirement: str) -> str:
    """The package's name in `requirement`, in the form that two spellings share."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement).group()
    return re.sub(r"[-_.]+", "-", name).lower()


def lines(choice: str, part: str | None, root: Path = ROOT) -> list[str]:
    """The requirement lines for `choice`.

    Raises:
        ValueError: `choice` or `part` is unknown.
    """
    if choice not in ("tested", "oldest", "newest"):
        raise ValueError(f"choice={choice!r} must be tested, oldest or newest")
    if part not in (None, "book"):
        raise ValueError(f"part={part!r} must be book or left out")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [
        line.strip()
        for line in (root / "requirements.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    pins = {name_of(line): line for line in wanted if "==" in line}
    if choice == "oldest":
        for requirement in project["dependencies"]:
            if name_of(requirement) in OLDEST:
                pins[name_of(requirement)] = requirement.replace(">=", "==")
    if choice == "newest":
        pins = {}
    if part == "book":
        extra = project["optional-dependencies"]["book"]
        return [pins.get(name_of(requirement), requirement) for requirement in extra]
    return [*pins.values(), *(line for line in wanted if line.startswith("-"))]


if __name__ == "__main__":
    try:
        print(*lines(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None), sep="\n")
    except (IndexError, ValueError) as error:
        print(f"pins.py: {error}", file=sys.stderr)
        sys.exit(2)
