"""The sandbox as the grader sees it: outcomes in one line, both ways to start a process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from companion.homework.sandbox import Outcome, Sandbox, explain, printable, refusal

PRELOAD = ["companion.homework.scenarios.backprop"]
RIGHT = """
import torch
def rms_norm(x, gain, eps=1e-6):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain
def rms_norm_backward(grad_output, x, gain, eps=1e-6):
    return x, gain
"""


def rms_inputs() -> dict:
    import numpy as np

    from companion.homework.backprop.by_hand import draw_rms

    return draw_rms(np.random.default_rng(0))


def test_a_fresh_interpreter_for_every_job_gives_the_same_answers() -> None:
    import numpy as np

    scenario = f"{PRELOAD[0]}:rms_norm"
    outcomes: list[Outcome] = []
    for method in ("fork", "spawn") if sys.platform.startswith("linux") else ("spawn",):
        with Sandbox(PRELOAD, method=method) as sandbox:
            outcomes.append(sandbox.run(RIGHT, scenario, rms_inputs(), timeout_s=10.0))
            looping = sandbox.run("while True: pass", None, {}, timeout_s=0.5)
            assert looping.fault == "was still running after 0.5 s"
    for outcome in outcomes:
        assert outcome.fault == ""
        np.testing.assert_array_equal(outcome.values["y0"], outcomes[0].values["y0"])


def test_a_server_that_does_not_start_is_reported_with_its_reason() -> None:
    with (
        pytest.raises(RuntimeError, match="did not start: ModuleNotFoundError: .*no_such_module"),
        Sandbox(["no_such_module"], method="fork") as sandbox,
    ):
        sandbox.run("", None, {}, timeout_s=1.0)


def test_leaving_the_context_removes_processes_and_folders() -> None:
    import psutil

    with Sandbox(method="fork") as sandbox:
        assert sandbox.run("x = 1", None, {}, timeout_s=10.0).fault == ""
        server, home = psutil.Process(sandbox._server.pid), Path(sandbox._home.name)
        assert server.is_running()
        assert home.is_dir()
        assert [path.name for path in home.iterdir()] == ["server.log"]
    assert not server.is_running()
    assert not home.exists()


def test_the_environment_of_a_submission_holds_nothing_personal(monkeypatch) -> None:
    monkeypatch.setenv("COMPANION_TEST_SECRET", "42")
    code = "import os\nassert 'COMPANION_TEST_SECRET' not in os.environ\n"
    code += f"assert os.path.expanduser('~') != {str(Path.home())!r}\n"
    with Sandbox(method="fork") as sandbox:
        assert sandbox.run(code, None, {}, timeout_s=10.0).fault == ""
        told = sandbox.run(code.replace("not in", "in"), None, {}, timeout_s=10.0)
    assert told.fault == "AssertionError (line 2)"


def test_a_system_without_processes_of_its_kind_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("os.name", "nt")
    with pytest.raises(RuntimeError, match="WSL"):
        Sandbox()


@pytest.mark.parametrize(
    ("kind", "message", "line", "want"),
    [
        ("ValueError", "bad\n value", 3, "ValueError: bad value (line 3)"),
        ("ValueError", "", None, "ValueError"),
        ("ValueError", "x" * 1000, None, "ValueError: " + "x" * 200),
        ("NotImplementedError", "", 5, "is not written yet (line 5)"),
        ("SystemExit", "0", 2, "calls sys.exit() or exit() (line 2)"),
        ("MemoryError", "", None, "needs more than 2 GiB of memory"),
        ("RuntimeError", "can't allocate memory: 9 bytes", 1, "needs more than 2 GiB of memory"),
        ("Misuse", "a sentence", None, "a sentence"),
        ("E\x1b[2J", "\x07", [1], "E\N{REPLACEMENT CHARACTER}[2J: \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_an_exception_is_explained_in_one_line(kind, message, line, want: str) -> None:
    assert explain(kind, message, line, 2 * 2**30).startswith(want)


def test_refusals_are_joined() -> None:
    assert refusal([]) == ""
    assert refusal(["does this", "does that"]) == (
        "does this and does that, which a submission may not"
    )


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\n\tb\x1b[31m\x00é√") == "a\n\tb\ufffd[31m\ufffdé√"
