"""Every hand-written gradient against torch.autograd on torch.nn.functional, in float64.

The checks are functions of the module under test: test_losses_mistakes.py runs them on modules
with a planted mistake, where each must fail.
"""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from companion.backprop import losses

# atol only covers exact zeros and p - 1 where p is within one rounding of 1.
TIGHT = {"rtol": 1e-10, "atol": 1e-14}
SCALES = (0.0, 1e-3, 1.0, 30.0, 1000.0)

sizes = {"rows": st.integers(0, 6), "columns": st.integers(1, 7)}
draws = {"scale": st.sampled_from(SCALES), "seed": st.integers(0, 2**31 - 1)}
one_bug = settings(report_multiple_bugs=False)


def spread(rows: int, columns: int, scale: float, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [-scale, scale], with both ends of that range among them."""
    x = torch.rand(rows, columns, generator=generator, dtype=torch.float64) * 2 - 1
    if rows and columns > 1:
        x[0, 0], x[-1, -1] = 1, -1
    return x * scale


def gradients(value: Tensor, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Autograd's gradient of `value` and its Hessian times `direction`, with respect to x."""
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad((first * direction).sum(), x)
    return first.detach(), second


def check_pair(forward, backward, reference, x: Tensor, target: Tensor) -> None:
    """Value, gradient and Hessian-vector product of a loss against autograd on `reference`."""
    x = x.clone().requires_grad_()
    direction = torch.linspace(0.5, 2, x.numel(), dtype=x.dtype).reshape(x.shape)
    expected = reference(x, target)
    first, second = gradients(expected, x, direction)
    assert_close(forward(x, target), expected, equal_nan=True, **TIGHT)
    by_hand = backward(x, target)
    assert_close(by_hand.detach(), first, **TIGHT)
    (of_by_hand,) = torch.autograd.grad((by_hand * direction).sum(), x)
    assert_close(of_by_hand, second, **TIGHT)
    # Our forward is differentiable as well, at the kinks of its parts too.
    assert_close(torch.autograd.grad(forward(x, target), x)[0], first, **TIGHT)


def check_mse(module: ModuleType) -> None:
    @one_bug
    @given(**sizes, **draws)
    def run(rows: int, columns: int, scale: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        prediction, target = (spread(rows, columns, scale, generator) for _ in range(2))
        check_pair(*module.MSE, F.mse_loss, prediction, target.flip(0))

    run()


def check_binary_cross_entropy(module: ModuleType) -> None:
    @one_bug
    @given(**sizes, **draws, soft=st.booleans())
    def run(rows: int, columns: int, scale: float, seed: int, soft: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        z = spread(rows, columns, scale, generator)
        y = torch.rand(rows, columns, generator=generator, dtype=z.dtype)
        y = y if soft else y.round()
        check_pair(*module.BINARY_CROSS_ENTROPY, F.binary_cross_entropy_with_logits, z, y)

    run()


def check_cross_entropy(module: ModuleType) -> None:
    @one_bug
    @given(**sizes, **draws)
    @example(rows=0, columns=3, scale=1.0, seed=0)
    @example(rows=1, columns=1, scale=1000.0, seed=0)
    def run(rows: int, columns: int, scale: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        z = spread(rows, columns, scale, generator)
        labels = torch.randint(columns, (rows,), generator=generator)
        check_pair(*module.CROSS_ENTROPY, F.cross_entropy, z, labels)

    run()


ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda z: torch.softmax(z, -1),
    "log_softmax": lambda z: torch.log_softmax(z, -1),
}


def check_activation(module: ModuleType, name: str) -> None:
    """Value, vector-Jacobian product and its derivative, on the last axis."""
    forward, backward = getattr(module, name), getattr(module, f"{name}_backward")

    @one_bug
    @given(**sizes, **draws)
    def run(rows: int, columns: int, scale: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        z = spread(rows, columns, scale, generator).requires_grad_()
        g, direction = (spread(rows, columns, 1.0, generator).flip(0) for _ in range(2))
        expected = ACTIVATIONS[name](z)
        first, second = gradients((expected * g).sum(), z, direction)
        assert_close(forward(z), expected, **TIGHT)
        by_hand = backward(z, g)
        assert_close(by_hand.detach(), first, **TIGHT)
        assert_close(torch.autograd.grad((by_hand * direction).sum(), z)[0], second, **TIGHT)

    run()


def check_saturated_half_precision(module: ModuleType) -> None:
    """At |z| = 1000 nothing is nan or inf, and the digits are those of the dtype."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        z = torch.tensor([[1000.0, 0, -1000], [-1000, -1000, -1000], [0.5, 0.25, 1]], dtype=dtype)
        labels, y = torch.tensor([2, 0, 1]), torch.eye(3, dtype=dtype)
        tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 4 * torch.finfo(dtype).eps}
        for loss, target, reference in (
            (module.CROSS_ENTROPY, labels, F.cross_entropy),
            (module.BINARY_CROSS_ENTROPY, y, F.binary_cross_entropy_with_logits),
        ):
            exact = z.double().requires_grad_()
            wide = target.double() if target.is_floating_point() else target
            expected = reference(exact, wide)
            (gradient,) = torch.autograd.grad(expected, exact)
            value = loss.forward(z, target)
            assert value.dtype == dtype
            assert_close(value.double(), expected.detach(), **tolerance)
            assert_close(loss.backward(z, target).double(), gradient, **tolerance)


def check_small_probabilities_keep_their_digits(module: ModuleType) -> None:
    """Against the closed forms in t = exp(z) by Python's math, with no absolute tolerance."""
    z = torch.tensor([-700.0, -40.0, -20.0], dtype=torch.float64)
    small = [math.exp(value) for value in z.tolist()]
    for ours, closed_form in (
        (module.sigmoid(z), [t / (1 + t) for t in small]),
        (module.sigmoid_backward(-z, torch.ones_like(z)), [t / (1 + t) ** 2 for t in small]),
        (module.softplus(z), [math.log1p(t) for t in small]),
    ):
        assert_close(ours, torch.tensor(closed_form, dtype=z.dtype), rtol=1e-10, atol=0.0)


def check_regularized_loss(module: ModuleType) -> None:
    @one_bug
    @given(**sizes, **draws, decay=st.sampled_from((0.0, 1e-4, 0.3, 10.0)))
    def run(rows: int, columns: int, scale: float, seed: int, decay: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        weight = spread(rows, columns, scale, generator).requires_grad_()
        data = (weight.sin() * 3).sum()
        (data_gradient,) = torch.autograd.grad(data, weight, retain_graph=True)
        expected = data + decay * 0.5 * torch.linalg.vector_norm(weight) ** 2
        value = module.regularized_loss(weight, data, decay)
        assert_close(value, expected, rtol=1e-10, atol=1e-12)
        (gradient,) = torch.autograd.grad(value, weight)
        by_hand = module.regularized_loss_backward(weight, data_gradient, decay)
        assert_close(by_hand, gradient, rtol=1e-10, atol=1e-12)

    run()


def check_decay_equals_sgd(module: ModuleType) -> None:
    """Under plain SGD the penalty and the optimizer's `weight_decay` are the same step."""
    generator = torch.Generator().manual_seed(1)
    weight, gradient = (spread(3, 4, 2.0, generator) for _ in range(2))
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = gradient.clone()
    torch.optim.SGD([parameter], lr=0.1, weight_decay=0.7).step()
    ours = weight - 0.1 * module.regularized_loss_backward(weight, gradient, 0.7)
    assert_close(ours, parameter.detach(), **TIGHT)


def test_mse_and_its_gradient_equal_autograd():
    check_mse(losses)


def test_binary_cross_entropy_and_its_gradient_equal_autograd():
    check_binary_cross_entropy(losses)


def test_cross_entropy_and_its_gradient_equal_autograd():
    check_cross_entropy(losses)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_its_backward_equal_autograd(name: str):
    check_activation(losses, name)


def test_saturated_logits_stay_finite_in_every_precision():
    check_saturated_half_precision(losses)


def test_small_probabilities_keep_their_digits():
    check_small_probabilities_keep_their_digits(losses)


def test_regularized_loss_and_its_gradient_equal_autograd():
    check_regularized_loss(losses)


def test_penalty_equals_weight_decay_of_sgd():
    check_decay_equals_sgd(losses)


class ByHand(torch.autograd.Function):
    """A loss whose backward is the hand-written one, for torch's own checkers."""

    @staticmethod
    def forward(ctx, x, target, loss):
        ctx.save_for_backward(x, target)
        ctx.loss = loss
        return loss.forward(x, target)

    @staticmethod
    def backward(ctx, grad_output):
        x, target = ctx.saved_tensors
        return grad_output * ctx.loss.backward(x, target), None, None


@pytest.mark.parametrize("name", ["MSE", "BINARY_CROSS_ENTROPY", "CROSS_ENTROPY"])
@pytest.mark.parametrize("rows", [1, 4])
def test_hand_written_backward_passes_gradcheck_and_gradgradcheck(name: str, rows: int):
    generator = torch.Generator().manual_seed(rows)
    x = spread(rows, 3, 3.0, generator).requires_grad_()
    target = torch.rand(rows, 3, generator=generator, dtype=torch.float64)
    if name == "CROSS_ENTROPY":
        target = torch.randint(3, (rows,), generator=generator)
    loss = getattr(losses, name)
    assert torch.autograd.gradcheck(lambda x: ByHand.apply(x, target, loss), (x,))
    assert torch.autograd.gradgradcheck(lambda x: ByHand.apply(x, target, loss), (x,))


@pytest.mark.parametrize("dim", [0, 1, 2, -2])
def test_softmax_normalises_over_the_axis_it_is_given(dim: int):
    z = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    g = z.flip(1).cos()
    z.requires_grad_()
    for name, reference in (("softmax", torch.softmax), ("log_softmax", torch.log_softmax)):
        expected = reference(z, dim)
        assert_close(getattr(losses, name)(z, dim), expected, **TIGHT)
        (gradient,) = torch.autograd.grad((expected * g).sum(), z)
        assert_close(getattr(losses, f"{name}_backward")(z, g, dim).detach(), gradient, **TIGHT)


def test_values_equal_their_closed_forms():
    two = torch.float64
    assert_close(
        losses.softmax(torch.tensor([[0, math.log(3)]], dtype=two)),
        torch.tensor([[0.25, 0.75]], dtype=two),
        **TIGHT,
    )
    zeros = torch.zeros(2, 5, dtype=two)
    error = torch.tensor([[1.0, 2.0, 3.0]], dtype=two)
    for value, closed_form in (
        (losses.cross_entropy(zeros, torch.tensor([0, 4])), math.log(5)),
        (losses.binary_cross_entropy_with_logits(zeros, zeros), math.log(2)),
        (losses.mse_loss(error, torch.zeros_like(error)), 14 / 3),
    ):
        assert value.item() == pytest.approx(closed_form, rel=1e-10)


def test_binary_cross_entropy_is_cross_entropy_with_logits_zero_and_z():
    z = torch.tensor([[-3.0], [0.0], [700.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0, 1])
    two_classes = torch.cat([torch.zeros_like(z), z], dim=1)
    binary = losses.binary_cross_entropy_with_logits(z, labels.double().unsqueeze(1))
    assert_close(binary, losses.cross_entropy(two_classes, labels), **TIGHT)


def test_empty_batch_has_loss_nan_and_an_empty_gradient_as_in_torch():
    z, labels = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    for loss, target in (
        (losses.MSE, z),
        (losses.BINARY_CROSS_ENTROPY, z),
        (losses.CROSS_ENTROPY, labels),
    ):
        assert loss.forward(z, target).isnan()
        assert loss.backward(z, target).shape == (0, 3)


def test_inputs_are_left_as_they_were():
    z, labels, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.rand(4, 3)
    before = z.clone(), labels.clone(), y.clone()
    for loss, target in (
        (losses.MSE, y),
        (losses.BINARY_CROSS_ENTROPY, y),
        (losses.CROSS_ENTROPY, labels),
    ):
        loss.forward(z, target)
        loss.backward(z, target)
    assert all(torch.equal(a, b) for a, b in zip(before, (z, labels, y), strict=True))


def test_values_on_an_accelerator_are_not_read_back():
    z, labels = torch.zeros(4, 3, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    assert losses.cross_entropy_backward(z, labels).device.type == "meta"
    assert losses.binary_cross_entropy_with_logits(z, z).shape == ()
