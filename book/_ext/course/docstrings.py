"""Docstrings as Markdown.

The package's docstrings are plain text in Google's style (`Args:`, `Returns:`, `Raises:` ...), full
of formulas whose `*`, `_` and `|` mean what they look like. Markdown leaves most of that alone;
what it would misread is escaped here, and indented blocks stay code.
"""

from __future__ import annotations

import re
import textwrap

SECTIONS = {
    "Args": "Arguments",
    "Arguments": "Arguments",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Yields": "Yields",
    "Raises": "Raises",
    "Example": "Example",
    "Examples": "Examples",
    "Note": "Note",
    "Source": "Source",
    "Sources": "Sources",
}
ENTRIES = ("Arguments", "Attributes", "Raises")
NAME = r"\*{0,2}[A-Za-z_][\w.]*"
ENTRY = re.compile(rf"^({NAME}(?:, {NAME})*)(?: \([^)]*\))?:(?:\s|$)")
ROLE = re.compile(r":(func|class|meth|mod|data|attr|exc):`([^`]*)`")
CODE = re.compile(r"((?:\{py:\w+\})?(`+)[^`]+\2)")
EMPHASIS = re.compile(r"(?<![\w*)\]])\*([A-Za-z][^*`]*?[A-Za-z.])\*(?![\w*(])")
MARKUP = re.compile(r"([\\*_<\[\]{}$~])")  # what would be more than text in Markdown
BLOCK = re.compile(r"^\s*(#|=+\s*$|-{2,}\s*$|[+>] )")  # would open a heading, a list, a quote


def markdown(docstring: str | None) -> str:
    """A docstring in Google's style as Markdown."""
    if not docstring:
        return ""
    parts: list[str] = []
    for title, lines in _split(docstring):
        body = textwrap.dedent("\n".join(lines)).strip("\n")
        if title is None:
            parts.append(_prose(body))
        elif title in ENTRIES and _entries(body):
            entries = [f"- `{name}`: {_prose(text)}".rstrip() for name, text in _entries(body)]
            parts.append(f"**{title}**\n\n" + "\n".join(entries))
        else:
            parts.append(f"**{title}**\n\n{_prose(body)}")
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def _split(docstring: str) -> list[tuple[str | None, list[str]]]:
    """Cut a docstring at its section headings: (title or None, lines)."""
    found: list[tuple[str | None, list[str]]] = [(None, [])]
    for line in docstring.splitlines():
        heading = line.removesuffix(":")
        if line.endswith(":") and heading in SECTIONS:
            found.append((SECTIONS[heading], []))
        elif found[-1][0] is not None and line and not line.startswith(" "):
            found.append((None, [line]))
        else:
            found[-1][1].append(line)
    return found


def _entries(body: str) -> list[tuple[str, str]]:
    """`name: text` items, each with its indented continuation; none if it is something else."""
    found: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        match = ENTRY.match(line)
        if match:
            found.append((match[1], [line[match.end() :].strip()]))
        elif found and (line.startswith(" ") or not line):
            found[-1][1].append(line.strip())
        else:
            return []
    return [(name, " ".join(filter(None, lines))) for name, lines in found]


def _prose(text: str) -> str:
    """Escape what Markdown would misread; indented lines are code blocks and stay as they are."""
    lines: list[str] = []
    in_code = False
    for line in text.splitlines():
        blank_before = not lines or not lines[-1].strip()
        if not line.strip():
            lines.append("")
            continue
        in_code = line.startswith("    ") and (in_code or blank_before)
        lines.append(line if in_code else _inline(line))
    return "\n".join(lines)


def _inline(line: str) -> str:
    line = re.sub(r"::$", ":", line)
    line = ROLE.sub(r"{py:\1}`\2`", line)
    pieces = CODE.split(line)
    shown = []
    for index in range(0, len(pieces), 3):
        shown.append(_escape(pieces[index]))
        if index + 1 < len(pieces):
            shown.append(pieces[index + 1])
    line = "".join(shown)
    if re.match(r"^\s*(#|=+\s*$|-{2,}\s*$|\d+[.)] |[+>] )", line) and not re.match(
        r"^\s*\d+\. ", line
    ):
        return re.sub(r"^(\s*)(\S)", r"\1\\\2", line)
    return line


def _escape(text: str) -> str:
    """Escape a piece of a line that holds no code; *emphasis* around words stays."""
    pieces = EMPHASIS.split(text)  # every second piece is a phrase that stood between stars
    pieces = [MARKUP.sub(r"\\\1", piece) for piece in pieces]
    return "".join(f"*{p}*" if i % 2 else p for i, p in enumerate(pieces))
