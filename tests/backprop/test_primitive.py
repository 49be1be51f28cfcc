"""Adding an operation to the tape: one function, one rule per input, and it works everywhere."""

from __future__ import annotations

import pytest
import torch
from backprop.expressions import F64, assert_like_torch, normal
from torch.nn import functional as F
from torch.testing import assert_close

from companion.backprop.gradient_check import GradientMismatch, gradient_check
from companion.backprop.primitive import constant, count_operations, primitive
from companion.backprop.tape import grad, no_grad
from companion.backprop.tensor import Tensor
from companion.backprop.tensor_ops import sigmoid
from companion.backprop.tensor_views import sum_to


@primitive
def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.log1p(torch.exp(x))


softplus.gradients(lambda grad, out, x: grad * sigmoid(x))


def test_a_new_operation_has_value_and_gradient():
    assert_like_torch(softplus, F.softplus, [normal((3, 4), 1)])


def test_a_new_operation_has_derivatives_of_every_order():
    x = Tensor(torch.tensor(0.3, dtype=F64), requires_grad=True)
    y = softplus(x)
    for _ in range(3):
        (y,) = grad(y, [x], create_graph=True)
    s = torch.tensor(0.3, dtype=F64).sigmoid()
    assert_close(y.value, s * (1 - s) * (1 - 2 * s), rtol=1e-10, atol=0)


def test_an_operation_of_two_inputs_with_an_option():
    @primitive
    def lerp(a: torch.Tensor, b: torch.Tensor, *, weight: float) -> torch.Tensor:
        return a + weight * (b - a)

    lerp.gradients(
        lambda grad, out, a, b, weight: sum_to(grad * (1 - weight), a.shape),
        lambda grad, out, a, b, weight: sum_to(grad * weight, b.shape),
    )
    assert_like_torch(
        lambda a, b: lerp(a, b, weight=0.3),
        lambda a, b: torch.lerp(a, b, 0.3),
        [normal((3, 1), 1), normal((4,), 2)],
    )


def test_a_wrong_rule_is_found_by_a_gradient_check():
    @primitive
    def cube(x: torch.Tensor) -> torch.Tensor:
        return x**3

    cube.gradients(lambda grad, out, x: grad * 2 * x * x)
    with pytest.raises(GradientMismatch):
        gradient_check(cube, [normal((3,), 1)])


def test_a_missing_rule_is_told_by_name():
    @primitive
    def bump(x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-x * x)

    x = Tensor([1.0], requires_grad=True)
    with pytest.raises(ValueError, match="bump has 0 gradient rules, input 0 needs one"):
        bump(x).sum().backward()


def test_rules_of_inputs_without_gradient_are_never_called():
    @primitive
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a * b

    product.gradients(lambda grad, out, a, b: grad * b, lambda *_: pytest.fail("called"))
    x = Tensor([2.0], requires_grad=True)
    product(x, Tensor([3.0])).sum().backward()
    product(x, 3.0).sum().backward()
    assert x.grad.item() == 6.0


def test_operations_are_counted_by_name():
    a, b = Tensor(torch.ones(2, 3)), Tensor(torch.ones(3, 4))
    with count_operations() as counted:
        (a @ b).reshape(8).exp().sum()
    assert counted == {"matmul": 2 * 2 * 3 * 4, "reshape": 0, "exp": 8, "sum": 8}
    (a @ b).sum()
    assert counted["sum"] == 8, "nothing is counted outside the block"


def test_the_backward_pass_is_counted_too():
    """Two matrix products of the backward pass for one of the forward pass."""
    a = Tensor(torch.ones(2, 3), requires_grad=True)
    b = Tensor(torch.ones(3, 4), requires_grad=True)
    with count_operations() as counted:
        (a @ b).sum().backward()
    assert counted["matmul"] == 3 * 2 * 2 * 3 * 4


def test_constant_gives_the_plain_array():
    array = torch.ones(2)
    assert constant(array) is array
    assert constant(2.0) == 2.0
    assert constant(Tensor(array)).data_ptr() == array.data_ptr()


def test_a_primitive_keeps_name_and_docstring_of_its_function():
    assert softplus.name == "softplus"
    assert repr(softplus) == "<primitive softplus>"
    with no_grad():
        assert softplus(Tensor([0.0])).node is None
