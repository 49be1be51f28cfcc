"""What a submission's process may not do, set up inside that process before its first line runs.

Two layers, both irrevocable for the process that asked for them: resource limits of the operating
system, and a Python audit hook (PEP 578), which the interpreter consults before it opens a file,
starts a process, sends a signal or connects to a network, and which cannot be removed. The hook
refuses with PermissionError and remembers that it did, so that catching the error does not help.

These are fences for homework, not for malware: run files of people you do not know in a container.
What a submission's points rest on is not the fences but that every answer is judged elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MEMORY_BYTES = 2 * 2**30
FILE_BYTES = 16 * 2**20

PROCESSES = "starts another process"
SIGNALS = "sends a signal to a process"
NETWORK = "uses the network"
READS = "reads the grader's files"
WRITES = "writes outside its own folder"

REFUSED = {
    "os.exec": PROCESSES,
    "os.fork": PROCESSES,
    "os.forkpty": PROCESSES,
    "os.posix_spawn": PROCESSES,
    "os.spawn": PROCESSES,
    "os.system": PROCESSES,
    "pty.spawn": PROCESSES,
    "subprocess.Popen": PROCESSES,
    "os.kill": SIGNALS,
    "os.killpg": SIGNALS,
    "socket.bind": NETWORK,
    "socket.connect": NETWORK,
    "socket.getaddrinfo": NETWORK,
    "socket.sendto": NETWORK,
}
# Which of an event's arguments are paths that it changes.
CHANGED_PATHS = {
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/tty")


def forbidden_folders() -> tuple[str, ...]:
    """Return the folders that a submission may not read: the chapters' judges, and their proofs.

    Nothing else of the grader knows an answer, and tracebacks need to read its files.
    """
    package = Path(__file__).resolve().parents[1]
    judges = [str(tasks.parent) for tasks in sorted((package / "homework").glob("*/tasks.py"))]
    return (*judges, str(package.parent / "tests" / "homework"))


def limit_resources(seconds: float, memory_bytes: int = MEMORY_BYTES) -> None:
    """Cap processor time, memory, file size and core dumps of this process, for good.

    `seconds` and `memory_bytes` are on top of what the process has used so far.

    Memory is capped as growth of private writable pages (RLIMIT_DATA): the address space, which
    RLIMIT_AS would cap, is tens of gigabytes for a process that has merely loaded torch. Linux
    alone enforces it; elsewhere only time is limited.
    """
    import resource

    def cap(kind: int, value: int) -> None:
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, value))

    cap(resource.RLIMIT_CORE, 0)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cap(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 2)
    cap(resource.RLIMIT_FSIZE, FILE_BYTES)
    if sys.platform.startswith("linux"):
        cap(resource.RLIMIT_DATA, _data_bytes() + memory_bytes)


def _data_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def install(folder: Path, forbidden: Sequence[str]) -> Callable[[], list[str]]:
    """Add the audit hook; `folder` is the only place to write to.

    Returns:
        A function that lists what was refused so far, in words, each once.
    """
    realpath, fspath, fsdecode = os.path.realpath, os.fspath, os.fsdecode
    own = realpath(folder) + os.sep
    closed = tuple(realpath(name) + os.sep for name in forbidden)
    refusals: list[str] = []

    def refuse(reason: str) -> None:
        if reason not in refusals:
            refusals.append(reason)
        raise PermissionError(f"a submission may not do this: it {reason}")

    def resolve(path: Any) -> str | None:
        """The path as text; None for a descriptor that is open already."""
        if path is None or isinstance(path, int):
            return None
        return realpath(fsdecode(fspath(path)))

    def check_change(path: Any) -> None:
        name = resolve(path)
        if name is not None and name not in DEVICES and not (name + os.sep).startswith(own):
            refuse(WRITES)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            name = resolve(path)
            if name is not None and (name + os.sep).startswith(closed):
                refuse(READS)
            if isinstance(flags, int) and flags & WRITING:
                check_change(path)
        elif event in REFUSED:
            refuse(REFUSED[event])
        elif event in CHANGED_PATHS:
            for index in CHANGED_PATHS[event]:
                check_change(arguments[index])

    sys.addaudithook(hook)
    return lambda: list(refusals)
