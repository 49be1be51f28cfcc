"""The tool that executes pages: what it stores is the same on every machine."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))

import notebooks  # noqa: E402

SOURCE = """# %% [markdown]
# # A page

# %% tags=["raises-exception"]
import json
from companion.arguments import check_integer
print(json.__file__)
json.loads("{")

# %% tags=["raises-exception"]
check_integer("steps", 0, minimum=1)

# %%
json
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = tmp_path / "page.py"
    source.write_text(SOURCE, encoding="utf-8")
    monkeypatch.setattr(notebooks, "relative", lambda path: path.name)
    return source


def stored(source: Path) -> str:
    return source.with_suffix(".ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            "File \x1b[32m/home/a/lib/python3.12/site-packages/torch/nn/x.py:12\x1b[39m, in f",
            "File \x1b[32mtorch/nn/x.py:12\x1b[39m, in f",
        ),
        ("/usr/lib/python3/dist-packages/numpy/core.py:3", "numpy/core.py:3"),
        ("/opt/python/lib/python3.11/json/decoder.py:355", "json/decoder.py:355"),
        (f"File {ROOT}/companion/arguments.py:13", "File companion/arguments.py:13"),
        ("a/b and 3 / 4 and /tmp/file stay", "a/b and 3 / 4 and /tmp/file stay"),
    ],
)
def test_a_path_is_shortened_to_the_part_that_is_the_same_everywhere(said: str, kept: str) -> None:
    assert notebooks.without_machine_paths(said) == kept


def test_an_executed_page_stores_no_path_of_this_machine(page: Path) -> None:
    notebooks.execute(page)
    text = stored(page)
    assert "json/decoder.py" in text
    assert "companion/arguments.py" in text
    for folder in (str(ROOT), sys.prefix, sys.base_prefix, "site-packages"):
        assert folder not in text
    assert notebooks.problems(page) == []


def test_a_stored_path_of_a_machine_is_a_problem_until_the_page_is_synced(page: Path) -> None:
    notebooks.execute(page)
    notebook = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    frame = f"File {ROOT}/companion/arguments.py:13, in check_integer"
    notebook.cells[2].outputs[0].traceback.append(frame)
    notebooks.write(page, notebook)
    (problem,) = notebooks.problems(page)
    assert "cell 2 stores a path of one machine" in problem
    notebooks.sync(page)
    assert notebooks.problems(page) == []
    assert str(ROOT) not in stored(page)
