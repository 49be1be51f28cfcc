"""Forbidden names are found wherever a task's code mentions them, and nowhere else."""

from __future__ import annotations

import pytest

from companion.homework.rules import DISGUISES, Submission

BANNED = ("torch.autograd", "requires_grad", *DISGUISES)


def breach(source: str, *names: str) -> str | None:
    found = Submission(source).breach(names or ("f",), BANNED)
    return None if found is None else f"{found.name}:{found.line}"


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("import torch\ndef f(x):\n    return torch.autograd.grad(x, x)", "torch.autograd:3"),
        ("import torch.autograd as a\ndef f(x):\n    return a.grad(x, x)", "torch.autograd:3"),
        ("from torch import autograd\ndef f(x):\n    return autograd", "torch.autograd:3"),
        ("from torch.autograd import grad as g\ndef f(x):\n    return g(x)", "torch.autograd:3"),
        ("def f(x):\n    from torch import autograd", "torch.autograd:2"),
        ("def f(x):\n    import torch.autograd", "torch.autograd:2"),
        ("def f(x):\n    return x.requires_grad", "requires_grad:2"),
        ("def f(x):\n    return g(requires_grad=True)", "requires_grad:2"),
        ("def f(x):\n    return eval('x')", "eval:2"),
        ("import builtins as b\ndef f(x):\n    return b.eval('x')", "eval:3"),
        ("f = eval", "eval:1"),
        ("def f(x):\n    return g(x)\n\ndef g(x):\n    return h(x)\n\nh = exec", "exec:7"),
        ("class A:\n    def m(self):\n        vars()\n\ndef f(x):\n    return A().m()", "vars:3"),
        ("def deco(g):\n    return eval\n\n@deco\ndef f(x):\n    pass", "eval:2"),
        ("import torch\ndef f(x): pass\ntorch.add = torch.autograd.grad", "torch.autograd:3"),
        ("from torch.autograd import *\ndef f(x): pass", "torch.autograd:1"),
        ("if True:\n    def f(x):\n        eval('x')", "eval:3"),
        ("import sys\ndef f(x):\n    return sys.modules", "sys.modules:3"),
        ("f, g = 1, eval", "eval:1"),
        ("f: object = eval", "eval:1"),
        ("def f(x):\n    return f.__globals__", "__globals__:2"),
        ("f = 1\nf.rule = eval", "eval:2"),
        ("f = 1\nf.gradients(eval)", "eval:2"),
    ],
)
def test_a_mention_is_found_with_its_line(source: str, want: str | None) -> None:
    assert breach(source) == want


@pytest.mark.parametrize(
    "source",
    [
        "import torch.autograd\ndef f(x):\n    return x",
        "import torch\ndef f(x):\n    return x\n\ndef g(x):\n    return torch.autograd",
        "import torch\ndef f(x): return x\n\ng = 1\ng.rule = torch.autograd.grad",
        "import torch\ndef f(x): return x\n\ng = 1\ng.gradients(torch.autograd)",
        "def f(x):\n    vars = x.var()\n    return vars",
        "def f(x, compile):\n    return compile(x)",
        'def f(x):\n    """No torch.autograd, no eval."""',
        "def f(x): return x\n\nif __name__ == '__main__':\n    eval('f(1)')",
        "def f(x):\n    return evaluate(x)",
        "from companion import autograd\ndef f(x):\n    return autograd",
    ],
)
def test_what_is_not_the_tasks_is_not_held_against_it(source: str) -> None:
    assert breach(source) is None


def test_code_in_another_condition_counts() -> None:
    source = "def f(x): return x\n\nif __name__ == '__main__' or True:\n    eval('f(1)')"
    assert breach(source) == "eval:4"
    source = "def f(x): return x\n\nif __name__ == '__main__':\n    pass\nelse:\n    eval('f(1)')"
    assert breach(source) == "eval:6"


def test_the_first_line_is_reported() -> None:
    assert breach("def f(x):\n    g = eval\n    return exec", "f") == "eval:2"


@pytest.mark.parametrize(
    "source",
    [
        "import companion.homework",
        "from companion import homework",
        "from companion.homework.backprop.tasks import TASKS",
        "def g():\n    import companion\n    return companion.homework",
        "from tests.homework.backprop import reference",
    ],
)
def test_the_grader_is_off_limits_anywhere(source: str) -> None:
    assert Submission(source).grader_import() is not None


def test_the_rest_of_the_companion_is_not() -> None:
    source = "import companion.training\nfrom companion.backprop.losses import softmax"
    assert Submission(source).grader_import() is None


@pytest.mark.parametrize("source", ["def f(", "x = '\0'", "(" * 10_000, "x = " + "-" * 100_000])
def test_what_cannot_be_parsed_is_a_syntax_error(source: str) -> None:
    with pytest.raises(SyntaxError):
        Submission(source)
