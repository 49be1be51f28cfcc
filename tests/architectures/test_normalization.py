"""RMS normalisation equals torch.nn.RMSNorm, forward and backward."""

from __future__ import annotations

import pytest
import torch
from architectures import transformer_checks as checks
from backprop.layer_checks import TIGHT, normal
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from companion.architectures import normalization as module
from companion.architectures.normalization import RMSNorm, rms_norm
from companion.backprop.base import ManualFunction


def test_rms_norm_by_hand_and_fused_equals_torch():
    checks.check_rms_norm(module)


def test_gradcheck_accepts_the_backward_pass_by_hand():
    leaves = normal((3, 4), 0).requires_grad_(), normal((4,), 1).requires_grad_()
    assert gradcheck(lambda x, w: ManualFunction.apply(RMSNorm, x, w, 1e-3), leaves)
    assert gradgradcheck(lambda x, w: ManualFunction.apply(RMSNorm, x, w, 1e-3), leaves)


def test_the_scale_of_the_input_does_not_matter_and_its_mean_stays():
    x = normal((4, 6), 0) + 3
    assert_close(rms_norm(10 * x, torch.ones(6).double(), 1e-12), rms_norm(x, torch.ones(6), 1e-12))
    y = rms_norm(x, torch.ones(6).double(), 1e-12)
    assert_close(y.square().mean(-1), torch.ones(4).double(), rtol=1e-10, atol=0)
    assert (y.mean(-1) > 0.5).all()


def test_on_centred_input_it_is_layer_norm():
    x = normal((4, 6), 0)
    x = x - x.mean(-1, keepdim=True)
    assert_close(RMSNorm(6).double()(x), torch.nn.LayerNorm(6).double()(x), **TIGHT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RMSNorm(0), "embed_dim=0"),
        (lambda: RMSNorm(4, eps=0), "eps is 0; it must be > 0"),
        (lambda: RMSNorm(4)(torch.zeros(2, 3)), r"x has shape \(2, 3\); its last dim"),
        (lambda: RMSNorm(4)(torch.zeros(2, 4).long()), "x has dtype torch.int64"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
