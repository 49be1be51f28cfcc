"""Scalars: random expressions equal torch.autograd; order, accumulation and depth are right."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.backprop import autograd
from companion.backprop.autograd import Scalar, backward_over_paths, topological_order

UNARY = ["neg", "exp", "log", "sin", "tanh", "relu", "square", "inverse", "scale", "from_two"]
BINARY = ["add", "sub", "mul", "div"]


def apply(name: str, a, b=None):
    match name:
        case "neg":
            return -a
        case "exp":
            return a.tanh().exp()
        case "log":
            return (a * a + 1.0).log()
        case "square":
            return a.sin() ** 2
        case "inverse":
            return 1.0 / (a * a + 1.0)
        case "scale":
            return 3.0 * a
        case "from_two":
            return 2.0 - a + 1.0
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b.tanh()
        case "div":
            return a / (b * b + 0.5)
        case _:
            return getattr(a, name)()


steps = st.lists(
    st.tuples(st.sampled_from(UNARY + BINARY), st.integers(0, 20), st.integers(0, 20)), max_size=15
)
numbers = st.lists(st.floats(-2, 2).map(lambda x: round(x, 3)), min_size=1, max_size=4)


def evaluate(leaves, program):
    results = list(leaves)
    for name, i, j in program:
        a, b = results[i % len(results)], results[j % len(results)]
        results.append(apply(name, a, b) if name in BINARY else apply(name, a))
    total = results[0]
    for weight, x in enumerate(results, start=1):
        total = total + weight * x
    return total


def check_program(module: ModuleType, values: list[float], program) -> None:
    ours = [module.Scalar(x) for x in values]
    theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in values]
    out, expected = evaluate(ours, program), evaluate(theirs, program)
    out.backward()
    expected.backward()
    assert out.value == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)
    largest = max(1.0, *(abs(x.grad.item()) for x in theirs))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad == pytest.approx(other.grad.item(), rel=1e-10, abs=1e-12 * largest)


def check_each_operation(module: ModuleType) -> None:
    for name in UNARY + BINARY:
        check_program(module, [0.7, -1.3], [(name, 0, 1)])
        check_program(module, [-0.4, 1.9], [(name, 0, 1), (name, 2, 0)])


def check_number_used_twice(module: ModuleType) -> None:
    x = module.Scalar(3.0)
    (x * x).backward()
    assert x.grad == 6.0


def check_diamond(module: ModuleType) -> None:
    x = module.Scalar(2.0)
    b = x * 3.0
    out = b * 5.0 + (b + 1.0) * b  # d/dx = 3 (5 + 2b + 1)
    out.backward()
    assert x.grad == 3 * (5 + 2 * 6 + 1)


def check_calls_add_up(module: ModuleType) -> None:
    x = module.Scalar(3.0)
    (x * 2.0).backward()
    (x * 5.0).backward()
    assert x.grad == 7.0


@given(numbers, steps)
def test_random_scalar_expressions_equal_torch(values, program):
    check_program(autograd, values, program)


def test_each_scalar_operation_equals_torch():
    check_each_operation(autograd)


def test_a_scalar_used_twice_gets_both_gradients():
    check_number_used_twice(autograd)


def test_a_diamond_is_walked_in_topological_order():
    check_diamond(autograd)


def test_calls_of_backward_add_up():
    check_calls_add_up(autograd)


def test_repeated_backward_from_one_result_adds_the_same_again():
    x = Scalar(3.0)
    y = (x * x).exp()
    y.backward()
    once = x.grad
    y.backward()
    assert x.grad == 2 * once


@given(numbers, steps.filter(lambda program: len(program) < 7))
def test_walking_every_path_gives_the_same_gradient(values, program):
    first, second = [Scalar(x) for x in values], [Scalar(x) for x in values]
    evaluate(first, program).backward()
    backward_over_paths(evaluate(second, program))
    largest = max(1.0, *(abs(x.grad) for x in first))
    for a, b in zip(first, second, strict=True):
        assert b.grad == pytest.approx(a.grad, rel=1e-10, abs=1e-12 * largest)


def test_walking_every_path_takes_two_to_the_depth_visits():
    y = Scalar(1.0)
    for _ in range(10):
        y = y + y
    assert backward_over_paths(y) == 2**11 - 1
    assert len(topological_order(y)) == 11


def test_every_scalar_comes_after_its_inputs():
    x = Scalar(1.0)
    y = (x + 1.0) * (x.exp() + x)
    order = topological_order(y)
    place = {id(node): i for i, node in enumerate(order)}
    assert all(place[id(i)] < place[id(node)] for node in order for i, _ in node.inputs)
    assert order[-1] is y


def test_deep_scalar_graphs_do_not_meet_the_recursion_limit():
    x = Scalar(1.0)
    y = x
    for _ in range(10_000):
        y = y + 0.5
    assert sys.getrecursionlimit() < 10_000
    y.backward()
    assert x.grad == 1.0


def test_relu_of_zero_has_derivative_zero():
    x = Scalar(0.0)
    x.relu().backward()
    assert x.grad == 0.0


def test_zeroth_power_of_zero_has_derivative_zero():
    x = Scalar(0.0)
    y = x**0
    y.backward()
    assert (y.value, x.grad) == (1.0, 0.0)


@pytest.mark.parametrize("value", ["3", None, [1.0], Scalar(1.0)], ids=str)
def test_what_is_not_a_number_is_refused(value):
    with pytest.raises(ValueError, match="is not a number"):
        Scalar(value)


def test_scalars_print_name_value_and_gradient():
    assert repr(Scalar(2.0).named("x")) == "Scalar(x=2, grad=0)"
