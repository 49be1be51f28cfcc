"""Each hand-written layer equals torch.nn and autograd: values, gradients, second derivatives."""

from __future__ import annotations

import pytest
import torch
from backprop import layer_checks as checks
from backprop.layer_checks import ACTIVATIONS, TIGHT, normal, reference_function, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.testing import assert_close

from companion.backprop import layers
from companion.backprop.base import ManualFunction
from companion.backprop.layers import (
    GELU,
    Dropout,
    Embedding,
    Linear,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
)


def test_linear_equals_torch_over_random_shapes():
    checks.check_linear(layers)


def test_linear_one_sample_at_a_time_equals_the_matrix_products():
    checks.check_linear_loop(layers)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_equals_torch_even_when_saturated(name):
    checks.check_activation(layers, name)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_at_zero_and_at_the_ends_of_the_range_equals_torch(name):
    ends = torch.tensor([0.0, -0.0, 1e-300, -1e-300, 1e4, -1e4, 745.0, -745.0], dtype=torch.float64)
    checks.same_as_torch(getattr(layers, name)(), getattr(nn, name)(), ends)


def test_gelu_keeps_its_digits_far_to_the_left():
    """x Φ(x) at −12, from the asymptotic series of the error function, to 9 digits."""
    x = torch.tensor([-12.0], dtype=torch.float64)
    series = sum(c / 12.0 ** (2 * k) for k, c in enumerate((1, -1, 3, -15, 105, -945, 10395)))
    density = torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5
    assert_close(GELU()(x), -density * series, rtol=1e-9, atol=0)


def test_dropout_with_a_fixed_mask_equals_autograd():
    checks.check_dropout(layers)


def test_dropout_uses_one_mask_forward_and_backward():
    checks.check_dropout_module(layers)


def test_dropout_is_the_identity_in_evaluation_and_with_p_0():
    x, grad_output = normal((3, 4), 0), normal((3, 4), 1)
    for layer in (Dropout(0.5).eval(), Dropout(0.0)):
        assert torch.equal(layer(x), x)
        assert torch.equal(layer.backward(grad_output), grad_output)


def test_dropout_with_p_1_drops_everything_as_torch_does():
    x = normal((3, 4), 0)
    layer = Dropout(1.0)
    assert torch.equal(layer(x), nn.Dropout(1.0)(x).abs())
    assert not layer.backward(x).any()


def test_embedding_equals_torch_with_repeated_indices():
    checks.check_embedding(layers)


def pair_inputs(name: str, seed: int) -> tuple[torch.Tensor, ...]:
    shapes = [(4, 3), (2, 3), (2,)] if name == "Linear" else [(4, 3)]
    return tuple(normal(s, seed + i).requires_grad_() for i, s in enumerate(shapes))


@pytest.mark.parametrize("name", ["Linear", *ACTIVATIONS])
def test_gradcheck_accepts_the_pair(name):
    layer, inputs = getattr(layers, name), pair_inputs(name, 0)
    assert gradcheck(lambda *i: ManualFunction.apply(layer, *i), inputs)
    assert gradgradcheck(lambda *i: ManualFunction.apply(layer, *i), inputs)


def test_gradcheck_accepts_dropout_and_embedding():
    x, mask = normal((4, 3), 0).requires_grad_(), normal((4, 3), 1) > 0
    assert gradcheck(lambda x: ManualFunction.apply(Dropout, x, mask, 0.3), (x,))
    weight, indices = normal((3, 2), 0).requires_grad_(), torch.tensor([[0, 2], [2, 2]])
    assert gradcheck(lambda w: ManualFunction.apply(Embedding, indices, w), (weight,))


@pytest.mark.parametrize("name", ["Linear", *ACTIVATIONS])
def test_second_derivatives_equal_autograd(name):
    """Differentiate ‖all gradients of Σ y²‖² once more: ours through our own formulas."""

    @given(seeds)
    def run(seed: int) -> None:
        inputs = pair_inputs(name, seed)
        results = []
        for function in (
            lambda *i: ManualFunction.apply(getattr(layers, name), *i),
            reference_function(name),
        ):
            first = grad(function(*inputs).square().sum(), inputs, create_graph=True)
            results.append(grad(sum(g.square().sum() for g in first), inputs))
        for ours, theirs in zip(*results, strict=True):
            assert_close(ours, theirs, **TIGHT)

    run()


