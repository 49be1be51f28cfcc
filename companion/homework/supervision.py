"""Watch over one child process: collect what it says, end it in time, leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from companion.homework.transport import LENGTH, MAX_BYTES

SESSION = "COMPANION_HOMEWORK_SESSION"
PRELOAD_S = 120.0
OUTPUT_BYTES = 4000
TICK_S = 0.05
DRAIN_S = 1.0


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes:
        status: ``"exit"`` or ``"timeout"``.
        code: exit status, or minus the signal's number; None after a timeout.
        result: the bytes that came over the result pipe.
        output: the last OUTPUT_BYTES of what was printed.
        seconds: wall-clock time from start to end.
    """

    status: str
    code: int | None
    result: bytes
    output: bytes
    seconds: float


def supervise(pid: int, result_fd: int, output_fd: int, timeout_s: float) -> Ending:
    """Wait for child `pid`, at most `timeout_s` seconds, then kill it with its whole group.

    Closes both pipe ends. Nothing of the pipes is interpreted, and no more of them is kept than
    one message and the last part of the output.
    """
    start = time.monotonic()
    result, output = bytearray(), bytearray()
    is_open = {result_fd, output_fd}
    code: int | None = None
    status = "timeout"

    def read(wait_s: float) -> bool:
        ready = select.select(list(is_open), [], [], wait_s)[0]
        for fd in ready:
            part = os.read(fd, 2**16)
            if not part:
                is_open.discard(fd)
            elif fd == result_fd:
                result.extend(part[: MAX_BYTES + LENGTH.size - len(result)])
            else:
                output.extend(part)
                del output[:-OUTPUT_BYTES]
        return bool(ready)

    while time.monotonic() - start < timeout_s:
        if is_open:
            read(TICK_S)
        else:
            time.sleep(0.002)
        code = _reap(pid)
        if code is not None:
            status = "exit"
            break
    kill_group(pid)
    if code is None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    kill_session(os.environ.get(SESSION), spare={os.getpid(), os.getppid()})
    drained = time.monotonic() + DRAIN_S
    while is_open and time.monotonic() < drained and read(0):
        pass
    for fd in (result_fd, output_fd):
        os.close(fd)
    seconds = time.monotonic() - start
    return Ending(status, code, bytes(result), bytes(output), seconds)


def _reap(pid: int) -> int | None:
    done, wait_status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(wait_status) if done else None


def kill_group(pid: int) -> None:
    """Kill process `pid` and its process group, if they are still there."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def kill_session(token: str | None, spare: set[int]) -> None:
    """Kill every process that was started with `token` in its environment, but those of `spare`.

    This reaches a process that left its group or lost its parent. It needs Linux's /proc; elsewhere
    it does nothing, and killing the group has to do.
    """
    processes = Path("/proc")
    if not token or not (processes / "self" / "environ").exists():
        return
    mark = f"{SESSION}={token}".encode()
    for _ in range(5):
        found = False
        for entry in os.listdir(processes):
            if not entry.isdigit() or int(entry) in spare:
                continue
            with contextlib.suppress(OSError):
                if mark in (processes / entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry), signal.SIGKILL)
                    found = True
        if not found:
            return
