"""Submissions that try to pass without solving the tasks: each fails, with one clear line.

Where an attack could be combined with right code, right code is what it is combined with: it must
then fail, or cost only the task in which it happens.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from homework import proving

from companion.homework import Report
from companion.homework.supervision import SESSION

# Without its __future__ line, so that other lines may stand before it.
REFERENCE = proving.source("backprop", "reference").replace(
    "from __future__ import annotations\n", ""
)
BODY = "    wrong = torch.zeros(x.shape, dtype=torch.bool)\n"
QUICK = {"gradient-check", "rms-norm"}
# Every name that is asked for, with nothing behind it.
EMPTY = """
import torch
from torch import nn

def wrong_entries(function, gradient, x):
    return torch.zeros(x.shape, dtype=torch.bool)

def rms_norm(x, gain, eps=1e-6):
    return torch.zeros_like(x)

def rms_norm_backward(grad_output, x, gain, eps=1e-6):
    return torch.zeros_like(x), torch.zeros_like(gain)

def smoothed_cross_entropy(z, labels, smoothing):
    return z.sum() * 0

def smoothed_cross_entropy_backward(z, labels, smoothing):
    return z * 0

def logsumexp(x, *, dim):
    return x * 0

class RMSNorm(nn.Module):
    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(features))

    def forward(self, x):
        return x

def train(data):
    return 100
