"""The sliding window: sizes against torch, gather and scatter as transposes, bad input."""

from __future__ import annotations

import pytest
import torch
from architectures import cnn_checks as checks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from companion.architectures import im2col
from companion.architectures.im2col import Window, col2im, output_size

steps = st.integers(1, 5)


def test_im2col_and_col2im_are_transposes_and_equal_unfold_and_fold():
    checks.check_transpose(im2col)


@settings(max_examples=400)
@given(st.integers(1, 30), steps, steps, st.integers(0, 4), steps)
def test_output_size_equals_the_size_that_torch_produces(size, kernel, stride, padding, dilation):
    reach = dilation * (kernel - 1) + 1
    x, weight = torch.zeros(1, 1, size), torch.zeros(1, 1, kernel)
    if reach > size + 2 * padding:
        with pytest.raises(ValueError, match=f"kernel={kernel} .* reaches over {reach} pixels"):
            output_size(size, kernel, stride, padding, dilation)
        with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
            F.conv1d(x, weight, None, stride, padding, dilation)
        return
    expected = F.conv1d(x, weight, None, stride, padding, dilation).shape[2]
    assert output_size(size, kernel, stride, padding, dilation) == expected


@given(checks.geometries())
def test_taps_stay_inside_the_padded_image_and_count_the_outputs(geometry):
    window, size = geometry
    output = window.output_size(size)
    limits = [extent + 2 * pad for extent, pad in zip(size, window.padding, strict=True)]
    places = [tap[:2] for tap in window.taps(output)]
    assert places == [(u, v) for u in range(window.kernel_size[0])
                      for v in range(window.kernel_size[1])]  # fmt: skip
    for _, _, *slices in window.taps(output):
        for taken, limit, count in zip(slices, limits, output, strict=True):
            assert len(range(*taken.indices(limit))) == count
            assert taken.stop <= limit


def test_col2im_of_ones_counts_how_often_each_pixel_is_seen():
    window = Window.of(3)
    seen = col2im(torch.ones(1, 1, 3, 3, 2, 2), window, (4, 4))[0, 0]
    assert seen.tolist() == [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]


def test_the_padding_takes_the_value_asked_for():
    columns = im2col.im2col(torch.zeros(1, 1, 1, 1), Window.of(3, padding=1), fill=-7.0)
    assert columns.flatten().tolist() == [-7, -7, -7, -7, 0, -7, -7, -7, -7]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: output_size(0, 1), "size=0: an integer of at least 1"),
        (lambda: output_size(5, 0), "kernel=0"),
        (lambda: output_size(5, 3, 0), "stride=0"),
        (lambda: output_size(5, 3, 1, -1), "padding=-1: an integer of at least 0"),
        (lambda: output_size(5, 3, 1, 0, 0), "dilation=0"),
        (lambda: output_size(4, 5), "kernel=5 with dilation=1 reaches over 5 pixels; the input"),
        (lambda: Window.of((3, 3, 3)), r"kernel_size=\(3, 3, 3\): one integer or a pair"),
        (lambda: Window.of((3, 0)), "kernel_size=0"),
        (lambda: Window.of(3, 1.5), "stride=1.5"),
        (lambda: im2col.im2col(torch.zeros(4, 4), Window.of(2)), r"x has shape \(4, 4\)"),
        (lambda: im2col.im2col(torch.zeros(1, 1, 4, 4).long(), Window.of(2)), "torch.int64"),
        (lambda: im2col.im2col(torch.zeros(1, 1, 4, 1), Window.of(2)), "reaches over 2 pixels"),
    ],
)
def test_bad_input_is_refused_by_name_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
