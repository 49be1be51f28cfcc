"""Point every link of the course at another repository: `repository.py URL`.

The address stands in `_config.yml`. From there it is repeated where a reader's machine needs it: in
the Colab cell of every page, in the badges of the README, in CITATION.cff. This tool changes all of
them together; nothing is written unless everything can be.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = re.compile(r"https://github\.com/[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?/[\w.-]+")
CONFIGURED = re.compile(r"^repository:\s*\n(?:[ \t]+.*\n)*?[ \t]+url:[ \t]*(\S+)", re.M)
# How an owner/name is introduced in the addresses of GitHub, Colab, Binder and the badges.
BEFORE = r"(github\.com/|/github/|/v2/gh/|shields\.io/github/[a-z/-]+/)"


def configured_address(root: Path) -> str:
    """The address that `_config.yml` gives.

    Raises:
        ValueError: it gives none.
    """
    match = CONFIGURED.search((root / "_config.yml").read_text(encoding="utf-8"))
    if match is None:
        raise ValueError("_config.yml: repository.url is missing")
    return match[1].strip("\"'")


def clean_address(url: str) -> str:
    """`url` without `.git` and a final slash.

    Raises:
        ValueError: it is not the address of a repository on GitHub.
    """
    cleaned = url.strip().removesuffix("/").removesuffix(".git")
    if not ADDRESS.fullmatch(cleaned):
        raise ValueError(f"url={url!r} must look like https://github.com/owner/name")
    return cleaned


def text_files(root: Path) -> list[Path]:
    """The files in which the address may stand."""
    found = [root / name for name in ("_config.yml", "README.md", "CITATION.cff", "pyproject.toml")]
    for folder, suffixes in (("book", (".py", ".ipynb", ".md")), (".github", (".yml", ".yaml"))):
        found += [p for p in sorted((root / folder).rglob("*")) if p.suffix in suffixes]
    skipped = {".ipynb_checkpoints", "__pycache__", "vendor"}
    return [p for p in found if p.is_file() and not skipped & set(p.parts)]


def rewritten(text: str, old: str, new: str) -> str:
    """`text` with the addresses of repository `old` (owner/name) turned into those of `new`."""
    text = re.sub(rf"{BEFORE}{re.escape(old)}(?![\w-])", rf"\g<1>{new}", text)
    old_owner, old_name = old.split("/")
    new_owner, new_name = new.split("/")
    site = rf"{re.escape(old_owner)}\.github\.io/{re.escape(old_name)}(?![\w-])"
    return re.sub(site, f"{new_owner}.github.io/{new_name}", text)


def point_at(url: str, root: Path = ROOT) -> list[Path]:
    """Rewrite every file that mentions the present address; returns those that changed.

    Raises:
        ValueError: `url` is no address of a repository, or `_config.yml` has none to replace.
    """
    new = clean_address(url).removeprefix("https://github.com/")
    old = clean_address(configured_address(root)).removeprefix("https://github.com/")
    changes: dict[Path, str] = {}
    for path in text_files(root):
        before = path.read_text(encoding="utf-8")
        after = rewritten(before, old, new)
        if after != before:
            changes[path] = after
    partial = {path: path.with_name(path.name + ".part") for path in changes}
    for path, text in changes.items():
        partial[path].write_text(text, encoding="utf-8")
    for path in changes:
        partial[path].replace(path)
    return list(changes)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("repository.py: say one address, https://github.com/owner/name", file=sys.stderr)
        return 2
    try:
        changed = point_at(arguments[0])
    except ValueError as error:
        print(f"repository.py: {error}", file=sys.stderr)
        return 2
    for path in changed:
        print(path.relative_to(ROOT).as_posix())
    print(f"{len(changed)} files changed" if changed else "every link already points there")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
