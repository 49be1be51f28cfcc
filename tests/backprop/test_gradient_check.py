"""Gradient checking finds planted wrong gradients, passes right ones, and says what it saw."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from backprop.expressions import F64, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from companion.backprop import gradient_check as module
from companion.backprop.gradient_check import (
    GradientMismatch,
    GradientReport,
    central_difference,
    default_step,
    gradient_check,
)
from companion.backprop.primitive import primitive
from companion.backprop.tape_network import mlp, mlp_parameters
from companion.backprop.tensor import cross_entropy
from companion.backprop.tensor_views import sum_to


def wrong_product(mistake: str):
    """a * b with one mistake in the rule of b."""

    @primitive
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a * b

    rules = {
        "none": lambda grad, out, a, b: sum_to(grad * a, b.shape),
        "factor": lambda grad, out, a, b: sum_to(grad * a * 1.001, b.shape),
        "sign": lambda grad, out, a, b: sum_to(-grad * a, b.shape),
        "other input": lambda grad, out, a, b: sum_to(grad * b, b.shape),
        "not a number": lambda grad, out, a, b: sum_to(grad * a * float("nan"), b.shape),
        "one element": lambda grad, out, a, b: sum_to(grad * a, b.shape) + 1e-3 * _last(b),
    }
    product.gradients(lambda grad, out, a, b: sum_to(grad * b, a.shape), rules[mistake])
    return product


def _last(x) -> torch.Tensor:
    unit = torch.zeros(x.shape, dtype=F64)
    unit.view(-1)[-1] = 1.0
    return unit


MISTAKES = ["factor", "sign", "other input", "not a number", "one element"]


def check_right_gradients_pass(module: ModuleType) -> None:
    x = normal((2, 3), 1)
    report = module.gradient_check(lambda x: (x.exp() * x.sin()).sum(), [x])
    assert report.largest_error < 1e-8


def check_not_a_number_is_a_mismatch(module: ModuleType) -> None:
    with pytest.raises(module.GradientMismatch):
        module.gradient_check(wrong_product("not a number"), [normal((2,), 1), normal((2,), 2)])


def check_central_difference_is_of_second_order(module: ModuleType) -> None:
    """Its error falls a hundredfold for a tenth of the step, and eˣ has error h²/6 · eˣ."""
    x = torch.tensor([0.5, -1.0], dtype=F64)

    def error(step: float) -> torch.Tensor:
        return module.central_difference(lambda x: float(x.exp().sum()), x, step) - x.exp()

    assert_close(error(1e-2), 1e-4 / 6 * x.exp(), rtol=1e-3, atol=0)
    assert_close(error(1e-3), 1e-6 / 6 * x.exp(), rtol=1e-3, atol=0)


def check_projections_see_every_input(module: ModuleType) -> None:
    for mistake in ("factor", "sign", "other input"):
        with pytest.raises(module.GradientMismatch):
            module.gradient_check(
                wrong_product(mistake), [normal((5,), 1), normal((5,), 2)], projections=4
            )


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1), (3,)), ((), (5,))])
def test_planted_mistakes_are_found(mistake, shapes):
    inputs = [normal(shape, i) + 2.0 for i, shape in enumerate(shapes)]
    with pytest.raises(GradientMismatch) as caught:
        gradient_check(wrong_product(mistake), inputs)
    assert caught.value.input == 1


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1), (3,)), ((), (5,))])
def test_the_right_rule_passes_over_uneven_shapes(shapes):
    inputs = [normal(shape, i) for i, shape in enumerate(shapes)]
    report = gradient_check(wrong_product("none"), inputs)
    assert report.compared == sum(x.numel() for x in inputs)
    assert report.evaluations == 2 * report.compared
    assert 0 < report.largest_error < 1e-8


def test_right_gradients_pass():
    check_right_gradients_pass(module)


def test_nan_is_a_mismatch():
    check_not_a_number_is_a_mismatch(module)


def test_central_differences_have_an_error_of_second_order():
    check_central_difference_is_of_second_order(module)


def test_random_projections_find_a_wrong_factor_sign_or_input():
    check_projections_see_every_input(module)


def test_the_worst_place_and_both_numbers_are_told():
    with pytest.raises(GradientMismatch) as caught:
        gradient_check(wrong_product("one element"), [torch.ones(2, 3).double()] * 2)
    error = caught.value
    assert (error.input, error.index) == (1, (1, 2))
    assert (error.analytic - error.numeric) == pytest.approx(1e-3, rel=1e-6)
    assert "input 1 at (1, 2): gradient" in str(error)


def test_a_mismatch_along_a_direction_says_which():
    with pytest.raises(GradientMismatch, match=r"random direction \d+: gradient"):
        gradient_check(wrong_product("sign"), [normal((5,), 1)] * 2, projections=3)


def test_empty_inputs_pass_with_nothing_compared():
    assert gradient_check(lambda x: x.sum(), [torch.zeros(0, 3).double()]) == GradientReport(
        0, 0, 0
    )
    report = gradient_check(lambda x: x.exp(), [torch.zeros(0).double()], projections=2)
    assert report.largest_error == 0.0


def test_an_input_without_influence_has_gradient_zero():
    gradient_check(lambda a, b: a * 2, [normal((2,), 1), normal((3,), 2)])
    gradient_check(lambda a: a.detach() * 0.0, [normal((2,), 1)])


def test_hand_written_gradients_are_checked_too():
    z, labels = normal((4, 3), 1), torch.tensor([0, 2, 1, 1])

    def loss(z: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(z, labels)

    def right(z: torch.Tensor) -> torch.Tensor:
        return (z.softmax(1) - F.one_hot(labels, 3)) / len(labels)

    gradient_check(loss, [z], gradient=right)
    with pytest.raises(GradientMismatch):
        gradient_check(loss, [z], gradient=lambda z: right(z) * len(labels))
    with pytest.raises(ValueError, match="gradient returned shapes"):
        gradient_check(loss, [z], gradient=lambda z: right(z)[0])


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 4), st.integers(0, 99))
def test_networks_of_any_size_pass(batch, features, classes, seed):
    start = {k: v.double() for k, v in mlp_parameters([features, 3, classes], seed=seed).items()}
    labels = torch.arange(batch) % classes

    def loss(x, *weights):
        return cross_entropy(mlp(x, dict(zip(start, weights, strict=True))), labels)

    inputs = [normal((batch, features), seed), *start.values()]
    gradient_check(loss, inputs, projections=3, seed=seed)


def test_inputs_are_not_changed():
    x = normal((3,), 1)
    before = x.clone()
    gradient_check(lambda x: x.sin(), [x])
    central_difference(lambda x: float(x.sum()), x)
    assert torch.equal(x, before)


def test_the_default_step_is_the_cube_root_of_the_rounding_error():
    assert default_step(F64) == pytest.approx(6.06e-6, rel=1e-3)
    assert default_step(torch.float32) == pytest.approx(4.92e-3, rel=1e-3)


def test_a_kink_looks_like_a_mistake():
    """Central differences give the mean of both slopes there, ½; the gradient of relu is 0."""
    with pytest.raises(GradientMismatch) as caught:
        gradient_check(lambda x: x.relu().sum(), [torch.zeros(1).double()])
    assert caught.value.analytic == 0.0
    assert caught.value.numeric == pytest.approx(0.5)
    gradient_check(lambda x: x.relu(), [torch.full((1,), 0.1).double()])


def test_bad_arguments_are_refused():
    x = normal((2,), 1)
    with pytest.raises(ValueError, match="inputs is empty"):
        gradient_check(lambda: 0.0, [])
    with pytest.raises(ValueError, match=r"inputs\[0\] has dtype torch.float32"):
        gradient_check(lambda x: x, [x.float()])
    with pytest.raises(ValueError, match="projections=0 must be at least 1"):
        gradient_check(lambda x: x, [x], projections=0)
    with pytest.raises(ValueError, match="step=0.0 must be positive"):
        gradient_check(lambda x: x, [x], step=0.0)
    with pytest.raises(ValueError, match="step=-1 must be positive"):
        gradient_check(lambda x: x, [x], step=-1, projections=1)
