"""Classic mistakes planted in the layers and in the training step, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
import torch
from backprop import layer_checks as checks
from backprop.manual_checks import check_hundred_steps, check_schedule
from planting import mutant

from companion.backprop import base, layers, losses, manual, normalization

SGD = partial(torch.optim.SGD, lr=0.1)


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def check_square_linear(module: ModuleType) -> None:
    """Three rows, three inputs, three outputs: no shape error warns of a wrong axis."""
    ours, theirs = module.Linear(3, 3), torch.nn.Linear(3, 3)
    checks.same_as_torch(ours, theirs, checks.normal((3, 3), 0))


def test_linear_bias_summed_over_the_wrong_axis_is_caught():
    old, new = "return delta.T @ rows, delta.sum(0)", "return delta.T @ rows, delta.sum(1)"
    assert_caught(check_square_linear, layers, old, new)


def test_the_unplanted_layers_pass_the_square_check():
    check_square_linear(layers)


def test_linear_bias_averaged_instead_of_summed_is_caught():
    assert_caught(checks.check_linear, layers, "delta.sum(0)", "delta.mean(0).nan_to_num()")


def test_linear_weight_gradient_without_its_transpose_is_caught():
    old, new = "return delta.T @ rows", "return delta @ rows"
    assert_caught(check_square_linear, layers, old, new)


def test_linear_weight_gradient_transposed_is_caught():
    old, new = "return delta.T @ rows", "return rows.T @ delta"
    assert_caught(check_square_linear, layers, old, new)


def test_linear_input_gradient_with_a_needless_transpose_is_caught():
    old, new = "return grad_output @ weight,", "return grad_output @ weight.T,"
    assert_caught(check_square_linear, layers, old, new)


def test_the_loop_that_forgets_to_add_up_the_samples_is_caught():
    old, new = "grad_weight += torch.outer", "grad_weight = torch.outer"
    assert_caught(checks.check_linear_loop, layers, old, new)


def test_relu_mask_from_the_gradient_instead_of_the_output_is_caught():
    old, new = "grad_output * y.sign()", "grad_output.clamp(min=0)"
    assert_caught(partial(checks.check_activation, name="ReLU"), layers, old, new)


def test_sigmoid_slope_taken_at_the_input_is_caught():
    """y (1 − y) written with x for y: the activation applied once too few."""
    old, new = "y = torch.sigmoid(x)\n        return y, (y,)", "return torch.sigmoid(x), (x,)"
    assert_caught(partial(checks.check_activation, name="Sigmoid"), layers, old, new)


def test_tanh_slope_without_the_square_is_caught():
    assert_caught(partial(checks.check_activation, name="Tanh"), layers, "(1 - y * y)", "(1 - y)")


def test_gelu_slope_without_the_density_term_is_caught():
    old, new = "(normal_cdf(x) + x * density)", "normal_cdf(x)"
    assert_caught(partial(checks.check_activation, name="GELU"), layers, old, new)


def test_gelu_by_its_tanh_approximation_is_caught():
    old = "return torch.special.erfc(-x / math.sqrt(2)) / 2"
    new = "return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2"
    assert_caught(partial(checks.check_activation, name="GELU"), layers, old, new)


def test_dropout_backward_without_the_mask_is_caught():
    old, new = "return (grad_output * mask * scale,)", "return (grad_output * scale,)"
    assert_caught(checks.check_dropout, layers, old, new)
    assert_caught(checks.check_dropout_module, layers, old, new)


def test_dropout_backward_without_the_scale_is_caught():
    old, new = "return (grad_output * mask * scale,)", "return (grad_output * mask,)"
    assert_caught(checks.check_dropout, layers, old, new)


def test_dropout_that_never_scales_up_is_caught():
    old, new = "scale = 1 / (1 - p) if p < 1 else 0.0", "scale = 1.0"
    assert_caught(checks.check_dropout, layers, old, new)
    assert_caught(checks.check_dropout_module, layers, old, new)


def test_dropout_that_keeps_with_probability_p_is_caught():
    assert_caught(
        checks.check_dropout_module, layers, "bernoulli_(1 - self.p)", "bernoulli_(self.p)"
    )


def test_embedding_gradient_by_assignment_instead_of_accumulation_is_caught():
    assert_caught(checks.check_embedding, layers, ".index_add(0,", ".index_copy(0,")


def test_layer_norm_backward_without_the_mean_term_is_caught():
    old, new = "grad_x_hat - through_mean - through_variance", "grad_x_hat - through_variance"
    assert_caught(checks.check_layer_norm, normalization, old, new)
    assert_caught(checks.check_batch_norm, normalization, old, new)


def test_layer_norm_backward_without_the_variance_term_is_caught():
    old, new = "grad_x_hat - through_mean - through_variance", "grad_x_hat - through_mean"
    assert_caught(checks.check_layer_norm, normalization, old, new)
    assert_caught(checks.check_batch_norm, normalization, old, new)


def test_batch_norm_that_divides_by_the_unbiased_variance_is_caught():
    old = "(x - mean).square().mean(dims, keepdim=True)"
    assert_caught(
        checks.check_batch_norm, normalization, old, "x.var(dims, correction=1, keepdim=True)"
    )


def test_batch_norm_that_tracks_the_biased_variance_is_caught():
    old, new = "variance.flatten() * values / (values - 1)", "variance.flatten()"
    assert_caught(checks.check_batch_norm, normalization, old, new)


def test_batch_norm_with_its_momentum_the_other_way_round_is_caught():
    old, new = "newest = self.momentum\n", "newest = 1 - self.momentum\n"
    assert_caught(checks.check_batch_norm, normalization, old, new)


def test_batch_norm_that_differentiates_constants_in_evaluation_is_caught():
    old, new = (
        "return self.keep(output, (*saved, not self.training))",
        "return self.keep(output, saved)",
    )
    assert_caught(checks.check_batch_norm, normalization, old, new)


def test_layer_norm_over_the_batch_axis_is_caught():
    old, new = "return tuple(range(-count, 0))", "return tuple(range(count))"

    def check(module: ModuleType) -> None:
        ours, theirs = module.LayerNorm(4), torch.nn.LayerNorm(4)
        checks.same_as_torch(ours, theirs, checks.normal((4, 4), 0))

    check(normalization)
    assert_caught(check, normalization, old, new)


def test_gradients_overwritten_instead_of_accumulated_are_caught():
    old, new = "parameter.grad += gradient", "parameter.grad = gradient"
    assert_caught(checks.check_accumulation, base, old, new)


def test_a_gradient_scaled_in_place_in_the_callers_hands_is_caught():
    old, new = "return (grad_output * y * (1 - y),)", "return (grad_output.mul_(y * (1 - y)),)"
    assert_caught(partial(checks.check_activation, name="Sigmoid"), layers, old, new)


def test_a_missing_one_over_n_in_the_loss_gradient_is_caught_by_the_weights():
    sums = mutant(
        losses,
        "one_hot(labels, z.shape[-1]).to(z.dtype)) / z.shape[0]",
        "one_hot(labels, z.shape[-1]).to(z.dtype))",
    )
    assert_caught(
        lambda m: check_hundred_steps(m, SGD),
        manual,
        "self.pair = loss",
        f"self.pair = Loss(loss.forward, __import__('sys').modules['{sums.__name__}']"
        ".cross_entropy_backward)",
    )


def test_gradients_that_are_never_cleared_are_caught():
    old, new = "optimizer.zero_grad()\n", "pass\n"
    assert_caught(lambda m: check_hundred_steps(m, SGD), manual, old, new)


def test_a_step_without_a_backward_pass_is_caught():
    old, new = "self.network.backward(grad_prediction, input_gradient=False)", "pass"
    assert_caught(lambda m: check_hundred_steps(m, SGD), manual, old, new)


def test_the_gradient_at_probabilities_instead_of_logits_is_caught():
    old, new = "self.pair.backward(prediction, y)", "self.pair.backward(prediction.softmax(-1), y)"
    assert_caught(lambda m: check_hundred_steps(m, SGD), manual, old, new)


def test_an_update_in_place_before_the_old_weight_was_used_is_refused():
    """Here the layers themselves notice: W must be the W of the forward pass in δ W."""
    old = "self.network.backward(grad_prediction, input_gradient=False)"
    new = "self.network[-1].weight.mul_(0.9)\n        " + old
    with pytest.raises(RuntimeError, match="a tensor kept for backward was changed in place"):
        check_hundred_steps(mutant(manual, old, new), SGD)


def test_a_schedule_that_never_advances_is_caught():
    old, new = "        elif scheduler is not None:\n            scheduler.step()\n", ""
    for interval in ("step", "epoch"):
        assert_caught(lambda m, i=interval: check_schedule(m, i), manual, old, new)
