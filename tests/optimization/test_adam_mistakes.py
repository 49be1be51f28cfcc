"""Classic mistakes planted in the adaptive optimizers, each caught by a tight check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from optimization import adam_checks as checks
from planting import mutant

from companion.optimization import adam, adaptive, lion, muon

BETAS = 'lr, (beta_1, beta_2), decay = group["lr"], group["betas"], group["weight_decay"]'
ROOT = "scale = torch._foreach_sqrt(second)"
CORRECT = "torch._foreach_div_(scale, [(1 - beta_2**t) ** 0.5 for t in steps])"
ADD_EPS = 'torch._foreach_add_(scale, group["eps"])'
SQUARE = "torch._foreach_addcmul_(second, grads, grads, 1 - beta_2)"


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_adam_with_eps_inside_the_root_is_caught():
    old = f"{ROOT}\n    {CORRECT}\n    {ADD_EPS}"
    new = (
        "scale = torch._foreach_div(second, [1 - beta_2**t for t in steps])\n"
        f"    {ADD_EPS}\n    torch._foreach_sqrt_(scale)"
    )
    assert_caught(checks.check_adam, adam, old, new)


def test_adam_with_eps_before_the_correction_is_caught():
    assert_caught(checks.check_adam, adam, f"{CORRECT}\n    {ADD_EPS}", f"{ADD_EPS}\n    {CORRECT}")


def test_adam_without_eps_is_caught():
    """It also stops being a number where every gradient so far was 0."""
    assert_caught(checks.check_adam, adam, ADD_EPS, "pass")


def test_bias_correction_off_by_one_step_is_caught():
    old, new = "steps = count_steps(states)", "steps = [t + 1 for t in count_steps(states)]"
    assert_caught(checks.check_adam, adam, old, new)


def test_one_step_counter_for_all_parameters_is_caught():
    """A parameter without a gradient took no step, and its correction must know."""
    old, new = (
        "steps = count_steps(states)",
        "steps = [max(count_steps(states))] * len(states)",
    )
    assert_caught(checks.check_adam, adam, old, new)


def test_no_correction_of_the_second_moment_is_caught():
    assert_caught(checks.check_adam, adam, CORRECT, "pass")


def test_no_correction_of_the_first_moment_is_caught():
    assert_caught(checks.check_adam, adam, "[-lr / (1 - beta_1**t) for t in steps]", "-lr")


def test_both_moments_corrected_by_beta_1_is_caught():
    assert_caught(checks.check_adam, adam, CORRECT, CORRECT.replace("beta_2", "beta_1"))


def test_beta_1_for_both_moments_is_caught():
    assert_caught(checks.check_adam, adam, BETAS, f"{BETAS}\n    beta_2 = beta_1")


def test_betas_swapped_is_caught():
    assert_caught(checks.check_adam, adam, BETAS, f"{BETAS}\n    beta_1, beta_2 = beta_2, beta_1")


def test_the_second_moment_of_the_mean_instead_of_the_raw_gradient_is_caught():
    assert_caught(checks.check_adam, adam, SQUARE, SQUARE.replace("grads", "first"))


def test_coupled_decay_in_adamw_is_caught():
    assert_caught(checks.check_adamw, adam, "decoupled = True", "decoupled = False")


def test_decoupled_decay_in_adam_is_caught():
    old, new = "decoupled = False  #", "decoupled = True  #"
    assert_caught(checks.check_adam, adam, old, new)


def test_decay_without_the_learning_rate_is_caught():
    assert_caught(checks.check_adamw, adam, "1 - lr * decay", "1 - decay")


def test_decay_added_into_the_callers_gradient_is_caught():
    old = "grads = coupled_decay(grads, params, decay)"
    new = "torch._foreach_add_(grads, params, alpha=decay)"
    assert_caught(checks.check_adam, adam, old, new)


def test_amsgrad_that_keeps_the_maximum_in_the_running_mean_is_caught():
    """Then the mean itself can never fall again."""
    old, new = (
        "torch._foreach_maximum_(largest, second)\n",
        (
            "torch._foreach_maximum_(second, largest)\n"
            "        torch._foreach_copy_(largest, second)\n"
        ),
    )
    assert_caught(checks.check_amsgrad, adam, old, new)


def test_amsgrad_that_takes_no_maximum_is_caught():
    old, new = "torch._foreach_maximum_(largest", "torch._foreach_copy_(largest"
    assert_caught(checks.check_amsgrad, adam, old, new)


def test_adagrad_with_eps_inside_the_root_is_caught():
    old = 'scale = torch._foreach_sqrt(sums)\n        torch._foreach_add_(scale, group["eps"])'
    new = 'scale = torch._foreach_sqrt(torch._foreach_add(sums, group["eps"]))'
    assert_caught(checks.check_adagrad, adaptive, old, new)


def test_adagrad_that_adds_the_gradients_instead_of_their_squares_is_caught():
    old, new = (
        "torch._foreach_addcmul_(sums, grads, grads)",
        ("torch._foreach_add_(sums, torch._foreach_abs(grads))"),
    )
    assert_caught(checks.check_adagrad, adaptive, old, new)


def test_adagrad_that_decays_its_rate_from_the_first_step_is_caught():
    assert_caught(checks.check_adagrad, adaptive, "(1 + (t - 1) *", "(1 + t *")


def test_rmsprop_that_adds_up_like_adagrad_is_caught():
    assert_caught(checks.check_rmsprop, adaptive, "torch._foreach_mul_(squares, rho)", "pass")


def test_rmsprop_centred_on_the_mean_instead_of_its_square_is_caught():
    old, new = "addcmul(squares, means, means, -1)", "sub(squares, means)"
    assert_caught(checks.check_rmsprop, adaptive, old, new)


def test_rmsprop_momentum_that_keeps_the_learning_rate_inside_is_caught():
    """The same until the learning rate changes."""
    old = """torch._foreach_addcdiv_(moving, grads, scale)
            torch._foreach_add_(params, moving, alpha=-group["lr"])"""
    new = """torch._foreach_addcdiv_(moving, grads, scale, group["lr"])
            torch._foreach_sub_(params, moving)"""
    assert_caught(checks.check_rmsprop, adaptive, old, new)


def test_lion_that_updates_its_momentum_before_the_sign_is_caught():
    old = "direction = torch._foreach_mul(momentum, beta_1)\n"
    new = (
        "torch._foreach_lerp_(momentum, grads, 1 - beta_2)\n"
        "        direction = torch._foreach_mul(momentum, beta_1)\n"
    )
    source = mutant(lion, old, new)
    with pytest.raises(AssertionError):
        checks.check_lion(source)


def test_lion_that_takes_the_sign_of_its_momentum_is_caught():
    old = "torch._foreach_add_(direction, grads, alpha=1 - beta_1)"
    assert_caught(checks.check_lion, lion, old, "pass")


def test_lion_that_remembers_with_beta_1_is_caught():
    old, new = "torch._foreach_mul_(momentum, beta_2)", "torch._foreach_mul_(momentum, beta_1)"
    assert_caught(checks.check_lion, lion, old, new)


def test_lion_with_its_decay_inside_the_sign_is_caught():
    old = "        torch._foreach_sign_(direction)\n"
    new = "        torch._foreach_add_(direction, params, alpha=decay)\n" + old
    assert_caught(checks.check_lion, lion, old, new)


def test_newton_schulz_without_normalisation_is_caught():
    old, new = "x = x / x.norm().clamp(min=eps)", "x = x"
    assert_caught(checks.check_orthogonalize, muon, old, new)
    assert_caught(checks.check_muon, muon, old, new)


def test_newton_schulz_that_multiplies_from_the_wrong_side_of_a_square_matrix_is_caught():
    """(XXᵀ)X is not X(XXᵀ), and for a square matrix no shape complains."""
    old = "torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)"
    new = (
        "x if x.shape[0] == x.shape[1] else torch.addmm(gram, gram, gram, beta=b, alpha=c), "
        "torch.addmm(gram, gram, gram, beta=b, alpha=c) if x.shape[0] == x.shape[1] else x, "
        "beta=a)"
    )
    assert_caught(checks.check_orthogonalize, muon, old, new)


def test_newton_schulz_without_its_fifth_power_is_caught():
    assert_caught(checks.check_orthogonalize, muon, "beta=b, alpha=c)", "beta=b, alpha=0)")


def test_muon_without_the_scale_of_the_shape_is_caught():
    assert_caught(checks.check_muon, muon, "alpha=-lr * scale", "alpha=-lr")


def test_muon_whose_scale_takes_the_longer_side_is_caught():
    old, new = "max(1.0, rows / columns)", "max(rows / columns, columns / rows)"
    assert_caught(checks.check_muon, muon, old, new)


def test_muon_whose_nesterov_step_starts_at_the_momentum_is_caught():
    old, new = "torch._foreach_lerp(grads, moving, momentum)", "torch._foreach_mul(moving, 1)"
    assert_caught(checks.check_muon, muon, old, new)


def test_muon_with_coupled_decay_is_caught():
    old = 'torch._foreach_mul_(params, 1 - lr * group["weight_decay"])'
    new = 'directions = torch._foreach_add(directions, params, alpha=group["weight_decay"])'
    assert_caught(checks.check_muon, muon, old, new)
