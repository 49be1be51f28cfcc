"""What a submission may not mention, read off its syntax tree in the grader's process.

A file may not import the grader. A task that asks for work by hand also names what would do the
work instead, torch.autograd for a backward pass: neither the names that the task asks for, nor
whatever in the file they use, directly or through other functions, classes and variables of the
file, may mention it. A line at the top level that calls a method of such a name, or sets one of its
attributes, belongs to it. Other code there counts for every task, but for the block under
``if __name__ == "__main__":``, which grading never runs.

Reading the text cannot see through every disguise. It is there so that the rule is plain and a
breach is named with its line; the process in which a submission runs has the means of its own
(see :mod:`companion.homework.guard`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

GRADER = ("companion.homework", "tests.homework")
# Ways to reach a name without spelling it; no task needs them.
DISGUISES = (
    "__import__",
    "__dict__",
    "__builtins__",
    "__globals__",
    "__closure__",
    "builtins",
    "compile",
    "ctypes",
    "eval",
    "exec",
    "gc.get_objects",
    "gc.get_referents",
    "gc.get_referrers",
    "getattr",
    "globals",
    "importlib",
    "inspect",
    "locals",
    "operator.attrgetter",
    "operator.methodcaller",
    "sys.modules",
    "vars",
)

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Breach:
    """A forbidden name and the line that mentions it."""

    name: str
    line: int


class Submission:
    """The syntax tree of a submission, with its top-level names resolved.

    Raises:
        SyntaxError: the source is not Python.
    """

    def __init__(self, source: str) -> None:
        try:
            self.tree = ast.parse(source)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(f"the source cannot be parsed: {error}") from error
        self.imports: dict[str, str] = {}
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.loose: list[ast.stmt] = []
        for statement in self.tree.body:
            self._note_import(statement)
        for statement in self.tree.body:
            names = list(_bound_names(statement)) or self._owner(statement)
            for name in names:
                self.definitions.setdefault(name, []).append(statement)
            if not names and not _never_counts(statement):
                self.loose.append(statement)
        self.own_names = set(_own_names(self.tree))
        for node in ast.walk(self.tree):
            self._note_import(node)

    def breach(self, names: Iterable[str], forbidden: Iterable[str]) -> Breach | None:
        """Return the first forbidden mention in what defines `names`, or None.

        Args:
            names: top-level names that a task asks for.
            forbidden: dotted names (``"torch.autograd"``: it and all below it) or bare ones
                (``"backward"``: an attribute of that name, whatever it is an attribute of, or a
                variable that the file does not set itself).
        """
        banned = tuple(forbidden)
        found = [
            Breach(hit, node.lineno)
            for statement in self._reachable(names)
            for node in ast.walk(statement)
            for mention in self._mentions(node)
            if (hit := _match(mention, banned))
        ]
        return min(found, key=lambda breach: breach.line, default=None)

    def grader_import(self) -> Breach | None:
        """Return the first mention of the grader anywhere in the file, or None."""
        for node in ast.walk(self.tree):
            for mention in self._mentions(node):
                if hit := _match(mention, GRADER):
                    return Breach(hit, node.lineno)
        return None

    def _owner(self, statement: ast.stmt) -> list[str]:
        """The name of the file's own that a call or an assignment at the top level works on."""
        target: ast.AST | None = None
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            target = statement.value.func
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        if not isinstance(target, ast.Attribute):
            return []
        while isinstance(target, ast.Attribute):
            target = target.value
        is_own = isinstance(target, ast.Name) and target.id in self.definitions
        return [target.id] if is_own and target.id not in self.imports else []

    def _note_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    self.imports[alias.asname] = alias.name
                else:
                    top = alias.name.partition(".")[0]
                    self.imports[top] = top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                self.imports[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"

    def _reachable(self, names: Iterable[str]) -> list[ast.stmt]:
        """The top-level statements that define `names`, and those that they use, and so on."""
        waiting, seen = list(names), set()
        statements: dict[int, ast.stmt] = {id(s): s for s in self.loose}
        for statement in self.loose:
            waiting += _names_in(statement)
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            for statement in self.definitions.get(name, []):
                statements[id(statement)] = statement
                waiting += _names_in(statement)
        return list(statements.values())

    def _mentions(self, node: ast.AST) -> Iterator[str]:
        """The dotted names, with import aliases resolved, that a node mentions by itself."""
        if isinstance(node, ast.Name):
            if node.id in self.imports or node.id not in self.own_names:
                yield self.imports.get(node.id, node.id)
        elif isinstance(node, ast.Attribute):
            parts = [node.attr]
            inner = node.value
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name):
                parts.append(self.imports.get(inner.id, inner.id))
            else:
                parts.append("")
            yield ".".join(reversed(parts))
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def _bound_names(statement: ast.stmt) -> Iterator[str]:
    """The names that a definition or an assignment binds."""
    if isinstance(statement, Definition):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        nodes = [node for target in targets for node in ast.walk(target)]
        # `torch.nn.Linear = …` defines nothing: it is loose code that changes something else.
        if not any(isinstance(node, ast.Attribute | ast.Subscript) for node in nodes):
            yield from (node.id for node in nodes if isinstance(node, ast.Name))


def _never_counts(statement: ast.stmt) -> bool:
    """A docstring, a plain import (its names count where they are used), the main block."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return all(alias.name != "*" for alias in statement.names)
    is_plain_if = isinstance(statement, ast.If) and not statement.orelse
    return is_plain_if and ast.unparse(statement.test) == "__name__ == '__main__'"


def _own_names(tree: ast.AST) -> Iterator[str]:
    """Every name that the file itself sets: definitions, parameters, variables."""
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id


def _names_in(statement: ast.stmt) -> list[str]:
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]


def _match(mention: str, banned: tuple[str, ...]) -> str | None:
    for name in banned:
        if "." in name:
            if mention == name or mention.startswith(f"{name}."):
                return name
        elif name == mention.rpartition(".")[2]:
            return name
    return None
