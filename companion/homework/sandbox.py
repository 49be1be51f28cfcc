"""The grader's side of the fence: start the server, send jobs, read how they ended.

The grader never imports a submission. It sends its source and plain inputs to a server process
(:mod:`companion.homework.server`), which runs them in a process of their own, and gets plain
data back.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import site
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import companion
from companion.homework.child import split
from companion.homework.guard import MEMORY_BYTES
from companion.homework.supervision import PRELOAD_S, SESSION, kill_group, kill_session
from companion.homework.transport import (
    LENGTH,
    TransportError,
    pack,
    read_frame,
    unpack,
    write_frame,
)

START_S = 180.0
GRACE_S = 30.0
KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "PYTHONPATH",
    "SYSTEMROOT",
)
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
SERVER = "import sys; from companion.homework.server import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Outcome:
    """What came of one job.

    Attributes:
        values: what the scenario returned, JSON values and arrays; None unless it came to its end.
        fault: otherwise what happened, in one line.
        stage: ``"import"`` or ``"task"``: where that was.
        output: the last part of what the submission printed; never interpreted.
        seconds: wall-clock time.
    """

    values: Mapping[str, Any] | None
    fault: str = ""
    stage: str = "task"
    output: str = ""
    seconds: float = field(default=0.0, compare=False)


class Sandbox:
    """Runs submissions; a context manager, so that its processes end with it.

    Args:
        preload: modules that the server loads in advance (with the ``fork`` method).
        method: ``"fork"``, ``"spawn"``, or None for the one that suits this system.

    Raises:
        RuntimeError: the system is neither Linux nor macOS, or the server does not start.
    """

    def __init__(self, preload: Sequence[str] = (), *, method: str | None = None) -> None:
        if os.name != "posix":
            raise RuntimeError(
                "grading needs Linux or macOS: on Windows use WSL, or open the page on Colab"
            )
        self.preload = tuple(preload)
        self.method = method or ("fork" if sys.platform.startswith("linux") else "spawn")
        self._grace_s = GRACE_S + (PRELOAD_S if self.method == "spawn" else 0.0)
        self._token = secrets.token_hex(8)
        self._server: subprocess.Popen[bytes] | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._ready = False

    def __enter__(self) -> Sandbox:
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def run(
        self,
        source: str,
        scenario: str | None,
        inputs: Mapping[str, Any],
        *,
        timeout_s: float,
        memory_bytes: int = MEMORY_BYTES,
    ) -> Outcome:
        """Run `scenario` on a submission in a process of its own.

        Args:
            source: the submission's text.
            scenario: ``"module:function"``, or None to import the submission and no more.
            inputs: JSON values and arrays for the scenario.
            timeout_s: wall-clock limit, import included.
            memory_bytes: how much the process may allocate.
        """
        text, arrays = split(inputs)
        job = pack(
            {
                "source": source,
                "scenario": scenario,
                "values": text,
                "seconds": timeout_s,
                "memory_bytes": memory_bytes,
            },
            arrays,
        )
        if self._server is None:
            self._start()
        self._await_server()
        try:
            write_frame(self._request, job)
            reply = read_frame(self._reply, timeout_s=timeout_s + self._grace_s)
        except (TransportError, TimeoutError, BrokenPipeError):
            reply = None
        if reply is None:
            self._stop()
            return Outcome(None, "killed the process that watches over it", "task")
        return read_outcome(reply, timeout_s, memory_bytes)

    def _start(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="homework-home-")
        request, self._request = os.pipe()
        self._reply, reply = os.pipe()
        command = [sys.executable, "-P", "-c", SERVER, self.method, str(request), str(reply)]
        with open(self._log, "wb") as log:
            self._server = subprocess.Popen(
                [*command, *self.preload],
                pass_fds=(request, reply),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                cwd=self._home.name,
                start_new_session=True,
            )
        os.close(request)
        os.close(reply)
        self._ready = False

    def _await_server(self) -> None:
        if self._ready:
            return
        with contextlib.suppress(TransportError, TimeoutError):
            self._ready = read_frame(self._reply, timeout_s=START_S) is not None
        if not self._ready:
            errors = self._log.read_text(errors="replace").strip().splitlines()
            self._stop()
            reason = errors[-1] if errors else f"no sign of it after {START_S:.0f} s"
            raise RuntimeError(f"the grading process did not start: {reason}")

    def _stop(self) -> None:
        if self._server is None:
            return
        os.close(self._request)
        os.close(self._reply)
        kill_group(self._server.pid)
        self._server.wait()
        kill_session(self._token, spare={os.getpid()})
        self._home.cleanup()
        self._server = None

    @property
    def _log(self) -> Path:
        return Path(self._home.name) / "server.log"

    def _environment(self) -> dict[str, str]:
        """A small environment: what Python needs to find its packages, and nothing personal."""
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment.update(dict.fromkeys(ONE_THREAD, "1"))
        environment.update(
            {
                SESSION: self._token,
                "HOME": self._home.name,
                "TMPDIR": self._home.name,
                "PYTHONUSERBASE": site.getuserbase(),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUTF8": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "MPLBACKEND": "agg",
            }
        )
        root = Path(companion.__file__).resolve().parents[1]
        if "site-packages" not in root.parts:
            environment["PYTHONPATH"] = os.pathsep.join(
                [str(root), *filter(None, [environment.get("PYTHONPATH")])]
            )
        return environment


def read_outcome(reply: bytes, timeout_s: float, memory_bytes: int) -> Outcome:
    """Turn the server's reply into an outcome; whatever the submission's part holds."""
    text, arrays = unpack(reply)
    output = printable(arrays["output"].tobytes().decode("utf-8", errors="replace"))
    end = {"output": output, "seconds": text["seconds"]}
    if text["status"] == "timeout":
        return Outcome(None, f"was still running after {timeout_s:.3g} s", **end)
    result = arrays["result"].tobytes()
    if not result:
        code = text["code"]
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return Outcome(None, f"ended the process without an answer ({how})", **end)
    try:
        length = LENGTH.unpack_from(result)[0] if len(result) >= LENGTH.size else -1
        if length != len(result) - LENGTH.size:
            raise TransportError("not one message")
        answer, values = unpack(result[LENGTH.size :])
        if answer["status"] == "done":
            values = {**answer["values"], **values}
            fault = refusal(answer["refused"])
            return Outcome(None if fault else values, fault, **end)
        stage = "import" if answer["stage"] == "import" else "task"
        fault = refusal(answer["refused"])
        if not fault:
            fault = explain(answer["type"], answer["message"], answer["line"], memory_bytes)
        return Outcome(None, fault, stage, **end)
    except (TransportError, KeyError, TypeError):
        return Outcome(None, "wrote something unreadable into the grader's pipe", **end)


def refusal(reasons: Sequence[str]) -> str:
    """Say in one line what a submission tried that it may not; empty if nothing."""
    words = " and ".join(printable(str(reason)) for reason in reasons)
    return f"{words[:300]}, which a submission may not" if words else ""


def explain(kind: str, message: str, line: int | None, memory_bytes: int) -> str:
    """Say in one line what an exception of the submission means."""
    kind, message = printable(str(kind)), " ".join(printable(str(message)).split())
    where = f" (line {line})" if isinstance(line, int) else ""
    if kind == "Misuse":
        return message
    if kind == "NotImplementedError":
        return f"is not written yet{where}"
    if kind == "SystemExit":
        return f"calls sys.exit() or exit(){where}"
    if kind == "MemoryError" or "allocate memory" in message:
        return f"needs more than {memory_bytes / 2**30:.3g} GiB of memory{where}"
    return f"{kind}: {message[:200]}{where}" if message else f"{kind}{where}"


def printable(text: str) -> str:
    """Return `text` without control characters: a submission must not drive a terminal."""
    unknown = "\N{REPLACEMENT CHARACTER}"
    return "".join(c if c.isprintable() or c in "\n\t" else unknown for c in text)
