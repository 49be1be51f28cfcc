"""The five-step loop against autograd with torch.optim.SGD, and its planted mistakes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import mutant
from torch.testing import assert_close

from companion.backprop import losses, training_loop

TIGHT = {"rtol": 1e-10, "atol": 1e-13}
SETTINGS = {"outputs": 3, "learning_rate": 0.3, "batch_size": 8, "weight_decay": 0.05, "seed": 4}


def samples(rows: int = 20, inputs: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (rows,), generator=generator)


def check_layer(module: ModuleType) -> None:
    @settings(report_multiple_bugs=False)
    @given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 5), st.integers(0, 10**6))
    def run(rows: int, inputs: int, outputs: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shapes = (rows, inputs), (inputs, outputs), (outputs,), (rows, outputs)
        x, weight, bias, delta = (
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
        )
        weight.requires_grad_()
        bias.requires_grad_()
        expected = F.linear(x, weight.T, bias)
        assert_close(module.layer_forward(x, weight, bias), expected, **TIGHT)
        gradients = torch.autograd.grad(expected, (weight, bias), delta)
        assert_close(module.layer_backward(x, delta), gradients, **TIGHT)

    run()


def check_training(module: ModuleType) -> None:
    """100 steps equal autograd and SGD on the same batches; λ reaches W and spares b."""
    x, labels = samples()
    ours = module.train_layer(x, labels, losses.CROSS_ENTROPY, epochs=34, **SETTINGS)
    weight = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD(
        [{"params": [weight], "weight_decay": 0.05}, {"params": [bias]}], lr=0.3
    )
    generator, values = torch.Generator().manual_seed(4), []
    for _ in range(34):
        for rows in torch.randperm(20, generator=generator).split(8):
            loss = F.cross_entropy(x[rows] @ weight + bias, labels[rows])
            values.append(loss.item() + 0.05 / 2 * weight.square().sum().item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert len(values) == 102
    assert_close(ours.weight, weight.detach(), **TIGHT)
    assert_close(ours.bias, bias.detach(), **TIGHT)
    assert ours.losses == pytest.approx(values, rel=1e-10)


def test_layer_and_its_backward_equal_autograd():
    check_layer(training_loop)


def test_training_equals_autograd_and_sgd_after_100_steps():
    check_training(training_loop)


def assert_caught(check: Callable[[ModuleType], None], old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check(mutant(training_loop, old, new))


def test_bias_gradient_as_mean_instead_of_sum_is_caught():
    assert_caught(check_layer, "delta.sum(0)", "delta.mean(0)")


def test_weight_gradient_transposed_is_caught():
    assert_caught(check_layer, "x.T @ delta", "(delta.T @ x)")


def test_update_uphill_is_caught():
    assert_caught(check_training, "weight - learning_rate * grad", "weight + learning_rate * grad")


def test_update_without_the_learning_rate_is_caught():
    assert_caught(check_training, "bias - learning_rate * grad_bias", "bias - grad_bias")


def test_weight_updated_before_its_gradient_is_complete_is_caught():
    old = "grad_weight = regularized_loss_backward(weight, grad_weight, weight_decay)"
    new = "weight = weight - learning_rate * weight_decay * weight"
    assert_caught(check_training, old, f"{new}\n            {old}")


def test_same_seed_gives_the_same_bits_and_another_seed_another_order():
    x, labels = samples()
    runs = [
        training_loop.train_layer(
            x, labels, losses.CROSS_ENTROPY, epochs=2, **(SETTINGS | {"seed": seed})
        )
        for seed in (0, 0, 1)
    ]
    assert runs[0].losses == runs[1].losses
    assert torch.equal(runs[0].weight, runs[1].weight)
    assert runs[0].losses != runs[2].losses


def test_no_epochs_leave_the_layer_at_zero():
    x, labels = samples()
    result = training_loop.train_layer(x, labels, losses.CROSS_ENTROPY, epochs=0, **SETTINGS)
    assert result.losses == []
    assert not result.weight.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0.*> 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan.*> 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf.*finite number > 0"),
        ({"batch_size": 0}, "batch_size is 0.*>= 1"),
        ({"epochs": -1}, "epochs is -1.*>= 0"),
        ({"outputs": 0}, "outputs is 0.*>= 1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0.*>= 0"),
        ({"outputs": 2}, "labels holds 2; with 2 classes"),
    ],
)
def test_bad_settings_name_argument_value_and_rule(change: dict, message: str):
    x, labels = samples()
    with pytest.raises(ValueError, match=message):
        training_loop.train_layer(
            x, labels, losses.CROSS_ENTROPY, **({"epochs": 1} | SETTINGS | change)
        )


def test_shapes_that_do_not_meet_are_refused():
    x, labels = samples()
    weight, bias = torch.zeros(5, 3), torch.zeros(3)
    with pytest.raises(ValueError, match=r"x has shape \(20, 5\) and weight \(3, 5\)"):
        training_loop.layer_forward(x, weight.T, bias)
    with pytest.raises(ValueError, match=r"bias has shape \(20, 3\); it must be.*\(3,\)"):
        training_loop.layer_forward(x, weight.double(), torch.zeros(20, 3))
    with pytest.raises(ValueError, match=r"x has shape \(20, 5\) and delta \(19, 3\)"):
        training_loop.layer_backward(x, torch.zeros(19, 3))
    with pytest.raises(ValueError, match="targets has 19 rows; it must have 20"):
        training_loop.train_layer(x, labels[1:], losses.CROSS_ENTROPY, epochs=1, **SETTINGS)
