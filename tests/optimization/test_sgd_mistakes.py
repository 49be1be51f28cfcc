"""Classic mistakes planted in SGD, sampling, noise and accumulation, each caught by a check."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType

import pytest
from optimization import sgd_checks as checks
from planting import mutant

from companion.optimization import accumulation, noise, sampling, sgd


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_a_step_up_the_gradient_is_caught():
    old = "torch._foreach_add_(weights, gradients, alpha=-group"
    assert_caught(checks.check_all_options, sgd, old, old.replace("-group", "group"))
    old, new = "return weight - lr * gradient, None", "return weight + lr * gradient, None"
    assert_caught(checks.check_naive_step, sgd, old, new)


def test_a_momentum_buffer_that_starts_at_zero_is_caught():
    """With dampening the first gradient then enters with the factor 1 − τ instead of 1."""
    old = 'self.state[weight]["momentum_buffer"] = gradient.clone()'
    new = old.replace("clone()", 'mul(1 - group["dampening"])')
    assert_caught(checks.check_all_options, sgd, old, new)
    old, new = (
        "gradient if buffer is None else",
        "(1 - dampening) * gradient if buffer is None else",
    )
    assert_caught(checks.check_naive_step, sgd, old, new)


def test_a_momentum_buffer_that_is_the_gradient_itself_is_caught():
    """Without the copy the buffer is the caller's gradient, which the next steps overwrite."""
    old, new = "gradient.clone()", "gradient"
    assert_caught(checks.check_gradients_in_place, sgd, old, new)
    checks.check_gradients_in_place(sgd)


def test_a_nesterov_step_without_the_look_ahead_is_caught():
    old, new = "gradient + momentum * buffer if nesterov else buffer", "buffer"
    assert_caught(checks.check_nesterov_forms, sgd, old, new)
    old = 'if group["nesterov"]:'
    assert_caught(checks.check_all_options, sgd, old, "if False:")
    old, new = "gradient(weight + momentum * velocity)", "gradient(weight)"
    assert_caught(checks.check_nesterov_1983, sgd, old, new)


def test_a_nesterov_step_with_the_old_buffer_is_caught():
    old = "direction = gradient + momentum * buffer if"
    new = "direction = gradient + (buffer - gradient) if"
    assert_caught(checks.check_nesterov_forms, sgd, old, new)


def test_weight_decay_added_after_momentum_is_caught():
    source = inspect.getsource(sgd)
    decay = """        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
"""
    step = '        torch._foreach_add_(weights, gradients, alpha=-group["lr"])\n'
    start, end = source.index(decay), source.index(step)
    old = source[start : end + len(step)]
    assert_caught(checks.check_all_options, sgd, old, old[len(decay) : -len(step)] + decay + step)


def test_weight_decay_times_the_learning_rate_twice_is_caught():
    old = 'alpha=group["weight_decay"])'
    assert_caught(checks.check_all_options, sgd, old, 'alpha=group["lr"] * group["weight_decay"])')


def test_dampening_of_the_old_buffer_instead_of_the_gradient_is_caught():
    old = 'torch._foreach_mul_(kept, group["momentum"])'
    new = 'torch._foreach_mul_(kept, group["momentum"] * (1 - group["dampening"]))'
    assert_caught(checks.check_all_options, sgd, old, new)


def test_maximize_that_forgets_to_turn_the_sign_is_caught():
    assert_caught(checks.check_all_options, sgd, 'if group["maximize"]:', "if False:")


def test_options_of_the_first_group_used_for_all_is_caught():
    old = "self._update(weights, [p.grad for p in weights], group)"
    new = old.replace("group)", "self.param_groups[0])")
    assert_caught(checks.check_groups, sgd, old, new)


def test_a_state_that_is_not_found_again_after_loading_is_caught():
    old = 'buffer = self.state[weight].get("momentum_buffer")'
    new = 'buffer = self.state[weight].get("velocity")'
    assert_caught(checks.check_resuming, sgd, old, new)


def test_parameters_without_a_gradient_taken_for_zero_gradients_is_caught():
    """Their buffers would decay, and weight decay would move them."""
    old = "if p.grad is not None]"
    new = "if p.grad is not None or setattr(p, 'grad', torch.zeros_like(p)) is None]"
    assert_caught(checks.check_all_options, sgd, old, new)


def test_a_heavy_ball_that_forgets_where_it_came_from_is_caught():
    old, new = "+ momentum * (weight - before), weight", "+ momentum * (weight - before), before"
    assert_caught(checks.check_heavy_ball, sgd, old, new)


def test_accumulation_without_dividing_is_caught():
    old, new = "share = len(micro_x) / len(x)", "share = 1"
    assert_caught(checks.check_accumulation, accumulation, old, new)


def test_an_uneven_last_micro_batch_weighed_like_a_whole_one_is_caught():
    old, new = "share = len(micro_x) / len(x)", "share = 1 / -(-len(x) // micro_batch_size)"
    assert_caught(checks.check_accumulation, accumulation, old, new)


def test_an_uneven_last_micro_batch_weighed_as_a_share_of_its_own_size_is_caught():
    old, new = "share = len(micro_x) / len(x)", "share = micro_batch_size / len(x)"
    assert_caught(checks.check_accumulation, accumulation, old, new)


def test_gradients_cleared_between_micro_batches_is_caught():
    old = "        part.backward()"
    assert_caught(
        checks.check_accumulation, accumulation, old, "        network.zero_grad()\n" + old
    )


def test_a_shuffle_that_is_never_done_again_is_caught():
    old = "return torch.randperm(samples, generator=generator)"
    new = "return torch.randperm(samples, generator=torch.Generator().manual_seed(0))"
    assert_caught(checks.check_reshuffling, sampling, old, new)


def test_drawing_with_replacement_taken_for_reshuffling_is_caught():
    old = "return torch.randperm(samples, generator=generator)"
    new = "return torch.randint(samples, (samples,), generator=generator)"
    assert_caught(checks.check_reshuffling, sampling, old, new)


def test_visiting_the_samples_in_order_is_caught():
    old = "return torch.randperm(samples, generator=generator)"
    assert_caught(checks.check_reshuffling, sampling, old, "return torch.arange(samples)")


def test_a_batch_mean_without_the_finite_population_is_caught():
    old = "* (population - batch_size) / (population - 1)"
    assert_caught(checks.check_variance_of_mean, sampling, old, "")
    new = "* (population - batch_size) / population"
    assert_caught(checks.check_variance_of_mean, sampling, old, new)


def test_a_signal_that_still_holds_noise_is_caught():
    old = "signal = (big * big_square - small * small_square) / (big - small)"
    assert_caught(checks.check_noise_from_two, noise, old, "signal = big_square")


def test_noise_of_the_wrong_batch_size_is_caught():
    old, new = "/ (1 / small - 1 / big)", "* small"
    assert_caught(checks.check_noise_from_two, noise, old, new)


def test_the_square_of_the_mean_taken_for_the_signal_is_caught():
    old = "gradients.mean(dim=0).square().sum() - noise / len(gradients)"
    new = "gradients.mean(dim=0).square().sum()"
    assert_caught(checks.check_noise_of, noise, old, new)


def test_a_covariance_divided_by_n_is_caught():
    assert_caught(checks.check_noise_of, noise, "correction=1", "correction=0")
