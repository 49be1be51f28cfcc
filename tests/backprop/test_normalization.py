"""Layer and batch normalisation equal torch.nn: training, evaluation, running statistics."""

from __future__ import annotations

import pytest
import torch
from backprop import layer_checks as checks
from backprop.layer_checks import TIGHT, normal, reference_function, seeds
from hypothesis import given
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.func import jacrev
from torch.testing import assert_close

from companion.backprop import normalization
from companion.backprop.base import ManualFunction
from companion.backprop.normalization import BatchNorm1d, LayerNorm, moments, normalize_backward


def test_layer_norm_equals_torch_over_random_shapes():
    checks.check_layer_norm(normalization)


def test_batch_norm_equals_torch_in_training_and_evaluation():
    checks.check_batch_norm(normalization)


@given(seeds)
def test_layer_norm_far_from_zero_equals_autograd_on_its_definition(seed):
    """nn.LayerNorm computes x·s − μ·s and loses digits there; x − μ first keeps them."""
    x = (normal((4, 8), seed) + 100).requires_grad_()
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    grad_output = normal((4, 8), seed + 1)
    layer = LayerNorm(8).double()
    assert_close(layer(x.detach()).detach(), expected.detach(), **TIGHT)
    assert_close(layer.backward(grad_output), grad(expected, x, grad_output)[0], **TIGHT)


def inputs_for(seed: int) -> tuple[torch.Tensor, ...]:
    shapes = (5, 3), (3,), (3,)
    return tuple(normal(shape, seed + i).requires_grad_() for i, shape in enumerate(shapes))


@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm1d"])
def test_gradcheck_accepts_the_pair(name):
    layer = getattr(normalization, name)
    assert gradcheck(lambda *i: ManualFunction.apply(layer, *i), inputs_for(0))
    assert gradgradcheck(lambda *i: ManualFunction.apply(layer, *i), inputs_for(0))


@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm1d"])
def test_second_derivatives_equal_autograd(name):
    @given(seeds)
    def run(seed: int) -> None:
        inputs, results = inputs_for(seed), []
        for function in (
            lambda *i: ManualFunction.apply(getattr(normalization, name), *i),
            reference_function(name),
        ):
            y = function(*inputs)
            first = grad((y * y.sin()).sum(), inputs, create_graph=True)
            results.append(grad(sum(g.sin().sum() for g in first), inputs))
        for ours, theirs in zip(*results, strict=True):
            assert_close(ours, theirs, **TIGHT)

    run()


def test_the_three_terms_equal_the_jacobian_written_out():
    """J[j, i] = inv_std (δ_ij − 1/n − x̂ᵢ x̂ⱼ/n), and autograd finds the same J."""
    x, g = normal((6,), 0), normal((6,), 1)
    mean, variance = moments(x, (0,))
    inv_std = (variance + 1e-5).rsqrt()
    x_hat = (x - mean) * inv_std
    jacobian = inv_std * (torch.eye(6, dtype=x.dtype) - 1 / 6 - torch.outer(x_hat, x_hat) / 6)
    assert_close(normalize_backward(g, x_hat, inv_std, (0,)), g @ jacobian, **TIGHT)
    assert_close(
        jacrev(lambda x: (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt())(x), jacobian, **TIGHT
    )


def test_the_input_gradient_is_orthogonal_to_shift_and_scale():
    """A normalised output does not feel x + c nor (ε apart) c·x, so neither may the gradient."""
    x, grad_output = normal((64, 3), 0), normal((64, 3), 1)
    layer = BatchNorm1d(3, eps=1e-30).double()
    layer(x)
    grad_x = layer.backward(grad_output)
    assert grad_x.sum(0).abs().max() < 1e-12
    assert (grad_x * x).sum(0).abs().max() < 1e-12


def test_evaluation_uses_the_running_statistics_and_leaves_them_alone():
    layer = BatchNorm1d(3).double()
    layer(normal((8, 3), 0) * 5 + 2)
    layer.eval()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = normal((1, 3), 1)
    expected = (x - layer.running_mean) / (layer.running_var + layer.eps).sqrt()
    assert_close(layer(x), expected * layer.weight + layer.bias, **TIGHT)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_running_variance_is_the_unbiased_one():
    layer = BatchNorm1d(3, momentum=1.0).double()
    x = normal((5, 3), 0)
    layer(x)
    assert_close(layer.running_var, x.var(0, correction=1), **TIGHT)
    assert_close(layer.running_mean, x.mean(0), **TIGHT)


def test_an_empty_batch_changes_no_statistics_and_gives_zero_gradients():
    layer, twin = BatchNorm1d(3), nn.BatchNorm1d(3)
    for each in (layer, twin):
        each(torch.empty(0, 3))
    for name, value in twin.state_dict().items():
        assert_close(layer.state_dict()[name], value)
    assert layer.backward(torch.empty(0, 3)).shape == (0, 3)
    assert not layer.weight.grad.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchNorm1d(3)(torch.zeros(1, 3)), "needs more than one value per channel"),
        (lambda: BatchNorm1d(3)(torch.zeros(1, 3, 1)), "needs more than one value per channel"),
        (lambda: BatchNorm1d(3)(torch.zeros(4, 2)), r"x has shape \(4, 2\); it must be \(batch, 3"),
        (lambda: BatchNorm1d(3)(torch.zeros(3)), r"x has shape \(3,\)"),
        (lambda: BatchNorm1d(3)(torch.zeros(2, 3, 1, 1)), r"x has shape \(2, 3, 1, 1\)"),
        (lambda: BatchNorm1d(3)(torch.zeros(4, 3, dtype=torch.int64)), "x has dtype torch.int64"),
        (lambda: BatchNorm1d(0), "num_features is 0"),
        (lambda: BatchNorm1d(3, eps=0), "eps is 0; it must be > 0"),
        (lambda: BatchNorm1d(3, momentum=2), "momentum is 2; it must lie between 0 and 1"),
        (lambda: LayerNorm(3)(torch.zeros(4, 2)), r"x has shape \(4, 2\); its last dimensions"),
        (lambda: LayerNorm((4, 3))(torch.zeros(3)), r"x has shape \(3,\)"),
        (lambda: LayerNorm(()), r"normalized_shape is \(\)"),
        (lambda: LayerNorm((3, 0)), "normalized_shape is 0"),
        (lambda: LayerNorm(3, eps=-1), "eps is -1; it must be > 0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_torch_refuses_one_value_per_channel_too():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm1d(3)(torch.zeros(1, 3))


def test_layer_norm_of_a_single_feature_is_its_bias_and_has_no_gradient():
    layer = LayerNorm(1).double()
    assert not layer(normal((4, 1), 0) + 1000).any()
    assert not layer.backward(normal((4, 1), 1)).any()


def test_one_channel_value_is_fine_in_evaluation():
    layer = BatchNorm1d(3).eval()
    assert layer(torch.zeros(1, 3)).shape == (1, 3)
    assert_close(layer.backward(torch.ones(1, 3)), torch.full((1, 3), (1 + 1e-5) ** -0.5))
