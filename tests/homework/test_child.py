"""What a submission's process makes of values and errors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from companion.homework.child import describe, import_file, split
from companion.homework.scenarios import calling


def test_values_are_sorted_into_json_and_arrays() -> None:
    leaf = torch.ones(2, requires_grad=True)
    text, arrays = split({"n": 3, "t": leaf * 2, "a": np.zeros(1), "s": ["x"]})
    assert text == {"n": 3, "s": ["x"]}
    assert set(arrays) == {"t", "a"}
    np.testing.assert_array_equal(arrays["t"], [2.0, 2.0])


def load(tmp_path: Path, source: str):
    path = tmp_path / "submission.py"
    path.write_text(source, encoding="utf-8")
    try:
        return import_file(path)
    finally:
        sys.modules.pop("submission", None)


def test_a_file_is_imported_as_a_module_in_which_dataclasses_work(tmp_path: Path) -> None:
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    module = load(tmp_path, f"{source}@dataclass\nclass A:\n    x: int\n")
    assert module.A(3).x == 3


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("\n1 / 0", {"type": "ZeroDivisionError", "message": "division by zero", "line": 2}),
        ("def f(:", {"type": "SyntaxError", "line": 1}),
        ("import json\njson.loads('')", {"type": "JSONDecodeError", "line": 2}),
        (
            "def f():\n    g()\ndef g():\n    raise KeyError(1)\nf()",
            {"type": "KeyError", "line": 4},
        ),
        ("raise ValueError('x' * 9999)", {"message": "x" * 2000}),
    ],
)
def test_an_error_is_described_by_its_last_line_in_the_file(tmp_path, source, want) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        load(tmp_path, source)
    assert want.items() <= describe(caught.value).items()


def test_an_error_elsewhere_has_no_line() -> None:
    assert describe(ValueError("x"))["line"] is None


class Student:
    value = 3

    @staticmethod
    def function() -> None:
        return None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calling.need(Student, "missing"), "missing is not defined in your file"),
        (lambda: calling.need(Student, "value"), "value must be something to call, not int"),
        (lambda: calling.returned_tensor("it", None), "it must be a tensor, not NoneType"),
        (lambda: calling.returned_pair("it", None), "it must return a pair, not NoneType"),
        (lambda: calling.returned_pair("it", (1, 2, 3)), "it must return a pair, not 3 values"),
        (
            lambda: calling.unchanged("it", x=(torch.ones(1), np.zeros(1))),
            "it changes its argument x in place",
        ),
    ],
)
def test_misuse_is_told_in_one_sentence(call, message: str) -> None:
    with pytest.raises(calling.Misuse, match=f"^{message}$"):
        call()


def test_proper_use_passes() -> None:
    assert calling.need(Student, "function") is Student.function
    assert calling.returned_pair("it", [1, 2]) == (1, 2)
    nan = np.array([np.nan])
    calling.unchanged("it", x=(torch.tensor(nan), nan))
    array = np.zeros(2)
    calling.tensor(array).add_(1)
    assert not array.any()