"""


def grade(source: str, **options) -> Report:
    return proving.grader("backprop").grade_source(source, **options)


def in_first_task(code: str) -> str:
    """The reference with `code`, one statement, at the start of its first task."""
    assert REFERENCE.count(BODY) == 1
    return REFERENCE.replace(BODY, f"    {code}\n{BODY}")


def only_message(report: Report) -> str:
    """The one line that every task failed with."""
    messages = {task.message for task in report.tasks}
    assert not any(task.passed for task in report.tasks)
    assert len(messages) == 1, messages
    (message,) = messages
    assert message
    assert "\n" not in message
    return message


def leftovers() -> list[psutil.Process]:
    """Processes of this grader, other than its server."""
    sandbox = proving.grader("backprop")._sandbox
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(SESSION) == sandbox._token:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != sandbox._server.pid]


def test_empty_answers_fail_every_task() -> None:
    report = grade(EMPTY)
    assert not any(task.passed for task in report.tasks)
    assert all(task.message for task in report.tasks)


def test_printing_success_changes_nothing() -> None:
    words = '{"status": "done", "passed": true} PASSED 100 of 100 points'
    report = grade(f"import sys\nprint({words!r})\nprint({words!r}, file=sys.stderr)\n{EMPTY}")
    assert report.total == 0
    assert "PASSED 100" in report.tasks[0].output


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(:\n    pass", "SyntaxError"),
        ("x = 1\n\0", "SyntaxError"),
        ("(" * 5000, "SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module' (line 1)"),
        ("\n\n1 / 0", "ZeroDivisionError: division by zero (line 3)"),
        ("import sys\nsys.exit(0)", "calls sys.exit() or exit() (line 2)"),
        ("raise SystemExit", "calls sys.exit()"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os\nos._exit(0)", "ended the process without an answer (exit status 0)"),
        ("import os\nos.abort()", "ended the process without an answer (killed by signal 6)"),
        ("input()", "EOFError"),
    ],
)
def test_a_file_that_does_not_import_fails_with_one_line(code: str, message: str) -> None:
    told = only_message(grade(f"{code}\n"))
    assert told.startswith("importing your file: ")
    assert message in told


def test_an_endless_loop_at_import_is_cut_off() -> None:
    start = time.monotonic()
    report = grade("while True:\n    pass\n", longest_s=1.0)
    assert "still running after 1 s" in only_message(report)
    assert "loop" in report.tasks[0].hint
    assert time.monotonic() - start < 60


def test_the_whole_file_has_a_time_limit_too() -> None:
    report = grade("import time\ntime.sleep(60)\n", timeout_s=1.0)
    assert "still running" in only_message(report)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import time; time.sleep(600)", "was still running after 4 s"),
        ("import os; os._exit(0)", "ended the process without an answer (exit status 0)"),
        ("raise SystemExit(0)", "calls sys.exit()"),
        ("faulthandler._sigsegv()", "ended the process without an answer (killed by signal 11)"),
        ("bytearray(10**11)", "needs more than 2 GiB of memory"),
        ("torch.zeros(10**10)", "needs more than 2 GiB of memory"),
        ("return [x] * 10**6", "the result of wrong_entries must be a tensor, not list"),
        ("return wrong_entries(function, gradient, x)", "RecursionError"),
        ("raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})", "ended the process"),
        ("raise ValueError('\\x1b[2J\\x07\\nPASSED')", "ValueError: \N{REPLACEMENT CHARACTER}[2J"),
        ("import os; os.write(1, b'x' * 10**7); 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_fault_in_one_task_costs_that_task_alone(code: str, message: str) -> None:
    source = f"import faulthandler\n{in_first_task(code)}"
    report = grade(source, only=QUICK, longest_s=4.0)
    first, second = report.tasks
    assert not first.passed
    assert message in first.message
    assert "\n" not in first.message
    assert "\x1b" not in first.message
    assert len(first.output) <= 4000
    assert second.passed


@pytest.mark.parametrize(
    "patch",
    [
        "import numpy\nnumpy.allclose = numpy.array_equal = lambda *a, **k: True",
        "import torch\ntorch.testing.assert_close = lambda *a, **k: None",
        "import torch\ntorch.equal = torch.allclose = lambda *a, **k: True",
        "import sys\nfor name in list(sys.modules):\n"
        "    if 'homework' in name:\n"
        "        for key in ('Misuse', 'agree', 'expect_close', 'unchanged', 'describe'):\n"
        "            setattr(sys.modules[name], key, lambda *a, **k: True)",
        "import torch\ntorch.autograd.grad = lambda out, leaves, *a, **k: "
        "[torch.zeros_like(x) for x in leaves]\n"
        "torch.Tensor.backward = lambda self, *a, **k: None",
        "import json, os\njson.dumps = lambda *a, **k: '{}'",
        "import os\nos.write = lambda fd, data: len(data)",
        "import os\nos._exit = lambda code: None",
    ],
)
def test_patching_what_it_finds_changes_nothing(patch: str) -> None:
    report = grade(f"{patch}\n{EMPTY}", longest_s=5.0)
    assert not any(task.passed for task in report.tasks)
    assert grade(REFERENCE, only={"rms-norm"}).passed


FORGE = """
import json, os, struct
RIGHT = {'status': 'done', 'values': {}, 'refused': []}
def frame(text, arrays=b"", entries=()):
    header = json.dumps({"text": text, "arrays": list(entries)}).encode()
    message = struct.pack("<Q", len(header)) + header + arrays
    return struct.pack("<Q", len(message)) + message
def forge(data):
    for fd in range(3, 64):
        try:
            os.write(fd, data)
        except OSError:
            pass
    os._exit(0)
