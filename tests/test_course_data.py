"""The data files of the book: what is read, and what a bad file is told."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from course import data  # noqa: E402
from course.checks import DataError  # noqa: E402
from course.devices import machine  # noqa: E402

LEVELS = data.load_techniques(ROOT / "companion" / "techniques.py").LEVELS
MISTAKE = {"id": "E1", "chapter": 2, "page": None, "sources": ["A"], "mistake": "x", "truth": "y"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**MISTAKE, "sources": ["Q"]}], "E1: sources: 'Q' is in no row of sources.yml"),
        ([{**MISTAKE, "sources": "A"}], "E1: sources='A' is not a list of texts"),
        ([{**MISTAKE, "chapter": 12}], "E1: chapter=12 does not exist"),
        ([{**MISTAKE, "truth": " "}], "E1: truth has no text"),
        ([{**MISTAKE, "hint": "z"}], "E1: has unknown hint"),
        ([{"id": "E1"}], "E1: lacks chapter, mistake, page, sources, truth"),
        ([MISTAKE, MISTAKE], "id='E1' occurs twice"),
        ({"E1": MISTAKE}, "must be a list"),
        (["E1"], "row 1: must map names to values"),
    ],
)
def test_a_bad_row_names_file_entry_and_rule(tmp_path: Path, rows, message: str) -> None:
    path = tmp_path / "mistakes.yml"
    path.write_text(yaml.safe_dump(rows))
    with pytest.raises(DataError, match=rf"mistakes\.yml: {message}"):
        data.read_mistakes(path, {"A": None}, {2})


def test_a_good_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mistakes.yml"
    path.write_text(yaml.safe_dump([MISTAKE]))
    (read,) = data.read_mistakes(path, {"A": None}, {2})
    assert read.label == "mistake-e1"


def test_a_file_that_is_missing_or_no_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "chapters.yml"
    with pytest.raises(DataError, match=r"chapters\.yml: is missing"):
        data.read_chapters(path)
    path.write_text("- number: [1")
    with pytest.raises(DataError, match=r"chapters\.yml: is not YAML"):
        data.read_chapters(path)


def test_a_broken_table_of_techniques_is_named(tmp_path: Path) -> None:
    (tmp_path / "companion").mkdir()
    path = tmp_path / "companion" / "techniques.py"
    with pytest.raises(DataError, match=r"techniques\.py: is missing"):
        data.load_techniques(path)
    (tmp_path / "companion" / "__init__.py").touch()
    path.write_text("TECHNIQUES = (")
    with pytest.raises(DataError, match=r"techniques\.py: cannot be executed"):
        data.load_techniques(path)


@pytest.mark.parametrize("cost", [{"seconds": "12"}, {"seconds": -1}, {"seconds": True}])
def test_a_cost_that_is_no_number_is_refused(tmp_path: Path, cost) -> None:
    path = tmp_path / "pages.json"
    path.write_text(json.dumps({"book/a/b": {"peak_mb": 1, **cost}}))
    with pytest.raises(DataError, match="seconds=.* is not a number"):
        data.read_costs(path)


def test_the_chapters_are_the_eleven_of_the_course() -> None:
    chapters = data.read_chapters(ROOT / "book" / "_data" / "chapters.yml")
    assert [chapter.number for chapter in chapters] == list(range(1, 12))
    assert importlib.util.find_spec("companion.backprop") is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": "gpu"}, "level='gpu' is none of cpu, cuda"),
        ({"date": "yesterday"}, "date='yesterday' is not YYYY-MM-DD"),
        ({"results": []}, "results must be an object"),
        ({"results": {"tape": {"status": "worked"}}}, "tape: status='worked' is none of ran"),
        ({"results": {"tape": {"status": "failed"}}}, "tape: 'failed' needs a reason"),
    ],
)
def test_a_bad_evidence_file_is_refused_by_name(tmp_path, change, message) -> None:
    good = {
        "level": "cpu",
        "accelerator": "cpu",
        "hardware": {},
        "versions": {},
        "date": "2026-11-22",
        "results": {"tape": {"status": "ran"}},
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(good))
    assert len(data.read_runs(tmp_path, LEVELS)) == 1
    path.write_text(json.dumps(good | change))
    with pytest.raises(DataError, match=rf"mine\.json: {message}"):
        data.read_runs(tmp_path, LEVELS)
    path.write_text(json.dumps({k: v for k, v in good.items() if k != "hardware"}))
    with pytest.raises(DataError, match="lacks hardware"):
        data.read_runs(tmp_path, LEVELS)
    path.write_text('{"level": ')
    with pytest.raises(DataError, match="is not JSON"):
        data.read_runs(tmp_path, LEVELS)


def test_what_the_command_writes_is_what_the_book_reads(tmp_path) -> None:
    devices = pytest.importorskip("companion.devices", reason="companion is not installed")
    written = devices.evidence("cpu", chosen=[])
    devices.write_evidence(tmp_path / "cpu.json", written)
    (read,) = data.read_runs(tmp_path, LEVELS)
    assert (read.level, read.results) == ("cpu", {})
    assert read.hardware["cpu"] in machine(read)
