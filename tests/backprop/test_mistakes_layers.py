"""The page's widespread mistakes: each is one, as stated, and its cure is right."""

from __future__ import annotations

import pytest
import torch
from backprop.layer_checks import TIGHT, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from companion.backprop import losses
from companion.backprop.layers import Linear, Sequential, Sigmoid
from companion.data.digits import Digits


def forward_that_forgets(x: Tensor, weight: Tensor) -> Tensor:
    pre_activation = x @ weight
    return torch.sigmoid(pre_activation)


def backward_out_of_thin_air(x: Tensor, weight: Tensor, a: Tensor, y: Tensor) -> Tensor:
    slope = torch.sigmoid(pre_activation) * (1 - torch.sigmoid(pre_activation))  # noqa: F821
    return slope @ weight.T


def test_e5_a_backward_pass_that_reads_the_forward_pass_s_locals_has_no_such_names():
    x, weight, y = normal((4, 3), 0), normal((3, 2), 1), torch.zeros(4, 2)
    a = forward_that_forgets(x, weight)
    with pytest.raises(NameError, match="pre_activation"):
        backward_out_of_thin_air(x, weight, a, y)


@given(st.integers(2, 6), st.integers(1, 5), st.integers(1, 5))
def test_e5_a_diagonal_over_the_whole_batch_cannot_meet_a_batch_of_rows(n, inputs, outputs):
    """(n, in) @ (n·out, n·out): the inner sizes agree only if in = n·out, by accident."""
    slope_times_weight = torch.zeros(n, inputs)
    jacobian = torch.diagflat(torch.zeros(n, outputs))
    assert jacobian.shape == (n * outputs, n * outputs)
    if inputs == n * outputs:
        assert (slope_times_weight @ jacobian).shape == (n, inputs)
        return
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        slope_times_weight @ jacobian


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
def test_e5_vector_jacobian_products_of_what_was_kept_are_the_gradients(n, inputs, outputs, seed):
    x, grad_a = normal((n, inputs), seed), normal((n, outputs), seed + 1)
    layer = Sequential(Linear(inputs, outputs), Sigmoid()).double()
    leaf = x.clone().requires_grad_()
    layer(leaf).backward(grad_a)
    expected = [leaf.grad, layer[0].weight.grad, layer[0].bias.grad]
    layer.zero_grad()
    layer(x)
    gradients = [layer.backward(grad_a), layer[0].weight.grad, layer[0].bias.grad]
    for value, gradient, autograds in zip(
        (x, layer[0].weight, layer[0].bias), gradients, expected, strict=True
    ):
        assert gradient.shape == value.shape
        assert_close(gradient, autograds, **TIGHT)


@given(st.floats(-1e6, 1e6))
def test_e14_a_sigmoid_of_a_sigmoid_never_answers_less_than_one_half(z):
    twice = torch.sigmoid(torch.sigmoid(torch.tensor(z, dtype=torch.float64)))
    assert 0.5 <= twice <= 0.7310585786300049


def yes_or_no(times: int) -> tuple[Tensor, Tensor]:
    """Train one neuron for "is it an 8?", with the activation applied `times` times."""
    data = Digits(flatten=True, dtype=torch.float64)
    data.setup()
    x, labels = data.train
    y = (labels == 8).double().unsqueeze(1)
    weight, bias = torch.zeros(64, 1).double(), torch.zeros(1).double()
    for _ in range(200):
        inner = losses.sigmoid(x @ weight + bias)
        answer = inner if times == 1 else losses.sigmoid(inner)
        delta = (answer - y) / len(x) * (1 if times == 1 else inner * (1 - inner))
        weight, bias = weight - 0.5 * x.T @ delta, bias - 0.5 * delta.sum(0)
    return answer, y


def test_e14_applied_twice_it_says_yes_to_everything_and_applied_once_it_learns():
    answer, y = yes_or_no(2)
    assert (answer >= 0.5).all()
    assert (((answer > 0.5) != (y == 1)).double().mean()) > 0.85
    answer, y = yes_or_no(1)
    assert answer.min() < 0.01
    assert (((answer > 0.5) != (y == 1)).double().mean()) < 0.05


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_e14_x_transposed_delta_fails_or_is_one_number_and_the_outer_product_is_right(
    inputs, outputs, seed
):
    weight = normal((outputs, inputs), seed).requires_grad_()
    x, delta = normal((inputs, 1), seed + 1), normal((outputs, 1), seed + 2)
    (weight @ x).backward(delta)
    if inputs == outputs:
        wrong = x.T @ delta
        assert wrong.shape == (1, 1)
        moved = weight.detach() - 0.1 * wrong  # broadcasts in silence
        assert_close(weight.detach() - moved, (0.1 * wrong).expand(outputs, inputs))
        if inputs > 1:
            assert not torch.allclose(wrong.expand(outputs, inputs), weight.grad)
    else:
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            x.T @ delta
    assert_close(delta @ x.T, weight.grad, **TIGHT)


def test_e14_in_the_batch_form_it_is_the_inputs_transposed_times_delta():
    weight = normal((3, 2), 0).requires_grad_()
    x, delta = normal((5, 3), 1), normal((5, 2), 2)
    (x @ weight).backward(delta)
    assert_close(x.T @ delta, weight.grad, **TIGHT)
    columns = sum(torch.outer(x[i], delta[i]) for i in range(5))
    assert_close(columns, weight.grad, **TIGHT)
