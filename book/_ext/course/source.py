"""The package's modules as syntax trees, their annotations made unambiguous."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Module:
    """A public module: dotted name, folder below the package ("core": in none), path, tree."""

    name: str
    folder: str
    path: str
    tree: ast.Module


@functools.cache
def read_package(root: Path) -> list[Module]:
    """All public modules of the package, annotations qualified.

    A signature may say `Tensor` and mean torch's or our tape's: the module's imports decide. So
    our classes are written with their full names, and so are other libraries' classes that share a
    name with one of ours. A class that a module passes on keeps the name of its home.
    """
    modules = list(find_modules(root))
    ours = {
        f"{module.name}.{node.name}"
        for module in modules
        for node in module.tree.body
        if isinstance(node, ast.ClassDef)
    }
    passed_on = {
        f"{module.name}.{name}": full
        for module in modules
        for name, full in _imports(module)
        if full.startswith("companion.")
    }
    for module in modules:
        qualify(module, ours, passed_on)
    return modules


def find_modules(root: Path) -> Iterator[Module]:
    """Modules without a leading underscore in their path; packages only if they say something."""
    for path in sorted((root / "companion").rglob("*.py")):
        relative = path.relative_to(root)
        is_package = path.name == "__init__.py"
        parts = relative.parts[:-1] if is_package else relative.with_suffix("").parts
        if any(part.startswith("_") for part in parts):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        if is_package and ast.get_docstring(tree) is None:
            continue
        folder = parts[1] if len(relative.parts) > 2 else "core"
        yield Module(".".join(parts), folder, relative.as_posix(), tree)


def _imports(module: Module) -> Iterator[tuple[str, str]]:
    """What `from a import b` makes known in the module: its name here, and ``a.b``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def qualify(module: Module, ours: set[str], passed_on: Mapping[str, str] | None = None) -> None:
    """Rewrite the module's annotations in place.

    Args:
        ours: the full names of our classes.
        passed_on: full names under which modules hand on what they import -> where they have it
            from.
    """
    shared = {name.rpartition(".")[2] for name in ours}
    names = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and f"{module.name}.{node.name}" in ours:
            names[node.name] = f"{module.name}.{node.name}"
    for name, full in _imports(module):
        while full not in ours and full in (passed_on or {}):
            full = passed_on[full]
        if full in ours or full.rpartition(".")[2] in shared:
            names[name] = full
    writer = _FullNames(names)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            node.annotation = writer.visit(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            node.returns = writer.visit(node.returns)


class _FullNames(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.names.get(node.id, node.id))
