"""Rules that arguments must meet, each broken with a ValueError of one line."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any


def check_integer(name: str, value: Any, *, minimum: int) -> None:
    """Raise ValueError unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{name}={value!r}: an integer of at least {minimum} is needed")


def check_fraction(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a number in ``[0, 1)``."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < 1:
        raise ValueError(f"{name}={value!r}: a number in [0, 1) is needed")


def check_rule(name: str, value: Any, holds: Callable[[Any], bool], rule: str) -> None:
    """Raise ValueError unless `value` is a real number for which `holds` says yes."""
    if isinstance(value, bool) or not isinstance(value, Real) or not holds(value):
        raise ValueError(f"{name}={value!r}: {rule} is needed")
