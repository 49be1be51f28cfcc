"""The wheel as a stranger gets it: an empty environment, no TensorFlow, another directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.wheel,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("wheel"),  # one worker builds and installs it, once
]


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("companion", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """The `bin` folder of an environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    pins = folder / "pins.txt"
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins.write_text("\n".join(line for line in lines if "==" in line))
    run(folder / "bin" / "pip", "install", "-q", "-c", pins, wheel, cwd=folder)
    return folder / "bin"


def test_the_wheel_holds_the_package_and_no_reference_solution(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "companion/cli.py" in names
    assert all(name.startswith(("companion/", "companion-")) for name in names)
    assert not any("reference" in name or "alternative" in name for name in names)


def test_the_environment_has_neither_tensorflow_nor_the_books_tools(installed: Path) -> None:
    freeze = run(installed / "pip", "list", "--format=json", cwd=installed)
    names = {package["name"].lower() for package in json.loads(freeze)}
    assert "torch" in names
    assert not names & {"tensorflow", "keras", "jupyter-book", "nbval", "pytest", "jupytext"}


def test_run_works_from_another_directory(installed: Path, tmp_path: Path) -> None:
    out = run(
        installed / "companion", "run", "manual-backprop", "--steps", "3", "--json", cwd=tmp_path
    )
    assert json.loads(out)["steps"] == 3


def test_check_works_from_another_directory(installed: Path, tmp_path: Path) -> None:
    file = tmp_path / "homework.py"
    file.write_text(run(installed / "companion", "check", "backprop", "--stub", cwd=tmp_path))
    out = run(installed / "companion", "check", "backprop", file, "--json", cwd=tmp_path, status=1)
    assert json.loads(out)["tasks"]
    reference = ROOT / "tests" / "homework" / "backprop" / "reference.py"
    solution = shutil.copy(reference, tmp_path / "solution.py")
    run(installed / "companion", "check", "backprop", solution, cwd=tmp_path)


def test_techniques_doctor_and_data_work(installed: Path, tmp_path: Path) -> None:
    assert "manual-backprop" in run(installed / "companion", "techniques", cwd=tmp_path)
    assert "not installed: pip install tensorflow" in run(
        installed / "companion", "doctor", cwd=tmp_path
    )
    assert "digits" in run(installed / "companion", "data", "list", cwd=tmp_path)


def test_the_stored_results_of_the_long_benchmarks_are_in_it(
    installed: Path, tmp_path: Path
) -> None:
    code = "from companion.recorded import recorded; print(recorded('character-gpt')['date'])"
    assert run(installed / "python", "-c", code, cwd=tmp_path).startswith("20")


def test_a_keras_twin_without_tensorflow_says_what_to_install(
    installed: Path, tmp_path: Path
) -> None:
    out = run(installed / "companion", "techniques", "--json", cwd=tmp_path)
    assert "keras-twin" in out
    code = "import companion.backprop.keras_twin as k; k.mlp_twin(4, [3], 2)"
    done = subprocess.run(
        [installed / "python", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "tensorflow" in done.stderr.splitlines()[-1].lower()
