"""Keep each page's text source (`.py`, jupytext percent) and its executed `.ipynb` together.

    python book/_tools/notebooks.py execute [PAGE ...]   run from top to bottom, store the outputs
    python book/_tools/notebooks.py sync [PAGE ...]      carry edited prose over, keep the outputs
    python book/_tools/notebooks.py check [PAGE ...]     in step, executed, no unannounced error

PAGE is a path such as `book/backprop/losses.py` (the `.ipynb` will do); all pages without one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
NOT_RUN = {"skip-execution", "nbval-skip"}
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# Folders of a machine that stand before a module's own name in a traceback.
LIBRARIES = re.compile(r"(?:/[^\s/:'\"\x1b]+)+/(?:(?:site|dist)-packages|lib/python3\.\d+)/")
ABSOLUTE_MODULE = re.compile(r"(?<![\w./~-])/(?:[\w.@+-]+/)+[\w-]+\.py\b")


def pages() -> list[Path]:
    """All page sources of the book, in alphabetical order."""
    found = []
    for path in sorted(BOOK.rglob("*.py")):
        parts = path.relative_to(BOOK).parts
        if not any(part.startswith(("_", ".")) for part in parts):
            found.append(path)
    return found


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def read_source(path: Path) -> nbformat.NotebookNode:
    """Read a percent file; cell ids follow from content and place, so that diffs stay small."""
    notebook = jupytext.read(path, fmt="py:percent")
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata = nbformat.from_dict({"tags": tags(cell)} if tags(cell) else {})
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def merge_streams(cell: nbformat.NotebookNode) -> None:
    """Join neighbouring outputs of one stream: how they are cut depends on the clock."""
    merged: list[nbformat.NotebookNode] = []
    for output in cell.get("outputs", []):
        output.pop("transient", None)
        last = merged[-1] if merged else None
        if (
            last is not None
            and output.output_type == "stream" == last.output_type
            and output.name == last.name
        ):
            last.text += output.text
        else:
            merged.append(output)
    cell["outputs"] = merged


def without_machine_paths(text: str) -> str:
    """Shorten paths to `torch/nn/modules/module.py` and `companion/arguments.py`.

    Where this checkout and its libraries lie says nothing to a reader and is different elsewhere.
    """
    return LIBRARIES.sub("", text).replace(f"{ROOT}/", "")


def shorten_paths(cell: nbformat.NotebookNode) -> None:
    """Take this machine's folders out of everything that a cell's outputs say in words."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            output.text = without_machine_paths(output.text)
        elif output.output_type == "error":
            output.evalue = without_machine_paths(output.evalue)
            output.traceback = [without_machine_paths(line) for line in output.traceback]
        else:
            for kind, value in output.data.items():
                if kind.startswith("text/") and isinstance(value, str):
                    output.data[kind] = without_machine_paths(value)


def words(cell: nbformat.NotebookNode) -> Iterator[str]:
    """Everything that a cell's outputs say in words."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield from (output.evalue, *output.traceback)
        else:
            yield from (v for k, v in output.data.items() if k.startswith("text/"))


def execute(source: Path) -> float:
    """Run the page in its own folder and write the `.ipynb`; returns the seconds it took."""
    from nbclient import NotebookClient

    notebook = read_source(source)
    os.environ.pop("MPLBACKEND", None)  # the kernel's own backend puts figures into the outputs
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(source.parent)}},
        skip_cells_with_tag="skip-execution",
        record_timing=False,
    )
    start = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - start
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            merge_streams(cell)
            shorten_paths(cell)
    write(source, notebook)
    return seconds


def write(source: Path, notebook: nbformat.NotebookNode) -> None:
    target = source.with_suffix(".ipynb")
    partial = target.with_suffix(".ipynb.part")
    partial.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    partial.replace(target)


def sync(source: Path) -> None:
    """Take text from the `.py` and outputs from the `.ipynb`; refuse where code has changed."""
    new = read_source(source)
    old = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    before = [c for c in old.cells if c.cell_type == "code"]
    after = [c for c in new.cells if c.cell_type == "code"]
    if [c.source for c in before] != [c.source for c in after]:
        raise SystemExit(f"{relative(source)}: code has changed; run `execute` on it")
    for had, has in zip(before, after, strict=True):
        has["outputs"], has["execution_count"] = had.outputs, had.execution_count
        shorten_paths(has)
    write(source, new)


def problems(source: Path) -> list[str]:
    """What is wrong with a page's pair of files, in words; empty when all is well."""
    target = source.with_suffix(".ipynb")
    name = relative(source)
    if not target.exists():
        return [f"{name}: has no .ipynb; run `make notebooks PAGE={name}`"]
    new, old = read_source(source), nbformat.read(target, as_version=4)
    found = []
    want = [(c.cell_type, c.source, tags(c)) for c in new.cells]
    have = [(c.cell_type, c.source, tags(c)) for c in old.cells]
    if want != have:
        found.append(f"{name}: .py and .ipynb differ; run `make notebooks PAGE={name}`")
    for number, cell in enumerate(old.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        marks = set(tags(cell))
        if cell.execution_count is None and not marks >= NOT_RUN:
            found.append(f"{name}: cell {number} was never executed")
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in marks:
                found.append(f"{name}: cell {number} stores an error that no tag announces")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{name}: cell {number} stores text on stderr")
        for path in sorted({p for text in words(cell) for p in ABSOLUTE_MODULE.findall(text)}):
            found.append(f"{name}: cell {number} stores a path of one machine, {path}")
        if "raises-exception" in marks and not any(o.output_type == "error" for o in cell.outputs):
            found.append(f"{name}: cell {number} announces an error that did not come")
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["execute", "sync", "check"])
    parser.add_argument("page", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    chosen = [p.resolve().with_suffix(".py") for p in options.page] or pages()
    for missing in [p for p in chosen if not p.exists()]:
        print(f"{missing}: no such page", file=sys.stderr)
        return 2
    found: list[str] = []
    for source in chosen:
        if options.action == "execute":
            print(f"{relative(source)}: {execute(source):.1f} s")
        elif options.action == "sync":
            sync(source)
        found += problems(source)
    print("\n".join(found) or f"{len(chosen)} pages in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
