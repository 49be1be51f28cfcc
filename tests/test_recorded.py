"""Stored results of the long benchmarks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from companion import recorded

STORED = sorted(recorded.FOLDER.glob("*.json"))


def test_a_stored_result_comes_back_with_its_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)
    result = {
        "figure": [1.0, 2.0],
        "hardware": {"cpu": "a processor", "cores": 2},
        "versions": {"torch": "2.13.0"},
        "date": "2026-01-31",
        "command": "make bench ONLY=some-thing",
    }
    (tmp_path / "some_thing.json").write_text(json.dumps(result))
    assert recorded.recorded("some-thing") == result
    sentence = recorded.provenance(result)
    for part in ("2026-01-31", "make bench ONLY=some-thing", "2 cores of a processor", "2.13.0"):
        assert part in sentence


def test_an_unknown_name_is_refused_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)
    (tmp_path / "some_thing.json").write_text("{}")
    with pytest.raises(ValueError, match="name='other': nothing is stored.*known: some-thing"):
        recorded.recorded("other")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_every_stored_result_says_where_it_comes_from(path: Path) -> None:
    result = recorded.recorded(path.stem.replace("_", "-"))
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", result["date"])
    assert result["command"] == f"make bench ONLY={path.stem.replace('_', '-')}"
    assert result["hardware"]["cpu"] in recorded.provenance(result)
    assert result["versions"]["python"]
