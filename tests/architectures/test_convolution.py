"""Convolution by hand equals torch.nn and SciPy: values, gradients, second derivatives."""

from __future__ import annotations

import pytest
import torch
from architectures import cnn_checks as checks
from backprop.layer_checks import TIGHT, normal, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from companion.architectures import convolution
from companion.architectures.convolution import (
    Conv2d,
    conv2d_backward_loop,
    conv2d_loop,
    cross_correlation,
)
from companion.architectures.im2col import Window
from companion.backprop.base import ManualFunction


def test_conv2d_equals_torch_over_random_geometries_and_groups():
    checks.check_conv2d(convolution)


def test_the_loops_equal_torch_forward_and_backward():
    checks.check_loop(convolution)


def test_the_input_gradient_is_a_convolution_with_flipped_kernels():
    checks.check_input_gradient(convolution)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(1, 4), seeds)
def test_correlation_and_convolution_equal_scipy(height, width, kernel_height, kernel_width, seed):
    x = normal((height + kernel_height - 1, width + kernel_width - 1), seed)
    kernel = normal((kernel_height, kernel_width), seed + 1)
    for ours, theirs in (
        (cross_correlation, signal.correlate2d),
        (convolution.convolution, signal.convolve2d),
    ):
        expected = torch.from_numpy(theirs(x.numpy(), kernel.numpy(), mode="valid"))
        assert_close(ours(x, kernel), expected, **TIGHT)


def test_convolution_commutes_with_its_kernel_and_correlation_does_not():
    """Over all overlaps ("full"): the property that gives convolution its flip."""
    x, kernel = normal((3, 3), 0), normal((3, 3), 1)

    def full(function, one, other):
        return function(nn.functional.pad(one, (2, 2, 2, 2)), other)

    flip = convolution.convolution
    assert_close(full(flip, x, kernel), full(flip, kernel, x), **TIGHT)
    one, other = full(cross_correlation, x, kernel), full(cross_correlation, kernel, x)
    assert not torch.allclose(one, other)
    assert_close(one, other.flip(0, 1), **TIGHT)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("window", [Window.of(3, 2, 1), Window.of((2, 3), 1, (1, 0), (2, 1))])
def test_gradcheck_accepts_the_pair(window, groups):
    shapes = [(2, 2, 5, 4), (4, 2 // groups, *window.kernel_size), (4,)]
    inputs = [normal(shape, seed).requires_grad_() for seed, shape in enumerate(shapes)]

    def function(*values):
        return ManualFunction.apply(Conv2d, *values, window, groups)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@settings(max_examples=25)
@given(checks.geometries(), checks.channels, seeds)
def test_the_matrix_products_equal_the_loops(geometry, numbers, seed):
    x, weight, bias, window, groups = checks.draw_case(geometry, numbers, seed)
    y = convolution.conv2d_forward(x, weight, bias, window, groups)
    assert_close(y, conv2d_loop(x, weight, bias, window, groups), **TIGHT)
    delta = normal(tuple(y.shape), seed + 3)
    arguments = (delta, x, weight, window, groups)
    for one, other in zip(
        convolution.conv2d_backward(*arguments), conv2d_backward_loop(*arguments), strict=True
    ):
        assert_close(one, other, **TIGHT)


def test_the_same_seed_gives_the_weights_of_torch_and_state_dicts_go_both_ways():
    torch.manual_seed(3)
    ours = Conv2d(4, 6, (3, 5), groups=2)
    torch.manual_seed(3)
    theirs = nn.Conv2d(4, 6, (3, 5), groups=2)
    assert_close(ours.weight, theirs.weight)
    assert_close(ours.bias, theirs.bias)
    ours.load_state_dict(nn.Conv2d(4, 6, (3, 5), groups=2).state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 7, 7)
    assert_close(ours(x), theirs(x))


def test_the_gradient_of_the_images_can_be_left_out():
    x, window = normal((2, 3, 6, 6), 0), {"stride": 2, "padding": 1}
    full, spare = (Conv2d(3, 4, 3, **window).double() for _ in range(2))
    spare.load_state_dict(full.state_dict())
    delta = normal(tuple(full(x).shape), 1)
    spare(x)
    assert full.backward(delta).shape == x.shape
    assert spare.backward(delta, input_gradient=False) is None
    assert torch.equal(full.weight.grad, spare.weight.grad)
    assert torch.equal(full.bias.grad, spare.bias.grad)


def test_float32_agrees_within_the_defaults_of_assert_close():
    torch.manual_seed(0)
    ours, theirs = Conv2d(8, 16, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 8, 14, 14)
    assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv2d(0, 3, 3), "in_channels=0: an integer of at least 1"),
        (lambda: Conv2d(3, 0, 3), "out_channels=0"),
        (lambda: Conv2d(3, 3, 0), "kernel_size=0"),
        (lambda: Conv2d(3, 3, 3, stride=0), "stride=0"),
        (lambda: Conv2d(3, 3, 3, padding=-1), "padding=-1"),
        (lambda: Conv2d(3, 3, 3, dilation=0), "dilation=0"),
        (lambda: Conv2d(3, 3, 3, groups=0), "groups=0"),
        (lambda: Conv2d(3, 4, 3, groups=2), "groups=2: it must divide in_channels=3"),
        (lambda: Conv2d(4, 3, 3, groups=2), "groups=2: it must divide out_channels=3"),
        (lambda: Conv2d(3, 4, 3)(torch.zeros(2, 1, 5, 5)), r"x has shape \(2, 1, 5, 5\)"),
        (lambda: Conv2d(3, 4, 3)(torch.zeros(3, 5, 5)), r"\(batch, 3, H, W\) is needed"),
        (lambda: Conv2d(1, 1, 3)(torch.zeros(1, 1, 5, 5).int()), "x has dtype torch.int32"),
        (lambda: Conv2d(1, 1, 3)(torch.zeros(1, 1, 2, 5)), "kernel=3 with dilation=1 reaches"),
        (lambda: cross_correlation(torch.zeros(2, 2), torch.zeros(3, 3)), "reaches over 3"),
    ],
)
def test_bad_input_is_refused_by_name_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
