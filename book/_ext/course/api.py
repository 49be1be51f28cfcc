"""The API reference, read from the package's source without importing it.

Reading the syntax tree instead of the live objects keeps torch out of the book's build, and shows
each signature as it was written.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path

from course.checks import require
from course.cover import read_repository
from course.data import Course
from course.docstrings import markdown
from course.source import Module, read_package
from course.tables import table

CORE = "core"  # the modules that stand in the package itself, in no folder
TITLES = {CORE: "Core", "data": "Data sets", "homework": "Homework"}


def folder_titles(course: Course) -> dict[str, str]:
    """Folders of the package -> titles, in the order of the reference."""
    chapters = {c.folder: f"Chapter {c.number} · {c.title}" for c in course.chapters}
    return {CORE: TITLES[CORE], "data": TITLES["data"], **chapters, **TITLES}


def api_index(course: Course, pages: set[str], root: Path) -> str:
    """Every public module with the first sentence of its docstring.

    Raises:
        DataError: a folder of the package has no page in the reference.
    """
    modules = read_package(root)
    titles = folder_titles(course)
    titles.update({m.folder: m.folder for m in modules if m.folder not in titles})
    parts = []
    for folder, title in titles.items():
        inside = [module for module in modules if module.folder == folder]
        if inside:
            page = f"book/appendix/api/{folder}"
            require(page in pages, "API", f"{page}.md is missing: {inside[0].path} belongs there")
            rows = ([f"{{py:mod}}`{module.name}`", _summary(module)] for module in inside)
            parts.append(f"## [{title}](/{page}.md)\n")
            parts.append(table(["module", "what it holds"], rows, "modules"))
    return "\n".join(parts)


def _summary(module: Module) -> str:
    paragraph = markdown(ast.get_docstring(module.tree)).split("\n\n")[0]
    return " ".join(paragraph.split()).removesuffix(":")


def api_page(root: Path, folder: str) -> str:
    """The public modules of one folder of the package.

    Raises:
        DataError: there are none.
    """
    inside = [module for module in read_package(root) if module.folder == folder]
    require(inside, "API", f"folder {folder!r} holds no public module")
    address = "/blob/".join(read_repository(root))
    return "\n".join(render_module(module, address) for module in inside)


def render_module(module: Module, address: str) -> str:
    parts = [
        f"## {module.name}\n",
        fence("py:module", module.name, ""),
        markdown(ast.get_docstring(module.tree)),
        f"[Source of `{module.path}`]({address}/{module.path})\n",
    ]
    exported = _exported(module.tree)
    for node in module.tree.body:
        name = _public_name(node)
        if name and (exported is None or name in exported):
            parts.append(render_definition(node, module.name))
    return "\n".join(parts)


def _exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def _public_name(node: ast.stmt) -> str | None:
    """The name that a statement defines if it is public: functions, classes, types, CONSTANTS."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return None if node.name.startswith("_") else node.name
    if isinstance(node, ast.AnnAssign | ast.Assign):
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if isinstance(target, ast.Name) and (target.id.isupper() or _is_alias(node)):
            return None if target.id.startswith("_") else target.id
    return None


def _is_alias(node: ast.stmt) -> bool:
    """Is it `Name = some type`? Assignments in CamelCase have no other meaning here."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return False
    name = node.targets[0].id
    return name[0].isupper() and not name.isupper()


def render_definition(node: ast.stmt, module: str, parent: ast.ClassDef | None = None) -> str:
    """A function, method, class or constant as a directive of Sphinx's Python domain."""
    if isinstance(node, ast.ClassDef):
        return _render_class(node, module)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        signature = f"{node.name}{_arguments(node, skip_first=parent is not None)}"
        decorators = {ast.unparse(d) for d in node.decorator_list}
        doc = markdown(ast.get_docstring(node))
        if parent is None:
            return fence("py:function", signature, doc, {"module": module})
        options = {"module": module}
        if "property" in decorators:
            options["type"] = ast.unparse(node.returns) if node.returns else "Any"
            return fence("py:property", f"{parent.name}.{node.name}", doc, options)
        if decorators & {"staticmethod", "classmethod"}:
            static = "staticmethod" in decorators
            signature = f"{node.name}{_arguments(node, skip_first=not static)}"
            options["staticmethod" if static else "classmethod"] = ""
        return fence("py:method", f"{parent.name}.{signature}", doc, options)
    assert isinstance(node, ast.Assign | ast.AnnAssign)
    options = {"module": module}
    value = ast.unparse(node.value) if node.value is not None else ""
    if isinstance(node, ast.AnnAssign):
        options["type"] = ast.unparse(node.annotation)
    if 0 < len(value) <= 60:
        options["value"] = value
    return fence("py:data", _public_name(node) or "", "", options)


def _render_class(node: ast.ClassDef, module: str) -> str:
    methods = {
        n.name: n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    bases = [ast.unparse(base) for base in node.bases]
    init = methods.get("__init__")
    if init is not None:
        signature = node.name + _arguments(init, skip_first=True).removesuffix(" -> None")
    elif _has_fields(node, bases):
        signature = f"{node.name}({', '.join(_fields(node))})"
    else:
        signature = node.name
    parts = [markdown(ast.get_docstring(node))]
    if bases:
        parts.insert(0, f"Bases: {', '.join(f'`{base}`' for base in bases)}\n")
    if init is not None and ast.get_docstring(init):
        parts.append(markdown(ast.get_docstring(init)))
    for name, method in methods.items():
        if not name.startswith("_") or (name == "__call__" and ast.get_docstring(method)):
            parts.append(render_definition(method, module, parent=node))
    return fence("py:class", signature, "\n".join(parts), {"module": module})


def _has_fields(node: ast.ClassDef, bases: list[str]) -> bool:
    """Is it a dataclass or a NamedTuple, whose fields are its arguments?"""
    decorators = {ast.unparse(d).partition("(")[0].split(".")[-1] for d in node.decorator_list}
    return "dataclass" in decorators or any(base.split(".")[-1] == "NamedTuple" for base in bases)


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            if item.target.id.startswith("_") or "ClassVar" in ast.unparse(item.annotation):
                continue
            default = "" if item.value is None else f" = {_short(item.value)}"
            yield f"{item.target.id}: {ast.unparse(item.annotation)}{default}"


def _short(value: ast.expr) -> str:
    text = ast.unparse(value)
    return "..." if "field(" in text or len(text) > 40 else text


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef, skip_first: bool) -> str:
    arguments = copy.deepcopy(node.args)
    if skip_first and (positional := arguments.posonlyargs or arguments.args):
        del positional[0]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(arguments)}){returns}"


def quoted(value: str) -> str:
    """An option's value as YAML would write it: bare where it can be, else in single quotes."""
    if re.fullmatch(r"[\w.]*", value):
        return value
    return "'" + value.replace("'", "''") + "'"


def fence(directive: str, argument: str, body: str, options: dict[str, str] | None = None) -> str:
    """A MyST directive whose fence is longer than any inside its body."""
    longest = max((len(run) for run in re.findall(r"^\s*(:{3,}|`{3,})", body, re.M)), default=2)
    colons = ":" * (longest + 1)
    head = [f":{key}: {quoted(value)}".rstrip() for key, value in (options or {}).items()]
    return "\n".join([f"{colons}{{{directive}}} {argument}", *head, "", body.rstrip(), colons, ""])
