"""Start one process a job, from a process that has loaded torch already.

Loading torch and Lightning takes seconds, forking takes milliseconds. So on Linux this server
loads them once and forks itself for every job: a job sees nothing of the one before. Elsewhere a
fork of a process with torch in it is not safe, and every job gets a fresh interpreter; its clock
starts when it has loaded them.

The server speaks with the grader only; a submission's process holds a result pipe and an output
pipe to the server and no other. Neither the server nor its children ever hold an answer.
"""

from __future__ import annotations

import gc
import os
import select
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from companion.homework import child
from companion.homework.supervision import PRELOAD_S, kill_group, supervise
from companion.homework.transport import pack, read_frame, unpack, write_frame

CHILD = "import sys; from companion.homework.child import main; main(sys.argv[1:])"


class Server:
    """Runs jobs one after the other.

    Args:
        method: ``"fork"`` or ``"spawn"``.
        preload: modules to load before a submission's first line runs.
        request_fd: pipe end that jobs come from.
        reply_fd: pipe end that the endings go to.
    """

    def __init__(self, method: str, preload: Sequence[str], request_fd: int, reply_fd: int) -> None:
        self.method, self.preload = method, tuple(preload)
        self.request_fd, self.reply_fd = request_fd, reply_fd
        for fd in (request_fd, reply_fd):
            os.set_inheritable(fd, False)

    def serve(self) -> None:
        """Load what is to be loaded, say so, and serve until the request pipe closes."""
        if self.method == "fork":
            child.load(self.preload)
            gc.freeze()  # a collection in a child would write to, and so copy, every page
        write_frame(self.reply_fd, pack({"ready": True}))
        while (job := read_frame(self.request_fd)) is not None:
            write_frame(self.reply_fd, self.answer(job))

    def answer(self, job: bytes) -> bytes:
        """Run one job in a process of its own and return how that ended, as a message."""
        seconds = unpack(job)[0]["seconds"]
        folder = tempfile.mkdtemp(prefix="homework-")
        start = self.fork if self.method == "fork" else self.spawn
        result_fd, result_end = os.pipe()
        output_fd, output_end = os.pipe()
        try:
            pid = start(job, result_end, output_end, folder, (result_fd, output_fd))
            os.close(result_end)
            os.close(output_end)
            ending = supervise(pid, result_fd, output_fd, seconds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return pack(
            {"status": ending.status, "code": ending.code, "seconds": ending.seconds},
            {
                "result": np.frombuffer(ending.result, dtype=np.uint8),
                "output": np.frombuffer(ending.output, dtype=np.uint8),
            },
        )

    def fork(
        self, job: bytes, result_fd: int, output_fd: int, folder: str, close: Sequence[int]
    ) -> int:
        """Fork this process for the job; returns the child's process id."""
        leave = os._exit  # kept: the submission may put something else in its place
        pid = os.fork()
        if pid:
            return pid
        try:
            for fd in (*close, self.request_fd, self.reply_fd):
                os.close(fd)
            child.run(job, result_fd, output_fd, folder)
        finally:
            leave(70)

    def spawn(
        self, job: bytes, result_fd: int, output_fd: int, folder: str, close: Sequence[int]
    ) -> int:
        """Start an interpreter for the job, wait until it is loaded; returns its process id.

        It inherits the two pipes' ends and nothing else, so there is nothing to `close` in it.
        """
        del close
        path = Path(folder) / "job"
        path.write_bytes(job)
        loaded_fd, loaded_end = os.pipe()
        for fd in (result_fd, output_fd, loaded_end):
            os.set_inheritable(fd, True)
        arguments = [str(path), str(result_fd), str(output_fd), folder, str(loaded_end)]
        command = [sys.executable, "-P", "-c", CHILD, *arguments, *self.preload]
        pid = os.posix_spawn(sys.executable, command, os.environ)
        os.close(loaded_end)
        if not select.select([loaded_fd], [], [], PRELOAD_S)[0]:
            kill_group(pid)
        os.close(loaded_fd)
        return pid


def main(arguments: Sequence[str]) -> None:
    """Entry point: method, request descriptor, reply descriptor, modules to load."""
    method, request_fd, reply_fd, *preload = arguments
    Server(method, preload, int(request_fd), int(reply_fd)).serve()
