"""Hessian–vector products, Hessians and curvature equal torch and closed forms."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from backprop.expressions import F64, assert_equal, normal, programs
from hypothesis import given, settings
from torch.testing import assert_close

from companion.backprop import higher_order
from companion.backprop.higher_order import (
    gradients,
    hessian,
    hessian_vector_product,
    largest_curvature,
)
from companion.backprop.tape_network import mlp, mlp_parameters
from companion.backprop.tensor import cross_entropy


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def check_hessian(module: ModuleType) -> None:
    x = torch.tensor([-1.2, 1.0], dtype=F64)
    a, b = x.tolist()
    expected = torch.tensor([[2 - 400 * (b - 3 * a * a), -400 * a], [-400 * a, 200.0]], dtype=F64)
    assert_close(module.hessian(rosenbrock, x), expected, rtol=1e-10, atol=1e-10)


@settings(report_multiple_bugs=False)
@given(programs(longest=6))
def test_hessian_vector_products_of_random_expressions_equal_torch(program):
    inputs, directions = program.leaves(), program.directions()
    ours = hessian_vector_product(program.ours, inputs, directions)
    theirs = [x.clone().requires_grad_() for x in inputs]
    first = torch.autograd.grad(program.theirs(*theirs), theirs, create_graph=True)
    total = sum((g * v).sum() for g, v in zip(first, directions, strict=True))
    wanted = torch.autograd.grad(total, theirs, allow_unused=True, materialize_grads=True)
    for a, b in zip(ours, wanted, strict=True):
        assert_equal(a, b)


def test_the_hessian_of_rosenbrocks_function_equals_its_closed_form():
    check_hessian(higher_order)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1,)])
def test_hessians_equal_torch_and_are_symmetric(shape):
    x = normal(shape, 1)

    def function(x):
        return (x.sin() * x.sum()).exp().sum()

    ours = hessian(function, x)
    expected = torch.autograd.functional.hessian(function, x)
    assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_hessians_of_a_number_and_of_nothing():
    x = torch.tensor(0.3, dtype=F64)
    assert_close(hessian(lambda x: x.sin(), x), -x.sin(), rtol=1e-10, atol=0)
    assert hessian(lambda x: x.sum(), torch.zeros(0, dtype=F64)).shape == (0, 0)


def test_a_network_has_second_derivatives():
    start = {k: v.double() for k, v in mlp_parameters([4, 5, 3]).items()}
    x, labels = normal((6, 4), 1), torch.arange(6) % 3

    def loss(*weights):
        return cross_entropy(mlp(x, dict(zip(start, weights, strict=True))), labels)

    weights = tuple(start.values())
    directions = [normal(w.shape, 7) for w in weights]
    ours = hessian_vector_product(loss, weights, directions)
    _, theirs = torch.autograd.functional.hvp(loss_in_torch(x, labels), weights, tuple(directions))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(
        gradients(loss, weights),
        torch.func.grad(loss_in_torch(x, labels), (0, 1, 2, 3))(*weights),
        strict=True,
    ):
        assert_close(a, b, rtol=1e-10, atol=1e-12)


def loss_in_torch(x, labels):
    def loss(w1, b1, w2, b2):
        return torch.nn.functional.cross_entropy((x @ w1 + b1).relu() @ w2 + b2, labels)

    return loss


def test_a_linear_function_has_no_curvature():
    (product,) = hessian_vector_product(
        lambda x: (3 * x).sum(), [normal((2,), 1)], [normal((2,), 2)]
    )
    assert_close(product, torch.zeros(2, dtype=F64))
    assert largest_curvature(lambda x: (3 * x).sum(), [normal((2,), 1)]) == 0.0


def test_the_largest_curvature_of_a_quadratic_is_its_largest_eigenvalue():
    root = normal((5, 5), 1)
    matrix = root @ root.T
    found = largest_curvature(lambda x: 0.5 * (x @ (matrix @ x)), [normal((5,), 2)], iterations=300)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-8)


def test_negative_curvature_is_found_when_it_is_the_largest():
    scale = torch.tensor([-5.0, 1.0], dtype=F64)
    found = largest_curvature(lambda x: 0.5 * (scale * x * x).sum(), [normal((2,), 1)])
    assert found == pytest.approx(-5.0, rel=1e-8)


def test_bad_arguments_are_refused():
    x = normal((2,), 1)
    with pytest.raises(ValueError, match="directions have shapes"):
        hessian_vector_product(lambda x: x.sum(), [x], [normal((3,), 1)])
    with pytest.raises(ValueError, match="directions have shapes"):
        hessian_vector_product(lambda x: x.sum(), [x], [])
    with pytest.raises(ValueError, match="iterations=0 must be at least 1"):
        largest_curvature(lambda x: x.sum(), [x], iterations=0)
    with pytest.raises(ValueError, match="only a single number has a gradient"):
        gradients(lambda x: x * x, [x])
