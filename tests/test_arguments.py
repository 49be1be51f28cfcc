"""The rules for arguments: what passes, and the one line for what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from companion.arguments import check_fraction, check_integer, check_rule


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_integers_from_the_minimum_on_pass(value: Any) -> None:
    check_integer("steps", value, minimum=1)


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", None, True, float("nan")])
def test_anything_else_is_refused_as_integer(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^steps=.*: an integer of at least 1 is needed$"):
        check_integer("steps", value, minimum=1)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 0.999, np.float32(0.25)])
def test_fractions_below_one_pass(value: Any) -> None:
    check_fraction("share", value)


@pytest.mark.parametrize("value", [1, 1.0, -0.1, "0.5", None, False, float("nan"), float("inf")])
def test_anything_else_is_refused_as_fraction(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^share=.*: a number in \[0, 1\) is needed$"):
        check_fraction("share", value)


def test_numbers_that_keep_a_rule_pass() -> None:
    check_rule("gamma", 0.5, lambda g: 0 < g <= 1, "a number in (0, 1]")


@pytest.mark.parametrize("value", [0, -1.0, 2, "0.5", None, True, float("nan")])
def test_anything_that_breaks_a_rule_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^gamma=.*: a number in \(0, 1\] is needed$"):
        check_rule("gamma", value, lambda g: 0 < g <= 1, "a number in (0, 1]")
