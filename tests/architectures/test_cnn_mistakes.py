"""Classic mistakes planted in convolution, pooling, batch norm: each is caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
from architectures import cnn_checks as checks
from planting import mutant

from companion.architectures import batch_norm, convolution, im2col, pooling
from companion.backprop import normalization


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_an_input_gradient_without_the_flip_is_caught():
    old, new = "turned = weight.flip(2, 3).", "turned = weight."
    assert_caught(checks.check_input_gradient, convolution, old, new)


def test_an_input_gradient_flipped_along_one_axis_only_is_caught():
    old, new = "turned = weight.flip(2, 3).", "turned = weight.flip(3)."
    assert_caught(checks.check_input_gradient, convolution, old, new)


def test_an_input_gradient_that_does_not_spread_by_the_stride_is_caught():
    old = "spread[:, :, ::step_down, ::step_right] = grad_output"
    new = "spread[:, :, :height, :width] = grad_output"
    assert_caught(checks.check_input_gradient, convolution, old, new)


def test_a_forward_pass_with_the_kernel_flipped_is_caught():
    old = "y = _rows(weight, groups) @"
    assert_caught(checks.check_conv2d, convolution, old, "y = _rows(weight.flip(2, 3), groups) @")


def test_groups_taken_in_turn_instead_of_in_blocks_are_caught():
    old = "return weight.reshape(groups, len(weight) // groups, -1)"
    new = "return weight.reshape(len(weight) // groups, groups, -1).transpose(0, 1)"
    assert_caught(checks.check_conv2d, convolution, old, new)


def test_a_loop_that_gives_every_group_the_first_channels_is_caught():
    old, new = "group = o // (len(weight) // groups)", "group = 0"
    assert_caught(checks.check_loop, convolution, old, new)


def test_a_loop_that_mixes_groups_up_by_the_remainder_is_caught():
    old, new = "group = o // (len(weight) // groups)", "group = o % groups"
    assert_caught(checks.check_loop, convolution, old, new)


def test_a_bias_gradient_averaged_instead_of_summed_is_caught():
    old, new = "grad_output.sum((0, 2, 3))", "grad_output.mean((0, 2, 3)).nan_to_num()"
    assert_caught(checks.check_conv2d, convolution, old, new)


def test_a_weight_gradient_averaged_over_the_batch_is_caught():
    old, new = "products.sum(0)", "products.mean(0).nan_to_num()"
    assert_caught(checks.check_conv2d, convolution, old, new)


def test_a_loop_that_assigns_where_windows_overlap_is_caught():
    old, new = "grad_padded[patch] += delta", "grad_padded[patch] = delta"
    assert_caught(checks.check_loop, convolution, old, new)


def test_a_loop_that_forgets_the_stride_is_caught():
    old = "top, left = i * row_step, j * column_step"
    assert_caught(checks.check_loop, convolution, old, "top, left = i, j")


def test_a_padding_gradient_that_is_not_cropped_is_caught():
    old = "return padded[:, :, top : top + height, left : left + width]"
    assert_caught(checks.check_transpose, im2col, old, "return padded")


def test_a_padding_gradient_cropped_at_the_wrong_end_is_caught():
    old = "return padded[:, :, top : top + height, left : left + width]"
    new = "return padded[:, :, :height, :width]"
    assert_caught(checks.check_transpose, im2col, old, new)


def test_col2im_that_assigns_instead_of_adding_is_caught():
    old, new = "+= columns[:, :, u, v]", "= columns[:, :, u, v]"
    assert_caught(checks.check_transpose, im2col, old, new)


def test_col2im_that_forgets_the_stride_is_caught():
    old = "padded[:, :, rows, cols] += columns[:, :, u, v]"
    new = (
        "padded[:, :, rows.start : rows.start + output[0], "
        "cols.start : cols.start + output[1]] += columns[:, :, u, v]"
    )
    assert_caught(checks.check_transpose, im2col, old, new)


def test_taps_that_forget_the_dilation_are_caught():
    old, new = "every(u * self.dilation[0],", "every(u,"
    assert_caught(checks.check_transpose, im2col, old, new)


def test_height_and_width_of_the_padding_exchanged_are_caught():
    old, new = "(left, left, top, top), value", "(top, top, left, left), value"

    def check(module: ModuleType) -> None:
        columns = module.im2col(checks.normal((1, 1, 3, 3), 0), module.Window.of(1, 1, (1, 0)))
        assert columns.shape[-2:] == (5, 3)
        assert not columns[0, 0, 0, 0, 0].any(), "the first row must be padding"

    check(im2col)
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        check(mutant(im2col, old, new))


def test_a_maximum_whose_gradient_goes_to_every_tied_pixel_is_caught():
    old = "y, winner = columns.flatten(2, 3).max(2)"
    new = "y, winner = columns.flatten(2, 3).flip(2).max(2); winner = columns[0, 0].shape[0] * "
    new += "columns[0, 0].shape[1] - 1 - winner"
    assert_caught(checks.check_max_pool, pooling, old, new)


def test_a_maximum_whose_gradient_goes_to_the_smallest_pixel_is_caught():
    old = "y, winner = columns.flatten(2, 3).max(2)"
    new = "y, winner = columns.flatten(2, 3).amax(2), columns.flatten(2, 3).argmin(2)"
    assert_caught(checks.check_max_pool, pooling, old, new)


def test_a_maximum_over_zeros_in_the_padding_is_caught():
    assert_caught(checks.check_max_pool, pooling, "fill=-math.inf", "fill=0.0")


def test_a_mean_whose_gradient_is_not_divided_is_caught():
    old, new = "share = grad_output / math.prod(window.kernel_size)", "share = grad_output"
    assert_caught(checks.check_average_pool, pooling, old, new)


def check_on_images(normalization: ModuleType) -> None:
    """The check of BatchNorm2d, made of another version of the layer that it inherits from."""

    class BatchNorm2d(normalization.BatchNorm1d):
        require_shape = batch_norm.BatchNorm2d.require_shape

    checks.check_batch_norm(SimpleNamespace(BatchNorm2d=BatchNorm2d))


def test_a_running_variance_that_averages_the_biased_one_is_caught():
    old, new = "variance.flatten() * values / (values - 1)", "variance.flatten()"
    assert_caught(check_on_images, normalization, old, new)


def test_a_momentum_the_other_way_round_is_caught():
    old, new = "newest = self.momentum\n", "newest = None if self.momentum is None else "
    new += "1 - self.momentum\n"
    assert_caught(check_on_images, normalization, old, new)


def test_a_mean_over_all_batches_that_counts_one_too_many_is_caught():
    old = "1 / self.num_batches_tracked.to(self.running_mean.dtype)"
    new = "1 / (1 + self.num_batches_tracked.to(self.running_mean.dtype))"
    assert_caught(check_on_images, normalization, old, new)


def test_batch_statistics_in_evaluation_are_caught():
    old, new = "if not self.training or values == 0:", "if values <= 1:"
    assert_caught(check_on_images, normalization, old, new)


def test_running_statistics_differentiated_as_if_they_were_the_batchs_are_caught():
    old, new = "(*saved, not self.training)", "saved"
    assert_caught(check_on_images, normalization, old, new)
