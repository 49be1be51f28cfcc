"""A child process is read, timed and ended, whatever it does with its pipes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from companion.homework.supervision import (
    OUTPUT_BYTES,
    SESSION,
    Ending,
    kill_group,
    kill_session,
    supervise,
)


def run(code: str, timeout_s: float = 30.0) -> Ending:
    """Run Python code in a session of its own; `r` is the descriptor of its result pipe."""
    result, result_end = os.pipe()
    output, output_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", f"import os, sys, time\nr = int(sys.argv[1])\n{code}"]
        + [str(result_end)],
        stdout=output_end,
        stderr=output_end,
        pass_fds=(result_end,),
        start_new_session=True,
    )
    os.close(result_end)
    os.close(output_end)
    try:
        return supervise(process.pid, result, output, timeout_s)
    finally:
        process.returncode = 0  # it has been waited for


def test_result_output_and_status_are_collected() -> None:
    ending = run("os.write(r, b'answer'); print('hello'); sys.exit(3)")
    assert (ending.status, ending.code) == ("exit", 3)
    assert ending.result == b"answer"
    assert ending.output == b"hello\n"


def test_a_result_larger_than_a_pipe_is_collected_whole() -> None:
    ending = run("data = b'x' * 300_000\nwhile data:\n    data = data[os.write(r, data):]")
    assert ending.result == b"x" * 300_000


def test_only_the_end_of_a_flood_of_output_is_kept() -> None:
    ending = run("print('x' * 1_000_000 + 'end')")
    assert ending.output == b"x" * (OUTPUT_BYTES - 4) + b"end\n"


def test_a_child_that_runs_too_long_is_killed() -> None:
    start = time.monotonic()
    ending = run("print('on', flush=True); time.sleep(600)", timeout_s=0.5)
    assert (ending.status, ending.code) == ("timeout", None)
    assert ending.seconds >= 0.5
    assert time.monotonic() - start < 30


def test_a_child_that_closes_its_pipes_and_runs_on_is_killed() -> None:
    ending = run("os.close(r); os.close(1); os.close(2); time.sleep(600)", timeout_s=0.5)
    assert ending.status == "timeout"


def test_a_child_that_is_killed_by_a_signal_tells_which() -> None:
    assert run("os.kill(os.getpid(), 15)").code == -15


def test_a_grandchild_of_the_group_dies_with_it() -> None:
    ending = run("pid = os.fork()\nif pid:\n    print(pid)\nelse:\n    time.sleep(600)")
    assert ending.status == "exit"
    deadline = time.monotonic() + 10
    while is_alive(int(ending.output)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(int(ending.output))


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs Linux's /proc")
def test_a_process_of_a_session_is_found_by_its_environment() -> None:
    token = f"test-{os.getpid()}"
    command = [sys.executable, "-S", "-c", "print(1, flush=True); import time; time.sleep(600)"]
    processes = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, env={SESSION: name}, start_new_session=True
        )
        for name in (token, token, "another")
    ]
    try:
        for process in processes:
            process.stdout.readline()
        kill_session(token, spare={processes[1].pid})
        assert processes[0].wait(10) == -9
        assert processes[1].poll() is None
        assert processes[2].poll() is None
        kill_session(None, spare=set())
        assert processes[2].poll() is None
    finally:
        for process in processes:
            kill_group(process.pid)
            process.wait()
            process.stdout.close()


def test_killing_what_is_gone_does_no_harm() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    kill_group(process.pid)
