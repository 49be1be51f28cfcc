"""Planted mistakes: the same module with one piece of its source replaced.

A test that has never failed proves little. Write the check as a function of the module under
test, run it on the real module, and then on ``mutant(module, "right", "wrong")``, where it must
raise.
"""

from __future__ import annotations

import inspect
import sys
import types


def mutant(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    """Return a copy of `module` compiled from its source with `old` replaced by `new`.

    `old` must occur exactly once: a mistake that was not planted would make its test pass
    for nothing.
    """
    source = inspect.getsource(module)
    if source.count(old) != 1:
        raise ValueError(f"old={old!r} occurs {source.count(old)} times in {module.__name__}")
    if old == new:
        raise ValueError("old and new are the same text")
    copy = types.ModuleType(f"{module.__name__}__mutant")
    copy.__file__ = module.__file__
    copy.__package__ = module.__package__
    sys.modules[copy.__name__] = copy  # dataclasses look their module up there
    exec(compile(source.replace(old, new), f"<mutant of {module.__name__}>", "exec"), copy.__dict__)
    return copy
