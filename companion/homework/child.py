"""The process in which a submission runs: import the file, call it as the task says, answer.

What the submission prints goes into a pipe that nobody parses. The answer is one message (see
:mod:`companion.homework.transport`), ``status`` being ``done`` or ``error``; whatever else
happens to this process (it exits, hangs, is killed, answers nonsense) is the task's failure.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from companion.homework import guard
from companion.homework.transport import pack, unpack, write_frame

NAME = "submission"


class Misuse(Exception):
    """A scenario's complaint about what the submission returned or lacks, in one sentence."""


def run(job: bytes, result_fd: int, output_fd: int, folder: str) -> NoReturn:
    """Do one job in this process, write one frame to `result_fd`, and end.

    The job's text holds ``source`` (the submission), ``scenario`` (``"module:function"``, None to
    import the file and no more), ``values``, ``seconds`` and ``memory_bytes``; its arrays and
    ``values`` together are the scenario's inputs.
    """
    leave = os._exit  # kept: the submission may put something else in its place
    os.setsid()
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    os.chdir(folder)
    text, arrays = unpack(job)
    scenario = None
    if text["scenario"]:
        module, _, name = text["scenario"].partition(":")
        scenario = getattr(importlib.import_module(module), name)
    path = Path(folder) / f"{NAME}.py"
    path.write_text(text["source"], encoding="utf-8")
    guard.limit_resources(text["seconds"], text["memory_bytes"])
    refused = guard.install(Path(folder), guard.forbidden_folders())
    stage = "import"
    try:
        student = import_file(path)
        values: Mapping[str, Any] = {}
        if scenario is not None:
            stage = "task"
            values = scenario(student, {**text["values"], **arrays})
        answer_text, answer_arrays = split(values)
        answer = {"status": "done", "values": answer_text}
    except BaseException as error:
        answer, answer_arrays = {"status": "error", "stage": stage, **describe(error)}, {}
    answer["refused"] = refused()
    sys.stdout.flush()
    sys.stderr.flush()
    write_frame(result_fd, pack(answer, answer_arrays))
    leave(0)


def import_file(path: Path) -> types.ModuleType:
    """Import the submission under the name ``submission``."""
    specification = importlib.util.spec_from_file_location(NAME, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[NAME] = module
    specification.loader.exec_module(module)
    return module


def split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort a scenario's values into JSON values and arrays; tensors become arrays."""
    import numpy as np

    text, arrays = {}, {}
    for name, value in values.items():
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            text[name] = value
    return text, arrays


def describe(error: BaseException) -> dict[str, Any]:
    """Return the error's type, its message and the last line of the submission on its way."""
    lines = [
        number
        for frame, number in traceback.walk_tb(error.__traceback__)
        if Path(frame.f_code.co_filename).name == f"{NAME}.py"
    ]
    line = lines[-1] if lines else None
    if isinstance(error, SyntaxError) and error.lineno is not None:
        line = error.lineno
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return {"type": type(error).__name__, "message": message[:2000], "line": line}


def load(modules: Sequence[str]) -> None:
    """Import torch, for one thread, and the modules named."""
    import torch

    torch.set_num_threads(1)
    for name in modules:
        importlib.import_module(name)


def main(arguments: Sequence[str]) -> NoReturn:
    """Entry point where every job has an interpreter of its own.

    Args:
        arguments: file that holds the job, result and output descriptors, folder, a descriptor to
            close when everything is loaded, and the modules to load.
    """
    job_file, result_fd, output_fd, folder, loaded_fd, *modules = arguments
    job = Path(job_file).read_bytes()
    os.unlink(job_file)
    load(modules)
    os.close(int(loaded_fd))
    run(job, int(result_fd), int(output_fd), folder)