@settings(max_examples=200)
@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from(ACTIVATIONS)), min_size=1, max_size=4),
    seeds,
)
def test_random_networks_equal_torch(batch, plan, seed):
    ours, theirs, width = [], [], 3
    for outputs, activation in plan:
        ours += [Linear(width, outputs), getattr(layers, activation)()]
        theirs += [nn.Linear(width, outputs), getattr(nn, activation)()]
        width = outputs
    x = normal((batch, 3), seed)
    checks.same_as_torch(Sequential(*ours), nn.Sequential(*theirs), x, random_parameters=seed)


def test_the_same_seed_gives_the_weights_of_torch():
    torch.manual_seed(3)
    ours = Linear(5, 4)
    torch.manual_seed(3)
    theirs = nn.Linear(5, 4)
    assert_close(ours.weight, theirs.weight)
    assert_close(ours.bias, theirs.bias)


def test_the_same_seed_gives_the_dropout_mask_of_torch():
    x = normal((5, 6), 0)
    torch.manual_seed(3)
    expected = nn.Dropout(0.3)(x)
    torch.manual_seed(3)
    assert_close(Dropout(0.3)(x), expected, **TIGHT)


def test_state_dicts_go_both_ways():
    ours = Sequential(Linear(4, 3), ReLU(), Linear(3, 2))
    theirs = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 4)
    assert_close(ours(x), theirs(x))


def test_the_first_layer_can_leave_out_the_gradient_of_its_input():
    x, grad_output = normal((6, 4), 0), normal((6, 3), 1)
    full = Sequential(Linear(4, 5), Tanh(), Linear(5, 3)).double()
    spare = Sequential(Linear(4, 5), Tanh(), Linear(5, 3)).double()
    spare.load_state_dict(full.state_dict())
    for network in (full, spare):
        network(x)
    assert full.backward(grad_output).shape == x.shape
    assert spare.backward(grad_output, input_gradient=False) is None
    for one, other in zip(full.parameters(), spare.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_an_empty_sequential_passes_everything_through():
    x = normal((2, 3), 0)
    assert torch.equal(Sequential()(x), x)
    assert torch.equal(Sequential().backward(x), x)


def test_sequential_refuses_a_layer_without_backward():
    with pytest.raises(ValueError, match=r"layers\[1\] is Flatten, which has no backward"):
        Sequential(Linear(2, 2), nn.Flatten())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0, 3), "in_features is 0; it must be a whole number >= 1"),
        (lambda: Linear(3, -1), "out_features is -1"),
        (lambda: Linear(3, 2.0), "out_features is 2.0"),
        (lambda: Embedding(0, 3), "num_embeddings is 0"),
        (lambda: Embedding(3, 0), "embedding_dim is 0"),
        (lambda: Dropout(1.5), "p is 1.5; it must be a probability"),
        (lambda: Dropout(float("nan")), "p is nan"),
        (lambda: Linear(3, 2)(torch.zeros(4, 2)), r"x has shape \(4, 2\); its last dim"),
        (lambda: Linear(3, 2)(torch.zeros(())), r"x has shape \(\)"),
        (lambda: Linear(3, 2)(torch.zeros(4, 3, dtype=torch.int64)), "x has dtype torch.int64"),
        (lambda: Embedding(3, 2)(torch.tensor([3])), "indices holds a number outside 0 to 2"),
        (lambda: Embedding(3, 2)(torch.tensor([-1])), "indices holds a number outside 0 to 2"),
        (lambda: Embedding(3, 2)(torch.tensor([0.5])), "indices has dtype torch.float32"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_sigmoid_slope_is_at_most_a_quarter():
    layer = Sigmoid()
    x = torch.linspace(-30, 30, 10001, dtype=torch.float64)
    layer(x)
    slope = layer.backward(torch.ones_like(x))
    assert slope.max() == 0.25
    assert slope.argmax() == 5000
