"""The frame around the code: pins, Makefile, workflows, and the rules that hold for every file."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGE_FILES = sorted((ROOT / "companion").rglob("*.py"))
PAGE_SOURCES = sorted(
    path
    for path in (ROOT / "book").rglob("*.py")
    if not any(part.startswith("_") for part in path.relative_to(ROOT).parts)
)


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def makefile_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.M))


def test_every_pin_lies_within_the_range_of_the_package() -> None:
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if "==" in line:
            requirement = Requirement(line)
            pins[requirement.name.lower()] = str(requirement.specifier)[2:]
    ranges = list(PROJECT["dependencies"])
    for name in ("tensorflow", "book", "homework", "dev"):
        ranges += PROJECT["optional-dependencies"][name]
    for text in ranges:
        requirement = Requirement(text)
        assert requirement.name.lower() in pins, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(pins[requirement.name.lower()]), text


def test_the_package_pins_nothing() -> None:
    for text in PROJECT["dependencies"]:
        assert "==" not in text
        assert "<" not in text, f"{text}: a ceiling breaks Colab every year"


def test_pins_tool_puts_the_oldest_versions_first() -> None:
    pins = load_tool("pins")
    oldest = pins.lines("oldest", None)
    assert "torch==2.9" in oldest
    assert any(line.startswith("pytorch-lightning==2.5") for line in oldest)
    assert pins.lines("newest", None) == ["-e .[tensorflow,book,homework,tuning,dev]"]
    assert "torch==2.13.0" in pins.lines("tested", None)
    assert all("torch" not in line for line in pins.lines("tested", "book"))


def test_pins_tool_refuses_an_unknown_choice() -> None:
    with pytest.raises(ValueError, match="choice='latest' must be tested, oldest or newest"):
        load_tool("pins").lines("latest", None)


def test_the_makefile_has_the_documented_targets() -> None:
    wanted = {"book", "html", "test", "test-tpu", "lab", "notebooks", "bench", "help", "repo"}
    assert wanted <= makefile_targets()


def test_every_make_call_in_the_workflows_names_a_target() -> None:
    targets = makefile_targets()
    seen = set()
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text())
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                for call in re.findall(r"make ([a-z-]+)", step.get("run", "")):
                    assert call in targets, f"{path.name} calls make {call}"
                    seen.add(call)
    assert {"unit", "html", "wheel", "linkcheck", "test"} <= seen


def test_the_workflows_test_every_python_that_the_package_supports() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert workflow["jobs"]["all"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == ">=3.11"


def test_import_companion_is_light() -> None:
    code = (
        "import time; start = time.process_time(); import companion; "
        "seconds = time.process_time() - start; import sys; "
        "heavy = {'torch', 'numpy', 'matplotlib', 'pytorch_lightning', 'sklearn', 'typer'}; "
        "print(seconds, sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = out.stdout.split(" ", 1)
    assert heavy.strip() == "[]"
    assert float(seconds) < 0.2


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_module_names_a_device(path: Path) -> None:
    """Devices enter only through the Trainer; looked for in the syntax tree, not in comments.

    `.cpu()` is no way in: it fetches a result back for a comparison.
    """
    allowed = {"devices.py", "xla.py", "doctor.py"}  # they are about devices
    if path.name in allowed and path.parent.name == "companion":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in {"cuda", "xpu", "mps"} or (
                isinstance(node.func.value, ast.Name) and node.func.value.id == "backends"
            ), f"line {node.lineno} calls .{node.func.attr}()"
            if node.func.attr == "to":
                for argument in node.args:
                    assert not isinstance(argument, ast.Constant), (
                        f"line {node.lineno}: .to({argument.value!r})"
                    )
        if isinstance(node, ast.keyword) and node.arg == "device":
            assert not isinstance(node.value, ast.Constant) or node.value.value is None, (
                f"line {node.value.lineno}: device={node.value.value!r}"
            )


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_modules_are_short_and_only_the_twins_import_tensorflow(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    if path.name != "keras_twin.py":
        assert not imported & {"tensorflow", "keras", "tf_keras"}


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in PACKAGE_FILES
        # A chapter's rows are tested with the table: test_techniques.py, test_recipes.py.
        if p.name not in ("__init__.py", "techniques.py") and "homework" not in p.parts
    ],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_every_module_has_its_test_file(path: Path) -> None:
    inside = path.relative_to(ROOT / "companion")
    test = ROOT / "tests" / inside.parent / f"test_{inside.name}"
    assert test.exists(), f"{test.relative_to(ROOT)} is missing"


CHAPTERS = [
    "compute",
    "backprop",
    "architectures",
    "optimization",
    "acceleration",
    "distributed",
    "compression",
    "deployment",
    "energy",
    "applications",
    "trust",
]


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_chapter_imports_a_later_one_or_the_command_line(path: Path) -> None:
    inside = path.relative_to(ROOT / "companion").parts
    if inside[0] not in CHAPTERS:
        return
    later = CHAPTERS[CHAPTERS.index(inside[0]) + 1 :]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "companion" and len(parts) > 1:
                assert parts[1] not in [*later, "cli", "homework"], f"imports {node.module}"


@pytest.mark.parametrize("path", PAGE_SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_page_needs_a_web_address_to_run(path: Path) -> None:
    import jupytext

    for cell in jupytext.read(path).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "skip-execution" not in tags:
            assert "https://" not in cell.source, cell.source
            assert "http://" not in cell.source.replace("http://127.0.0.1", ""), cell.source
