"""The receptive field: the closed form against what gradients reach, on random networks."""

from __future__ import annotations

import pytest
import torch
from architectures.cnn_checks import pool_geometries, windows
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from companion.architectures.cnn import LeNet5
from companion.architectures.convolution import Conv2d
from companion.architectures.im2col import Window
from companion.architectures.pooling import AvgPool2d, MaxPool2d
from companion.architectures.receptive_field import ReceptiveField, influence, receptive_field


def conv(window: Window) -> nn.Conv2d:
    options = (window.kernel_size, window.stride, window.padding, window.dilation)
    return nn.Conv2d(1, 1, *options).double()


@settings(max_examples=60)
@given(st.lists(windows, min_size=1, max_size=3), st.data())
def test_the_closed_form_is_the_bounding_box_of_the_gradient(layers, data):
    size = (23, 19)
    network = nn.Sequential(*[conv(window) for window in layers])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(0.5, 1)  # positive weights: no two paths cancel
        output = network(torch.zeros(1, 1, *size).double()).shape[2:]
    position = tuple(data.draw(st.integers(0, extent - 1)) for extent in output)
    expected = receptive_field(network).pixels(*position, size)
    assume(all(len(pixels) for pixels in expected))
    seen = influence(network, (1, *size), position, images=1) > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assume(len(rows) > 0)
    for pixels, axis in zip(expected, (rows, columns), strict=True):
        # Dilated taps may skip the ends inside the image, never go beyond the box.
        assert pixels.start <= axis.min()
        assert axis.max() < pixels.stop
    if all(window.dilation == (1, 1) and s <= k for window in layers
           for s, k in zip(window.stride, window.kernel_size, strict=True)):  # fmt: skip
        assert (rows.min(), rows.max() + 1) == (expected[0].start, expected[0].stop)
        assert (columns.min(), columns.max() + 1) == (expected[1].start, expected[1].stop)


def test_three_three_by_three_kernels_see_seven_pixels():
    field = receptive_field([nn.Conv2d(1, 1, 3) for _ in range(3)])
    assert field == ReceptiveField((7, 7), (1, 1), (0, 0))


def test_the_last_map_of_lenet_5_sees_its_whole_image():
    """LeCun et al. (1998), II.B: C5's units see all of S4, here 28 x 28 with a frame of 2."""
    field = receptive_field(list(LeNet5().features)[:7])
    assert field == ReceptiveField((32, 32), (4, 4), (-2, -2))


@settings(max_examples=30)
@given(pool_geometries())
def test_our_layers_give_the_field_of_torchs(geometry):
    window, _ = geometry
    options = (window.kernel_size, window.stride, window.padding)
    ours = [Conv2d(1, 1, *options), MaxPool2d(*options), AvgPool2d(*options)]
    theirs = [
        nn.Conv2d(1, 1, *options),
        nn.ReLU(),
        nn.MaxPool2d(*options),
        nn.AvgPool2d(*options),
    ]
    assert receptive_field(ours) == receptive_field(theirs)


def test_max_pooling_is_measured_over_many_images():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2)).double()
    seen = influence(network, (1, 12, 12), (2, 3), images=200) > 0
    rows, columns = receptive_field(network).pixels(2, 3, (12, 12))
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[rows.start : rows.stop, columns.start : columns.stop] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: receptive_field([nn.ReLU(), nn.Linear(2, 2)]), r"layers\[1\] is Linear"),
        (lambda: receptive_field([nn.Conv2d(1, 1, 3, padding="same")]), "padding="),
        (lambda: influence(nn.Identity(), (1, 2, 2), (2, 0)), r"position=\(2, 0\): the output"),
        (lambda: influence(nn.Identity(), (1, 2, 2), (0, 0), images=0), "images=0"),
    ],
)
def test_bad_input_is_refused_by_name_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
