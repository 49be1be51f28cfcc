"""The graders of chapter 2 are right: stub, right solutions and planted mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from homework import proving

from companion.homework.backprop import checking
from companion.homework.backprop.tasks import AUTOGRAD, LIBRARY_RMS_NORM, TAPE, TASKS
from companion.homework.rules import DISGUISES
from companion.homework.scenarios.backprop import scalar_function

CHAPTER = "backprop"
PAGE = Path(__file__).resolve().parents[2] / "book" / "backprop" / "homework.py"


def test_the_untouched_stub_fails_every_task(record_property) -> None:
    proving.check_stub(CHAPTER, record_property)


@pytest.mark.parametrize("name", proving.RIGHT)
def test_a_right_solution_gets_all_points(name: str, record_property) -> None:
    proving.check_right(CHAPTER, name, record_property)


@pytest.mark.parametrize("task", proving.task_names(CHAPTER))
def test_planted_mistakes_are_rejected_in_their_task_alone(task: str, record_property) -> None:
    proving.check_mistakes(CHAPTER, task, record_property)


@pytest.mark.parametrize(
    "code", ["torch.logsumexp(x, dim, True)", "torch.special.logsumexp(x, dim)", "x.logsumexp(dim)"]
)
def test_the_new_operation_is_not_the_library_s(code: str) -> None:
    source = proving.source("backprop", "reference")
    line = "    return largest + (x - largest).exp().sum(dim, keepdim=True).log()\n"
    assert source.count(line) == 1
    text = source.replace(line, f"    return {code}\n")
    report = proving.grader(CHAPTER).grade_source(text, only={"logsumexp"})
    assert "logsumexp must do without logsumexp (line" in report["logsumexp"].message


def test_the_page_names_every_task_and_what_it_asks_for() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for number, task in enumerate(TASKS, start=1):
        heading = page.partition(f"# ## Task {number}: ")[2].partition("\n")[0]
        assert heading.endswith(f"({task.points} points)")
        assert all(f"`{name}" in page for name in task.defines)


def test_the_page_names_what_the_tasks_must_do_without() -> None:
    page = PAGE.read_text(encoding="utf-8")
    hidden = ("torch._C", "functorch", "requires_grad_", "companion.backprop.keras_twin")
    banned = {*AUTOGRAD, *TAPE, *LIBRARY_RMS_NORM} - {*DISGUISES, *hidden}
    for name in banned | {"torch.nn.CrossEntropyLoss", "torch.nn.functional.cross_entropy"}:
        first, _, last = name.rpartition(".")
        assert f"`{name}`" in page or (first and f"`{last}`" in page), name


def test_the_points_add_up_to_100() -> None:
    assert sum(task.points for task in TASKS) == 100


def test_tasks_build_on_earlier_ones_only() -> None:
    seen: set[str] = set()
    for task in TASKS:
        assert set(task.builds_on) <= seen
        seen.add(task.name)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_inputs_are_drawn_afresh_from_the_seed(task) -> None:
    first, again, other = (task.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    arrays = [name for name, value in first.items() if isinstance(value, np.ndarray)]
    assert arrays
    assert all(np.array_equal(first[n], again[n], equal_nan=True) for n in arrays)
    varying = [n for n in arrays if first[n].size and not np.array_equal(first[n], other[n])]
    assert len(varying) >= len(arrays) / 2


def test_the_labels_of_the_images_held_back_stay_with_the_judge() -> None:
    inputs = TASKS[-1].draw(np.random.default_rng(0))
    public = {name for name in inputs if not name.startswith("_")}
    assert public == {"seed", "x_train", "y_train", "x_validation", "y_validation", "x_probe"}
    assert inputs["_labels"].shape == (len(inputs["x_probe"]),)


@pytest.mark.parametrize("i", range(len(checking.CASES)))
def test_the_gradients_of_gradient_check_are_those_of_its_functions(i: int) -> None:
    case = checking.CASES[i]
    inputs = checking.draw(np.random.default_rng(5))
    x, a, b = (inputs[f"{name}{i}"] for name in ("x", "a", "b"))
    leaf = torch.tensor(x, requires_grad=True)
    v, slope = leaf.reshape(-1), torch.tensor(a)
    if case.kind == "quadratic":
        value = 0.5 * v @ slope @ v + torch.tensor(b) @ v
    elif case.kind == "waves":
        value = (torch.tensor(b) * torch.sin(slope * v)).sum()
    else:
        value = (torch.tensor(b) * torch.exp(slope * v)).sum()
    value = case.scale * value
    function = scalar_function(case.kind, case.scale, case.shape, a, b)
    torch.testing.assert_close(function(torch.tensor(x)), value.detach(), rtol=1e-12, atol=0)
    (want,) = torch.autograd.grad(value, leaf)
    got = torch.tensor(checking.true_gradient(inputs, i))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)


def test_gradient_check_spoils_some_entries_in_most_kinds_of_case() -> None:
    rng = np.random.default_rng(3)
    for case in checking.CASES:
        _, _, _, gradient = checking.draw_function(rng, case)
        _, wrong = checking.spoil(rng, case, gradient)
        assert wrong.any() == (case.spoil != "nothing")
