"""Classic mistakes planted in the page's modules, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from optimization import regularization_checks as checks
from planting import mutant

from companion.architectures import clipping
from companion.optimization import adam, averaging, double_descent, regularization, stopping


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_dropout_that_is_not_scaled_is_caught():
    old, new = "return x * keep / (1 - p)", "return x * keep"
    assert_caught(checks.check_dropout_keeps_the_mean, regularization, old, new)


def test_dropout_scaled_by_the_wrong_probability_is_caught():
    old, new = "return x * keep / (1 - p)", "return x * keep / p"
    assert_caught(checks.check_dropout_keeps_the_mean, regularization, old, new)


def test_dropout_that_keeps_with_the_probability_of_dropping_is_caught():
    old, new = "torch.rand_like(x) >= p", "torch.rand_like(x) < p"
    assert_caught(checks.check_dropout_draws_the_right_share, regularization, old, new)


def test_dropout_active_in_evaluation_is_caught():
    old, new = "if not training or p == 0:", "if p == 0:"
    assert_caught(checks.check_evaluation_passes_everything, regularization, old, new)


def test_smoothed_labels_that_do_not_add_up_to_one_are_caught():
    old, new = "(1 - smoothing) * F.one_hot(y, num_classes)", "F.one_hot(y, num_classes)"
    assert_caught(checks.check_smoothing, regularization, old, new)


def test_smoothing_spread_over_the_wrong_classes_only_is_caught():
    """s/(C − 1) for the others and 1 − s for the right one: another convention than torch's."""
    old = "(1 - smoothing) * right + smoothing * surprise.mean(-1)"
    new = "(1 - smoothing) * right + smoothing * (surprise.sum(-1) - right) / (logits.shape[1] - 1)"
    assert_caught(checks.check_smoothing, regularization, old, new)


def test_clipping_by_value_on_one_side_only_is_caught():
    old = "        torch._foreach_clamp_min_(gradients, -max_value)\n"
    assert_caught(checks.check_clipping_by_value, regularization, old, "")


def test_clipping_each_tensor_instead_of_all_together_is_caught():
    old = "        gradient.mul_(factor)"
    new = "        gradient.mul_((max_norm / (gradient.norm() + 1e-6)).clamp(max=1))"
    assert_caught(checks.check_clipping_by_norm, clipping, old, new)


def test_an_l2_penalty_called_decoupled_is_caught():
    old, new = "    decoupled = True\n", "    decoupled = False\n"
    assert_caught(checks.check_decay_without_gradient, adam, old, new)


def test_decay_of_biases_and_scales_is_caught():
    old, new = 'if p.dim() < 2], "weight_decay": 0.0', 'if p.dim() < 2], "weight_decay": 0.1'
    assert_caught(checks.check_groups, regularization, old, new)


def test_early_stopping_that_keeps_the_last_weights_is_caught():
    old, new = "value.copy_(self._weights[name])", "pass"
    assert_caught(checks.check_stopping, stopping, old, new)


def test_early_stopping_that_keeps_a_view_of_the_weights_is_caught():
    old, new = "v.detach().clone()", "v.detach()"
    assert_caught(checks.check_stopping, stopping, old, new)


def test_early_stopping_that_never_forgets_a_bad_epoch_is_caught():
    old, new = "trainer.current_epoch, 0\n", "trainer.current_epoch, self.waited\n"
    assert_caught(checks.check_stopping, stopping, old, new)


def test_early_stopping_one_epoch_too_patient_is_caught():
    old, new = "self.waited >= self.patience", "self.waited > self.patience"
    assert_caught(checks.check_stopping, stopping, old, new)


def test_an_average_without_bias_correction_is_caught():
    old, new = "return (1 - decay) / (1 - decay**step)", "return 1 - decay"
    assert_caught(checks.check_share, averaging, old, new)
    assert_caught(checks.check_ema_in_a_run, averaging, old, new)


def test_decay_and_one_minus_decay_swapped_is_caught():
    old = "average = decay * average + (1 - decay) * value"
    new = "average = (1 - decay) * average + decay * value"
    assert_caught(checks.check_share, averaging, old, new)


def test_training_that_goes_on_from_the_average_is_caught():
    old, new = "_fill([*pl_module.parameters(), *pl_module.buffers()], self._raw)", "pass"
    assert_caught(checks.check_training_is_untouched, averaging, old, new)


def test_buffers_that_are_not_put_back_are_caught():
    old = "_fill([*pl_module.parameters(), *pl_module.buffers()], self._raw)"
    new = "_fill(list(pl_module.parameters()), self._raw[: len(self.average)])"
    assert_caught(checks.check_training_is_untouched, averaging, old, new)


def test_a_stochastic_average_that_counts_the_zeros_it_began_with_is_caught():
    old, new = "return 1 / (self.count + 1)", "return 1 / (self.count + 2)"
    assert_caught(checks.check_against_averaged_model, averaging, old, new)


def test_a_stochastic_average_of_every_step_is_caught():
    old, new = (
        "if trainer.current_epoch < self.start_epoch or not trainer.is_last_batch:",
        ("if trainer.current_epoch < self.start_epoch:"),
    )
    assert_caught(checks.check_against_averaged_model, averaging, old, new)


def test_an_average_with_the_statistics_of_the_raw_weights_is_caught():
    old, new = "if any(isinstance(part, _BatchNorm) for part in module.modules()):", "if False:"
    assert_caught(checks.check_batch_norm, averaging, old, new)


def test_an_average_forgotten_by_the_checkpoint_is_caught(tmp_path):
    old = 'self.average, self.count = list(state_dict["average"]), state_dict["count"]'
    with pytest.raises(AssertionError):
        checks.check_resumed(mutant(averaging, old, "pass"), tmp_path)


def test_ridge_added_to_the_singular_value_instead_of_its_square_is_caught():
    old, new = "factors = S / (S.square() + ridge)", "factors = 1 / (S + ridge)"
    assert_caught(checks.check_least_norm, double_descent, old, new)


def test_label_noise_that_may_draw_the_right_label_is_caught():
    old, new = "torch.randint(1, num_classes,", "torch.randint(0, num_classes,"
    assert_caught(checks.check_noise, double_descent, old, new)
