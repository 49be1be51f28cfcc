from __future__ import annotations

import pytest
from planting import mutant

from companion import techniques


def test_a_mutant_differs_in_the_planted_place_only() -> None:
    copy = mutant(techniques, '"cpu", "cuda"', '"cpu", "quda"')
    assert copy.LEVELS[1] == "quda"
    assert techniques.LEVELS[1] == "cuda"
    assert copy.FORMS == techniques.FORMS


def test_a_mistake_that_is_not_planted_is_an_error() -> None:
    with pytest.raises(ValueError, match="occurs 0 times"):
        mutant(techniques, "no such text anywhere", "x")
    with pytest.raises(ValueError, match="occurs"):
        mutant(techniques, "name", "nom")


def test_an_unchanged_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="same text"):
        mutant(techniques, '"cpu", "cuda"', '"cpu", "cuda"')