"""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("b'PASSED'", "wrote something unreadable"),
        ("b'\\xff' * 100", "wrote something unreadable"),
        ("struct.pack('<Q', 2**60) + b'x'", "wrote something unreadable"),
        ("frame({'status': 'done', 'values': {'passed': True}, 'refused': []})", "missing"),
        ("frame({'status': 'done', 'values': 1, 'refused': 2})", "wrote something unreadable"),
        ("frame([])", "wrote something unreadable"),
        ("frame(RIGHT, b'', [['mask0', 'object', [1]]])", "wrote something unreadable"),
        ("frame(RIGHT, b'', [['mask0', 'bool', [10**12]]])", "wrote something unreadable"),
        ("frame(RIGHT, b'', [['mask0', 'bool', [-1]]])", "wrote something unreadable"),
        ("frame(RIGHT, b'\\0', [['mask0', 'bool', [1]]])", "one boolean for each entry"),
    ],
)
def test_writing_into_the_graders_pipe_gives_no_points(data: str, message: str) -> None:
    code = in_first_task(f"forge({data})")
    report = grade(FORGE + code, only=QUICK)
    first = report["gradient-check"]
    assert not first.passed
    assert message in f"{first.message} {first.hint}"
    assert report["rms-norm"].passed


def test_the_grader_may_not_be_imported() -> None:
    for line in (
        "from companion.homework.backprop import by_hand",
        "import companion.homework",
        "import companion as c\nc.homework",
        "from companion import homework as h\nh.grade",
        "from tests.homework.backprop.reference import *",
    ):
        assert "graders are off limits" in only_message(grade(f"{line}\n{REFERENCE}"))


JUDGE = str(Path(__file__).resolve().parents[2] / "companion" / "homework" / "backprop")
REFUSED = {
    "reads the grader's files": (
        f"open({JUDGE!r} + '/by_hand.py').read()",
        "importlib.import_module('companion.home' + 'work.backprop.by_hand')",
        f"open({str(Path(__file__).resolve().parent)!r} + '/backprop/reference.py').read()",
    ),
    "starts another process": (
        "os.fork()",
        "os.system('true')",
        "subprocess.run(['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "multiprocessing.get_context('fork').Process(target=print).start()",
    ),
    "sends a signal to a process": ("os.kill(os.getppid(), 9)", "os.killpg(os.getpgrp(), 9)"),
    "uses the network": ("socket.create_connection(('127.0.0.1', 9), timeout=1)",),
    "writes outside its own folder": (
        "open(os.path.join('/var/tmp', 'companion-tampering'), 'w')",
        "os.remove(torch.__file__)",
        f"os.rename({JUDGE!r} + '/tasks.py', 'here.py')",
        f"os.link({JUDGE!r} + '/tasks.py', 'here.py')",
    ),
}


@pytest.mark.parametrize(
    ("reason", "code"), [(reason, code) for reason, codes in REFUSED.items() for code in codes]
)
def test_what_is_refused_fails_even_when_the_error_is_swallowed(reason: str, code: str) -> None:
    imports = "import importlib, multiprocessing, os, socket, subprocess, torch\n"
    attempt = f"try:\n    {code}\nexcept BaseException:\n    pass\n"
    told = only_message(grade(f"{imports}{attempt}{REFERENCE}", longest_s=5.0))
    assert told.startswith("importing your file: ")
    assert reason in told
    assert not Path("/var/tmp/companion-tampering").exists()


def test_a_submission_may_write_and_read_in_its_own_folder() -> None:
    code = "open('notes.txt', 'w').write('1'); assert open('notes.txt').read() == '1'"
    assert grade(in_first_task(code), only={"gradient-check"}).passed


LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None)\n"


def test_a_process_that_leaves_its_group_is_ended_all_the_same() -> None:
    escape = (
        f"{LIBC}if libc.fork() == 0:\n    libc.setsid()\n"
        "    if libc.fork() == 0:\n        libc.sleep(600)\n    libc._exit(0)\n"
    )
    assert grade(escape + REFERENCE, only={"train"}).passed
    assert leftovers() == []


def test_a_thread_that_goes_on_for_ever_ends_with_its_task() -> None:
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
    assert grade(code + REFERENCE, only={"rms-norm"}).passed
    assert leftovers() == []


def test_killing_the_server_costs_one_task_and_leaves_nothing_behind() -> None:
    place = "def train(data) -> FitResult:\n"
    assert REFERENCE.count(place) == 1
    code = REFERENCE.replace(place, f"{place}    libc.kill(os.getppid(), 9)\n")
    report = grade(LIBC + code, only={"train"})
    assert report["train"].message == "killed the process that watches over it"
    assert leftovers() == []
    assert grade(REFERENCE, only=QUICK).passed


BY_HAND = {
    "torch.autograd.grad(x.sum(), x)": "torch.autograd",
    "torch.func.vjp(rms_norm, x, gain)": "torch.func",
    "torch.nn.functional.rms_norm(x, gain.shape, gain)": "torch.nn.functional.rms_norm",
    "F.rms_norm(x, gain.shape, gain)": "torch.nn.functional.rms_norm",
    "ag.grad(x.sum(), x)": "torch.autograd",
    "helper(x)": "requires_grad_",
    "torch.tensor(1.0, requires_grad=True)": "requires_grad",
    "shortcut(x)": "torch.autograd",
    "torch.ops.aten.mul(x, x)": "torch.ops",
    "getattr(torch, 'auto' + 'grad')": "getattr",
    "eval('torch.auto' + 'grad')": "eval",
    "torch.__dict__['autograd']": "__dict__",
    "Tape(x)": "companion.backprop.tensor",
}
HELPERS = """
import torch.nn.functional as F
from torch import autograd as ag
from companion.backprop.tensor import Tensor as Tape

