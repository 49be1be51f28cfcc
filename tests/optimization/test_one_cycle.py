"""The one-cycle schedule's own arguments; its numbers are compared in test_schedules.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from companion.optimization.one_cycle import OneCycle, one_cycle, one_cycle_momentum


def test_momentum_is_lowest_where_the_rate_is_highest():
    rates = [one_cycle(step, total_steps=100) for step in range(100)]
    momenta = [one_cycle_momentum(step, total_steps=100) for step in range(100)]
    assert rates.index(max(rates)) == momenta.index(min(momenta)) == 29
    assert (rates[29], momenta[29]) == (1.0, 0.85)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 2}, "warmup_fraction=0.3: a number between 1 / total_steps"),
        ({"total_steps": 10, "warmup_fraction": 0.95}, "warmup_fraction=0.95: a number between"),
        ({"total_steps": 10, "start": 2}, "start=2: a number in"),
        ({"total_steps": 10, "end": -0.1}, "end=-0.1: a number in"),
    ],
)
def test_impossible_cycles_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{message}"):
        one_cycle(0, **options)


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.8), (-0.1, 0.9), (0.5, 1.0)])
def test_impossible_momenta_are_refused(low: float, high: float):
    with pytest.raises(ValueError, match=r"^(low|high)="):
        one_cycle_momentum(0, total_steps=10, low=low, high=high)


def test_an_optimizer_without_momentum_is_refused_unless_momentum_is_left_alone():
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ValueError, match="Adagrad has neither momentum nor betas"):
        OneCycle(optimizer, total_steps=10)
    OneCycle(optimizer, total_steps=10, momentum=None)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 25, rel=1e-12)
