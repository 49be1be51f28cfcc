"""The table itself; what its rows promise is tested with their chapters (test_recipes.py)."""

from __future__ import annotations

import re

import pytest

from companion import techniques
from companion.techniques import FORMS, LEVELS, TECHNIQUES, Technique


def test_names_are_unique_kebab_case() -> None:
    names = [technique.name for technique in TECHNIQUES]
    assert len(names) == len(set(names)) > 0
    for name in names:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), name


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.name)
def test_a_row_is_well_formed(technique: Technique) -> None:
    assert technique.form in FORMS
    assert technique.page.startswith(technique.chapter + "/")
    assert set(technique.sources) <= set("ABCDE")
    assert "".join(sorted(technique.sources)) == technique.sources
    assert set(technique.devices) <= set(LEVELS) - {"cpu"}
    for reason in technique.devices.values():
        assert len(reason) > 20, "a reason is a sentence that a reader accepts"
    for path in (technique.target, technique.recipe):
        assert re.fullmatch(r"companion(\.\w+)+:\w+", path), path


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.name)
def test_a_row_points_to_something(technique: Technique) -> None:
    assert callable(techniques.load(technique.target))
    assert callable(techniques.load(technique.recipe))


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    first = TECHNIQUES[0].name
    assert techniques.get(first) is TECHNIQUES[0]
    with pytest.raises(ValueError, match=f"name='{first}x' is not a technique: did you mean"):
        techniques.get(first + "x")
    with pytest.raises(ValueError, match="companion techniques"):
        techniques.get("qqqqqqqqqqqq")
