"""Batch norm of images equals torch.nn.BatchNorm2d, buffers included, in training and after it."""

from __future__ import annotations

import pytest
import torch
from architectures import cnn_checks as checks
from backprop.layer_checks import TIGHT, normal
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from companion.architectures import batch_norm
from companion.architectures.batch_norm import BatchNorm2d
from companion.backprop.base import ManualFunction
from companion.backprop.normalization import BatchNorm1d


def test_batch_norm_equals_torch_in_training_and_evaluation_buffers_included():
    checks.check_batch_norm(batch_norm)


def test_gradcheck_accepts_the_pair():
    inputs = [
        normal(shape, i).requires_grad_() for i, shape in enumerate(((3, 2, 2, 3), (2,), (2,)))
    ]

    def function(*values):
        return ManualFunction.apply(BatchNorm2d, *values)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_it_is_the_one_dimensional_layer_over_pixels_in_a_row():
    x = normal((4, 3, 2, 5), 0)
    two, one = BatchNorm2d(3).double(), BatchNorm1d(3).double()
    assert_close(two(x), one(x.flatten(2)).view_as(x), **TIGHT)
    delta = normal((4, 3, 2, 5), 1)
    assert_close(two.backward(delta), one.backward(delta.flatten(2)).view_as(x), **TIGHT)


def test_the_running_mean_after_t_equal_batches_is_the_closed_form():
    """running = (1 − (1 − a)^t) · μ from a start at 0."""
    x, momentum = normal((5, 2, 3, 3), 0) + 4, 0.3
    layer = BatchNorm2d(2, momentum=momentum).double()
    for _ in range(7):
        layer(x)
    assert_close(layer.running_mean, (1 - (1 - momentum) ** 7) * x.mean((0, 2, 3)), **TIGHT)


def test_momentum_none_gives_the_mean_over_all_batches():
    layer, batches = (
        BatchNorm2d(2, momentum=None).double(),
        [normal((3, 2, 2, 2), i) for i in range(6)],
    )
    for x in batches:
        layer(x)
    expected = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    assert_close(layer.running_mean, expected, **TIGHT)


def test_in_evaluation_images_do_not_see_each_other_and_in_training_they_do():
    layer = BatchNorm2d(2).double()
    x = normal((4, 2, 3, 3), 0)
    changed = x.clone()
    changed[0] += 5
    assert not torch.allclose(layer(x)[1:], layer(changed)[1:])
    layer.eval()
    assert torch.equal(layer(x)[1:], layer(changed)[1:])


def test_state_dicts_go_both_ways():
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    ours(torch.randn(4, 3, 2, 2))
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert theirs.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchNorm2d(0), "num_features is 0; it must be a whole number >= 1"),
        (lambda: BatchNorm2d(3, eps=0), "eps is 0; it must be > 0"),
        (lambda: BatchNorm2d(3, momentum=1.5), "momentum is 1.5; it must lie between 0 and 1"),
        (lambda: BatchNorm2d(3)(torch.zeros(2, 3)), r"x has shape \(2, 3\)"),
        (lambda: BatchNorm2d(3)(torch.zeros(2, 4, 5, 5)), r"\(batch, 3, H, W\) is needed"),
        (lambda: BatchNorm2d(3)(torch.zeros(1, 3, 1, 1)), "more than one value per channel"),
    ],
)
def test_bad_input_is_refused_by_name_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
