"""The fences of a submission's process; what they refuse is tried in test_tampering.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from companion.homework import guard

JUDGES = Path(guard.__file__).resolve().parent / "backprop"


def test_the_judges_and_their_proofs_are_closed_and_the_scenarios_open() -> None:
    closed = guard.forbidden_folders()
    assert str(JUDGES) in closed
    assert str(Path(__file__).resolve().parent) in closed
    assert not any(folder.endswith(("scenarios", "stubs", "homework/")) for folder in closed)


LINK = f"(os.path.lexists('d') or os.symlink({str(JUDGES)!r}, 'd'), open('d/tasks.py'))"


def run(code: str, folder: Path) -> str:
    """Run `code` in an interpreter with the audit hook; `folder` is its own, JUDGES are closed."""
    start = f"""
import os, sys
sys.path.insert(0, {str(JUDGES.parents[2])!r})
from pathlib import Path
from companion.homework import guard
os.chdir({str(folder)!r})
refused = guard.install(Path({str(folder)!r}), [{str(JUDGES)!r}])
def attempt(action):
    try:
        action()
    except PermissionError as error:
        print(error)
"""
    command = [sys.executable, "-S", "-c", f"{start}{code}\nprint(refused())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "open('a', 'w').close(); os.rename('a', 'b'); os.mkdir('c'); os.symlink('b', 'd')",
        "open('/dev/null', 'w').close(); open(os.devnull, 'rb').close()",
        f"open({str(JUDGES.parent / 'tasks.py')!r}).close(); os.listdir('/')",
        "open(1, 'w', closefd=False).close()",
        "open(b'bytes', 'wb').close(); os.remove(Path('bytes'))",
    ],
)
def test_ordinary_work_is_let_through(code: str, tmp_path: Path) -> None:
    assert run(code, tmp_path) == "[]"


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (f"open({str(JUDGES / 'tasks.py')!r})", guard.READS),
        (f"open({str(JUDGES / 'tasks.py').encode()!r})", guard.READS),
        (LINK, guard.READS),
        (f"open('{'../' * 20}{str(JUDGES / 'tasks.py')[1:]}')", guard.READS),
        ("open('../outside', 'a')", guard.WRITES),
        ("os.open('../outside', os.O_CREAT | os.O_RDONLY)", guard.WRITES),
        ("os.mkdir('../outside')", guard.WRITES),
        ("os.truncate('../outside', 0)", guard.WRITES),
        ("os.symlink('/', '../outside')", guard.WRITES),
        ("os.fork()", guard.PROCESSES),
    ],
)
def test_a_refusal_raises_and_is_remembered(action: str, reason: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    lines = run(f"attempt(lambda: {action})\nattempt(lambda: {action})", own).splitlines()
    assert lines[0] == f"a submission may not do this: it {reason}"
    assert lines[-1] == str([reason])
    assert list(tmp_path.iterdir()) == [own]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux caps memory")
def test_memory_is_capped_as_growth_from_now_on(tmp_path: Path) -> None:
    code = "held = bytearray(200 * 2**20)\nguard.limit_resources(30, 100 * 2**20)\n"
    code += "more = bytearray(50 * 2**20)\n"
    code += "try:\n    bytearray(200 * 2**20)\nexcept MemoryError:\n    print('no more')"
    assert run(code, tmp_path).splitlines()[0] == "no more"
