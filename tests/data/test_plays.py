"""The list of Shakespeare's texts, as far as it can be checked without them."""

from __future__ import annotations

import re

from companion.data.plays import PLAYS


def test_the_texts_are_plays_and_poems_in_modern_spelling_only() -> None:
    assert len(PLAYS) == 42
    assert all(re.fullmatch(r"[a-z_0-9]+_gut\.txt", name) for name in PLAYS)
    assert {"hamlet_gut.txt", "macbeth_gut.txt", "sonnets_gut.txt"} <= set(PLAYS)


def test_together_they_are_five_megabytes() -> None:
    assert round(sum(file.size for file in PLAYS.values()) / 1e6) == 5
