"""Adam, AMSGrad and AdamW: equal to torch.optim, to the papers, and to what theory says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimization import adam_checks as checks
from torch import nn
from torch.testing import assert_close

from companion.optimization import adam


def test_adam_equals_torch_over_fifty_steps():
    checks.check_adam(adam)


def test_amsgrad_equals_torch_over_fifty_steps():
    checks.check_amsgrad(adam)


def test_adamw_equals_torch_over_fifty_steps():
    checks.check_adamw(adam)


def test_the_papers_adam_step_equals_torch():
    ours = checks.follow_paper(adam.adam_step, count=True, buffers=2)
    assert_close(ours, checks.follow_torch(torch.optim.Adam), **checks.TIGHT)


def test_the_papers_adamw_step_equals_torch():
    ours = checks.follow_paper(adam.adamw_step, count=True, buffers=2)
    assert_close(ours, checks.follow_torch(torch.optim.AdamW), **checks.TIGHT)


@pytest.mark.parametrize("t", [0, -1, 0.5])
def test_a_step_counter_below_one_is_refused(t):
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match=r"t=.*an integer of at least 1"):
        adam.adam_step(zero, zero, zero, zero, t)


@given(st.floats(1e-4, 1e4), st.sampled_from((-1, 1)), st.floats(1e-4, 1))
def test_the_first_step_is_lr_whatever_the_gradient(size, sign, lr):
    theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    theta.grad = torch.tensor([sign * size], dtype=torch.float64)
    adam.Adam([theta], lr=lr).step()
    expected = -lr * sign / (1 + 1e-8 / size)
    assert_close(theta.item(), expected, rtol=1e-10, atol=0)


def test_our_state_goes_into_torchs_adam_and_back():
    """The names and meanings are torch's, so a checkpoint of one goes on under the other."""
    ours, theirs = checks.start(checks.SHAPES), checks.start(checks.SHAPES)
    one, two = adam.Adam(ours, lr=0.01), torch.optim.Adam(theirs, lr=0.01)
    for step, grads in enumerate(checks.gradients(checks.SHAPES)):
        if step == 25:
            swapped = one.state_dict(), two.state_dict()
            one, two = adam.Adam(ours, lr=0.01), torch.optim.Adam(theirs, lr=0.01)
            two.load_state_dict(swapped[0] | {"param_groups": swapped[1]["param_groups"]})
            one.load_state_dict(swapped[1])
        for params in (ours, theirs):
            checks.set_gradients(params, grads)
        one.step()
        two.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine.detach(), other.detach(), **checks.TIGHT)


@pytest.mark.parametrize(("amsgrad", "end"), [(False, 1.0), (True, -1.0)])
def test_adam_flees_the_optimum_of_reddi_and_colleagues_and_amsgrad_finds_it(amsgrad, end):
    """Their theorem 1 with C = 3: slopes 3, −1, −1 in turn, mean 1/3, on [−1, 1]."""
    theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = adam.Adam([theta], lr=0.1, betas=(0.0, 0.1), amsgrad=amsgrad)
    path = []
    for t in range(1, 3001):
        optimizer.param_groups[0]["lr"] = 0.1 / t**0.5
        theta.grad = torch.full_like(theta, 3.0 if t % 3 == 1 else -1.0)
        optimizer.step()
        theta.data.clamp_(-1, 1)
        path.append(theta.item())
    assert all(abs(place - end) < 0.01 for place in path[-300:])
