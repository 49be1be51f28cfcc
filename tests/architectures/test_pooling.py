"""Pooling by hand equals torch.nn, ties and padding included."""

from __future__ import annotations

import pytest
import torch
from architectures import cnn_checks as checks
from backprop.layer_checks import normal, same_as_torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from companion.architectures import pooling
from companion.architectures.im2col import Window
from companion.architectures.pooling import AvgPool2d, Flatten, MaxPool2d
from companion.backprop.base import ManualFunction


def test_max_pooling_equals_torch_ties_included():
    checks.check_max_pool(pooling)


def test_average_pooling_equals_torch():
    checks.check_average_pool(pooling)


@pytest.mark.parametrize("layer", [MaxPool2d, AvgPool2d])
@pytest.mark.parametrize("window", [Window.of(2, 2), Window.of(3, 2, 1)])
def test_gradcheck_accepts_the_pair(layer, window):
    x = torch.randperm(60).double().reshape(1, 3, 4, 5).requires_grad_()  # far from any tie

    def function(value):
        return ManualFunction.apply(layer, value, window)

    assert gradcheck(function, (x,))
    assert gradgradcheck(function, (x,))


def test_of_equal_maxima_the_first_takes_the_whole_gradient():
    layer = MaxPool2d(2)
    layer(torch.ones(1, 1, 2, 2))
    assert layer.backward(torch.ones(1, 1, 1, 1)).flatten().tolist() == [1, 0, 0, 0]


def test_a_pixel_that_wins_in_several_windows_adds_up_their_gradients():
    layer, x = MaxPool2d(2, stride=1), torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1.0
    layer(x)
    gradient = layer.backward(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    assert gradient[0, 0, 1, 1] == 10
    assert gradient.sum() == 10


def test_padding_never_wins_a_maximum():
    assert MaxPool2d(3, padding=1)(torch.full((1, 1, 3, 3), -5.0)).max() == -5


def test_a_nan_is_passed_on_and_not_hidden():
    x = torch.zeros(1, 1, 2, 4)
    x[0, 0, 1, 2] = float("nan")
    for ours, theirs in ((MaxPool2d(2), nn.MaxPool2d(2)), (AvgPool2d(2), nn.AvgPool2d(2))):
        assert torch.equal(ours(x).isnan(), theirs(x).isnan())
        assert ours(x).isnan().sum() == 1


def test_flatten_and_its_way_back_equal_torch():
    for shape in ((3, 2, 4, 5), (0, 2, 3, 3), (2, 7)):
        same_as_torch(Flatten(), nn.Flatten(), normal(shape, 0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxPool2d(0), "kernel_size=0: an integer of at least 1"),
        (lambda: AvgPool2d(2, 0), "stride=0"),
        (lambda: MaxPool2d(2, padding=2), "padding=2: at most half of kernel_size=2"),
        (lambda: AvgPool2d((4, 2), padding=2), r"padding=2: at most half of kernel_size=\(4, 2\)"),
        (lambda: MaxPool2d(2)(torch.zeros(4, 4)), r"x has shape \(4, 4\)"),
        (lambda: AvgPool2d(2)(torch.zeros(1, 1, 4, 4).long()), "x has dtype torch.int64"),
        (lambda: MaxPool2d(3)(torch.zeros(1, 1, 2, 2)), "kernel=3 with dilation=1 reaches over 3"),
    ],
)
def test_bad_input_is_refused_by_name_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
