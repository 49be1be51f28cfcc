"""Clipping by norm, against torch.nn.utils.clip_grad_norm_."""

from __future__ import annotations

import pytest
import torch
from architectures import rnn_checks as checks
from torch import nn
from torch.testing import assert_close

from companion.architectures import clipping
from companion.architectures.clipping import clip_grad_norm_


def test_clipping_equals_torch_s_over_random_gradients():
    checks.check_clipping(clipping)


def test_the_direction_stays_and_a_short_gradient_is_left_alone():
    weight = nn.Parameter(torch.zeros(2).double())
    weight.grad = torch.tensor([30.0, 40.0]).double()
    assert_close(clip_grad_norm_([weight], 5.0).item(), 50.0)
    assert_close(weight.grad, torch.tensor([3.0, 4.0]).double(), rtol=1e-6, atol=0)
    before = weight.grad.clone()
    clip_grad_norm_([weight], 100.0)
    assert torch.equal(weight.grad, before)


def test_parameters_without_gradient_are_passed_over():
    assert clip_grad_norm_([nn.Parameter(torch.zeros(2))], 1.0) == 0


def test_a_norm_of_zero_gives_no_nan():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.zeros(2)
    clip_grad_norm_([weight], 1.0)
    assert not weight.grad.any()


@pytest.mark.parametrize("max_norm", [0, -1.0, float("nan")])
def test_a_norm_that_is_not_positive_is_refused(max_norm):
    with pytest.raises(ValueError, match="max_norm=.*a positive number is needed"):
        clip_grad_norm_([], max_norm)
