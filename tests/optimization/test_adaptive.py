"""AdaGrad and RMSProp: equal to torch.optim, and to the papers' formulas."""

from __future__ import annotations

import torch
from optimization import adam_checks as checks
from torch import nn
from torch.testing import assert_close

from companion.optimization import adaptive


def test_adagrad_equals_torch_over_fifty_steps():
    checks.check_adagrad(adaptive)


def test_rmsprop_equals_torch_over_fifty_steps_also_centred_and_with_momentum():
    checks.check_rmsprop(adaptive)


def test_the_papers_adagrad_step_equals_torch():
    ours = checks.follow_paper(adaptive.adagrad_step, count=False, buffers=1)
    theirs = checks.follow_torch(lambda params: torch.optim.Adagrad(params, lr=0.01))
    assert_close(ours, theirs, **checks.TIGHT)


def test_the_lectures_rmsprop_step_equals_torch():
    ours = checks.follow_paper(adaptive.rmsprop_step, count=False, buffers=1)
    theirs = checks.follow_torch(lambda params: torch.optim.RMSprop(params, lr=0.01))
    assert_close(ours, theirs, **checks.TIGHT)


def test_adagrad_never_takes_a_longer_step_for_the_same_gradient():
    theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = adaptive.Adagrad([theta], lr=1.0)
    steps = []
    for _ in range(10):
        before = theta.item()
        theta.grad = torch.ones_like(theta)
        optimizer.step()
        steps.append(before - theta.item())
    expected = [1 / t**0.5 for t in range(1, 11)]
    assert_close(torch.tensor(steps), torch.tensor(expected), rtol=1e-6, atol=0)


def test_centred_rmsprop_survives_a_gradient_that_never_changes():
    """Its variance is 0, and rounding must not make it negative under the root."""
    theta = nn.Parameter(torch.zeros(1000))
    optimizer = adaptive.RMSprop([theta], lr=1e-3, alpha=0.5, centered=True)
    grad = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    for _ in range(300):
        theta.grad = grad.clone()
        optimizer.step()
    assert torch.isfinite(theta).all()
