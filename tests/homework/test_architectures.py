"""The graders of chapter 3 are right: stub, right solutions and planted mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from homework import proving

from companion.homework.architectures import looking, planning, recurrence, training
from companion.homework.architectures.tasks import ATTENTION, CONVOLUTIONS, COUNTING, TASKS
from companion.homework.backprop.tasks import AUTOGRAD, TAPE
from companion.homework.rules import DISGUISES
from companion.homework.scenarios.architectures import numbers_held

CHAPTER = "architectures"
PAGE = Path(__file__).resolve().parents[2] / "book" / "architectures" / "homework.py"


def test_the_untouched_stub_fails_every_task(record_property) -> None:
    proving.check_stub(CHAPTER, record_property)


@pytest.mark.parametrize("name", proving.RIGHT)
def test_a_right_solution_gets_all_points(name: str, record_property) -> None:
    proving.check_right(CHAPTER, name, record_property)


@pytest.mark.parametrize("task", proving.task_names(CHAPTER))
def test_planted_mistakes_are_rejected_in_their_task_alone(task: str, record_property) -> None:
    proving.check_mistakes(CHAPTER, task, record_property)


@pytest.mark.parametrize(
    ("task", "old", "new", "name"),
    [
        ("plan", "    rows = []\n", "    rows = []\n    torch.nn.Conv2d(1, 1, 1)\n", "torch.nn"),
        (
            "separable-convolution",
            "    grad_bias = grad_output.sum((0, 2, 3))\n",
            "    grad_bias = torch.nn.grad.conv2d_weight(x, depth.shape, grad_output)\n",
            "torch.nn.grad",
        ),
        (
            "minimal-gated-unit",
            "    grad_h = torch.zeros_like(h0)\n",
            "    grad_h = torch.zeros_like(h0).requires_grad_()\n",
            "requires_grad_",
        ),
        (
            "train",
            "        return *separable_backward(",
            "        torch.func.vjp\n        return *separable_backward(",
            "torch.func",
        ),
    ],
)
def test_what_would_do_the_work_is_refused(task: str, old: str, new: str, name: str) -> None:
    source = proving.source(CHAPTER, "reference")
    assert source.count(old) == 1
    report = proving.grader(CHAPTER).grade_source(source.replace(old, new), only={task})
    assert f"must do without {name} (line" in report[task].message


def test_the_page_names_every_task_and_what_it_asks_for() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for number, task in enumerate(TASKS, start=1):
        heading = page.partition(f"# ## Task {number}: ")[2].partition("\n")[0]
        assert heading.endswith(f"({task.points} points)")
        assert all(f"`{name}" in page for name in task.defines)


def test_the_page_names_what_the_tasks_must_do_without() -> None:
    page = PAGE.read_text(encoding="utf-8")
    hidden = {"torch._C", "functorch", "requires_grad_", "companion.backprop.keras_twin"}
    banned = {*AUTOGRAD, *TAPE, *COUNTING, *CONVOLUTIONS, *ATTENTION} - {*DISGUISES} - hidden
    for name in {re.sub("[13]d$", "2d", name) for name in banned}:
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
    assert all(np.array_equal(value, again[name]) for name, value in first.items() if _is(value))
    arrays = [name for name, value in first.items() if _is(value)]
    varying = [name for name in arrays if not np.array_equal(first[name], other[name])]
    if arrays:
        assert len(varying) >= len(arrays) / 2
    else:
        assert first == again
        assert first != other


def _is(value: object) -> bool:
    return isinstance(value, np.ndarray)


def test_the_labels_of_the_images_held_back_stay_with_the_judge() -> None:
    inputs = TASKS[-1].draw(np.random.default_rng(0))
    assert inputs["_labels"].shape == (len(inputs["x_probe"]),)
    labels = [n for n, v in inputs.items() if _is(v) and np.array_equal(v, inputs["_labels"])]
    assert labels == ["_labels"]


@pytest.mark.parametrize("seed", range(5))
def test_two_ways_to_plan_agree(seed: int) -> None:
    inputs = planning.draw(np.random.default_rng(seed))
    for i, fault in enumerate(inputs["_faults"]):
        case = [inputs[name][i] for name in ("stacks", "channels", "sizes")]
        if fault is None:
            assert np.array_equal(planning.measured(*case), planning.by_formula(*case))
        else:
            with pytest.raises((RuntimeError, ValueError)):
                planning.measured(*case)


def test_no_known_mistake_of_the_cell_is_the_right_answer() -> None:
    inputs = recurrence.draw(np.random.default_rng(0))
    cases = [
        {name[:-1]: value for name, value in inputs.items() if name.endswith(str(i))}
        for i in range(len(recurrence.CASES))
    ]
    right = [recurrence.run(case) for case in cases]
    for mistake in recurrence.MISTAKES:
        wrong = [recurrence.run(case, mistake) for case in cases]
        assert any(
            not np.allclose(a[name], b[name], rtol=1e-6)
            for a, b in zip(right, wrong, strict=True)
            for name in a
        ), mistake


def test_the_judge_s_attention_is_torch_s_with_a_bias() -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 3, dtype=torch.float64).unbind(0)
    gap = torch.arange(6)[:, None] - torch.arange(6)
    bias = -torch.tensor(looking.slopes(4))[:, None, None] * gap
    bias = bias.masked_fill((gap < 0) | (gap >= 3), -torch.inf)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, bias)
    got = torch.tensor(looking.attend(q.numpy(), k.numpy(), v.numpy(), 3))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_row_by_row_and_all_rows_at_once_are_one_cell() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4, 2), (6, 2), (6, 3), (6,))
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    torch.testing.assert_close(
        training.states(*leaves), training.batched_states(*leaves), rtol=1e-10, atol=0
    )


def test_numbers_held_counts_a_slice_as_what_it_is_a_slice_of() -> None:
    whole = torch.zeros(10, 10)
    holder = SimpleNamespace(a=whole[:2], b=[whole[3:]], c=np.zeros(5), d=SimpleNamespace(e=3.0))
    assert numbers_held(holder) == 105
    assert numbers_held(SimpleNamespace(a=whole[:2].clone())) == 20
