"""Classic mistakes planted in schedules and range test, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
import torch
from backprop import manual_checks
from optimization import range_test_checks, schedule_checks
from planting import mutant

from companion.backprop import manual
from companion.optimization import one_cycle, range_test, schedules


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def against_torch(case: str) -> Callable[[ModuleType], None]:
    return partial(schedule_checks.check_against_torch, case=case)


def test_a_warm_up_whose_first_step_has_rate_zero_is_caught():
    old, new = "return min(1.0, (step + 1) / warmup_steps)", "return min(1.0, step / warmup_steps)"
    assert_caught(schedule_checks.check_first_step_is_not_wasted, schedules, old, new)
    assert_caught(against_torch("linear warm-up"), schedules, old, new)


def test_a_warm_up_that_is_never_left_is_caught():
    old, new = "return min(1.0, (step + 1) / warmup_steps)", "return 1 / warmup_steps"
    assert_caught(against_torch("linear warm-up"), schedules, old, new)


def test_a_cosine_over_a_whole_period_is_caught():
    old = "(1 + math.cos(math.pi * progress)) / 2\n\n\ndef cosine_restarts"
    assert_caught(against_torch("cosine"), schedules, old, old.replace("math.pi", "2 * math.pi"))


def test_a_cosine_of_the_progress_without_pi_is_caught():
    old = "(1 + math.cos(math.pi * progress)) / 2\n\n\ndef cosine_restarts"
    assert_caught(against_torch("cosine"), schedules, old, old.replace("math.pi * ", ""))


def test_a_cosine_that_forgets_the_final_factor_is_caught():
    old = (
        "    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2\n\n\ndef cosine_r"
    )
    new = old.replace("final + (1 - final) * ", "")
    assert_caught(schedule_checks.check_cosine_final, schedules, old, new)


def test_a_cosine_that_rises_again_after_its_end_is_caught():
    old = "    if step >= total_steps:\n        return final\n"
    assert_caught(schedule_checks.check_last_step_and_after, schedules, old, "")


def test_warm_up_steps_counted_twice_in_the_cosine_are_caught():
    old, new = "(step - warmup_steps) / (total_steps - warmup_steps)", "step / total_steps"
    assert_caught(against_torch("cosine after a warm-up"), schedules, old, new)


def test_a_decay_compounded_on_the_decayed_rate_is_caught():
    """γ^⌊t/s⌋ multiplied onto the current rate again at each step."""
    old, new = "return gamma ** (step // step_size)", "return gamma ** (step * (step // step_size))"
    assert_caught(against_torch("step decay"), schedules, old, new)


def test_a_decay_one_step_early_is_caught():
    old, new = "return gamma ** (step // step_size)", "return gamma ** ((step + 1) // step_size)"
    assert_caught(against_torch("step decay"), schedules, old, new)


def test_restarts_that_keep_their_first_period_are_caught():
    old, new = "        period *= growth\n", ""
    case = "cosine with longer and longer periods"
    assert_caught(against_torch(case), schedules, old, new)


def test_a_decay_that_starts_one_step_late_is_caught():
    old, new = "left = total_steps - step\n", "left = total_steps - step + 1\n"
    assert_caught(against_torch("warm-up, stable, decay"), schedules, old, new)


def test_a_plateau_that_waits_for_a_maximum_is_caught():
    old, new = "value < best * (1 - threshold)", "value > best * (1 + threshold)"
    module = mutant(schedules, old, new)
    with pytest.raises(AssertionError):
        schedule_checks.check_plateau(module)


def test_a_plateau_one_value_too_impatient_is_caught():
    old, new = "if bad > patience:", "if bad >= patience:"
    assert_caught(schedule_checks.check_plateau, schedules, old, new)


def test_a_plateau_scheduler_in_mode_max_is_caught():
    old, new = "factor=gamma, eps=0.0,", "factor=gamma, eps=0.0, mode='max',"
    assert_caught(schedule_checks.check_plateau, schedules, old, new)


def test_an_inverse_square_root_counted_from_zero_is_caught():
    old, new = "math.sqrt(warmup_steps / (step + 1))", "math.sqrt(warmup_steps / max(step, 1))"
    assert_caught(schedule_checks.check_inverse_square_root, schedules, old, new)


def check_one_cycle(module: ModuleType) -> None:
    """Under Adam and SGD, through a copy of `schedules` that uses this one-cycle module."""
    old = "from companion.optimization.one_cycle import OneCycle, one_cycle"
    new = f"from {module.__name__} import OneCycle, one_cycle"
    schedule_checks.check_one_cycle(mutant(schedules, old, new), torch.optim.SGD)


def test_momentum_that_rises_with_the_rate_is_caught():
    old = "return _cycle(step, total_steps, warmup_fraction, (high, low, high))"
    assert_caught(check_one_cycle, one_cycle, old, old.replace("high, low, high", "low, high, low"))


def test_a_cycle_whose_top_comes_one_step_late_is_caught():
    old, new = (
        "top, end = warmup_fraction * total_steps - 1,",
        "top, end = warmup_fraction * total_steps,",
    )
    assert_caught(check_one_cycle, one_cycle, old, new)


def test_the_unplanted_one_cycle_passes():
    schedule_checks.check_one_cycle(schedules, torch.optim.SGD)


def test_a_range_test_that_leaves_the_weights_moved_is_caught():
    old, new = "                tensor.copy_(value)", "                pass"
    assert_caught(range_test_checks.check_same_training, range_test, old, new)


def test_a_range_test_that_leaves_the_optimizers_state_is_caught():
    old, new = "        optimizer.load_state_dict(state)\n", ""
    assert_caught(range_test_checks.check_no_trace, range_test, old, new)


def test_a_range_test_that_leaves_the_running_statistics_is_caught():
    old, new = "[*module.parameters(), *module.buffers()]", "[*module.parameters()]"
    assert_caught(range_test_checks.check_no_trace, range_test, old, new)


def test_a_range_test_that_uses_up_random_numbers_is_caught():
    old, new = "with isolate_rng(), _restored(", "with _restored("
    assert_caught(range_test_checks.check_random_state, range_test, old, new)


def test_a_linear_sweep_is_caught():
    old = "[lowest * (highest / lowest) ** (i / (steps - 1)) for i in range(steps)]"
    new = "[lowest + (highest - lowest) * i / (steps - 1) for i in range(steps)]"
    assert_caught(range_test_checks.check_sweep, range_test, old, new)


def test_smoothing_without_the_correction_of_its_start_is_caught():
    old, new = "average / (1 - smoothing ** (index + 1))", "average"
    assert_caught(range_test_checks.check_smoothing, range_test, old, new)


def test_steepest_against_the_rate_instead_of_its_logarithm_is_caught():
    old, new = "np.log(rates[:end])", "np.asarray(rates[:end])"
    assert_caught(range_test_checks.check_suggestions, range_test, old, new)


def test_a_schedule_advanced_per_epoch_instead_of_per_step_is_caught():
    old, new = (
        'if self.scheduler_interval == "step":\n            self.adv',
        "if False:\n            self.adv",
    )
    check = partial(manual_checks.check_schedule, interval="step")
    assert_caught(check, manual, old, new)
