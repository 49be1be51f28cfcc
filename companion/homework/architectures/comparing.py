"""Compare an answer with the right one, and work out known mistakes only where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from companion.homework.tasks import Suspects, agree, expect_close


def expect(
    what: str,
    got: np.ndarray,
    want: np.ndarray,
    suspects: Callable[[], Suspects],
    factors: Sequence[tuple[str, float]] = (),
    otherwise: str = "",
) -> None:
    """Do what expect_close does, with `suspects` called only if the answer is not right.

    Raises:
        Wrong: `got` is not `want`.
    """
    if not agree(got, want):
        known = suspects()
        expect_close(what, got, want, suspects=known, factors=factors, otherwise=otherwise)
