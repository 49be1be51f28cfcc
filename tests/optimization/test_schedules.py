"""Every schedule equals torch's, or its closed form, at every step; and survives a resume."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from optimization import schedule_checks as checks
from torch import nn

from companion.data.digits import Digits
from companion.optimization import schedules
from companion.optimization.recording import RateRecorder
from companion.optimization.schedules import FACTORS, schedule
from companion.training import Classifier, FitResult, fit

OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {},
    "step_decay": {"step_size": 4},
    "exponential": {"gamma": 0.9},
    "cosine": {"total_steps": 15, "warmup_steps": 3},
    "cosine_restarts": {"period": 4, "growth": 2},
    "linear_warmup": {"warmup_steps": 9},
    "inverse_square_root": {"warmup_steps": 6},
    "one_cycle": {"total_steps": 15},
    "warmup_stable_decay": {"total_steps": 15, "decay_steps": 7, "warmup_steps": 2},
    "plateau": {"patience": 0, "threshold": 0.9},
}


@pytest.mark.parametrize("case", checks.CASES)
def test_schedule_equals_torch_at_every_step(case):
    checks.check_against_torch(schedules, case)


def test_cosine_with_a_final_factor_equals_torch():
    checks.check_cosine_final(schedules)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_one_cycle_equals_torch_in_rate_and_momentum(kind):
    checks.check_one_cycle(schedules, kind)


def test_inverse_square_root_equals_the_printed_formula():
    checks.check_inverse_square_root(schedules)


def test_square_root_decay_equals_its_closed_form():
    checks.check_square_root_decay(schedules)


def test_plateau_equals_torch_as_function_and_as_scheduler():
    checks.check_plateau(schedules)


def test_no_warm_up_wastes_its_first_step():
    checks.check_first_step_is_not_wasted(schedules)


def test_the_last_step_learns_and_the_end_holds_ever_after():
    checks.check_last_step_and_after(schedules)


def test_constant_is_one():
    assert {schedules.constant(step) for step in range(5)} == {1.0}


def test_restarts_come_at_exact_steps_far_out():
    """Where a logarithm of the step would round: 3·(4^k − 1)/3 is a restart."""
    for power in range(1, 30):
        step = 4**power - 1
        assert schedules.cosine_restarts(step, period=3, growth=4) == 1.0
        assert schedules.cosine_restarts(step - 1, period=3, growth=4) < 1.0


def train(name: str, epochs: int, **options: Any) -> tuple[list[float], list[float], FitResult]:
    """Five steps an epoch, in float64; the rates and momenta of the steps that were taken."""
    torch.manual_seed(0)
    network = nn.Linear(64, 10).double()
    module = Classifier(
        network,
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        scheduler=schedule(name, **(OPTIONS[name] | options.pop("change", {}))),
        scheduler_interval="epoch" if name == "plateau" else "step",
    )
    data = Digits(32, flatten=True, limit=160, dtype=torch.float64)
    recorder = RateRecorder()
    result = fit(module, data, epochs=epochs, callbacks=[recorder], **options)
    return recorder.rates, recorder.momenta, result


@pytest.mark.parametrize("name", FACTORS)
def test_a_run_resumed_in_the_middle_has_the_rates_of_one_run(name: str, tmp_path: Path):
    rates, momenta, whole = train(name, 3)
    assert len(rates) == 15
    first, first_momenta, _ = train(name, 1, checkpoint_dir=tmp_path)
    then, then_momenta, resumed = train(name, 3, resume_from=tmp_path)
    assert first + then == rates
    assert first_momenta + then_momenta == momenta
    assert resumed.step_losses == whole.step_losses
    assert name == "constant" or len(set(rates)) > 1


@pytest.mark.parametrize("name", sorted(FACTORS.keys() - {"plateau"}))
def test_in_training_step_t_has_the_factor_of_t(name: str):
    rates, _, _ = train(name, 3)
    factors = [FACTORS[name](step, **OPTIONS[name]) for step in range(15)]
    assert rates == pytest.approx([0.1 * factor for factor in factors], rel=1e-12)


def test_a_stable_run_cut_short_by_a_decay_equals_the_short_run(tmp_path: Path):
    """Warm-up–stable–decay: from one checkpoint of the stable phase, another budget, exactly."""
    name = "warmup_stable_decay"
    _, _, short = train(name, 2, change={"total_steps": 10, "decay_steps": 5})
    train(name, 1, change={"total_steps": 1000}, checkpoint_dir=tmp_path)
    change = {"total_steps": 10, "decay_steps": 5}
    rates, _, branch = train(name, 2, change=change, resume_from=tmp_path)
    assert rates == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02], rel=1e-12)
    assert branch.step_losses == short.step_losses


def test_a_schedule_can_be_used_for_several_optimizers():
    build = schedule("one_cycle", total_steps=60)
    first = checks.follow(build, 60)
    assert torch.equal(first, checks.follow(copy.deepcopy(build), 60))


def test_unknown_names_are_refused_with_the_nearest_ones():
    with pytest.raises(ValueError, match=r"^name='cosin' is not a schedule: did you mean cosine"):
        schedule("cosin", total_steps=5)
    with pytest.raises(ValueError, match=r"^name='zzz' is not a schedule: known: constant, step"):
        schedule("zzz")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosine", {"total_steps": 5, "warmup_steps": 6}, "warmup_steps=6: at most total_steps=5"),
        ("cosine", {"total_steps": 0}, "total_steps=0: an integer of at least 1"),
        ("cosine", {"total_steps": 5, "warmup_steps": -1}, "warmup_steps=-1: an integer of at"),
        ("cosine", {"total_steps": 5, "final": 1.5}, "final=1.5: a number in \\[0, 1\\]"),
        ("cosine", {}, "total_steps is missing: cosine needs it"),
        ("cosine", {"total_steps": 5, "T_max": 5}, "T_max=5: cosine has no such option, but total"),
        ("constant", {"gamma": 1}, "gamma=1: constant has no such option, but none"),
        ("cosine_restarts", {"period": 0}, "period=0: an integer of at least 1"),
        ("cosine_restarts", {"period": 2, "growth": 1.5}, "growth=1.5: an integer of at least 1"),
        ("step_decay", {"step_size": 0}, "step_size=0: an integer of at least 1"),
        ("step_decay", {"step_size": 3, "gamma": 0}, "gamma=0: a number in \\(0, 1\\]"),
        ("exponential", {"gamma": 1.01}, "gamma=1.01: a number in \\(0, 1\\]"),
        ("exponential", {"gamma": float("nan")}, "gamma=nan: a number in \\(0, 1\\]"),
        ("linear_warmup", {"warmup_steps": 0}, "warmup_steps=0: an integer of at least 1"),
        ("inverse_square_root", {"warmup_steps": 0}, "warmup_steps=0: an integer of at least 1"),
        (
            "warmup_stable_decay",
            {"total_steps": 9, "warmup_steps": 5, "decay_steps": 5},
            "decay_steps=5: with warmup_steps=5 at most 4 of total_steps=9",
        ),
        (
            "warmup_stable_decay",
            {"total_steps": 9, "decay_steps": 5, "shape": "round"},
            "shape='round': one of",
        ),
        ("plateau", {"gamma": 1.0}, "gamma=1.0: a number in \\(0, 1\\)"),
        ("plateau", {"patience": -1}, "patience=-1: an integer of at least 0"),
        ("plateau", {"threshold": 1}, "threshold=1: a number in \\[0, 1\\)"),
    ],
)
def test_bad_options_are_refused_before_training(name: str, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{message}"):
        schedule(name, **options)


@pytest.mark.parametrize("name", sorted(FACTORS.keys() - {"plateau"}))
@pytest.mark.parametrize("step", [-1, 1.5])
def test_negative_and_fractional_steps_are_refused(name: str, step: Any):
    with pytest.raises(ValueError, match=rf"^step={step}: an integer of at least 0"):
        FACTORS[name](step, **OPTIONS[name])


@pytest.mark.parametrize("rate", [0.0, 0])
def test_a_learning_rate_that_is_not_positive_is_refused(rate: float):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=rate)
    with pytest.raises(ValueError, match=rf"^lr={rate}: the optimizer needs a positive"):
        schedule("exponential", gamma=0.9)(optimizer)
