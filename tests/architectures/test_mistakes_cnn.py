"""The page's widespread mistakes: each is one, as stated, and its cure is right."""

from __future__ import annotations

import pytest
import torch
from backprop.layer_checks import TIGHT, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from companion.architectures.cnn import SmallCNN
from companion.architectures.convolution import convolution, cross_correlation


def pooled_features() -> nn.Module:
    """Two convolutions and two poolings of 2 x 2: 28 x 28 becomes 64 maps of 7 x 7."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    )


def test_e6_two_poolings_leave_a_sixteenth_of_the_pixels():
    assert pooled_features()(torch.zeros(1, 1, 28, 28)).shape == (1, 64, 7, 7)
    assert 64 * 28 * 28 == 16 * 64 * 7 * 7


@pytest.mark.parametrize("batch", [1, 5, 15, 17, 100])
def test_e6_a_batch_that_16_does_not_divide_raises(batch):
    maps = pooled_features()(torch.zeros(batch, 1, 28, 28))
    with pytest.raises(RuntimeError, match="shape '.*' is invalid for input of size"):
        maps.view(-1, 64 * 28 * 28)


@pytest.mark.parametrize("batch", [16, 32, 64])
def test_e6_a_batch_that_16_divides_is_merged_sixteen_images_to_a_row_in_silence(batch):
    maps = pooled_features()(torch.randn(batch, 1, 28, 28))
    rows = maps.view(-1, 64 * 28 * 28)
    assert rows.shape == (batch // 16, 64 * 28 * 28)
    assert torch.equal(rows[0], maps[:16].flatten())
    logits = nn.Linear(64 * 28 * 28, 10)(rows)
    assert len(logits) == batch // 16
    with pytest.raises(ValueError, match="Expected input batch_size"):
        F.cross_entropy(logits, torch.zeros(batch, dtype=torch.int64))


@pytest.mark.parametrize("batch", [1, 5, 16, 32])
def test_e6_flattening_from_axis_1_keeps_one_row_an_image(batch):
    assert SmallCNN().classifier.in_features == 64 * 7 * 7
    assert pooled_features()(torch.zeros(batch, 1, 28, 28)).flatten(1).shape == (batch, 64 * 7 * 7)
    assert SmallCNN()(torch.zeros(batch, 1, 28, 28)).shape == (batch, 10)


def by_the_quoted_formula(x: Tensor, w: Tensor) -> Tensor:
    """y_ij = Σ_ij x_ij w_ij: the sum runs over the output's own indices."""
    i = j = slice(None)
    return (x[i, j] * w[i, j]).sum()


def test_e8_summing_over_the_outputs_own_indices_needs_a_kernel_as_large_as_the_image():
    with pytest.raises(RuntimeError, match="must match the size"):
        by_the_quoted_formula(normal((5, 5), 0), normal((3, 3), 1))
    assert by_the_quoted_formula(normal((5, 5), 0), normal((5, 5), 1)).ndim == 0


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(0, 99)
)
def test_e8_the_sum_written_right_is_what_the_library_computes(kh, kw, more, other, seed):
    x, w = normal((kh + more, kw + other), seed), normal((kh, kw), seed + 1)
    ours = torch.zeros(more + 1, other + 1, dtype=torch.float64)
    for i in range(more + 1):
        for j in range(other + 1):
            ours[i, j] = sum(w[u, v] * x[i + u, j + v] for u in range(kh) for v in range(kw))
    assert_close(ours, F.conv2d(x[None, None], w[None, None])[0, 0], **TIGHT)
    assert_close(ours, cross_correlation(x, w), **TIGHT)


def test_e8_convolution_and_cross_correlation_differ_by_the_flip():
    x, w = normal((6, 6), 0), normal((3, 3), 1)
    assert not torch.allclose(convolution(x, w), cross_correlation(x, w))
    assert_close(convolution(x, w.flip(0, 1)), cross_correlation(x, w), **TIGHT)
    even = w + w.flip(0, 1)
    assert_close(convolution(x, even), cross_correlation(x, even), **TIGHT)


@settings(max_examples=4)
@given(st.integers(0, 1000))
def test_e8_the_kernel_learnt_with_the_flip_is_the_flip_of_the_other(seed):
    images, truth = normal((8, 9, 9), seed), normal((3, 3), seed + 1)
    learnt = []
    for function in (cross_correlation, convolution):
        kernel = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([kernel], lr=0.2)
        for _ in range(150):
            optimizer.zero_grad()
            errors = [function(x, kernel) - cross_correlation(x, truth) for x in images[:2]]
            torch.stack(errors).square().mean().backward()
            optimizer.step()
        learnt.append(kernel.detach())
    assert_close(learnt[0], truth, rtol=1e-6, atol=1e-6)
    assert_close(learnt[0], learnt[1].flip(0, 1), **TIGHT)
