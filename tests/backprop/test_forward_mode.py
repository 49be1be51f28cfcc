"""Dual numbers: equal to reverse mode and to torch.func on random expressions; nesting is right."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from backprop.expressions import F64, assert_equal, normal, programs
from hypothesis import given, settings
from torch.testing import assert_close

from companion.backprop import forward_mode, tape
from companion.backprop import tensor_ops as ops
from companion.backprop.forward_mode import Dual, jacobian_forward, jacobian_reverse, jvp
from companion.backprop.primitive import primitive
from companion.backprop.tensor import Tensor

RANDOM = settings(report_multiple_bugs=False)


def check_rules(module: ModuleType) -> None:
    """Each operation that has a rule of its own, along one direction, against torch.func."""
    a, b = normal((3, 3), 1).abs() + 0.5, normal((3, 1), 2).abs() + 0.5
    directions = (normal((3, 3), 3), normal((3, 1), 4))
    for function in (
        lambda a, b: a + b,
        lambda a, b: b - a,
        lambda a, b: a * b,
        lambda a, b: b / a,
        lambda a, b: a**b,
        lambda a, b: (a @ b).tanh(),
        lambda a, b: a.exp() * b.log(),
        lambda a, b: a.amax(1) + b.sum(),
        lambda a, b: a[[0, 0, 2]] * b.reshape(3),
    ):
        _, ours = module.jvp(function, (a, b), directions)
        _, theirs = torch.func.jvp(function, (a, b), directions)
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def check_nesting(module: ModuleType) -> None:
    """d/dx [x · d/dy (x + y)] = 1: the inner derivative must take x for a constant."""

    def outer(x):
        _, inner = module.jvp(lambda y: x + y, [1.0], [1.0])
        return x * inner

    _, slope = module.jvp(outer, [1.0], [1.0])
    assert float(slope) == 1.0


@RANDOM
@given(programs(longest=12))
def test_forward_mode_equals_torch_on_random_expressions(program):
    inputs, directions = program.leaves(), program.directions()
    value, tangent = jvp(program.ours, inputs, directions)
    expected, wanted = torch.func.jvp(program.theirs, tuple(inputs), tuple(directions))
    assert_equal(value, expected)
    gradients = torch.func.grad(program.theirs, tuple(range(len(inputs))))(*inputs)
    terms = [float((g * d).abs().sum()) for g, d in zip(gradients, directions, strict=True)]
    assert_close(tangent, wanted, rtol=1e-10, atol=1e-12 * max(1.0, *terms))


@RANDOM
@given(programs(longest=12))
def test_forward_mode_equals_reverse_mode_on_random_expressions(program):
    directions = program.directions()
    _, tangent = jvp(program.ours, program.leaves(), directions)
    leaves = [Tensor(x, requires_grad=True) for x in program.leaves()]
    gradients = tape.grad(program.ours(*leaves), leaves)
    terms = [g.value * d for g, d in zip(gradients, directions, strict=True)]
    size = sum(float(t.abs().sum()) for t in terms)
    total = torch.stack([t.sum() for t in terms]).sum()
    assert_close(tangent, total, rtol=1e-10, atol=1e-12 * max(1.0, size))


@RANDOM
@given(programs(longest=6))
def test_reverse_over_forward_gives_hessian_vector_products(program):
    """Pearlmutter's trick, against torch's double backward."""
    directions = program.directions()
    leaves = [Tensor(x, requires_grad=True) for x in program.leaves()]
    _, slope = jvp(program.ours, leaves, directions)
    ours = tape.grad(slope, leaves, allow_unused=True)
    theirs = [x.requires_grad_() for x in program.leaves()]
    first = torch.autograd.grad(program.theirs(*theirs), theirs, create_graph=True)
    total = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
    wanted = torch.autograd.grad(total, theirs, allow_unused=True, materialize_grads=True)
    for a, b in zip(ours, wanted, strict=True):
        assert_equal(a.value, b)


def test_every_forward_rule_equals_torch():
    check_rules(forward_mode)


def test_nested_derivatives_are_not_confused():
    check_nesting(forward_mode)


def test_second_derivative_by_nesting_forward_mode():
    def slope(x):
        return jvp(lambda y: (y * y * y).sin(), [x], [torch.ones((), dtype=F64)])[1]

    x = torch.tensor(0.8, dtype=F64)
    _, second = jvp(slope, [x], [torch.ones((), dtype=F64)])
    u = x**3
    assert_close(second, 6 * x * u.cos() - 9 * x**4 * u.sin(), rtol=1e-10, atol=0)


def test_dual_numbers_of_python_floats():
    x = Dual(3.0, 1.0)
    y = x * x + 2 * x - 1
    assert (float(y.value), float(y.tangent)) == (14.0, 8.0)
    assert repr(x) == "Dual(3.0, tangent=1.0)"
    assert float(Dual(3.0).tangent) == 0.0
    assert x > 2.0


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1,), (0,), ()])
def test_jacobians_of_both_modes_equal_torch(shape):
    weight = normal((4, max(1, torch.Size(shape).numel())), 1)
    x = normal(shape, 2)

    def function(x):
        flat = x.reshape(-1) if 0 not in shape else x.sum().reshape(1)
        return (weight @ flat).tanh().reshape(2, 2)

    expected = torch.autograd.functional.jacobian(function, x)
    assert_close(jacobian_forward(function, x), expected, rtol=1e-10, atol=1e-12)
    assert_close(jacobian_reverse(function, x), expected, rtol=1e-10, atol=1e-12)


def test_jacobians_of_a_number_with_respect_to_a_number():
    x = torch.tensor(0.3, dtype=F64)
    for jacobian in (jacobian_forward, jacobian_reverse):
        assert_close(jacobian(lambda x: x.sin(), x), x.cos(), rtol=1e-10, atol=0)


def test_jacobian_of_an_empty_or_constant_result():
    x = normal((3,), 1)
    for function, shape in ((lambda x: x[:0], (0, 3)), (lambda x: torch.ones(2), (2, 3))):
        for jacobian in (jacobian_forward, jacobian_reverse):
            assert_close(jacobian(function, x).double(), torch.zeros(shape, dtype=F64))


def test_a_function_that_ignores_its_input_has_tangent_zero():
    value, tangent = jvp(lambda x: torch.ones(2), [1.0], [1.0])
    assert_close(tangent, torch.zeros(2))
    assert_close(value, torch.ones(2))


def test_kinks_in_forward_mode_are_treated_as_in_reverse_mode():
    x, direction = torch.tensor([0.0, 1.0, 1.0], dtype=F64), normal((3,), 1)
    for function in (
        lambda x: x.relu().sum(),
        lambda x: x.abs().sum(),
        lambda x: x.amax(),
        lambda x: ops.maximum(x, torch.tensor([0.0, 1.0, 0.0], dtype=F64)).sum(),
    ):
        _, tangent = jvp(function, [x], [direction])
        leaf = Tensor(x, requires_grad=True)
        (gradient,) = tape.grad(function(leaf), [leaf])
        assert_close(tangent, (gradient.value * direction).sum(), rtol=1e-10, atol=1e-12)


def test_bad_tangents_are_refused():
    with pytest.raises(ValueError, match="tangents has 1 entries for 2 inputs"):
        jvp(lambda a, b: a, [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match=r"tangent has shape \(2,\), value \(3,\)"):
        jvp(lambda a: a, [torch.ones(3)], [torch.ones(2)])


def test_an_operation_without_a_forward_rule_is_told_by_name():
    @primitive
    def running_sum(x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(0)

    with pytest.raises(ValueError, match="running_sum has no forward rule"):
        jvp(running_sum, [torch.ones(3)], [torch.ones(3)])
