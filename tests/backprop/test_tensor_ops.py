"""Every operation's gradient equals torch's, also where shapes broadcast and at special values."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from backprop.expressions import F64, assert_like_torch, normal
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from companion.backprop import tensor_ops
from companion.backprop.tensor import Tensor

INF, NAN = float("inf"), float("nan")
SPECIAL = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-300, 1e300, INF, -INF, NAN], dtype=F64)


def check_elementwise(ops: ModuleType, name: str) -> None:
    x = normal((3, 4), 1)
    x = x.abs() + 0.1 if name in ("log", "sqrt") else x
    assert_like_torch(getattr(ops, name), getattr(torch, name), [x])


ELEMENTWISE = ["neg", "exp", "log", "sqrt", "sin", "cos", "tanh", "sigmoid", "relu", "abs"]
SHAPES = [((3, 3), (3, 3)), ((3, 3), (3, 1)), ((1, 3), (3, 3)), ((3,), (3, 3)), ((), (3, 3))]


def check_arithmetic(ops: ModuleType, name: str) -> None:
    for left, right in SHAPES:
        arrays = [normal(left, 1), normal(right, 2) + 3.0]
        assert_like_torch(getattr(ops, name), getattr(torch, name), arrays)
        assert_like_torch(getattr(ops, name), getattr(torch, name), arrays[::-1])


def check_power(ops: ModuleType) -> None:
    x = torch.tensor([0.5, 1.5, 2.0], dtype=F64)
    for exponent in (3, 2.0, 0.5, -1, 0):
        assert_like_torch(
            lambda x, e=exponent: ops.power(x, exponent=e), lambda x, e=exponent: x**e, [x]
        )


def check_pow_of_two_arrays(ops: ModuleType) -> None:
    arrays = [normal((3, 1), 1).abs() + 0.1, normal((1, 4), 2)]
    assert_like_torch(ops.pow, torch.pow, arrays)


def check_matmul(ops: ModuleType) -> None:
    assert_like_torch(ops.matmul, torch.matmul, [normal((3, 3), 1), normal((3, 3), 2)])


def check_relu_at_zero(ops: ModuleType) -> None:
    assert_like_torch(ops.relu, torch.relu, [torch.tensor([-1.0, 0.0, 2.0], dtype=F64)])


def check_maximum_shares_ties(ops: ModuleType) -> None:
    a, b = torch.tensor([[1.0, 2.0, 3.0], [1.0, 5.0, NAN]], dtype=F64)
    assert_like_torch(ops.maximum, torch.maximum, [a, b])
    assert_like_torch(ops.minimum, torch.minimum, [a, b])


def check_where(ops: ModuleType) -> None:
    condition = torch.tensor([[True], [False], [True]])
    assert_like_torch(
        lambda a, b: ops.where(condition, a, b),
        lambda a, b: torch.where(condition, a, b),
        [normal((4,), 1), normal((3, 4), 2)],
    )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_operations_equal_torch(name):
    check_elementwise(tensor_ops, name)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_arithmetic_equals_torch_over_broadcast_shapes(name):
    check_arithmetic(tensor_ops, name)


def test_powers_equal_torch():
    check_power(tensor_ops)


def test_powers_with_two_arrays_equal_torch():
    check_pow_of_two_arrays(tensor_ops)


def test_square_matrix_products_equal_torch():
    check_matmul(tensor_ops)


def test_relu_has_no_gradient_at_zero():
    check_relu_at_zero(tensor_ops)


def test_maximum_and_minimum_share_the_gradient_of_a_tie():
    check_maximum_shares_ties(tensor_ops)


def test_where_sends_each_gradient_to_its_side():
    check_where(tensor_ops)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((4,), (4,)),
        ((4,), (4, 2)),
        ((3, 4), (4,)),
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((4,), (2, 4, 5)),
        ((2, 3, 4), (4,)),
        ((0, 4), (4, 2)),
        ((3, 0), (0, 2)),
        ((3, 4), (4, 0)),
        ((0, 3, 4), (4, 2)),
        ((1, 1), (1, 1)),
    ],
)
def test_matrix_products_equal_torch_for_vectors_batches_and_empty_arrays(left, right):
    assert_like_torch(tensor_ops.matmul, torch.matmul, [normal(left, 1), normal(right, 2)])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_zero_infinity_and_nan_give_what_torch_gives(name):
    assert_like_torch(getattr(tensor_ops, name), getattr(torch, name), [SPECIAL])


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "maximum", "minimum"])
def test_pairs_of_zero_infinity_and_nan_give_what_torch_gives(name):
    a, b = (x.reshape(-1).clone() for x in torch.meshgrid(SPECIAL, SPECIAL, indexing="ij"))
    assert_like_torch(getattr(tensor_ops, name), getattr(torch, name), [a, b])


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, -0.5, 1.5])
def test_powers_of_zero_infinity_and_nan_give_what_torch_gives(exponent):
    assert_like_torch(lambda x: x**exponent, lambda x: x**exponent, [SPECIAL])


@given(st.sampled_from(["sigmoid", "tanh", "relu", "exp"]), st.floats(-1000, 1000))
def test_saturated_inputs_equal_torch(name, number):
    x = torch.tensor([number], dtype=F64)
    assert_like_torch(getattr(tensor_ops, name), getattr(torch, name), [x])


def test_where_keeps_the_gradient_of_the_side_not_taken_out():
    x = Tensor(torch.tensor([0.0, 1.0], dtype=F64), requires_grad=True)
    tensor_ops.where(x > 0, x.log(), 0.0).sum().backward()
    reference = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    torch.where(reference > 0, reference.log(), 0.0).sum().backward()
    assert_close(x.grad.value, reference.grad, equal_nan=True)  # NaN at 0: 0 · ∞, as in torch


@pytest.mark.parametrize("operation", ["add", "sub", "mul", "div", "maximum", "pow"])
def test_shapes_that_do_not_broadcast_are_named(operation):
    a, b = Tensor(torch.ones(2, 3)), Tensor(torch.ones(2))
    with pytest.raises(ValueError, match=rf"{operation}: shapes \(2, 3\) and \(2,\) do not broad"):
        getattr(tensor_ops, operation)(a, b)


def test_where_refuses_a_condition_of_another_shape():
    with pytest.raises(ValueError, match="where: shapes"):
        tensor_ops.where(torch.ones(4) > 0, Tensor(torch.ones(3)), 0.0)


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ((2, 3), (2, 3), "do not meet in their inner sizes"),
        ((), (2, 3), "do not meet in their inner sizes"),
        ((3,), (), "do not meet in their inner sizes"),
        ((2, 1, 3), (3, 3, 1), "leading axes"),
    ],
)
def test_matrix_products_that_make_no_sense_are_refused(left, right, message):
    with pytest.raises(ValueError, match=message):
        Tensor(torch.ones(left)) @ Tensor(torch.ones(right))


def test_operations_on_plain_arrays_give_plain_arrays():
    assert isinstance(tensor_ops.exp(torch.ones(2)), torch.Tensor)
    assert isinstance(tensor_ops.matmul(torch.ones(2, 2), torch.ones(2)), torch.Tensor)
