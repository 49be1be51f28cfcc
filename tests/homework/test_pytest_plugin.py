"""Grading with plain pytest, from any directory, without importing the submission."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from homework import proving

from companion import homework

PLUGIN = ["-p", "companion.homework.pytest_plugin"]
TRAP = "open('imported-by-pytest', 'w')\n"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *PLUGIN, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("submissions")
    source = proving.source("backprop", "reference").replace("return x / r * gain", "return x / r")
    (folder / "my.py").write_text(source, encoding="utf-8")
    (folder / "stub.py").write_text(homework.stub("backprop") + TRAP, encoding="utf-8")
    return folder, run(folder, "--homework", "backprop", "my.py", "stub.py")


def test_every_task_is_a_test(graded) -> None:
    _, done = graded
    assert done.returncode == 1
    assert "collected 12 items" in done.stdout
    assert "my.py .F..FF" in done.stdout
    assert "stub.py FFFFFF" in done.stdout


def test_a_failed_task_shows_message_and_hint_and_no_traceback(graded) -> None:
    _, done = graded
    assert "RMSNorm forward and backward by hand: y for x of shape (5, 7)" in done.stdout
    assert "hint: gain is left out" in done.stdout
    assert "Traceback" not in done.stdout
    assert "grading.py" not in done.stdout


def test_the_points_of_each_file_are_added_up(graded) -> None:
    _, done = graded
    assert "my.py: 50 of 100 points" in done.stdout
    assert "stub.py: 0 of 100 points" in done.stdout


def test_pytest_itself_never_runs_the_file(graded) -> None:
    folder, _ = graded
    assert not (folder / "imported-by-pytest").exists()


def test_an_unknown_chapter_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("")
    done = run(tmp_path, "--homework", "nope", "my.py")
    assert done.returncode == 4
    assert "chapter='nope' has no homework" in done.stderr


def test_without_the_option_the_plugin_leaves_pytest_alone(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("def test_of_mine():\n    assert True\n")
    done = run(tmp_path, "test_own.py")
    assert done.returncode == 0
    assert "1 passed" in done.stdout
