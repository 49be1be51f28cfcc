"""Lion, against the paper's algorithm in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimization import adam_checks as checks
from torch import nn
from torch.testing import assert_close

from companion.optimization import lion


def test_lion_equals_the_papers_algorithm_in_numpy_over_fifty_steps():
    checks.check_lion(lion)


def test_the_naive_step_equals_numpy_too():
    ours = checks.follow_paper(lion.lion_step, count=False, buffers=1)
    grads = [
        (checks.normal((3, 4), t) * (1e-6 if t % 2 else 1)).numpy()
        for t in range(1, checks.STEPS + 1)
    ]
    begin = checks.normal((3, 4), 0).numpy()
    theirs, _ = checks.numpy_lion(begin, grads, [1e-4] * checks.STEPS, (0.9, 0.99), 0.0)
    assert isinstance(theirs, np.ndarray)
    assert_close(ours, torch.from_numpy(theirs), **checks.TIGHT)


@given(st.floats(1e-300, 1e300), st.floats(1e-6, 1))
def test_every_number_moves_by_lr_however_small_its_gradient(size, lr):
    theta = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    theta.grad = torch.tensor([size, -size, 0.0], dtype=torch.float64)
    lion.Lion([theta], lr=lr).step()
    assert torch.equal(theta.detach(), torch.tensor([-lr, lr, 0.0], dtype=torch.float64))
