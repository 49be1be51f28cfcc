"""The tape on random expressions equals torch.autograd; and what a Tensor accepts and refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from backprop.expressions import F64, Program, assert_equal, normal, programs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from companion.backprop import tape
from companion.backprop.tensor import Tensor, cross_entropy, log_softmax, softmax

RANDOM = settings(report_multiple_bugs=False)


def our_leaves(program: Program) -> list[Tensor]:
    return [Tensor(x, requires_grad=True) for x in program.leaves()]


def their_leaves(program: Program) -> list[torch.Tensor]:
    return [x.requires_grad_() for x in program.leaves()]


def hessian_times(gradients, directions, leaves, grad):
    """Σ gradient · direction, differentiated once more: the Hessian times `directions`."""
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    return grad(slope, leaves)


@RANDOM
@given(programs(longest=12))
def test_gradients_of_random_expressions_equal_torch(program):
    ours, theirs = our_leaves(program), their_leaves(program)
    out, expected = program.ours(*ours), program.theirs(*theirs)
    assert_equal(out.value, expected.detach())
    out.backward()
    expected.backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert_equal(mine.grad.value, other.grad)


@RANDOM
@given(programs(longest=6))
def test_second_derivatives_of_random_expressions_equal_torch(program):
    ours, theirs, directions = our_leaves(program), their_leaves(program), program.directions()
    gradients = tape.grad(program.ours(*ours), ours, create_graph=True)
    expected = torch.autograd.grad(program.theirs(*theirs), theirs, create_graph=True)
    products = hessian_times(
        gradients, directions, ours, lambda y, xs: tape.grad(y, xs, allow_unused=True)
    )
    wanted = hessian_times(
        expected,
        directions,
        theirs,
        lambda y, xs: torch.autograd.grad(y, xs, allow_unused=True, materialize_grads=True),
    )
    for mine, other in zip(products, wanted, strict=True):
        assert_equal(mine.value, other)


def test_third_derivative_equals_the_closed_form():
    x = Tensor(0.7, requires_grad=True)
    y = (x**5).exp()
    for _ in range(3):
        (y,) = tape.grad(y, [x], create_graph=True)
    t = 0.7
    u = t**5  # f''' of exp(t^5) by hand
    expected = (125 * t**12 + 300 * t**7 + 60 * t**2) * torch.tensor(u).exp()
    assert_close(y.value, expected.to(y.value.dtype))


def test_backward_adds_up_over_calls():
    x = Tensor(torch.tensor([1.0, 2.0], dtype=F64), requires_grad=True)
    (x * x).sum().backward()
    (3 * x).sum().backward()
    assert_close(x.grad.value, torch.tensor([5.0, 7.0], dtype=F64))


def test_a_result_of_several_numbers_takes_a_seed():
    x = Tensor(torch.tensor([1.0, 2.0], dtype=F64), requires_grad=True)
    (x * x).backward(torch.tensor([10.0, 1.0], dtype=F64))
    assert_close(x.grad.value, torch.tensor([20.0, 4.0], dtype=F64))


def test_no_gradient_flows_through_detach():
    x = Tensor(torch.tensor(3.0, dtype=F64), requires_grad=True)
    (x.detach() * x).backward()
    assert x.grad.item() == 3.0
    assert not x.detach().requires_grad


def test_nothing_is_recorded_under_no_grad():
    x = Tensor(1.0, requires_grad=True)
    with tape.no_grad():
        y = x.exp()
    assert y.node is None
    assert not y.requires_grad
    assert x.exp().node is not None, "recording is on again"


def test_recording_is_on_again_after_an_error_under_no_grad():
    with pytest.raises(ZeroDivisionError), tape.no_grad():
        1 / 0  # noqa: B018
    assert tape.is_recording()


def test_constants_are_not_recorded():
    assert (Tensor(1.0) * 2).node is None


def test_gradients_of_two_leaves_never_share_memory():
    a, b = Tensor([1.0], requires_grad=True), Tensor([2.0], requires_grad=True)
    (a + b).sum().backward()
    a.grad.value.mul_(0)
    assert b.grad.item() == 1.0


def test_a_tensor_shares_memory_with_its_array():
    array = torch.zeros(2)
    x = Tensor(array)
    array[0] = 5.0
    assert x.value[0] == 5.0


def test_a_torch_parameter_is_taken_without_its_graph():
    x = Tensor(torch.nn.Parameter(torch.ones(2)), requires_grad=True)
    assert not (x * 2).value.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_is_kept_through_both_passes(dtype):
    x = Tensor(torch.ones(3, dtype=dtype), requires_grad=True)
    y = ((2 * x + 1.5) ** 2 / 3).relu().mean()
    y.backward()
    assert y.value.dtype == x.grad.value.dtype == dtype


def test_tensors_of_numpy_and_lists_are_floats():
    assert Tensor(np.ones(2)).value.dtype == F64
    assert Tensor([1.0, 2.0]).shape == (2,)
    assert (np.ones(2) * Tensor(np.ones(2))).shape == (2,)
    assert (torch.ones(2) - Tensor([1.0, 1.0])).shape == (2,)


@pytest.mark.parametrize(
    "value", [torch.tensor([1, 2]), [1, 2], torch.tensor([True]), np.arange(3)], ids=str
)
def test_integers_and_booleans_are_refused(value):
    with pytest.raises(ValueError, match="only floating-point arrays have gradients"):
        Tensor(value, requires_grad=True)


def test_a_tensor_of_a_tensor_is_refused():
    with pytest.raises(ValueError, match="value is on a tape already"):
        Tensor(Tensor(1.0))


def test_mixed_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"mul: inputs have dtypes \['torch.float32', 'torch.fl"):
        Tensor(torch.ones(2)) * Tensor(torch.ones(2, dtype=F64))


def test_assigning_to_an_element_is_refused():
    x = Tensor([1.0, 2.0])
    with pytest.raises(TypeError, match="does not support item assignment"):
        x[0] = 3.0


def test_augmented_assignment_makes_a_new_tensor():
    x = Tensor(torch.tensor(3.0, dtype=F64), requires_grad=True)
    y = x
    y *= x
    y.backward()
    assert (x.item(), x.grad.item()) == (3.0, 6.0)


def test_a_tensor_prints_its_numbers_and_where_it_comes_from():
    x = Tensor([1.0], requires_grad=True)
    assert repr(x) == "Tensor([1.], requires_grad=True)"
    assert repr(x.exp()) == "Tensor([2.7183], from=exp)"
    assert repr(x.detach()) == "Tensor([1.])"


def test_a_single_number_has_no_length_but_a_truth():
    with pytest.raises(TypeError, match="no length"):
        len(Tensor(1.0))
    assert Tensor(1.0)
    assert not Tensor(0.0)
    assert len(Tensor([1.0, 2.0])) == 2


@given(st.integers(0, 4), st.integers(1, 5), st.sampled_from([1.0, 1000.0]), st.integers(0, 99))
def test_cross_entropy_and_softmax_equal_torch(batch, classes, scale, seed):
    z = scale * normal((batch, classes), seed)
    labels = torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))
    weights = normal(z.shape, seed + 1)
    for ours, theirs in (
        (lambda x: cross_entropy(x, labels), lambda x: F.cross_entropy(x, labels)),
        (lambda x: (softmax(x) * weights).sum(), lambda x: (x.softmax(-1) * weights).sum()),
        (lambda x: (log_softmax(x) * weights).sum(), lambda x: (x.log_softmax(-1) * weights).sum()),
    ):
        mine, other = Tensor(z, requires_grad=True), z.clone().requires_grad_()
        a, b = ours(mine), theirs(other)
        a.backward()
        b.backward()
        assert_close(a.value, b.detach(), rtol=1e-10, atol=1e-12, equal_nan=True)
        assert_close(mine.grad.value, other.grad, rtol=1e-10, atol=1e-12)


def test_cross_entropy_refuses_labels_of_another_batch():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3,\)"):
        cross_entropy(Tensor(torch.zeros(2, 3)), torch.zeros(3).long())
