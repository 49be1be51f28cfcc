"""The page's widespread mistake: it is one, as stated, and its cure is right."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimization.adam_checks import TIGHT, normal
from torch import Tensor, nn
from torch.testing import assert_close

from companion.optimization.adam import Adam, adam_step


def e13_step(
    theta: Tensor, g: Tensor, m: Tensor, v: Tensor, epoch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rate for β₁, β₁ for β₂, and both corrections by β₁ to the power of the epoch."""
    alpha, beta_1, epsilon = 0.001, 0.9, 1e-8
    m = alpha * m + (1 - alpha) * g
    v = beta_1 * v + (1 - beta_1) * g * g
    m_hat = m / (1 - beta_1**epoch)
    v_hat = v / (1 - beta_1**epoch)
    return theta - alpha * m_hat / (v_hat.sqrt() + epsilon), m, v


def test_e13_in_epoch_zero_plain_numbers_divide_by_zero():
    with pytest.raises(ZeroDivisionError):
        _ = 0.5 / (1 - 0.9**0)


@given(st.integers(1, 5), st.integers(0, 100))
def test_e13_in_epoch_zero_tensors_become_nan_in_silence(size, seed):
    g = normal((size,), seed)
    zero = torch.zeros_like(g)
    theta, *_ = e13_step(normal((size,), seed + 1), g, zero, zero, epoch=0)
    assert theta.isnan().all()


def test_e13_counted_from_one_the_first_step_is_still_not_adams():
    g, zero = normal((3,), 0), torch.zeros(3).double()
    theta, *_ = e13_step(zero, g, zero, zero, epoch=1)
    right, *_ = adam_step(zero, g, zero, zero, t=1)
    # m̂ = 0.999 g / 0.1 and v̂ = 0.1 g² / 0.1: ten times too far, less a thousandth.
    assert_close(theta / right, torch.full_like(theta, 9.99), rtol=1e-7, atol=0)


def test_e13_has_no_momentum_the_mean_is_the_last_gradient_to_a_thousandth():
    m = v = theta = torch.zeros(3).double()
    for t in range(1, 11):
        g = normal((3,), t)
        theta, m, v = e13_step(theta, g, m, v, epoch=1)
    assert_close(m, g, rtol=0.02, atol=0.01)


def test_e13_step_by_step_from_one_it_is_torchs_adam():
    theta = normal((3,), 0)
    reference, ours = nn.Parameter(theta.clone()), nn.Parameter(theta.clone())
    theirs, mine = torch.optim.Adam([reference]), Adam([ours])
    m = v = torch.zeros_like(theta)
    for t in range(1, 51):
        g = normal((3,), t)
        theta, m, v = adam_step(theta, g, m, v, t)
        reference.grad, ours.grad = g.clone(), g.clone()
        theirs.step()
        mine.step()
    assert_close(theta, reference.detach(), **TIGHT)
    assert_close(ours.detach(), reference.detach(), **TIGHT)
