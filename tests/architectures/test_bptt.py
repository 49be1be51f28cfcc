"""Back-propagation through time, step by step and for all steps at once, against autograd."""

from __future__ import annotations

import pytest
import torch
from architectures import rnn_checks as checks
from architectures.rnn_checks import KINDS, TIGHT, normal
from torch.testing import assert_close

from companion.architectures import bptt
from companion.architectures.cells import RNNCell


def test_elman_equals_autograd_over_random_shapes():
    checks.check_elman(bptt)


@pytest.mark.parametrize("kind", KINDS)
def test_unrolled_cell_equals_torch_over_random_lengths(kind):
    checks.check_unroll(bptt, kind)


def test_all_steps_at_once_equal_one_step_after_the_other():
    x, h0, w_ih, w_hh = (
        normal((3, 7, 2), 0),
        normal((3, 4), 1),
        normal((4, 2), 2),
        normal((4, 4), 3),
    )
    b, grad_h = normal((4,), 4), normal((3, 7, 4), 5)
    h = bptt.elman(x, h0, w_ih, w_hh, b)
    one = bptt.elman_backward(grad_h, x, h, w_ih, w_hh)
    weights = (w_ih, w_hh, b, None)
    output, _, tape = bptt.unroll(RNNCell, x, (h0,), weights)
    assert_close(output, h[:, 1:], **TIGHT)
    end = (torch.zeros_like(h0),)
    grad_x, (grad_h0,), gradients = bptt.unroll_backward(RNNCell, grad_h, end, tape, weights)
    for ours, theirs in zip((grad_x, grad_h0, *gradients[:3]), one, strict=True):
        assert_close(ours, theirs, **TIGHT)