def helper(x):
    return x.requires_grad_()

shortcut = lambda x: inner(x)
inner = ag.grad
"""


@pytest.mark.parametrize(("code", "name"), BY_HAND.items())
def test_what_works_by_itself_is_named_with_its_line(code: str, name: str) -> None:
    place = "    x_hat = x * inverse\n"
    assert REFERENCE.count(place) == 1
    source = REFERENCE.replace(place, f"    {code}\n{place}").replace(
        "import functools\n", f"import functools\n{HELPERS}"
    )
    report = grade(source, only=QUICK)
    message = report["rms-norm"].message
    assert f"must do without {name} (line " in message
    assert report["gradient-check"].passed


def test_autograd_is_off_where_work_by_hand_is_asked_for_however_it_is_reached() -> None:
    disguised = (
        "import torch\n"
        "class Door:\n"
        "    grad = torch.Tensor.__base__.backward if hasattr(torch.Tensor.__base__, 'backward') "
        "else torch.Tensor.backward\n"
    )
    place = "    x_hat = x * inverse\n"
    code = (
        "    leaf = x.clone()\n"
        "    leaf.__setattr__('requires' + '_grad', True)\n"
        "    Door.grad(rms_norm(leaf, gain, eps).sum())\n"
        "    return leaf.grad, gain\n"
    )
    report = grade(disguised + REFERENCE.replace(place, code + place), only={"rms-norm"})
    assert not report.passed
    assert "RuntimeError" in report["rms-norm"].message


@pytest.mark.parametrize(
    ("switch", "name"),
    [
        ("torch.enable_grad()", "enable_grad"),
        ("torch.set_grad_enabled(True)", "set_grad_enabled"),
    ],
)
def test_a_function_whose_backward_lets_torch_differentiate_is_refused(switch, name) -> None:
    place = "        return *rms_norm_backward(grad_output, x, gain, ctx.eps), None\n"
    assert REFERENCE.count(place) == 1
    code = f"""        with {switch}:
            x, gain = x.detach().requires_grad_(), gain.detach().requires_grad_()
            rms_norm(x, gain, ctx.eps).backward(grad_output)
        return x.grad, gain.grad, None
"""
    report = grade(REFERENCE.replace(place, code), only={"rms-norm-layer"})
    assert f"RMSNorm must do without {name} (line " in report["rms-norm-layer"].message


def test_a_numerical_derivative_is_told_from_the_formula() -> None:
    place = "    grad_x = inverse * (u - x_hat * (u * x_hat).mean(-1, keepdim=True))\n"
    assert REFERENCE.count(place) == 1
    code = """    grad_x = torch.zeros_like(x)
    for i in range(x.numel()):
        e = torch.zeros(x.numel(), dtype=x.dtype)
        e[i] = 1e-6
        e = e.reshape(x.shape)
        slope = (rms_norm(x + e, gain, eps) - rms_norm(x - e, gain, eps)) / 2e-6
        grad_x.view(-1)[i] = (grad_output * slope).sum()
"""
    report = grade(REFERENCE.replace(place, code), only={"rms-norm"})
    assert not report.passed
    assert "finite differences" in report["rms-norm"].hint
