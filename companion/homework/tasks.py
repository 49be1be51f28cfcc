"""What a task is, and how a judge says what is wrong.

A task has two halves that never meet in one process. Its *scenario* runs beside the submission: it
calls what the student wrote with inputs that the grader drew, and returns arrays. Its *judge* runs
in the grader: it works out from the same inputs what is right, and compares. A judge that is not
content raises :class:`Wrong`, with a hint where the mistake is a known one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RTOL = 1e-9
Inputs = dict[str, Any]
Suspects = Sequence[tuple[str, np.ndarray]]


class Wrong(Exception):
    """An answer that is not right.

    Args:
        message: what is wrong, one sentence.
        hint: what it is probably due to; empty if the judge does not know.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Task:
    """One task of a homework.

    Attributes:
        name: kebab-case, unique in the chapter.
        title: what to do, for the report.
        points: what it is worth; a chapter's add up to 100.
        defines: the names that the submission has to define.
        scenario: ``"module:function"``; called in the submission's process as
            ``scenario(submission, inputs)``, returns a mapping of values and arrays.
        draw: ``draw(rng) -> inputs``: JSON values and arrays, new ones for each grading. What has
            a name that begins with an underscore stays with the judge.
        judge: ``judge(inputs, answers)``; raises Wrong.
        forbidden: names that the work must do without; see :mod:`companion.homework.rules`.
        builds_on: names of earlier tasks that this one uses.
        seconds: wall-clock limit.
    """

    name: str
    title: str
    points: int
    defines: tuple[str, ...]
    scenario: str
    draw: Callable[[np.random.Generator], Inputs]
    judge: Callable[[Inputs, Answers], None]
    forbidden: tuple[str, ...] = ()
    builds_on: tuple[str, ...] = ()
    seconds: float = 10.0


class Answers:
    """What a scenario returned, read with suspicion: any of it may be missing or odd."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def array(self, name: str) -> np.ndarray:
        """Return an array of the answer."""
        value = self._values.get(name)
        if not isinstance(value, np.ndarray):
            raise Wrong(f"{name} is missing from the answer")
        return value

    def text(self, name: str) -> str:
        """Return a text of the answer."""
        value = self._values.get(name)
        if not isinstance(value, str):
            raise Wrong(f"{name} is missing from the answer")
        return value

    def integer(self, name: str) -> int:
        """Return a whole number of the answer."""
        value = self._values.get(name)
        if type(value) is not int:
            raise Wrong(f"{name} is missing from the answer")
        return value


def agree(got: np.ndarray, want: np.ndarray, rtol: float = RTOL, scale: float = 0.0) -> bool:
    """Whether two arrays have one shape and agree to `rtol`.

    An element may also be off by 1 % of `rtol` times the largest element or, if that is larger,
    `scale`: where terms cancel, the order of summation shows there.
    """
    if got.shape != want.shape or got.dtype.kind not in "fiub":
        return False
    atol = 0.01 * rtol * np.max(np.abs(want), initial=scale)
    return bool(np.allclose(got, want, rtol=rtol, atol=atol))


def expect_close(
    what: str,
    got: np.ndarray,
    want: np.ndarray,
    *,
    suspects: Suspects = (),
    factors: Sequence[tuple[str, float]] = (),
    otherwise: str = "",
    rtol: float = RTOL,
    scale: float = 0.0,
) -> None:
    """Raise Wrong, with the best hint there is, unless `got` agrees with `want`.

    Args:
        what: the thing compared and where, e.g. ``"grad_x for x of shape (5, 7)"``.
        got: the answer.
        want: what is right.
        suspects: pairs of a hint and the array that a known mistake gives.
        factors: pairs of a hint and c, for an answer that is c times the right one.
        otherwise: the hint where the mistake is not a known one.
        rtol: relative tolerance, see :func:`agree`.
        scale: see :func:`agree`.
    """
    if agree(got, want, rtol, scale):
        return
    known = _match_suspect(got, want, suspects, rtol)
    if got.shape != want.shape:
        if got.ndim == want.ndim == 2 and got.T.shape == want.shape:
            known = known or "the shape is right transposed"
        raise Wrong(f"{what} has shape {got.shape}; it must be {want.shape}", known or otherwise)
    if got.dtype.kind != "f":
        raise Wrong(f"{what} has type {got.dtype}; it must be floating point")
    if not np.isfinite(got).all() and np.isfinite(want).all():
        cause = "an exponential overflows, or 0 is divided by 0 or multiplied by inf"
        raise Wrong(f"{what} holds {'nan' if np.isnan(got).any() else 'inf'}", known or cause)
    error = np.max(np.abs(got - want)) / max(np.max(np.abs(want)), np.finfo(float).tiny)
    if not known and error < 1e-5:
        known = (
            "nearly right: a number rounded to float32 on the way, or a derivative taken by finite "
            "differences instead of the formula, looks like this"
        )
    known = known or _match_factor(got, want, factors)
    raise Wrong(f"{what} is off by {error:.1e} of its largest element", known or otherwise)


def _match_suspect(got: np.ndarray, want: np.ndarray, suspects: Suspects, rtol: float) -> str:
    for hint, wrong in suspects:
        if wrong.shape == got.shape and not agree(wrong, want, rtol):
            finite = np.isfinite(wrong)
            same_holes = np.array_equal(finite, np.isfinite(got))
            if same_holes and agree(got[finite], wrong[finite], 1e-6):
                return hint
    return ""


def _match_factor(got: np.ndarray, want: np.ndarray, factors: Sequence[tuple[str, float]]) -> str:
    for hint, factor in (*factors, ("the sign is the wrong way round", -1.0)):
        if factor != 1 and agree(got, factor * want, 1e-6):
            return hint
    size = np.sum(want * want)
    factor = float(np.sum(got * want) / size) if want.size > 1 and size > 0 else 0.0
    if factor != 0 and agree(got, factor * want, 1e-6):
        return f"every element is {factor:.6g} times what it must be"
    return ""
