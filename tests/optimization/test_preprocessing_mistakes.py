"""Classic mistakes planted in cleaning, extraction and selection, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from optimization import preprocessing_checks as checks
from planting import mutant

from companion.optimization import cleaning, extraction, selection


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_one_threshold_for_all_classes_is_caught() -> None:
    old = "torch.where(count > 0, total / count.clamp(min=1), torch.inf)"
    new = "(total.sum() / count.sum()).expand(len(count))"
    assert_caught(checks.check_thresholds_by_class, cleaning, old, new)


def test_a_threshold_that_is_the_mean_over_all_samples_is_caught() -> None:
    old = "total / count.clamp(min=1), torch.inf"
    new = "probabilities.mean(0), torch.inf"
    assert_caught(checks.check_thresholds_by_class, cleaning, old, new)


def test_the_likeliest_class_below_its_threshold_is_caught() -> None:
    old, new = "torch.where(reached, probabilities, -1.0)", "probabilities"
    assert_caught(checks.check_thresholds_by_class, cleaning, old, new)
    assert_caught(checks.check_joint_equals_the_loop, cleaning, old, new)


def test_a_class_without_samples_that_anyone_reaches_is_caught() -> None:
    old, new = "count.clamp(min=1), torch.inf", "count.clamp(min=1), 0.0"
    assert_caught(checks.check_absent_class, cleaning, old, new)


def test_probabilities_of_the_training_samples_are_caught() -> None:
    old, new = "learn(x[~held_out], y[~held_out])", "learn(x, y)"
    assert_caught(checks.check_out_of_sample, cleaning, old, new)


def test_folds_in_the_stored_order_of_classes_are_caught() -> None:
    old = "torch.arange(len(y), device=y.device) % folds"
    new = "torch.arange(len(y), device=y.device) * folds // len(y)"
    assert_caught(checks.check_out_of_sample, cleaning, old, new)


def test_held_out_rows_put_back_in_another_order_are_caught() -> None:
    old, new = "result[held_out] = found", "result[held_out] = found.flip(0)"
    assert_caught(checks.check_rows_keep_their_place, cleaning, old, new)


def test_planted_labels_that_are_sometimes_right_are_caught() -> None:
    old, new = "torch.randint(1, num_classes,", "torch.randint(0, num_classes,"
    assert_caught(checks.check_noise_is_planted, cleaning, old, new)


def test_planting_in_the_labels_given_is_caught() -> None:
    assert_caught(checks.check_noise_is_planted, cleaning, "noisy = y.clone()", "noisy = y")


def test_all_copies_marked_as_duplicates_is_caught() -> None:
    old, new = "return first[inverse] != place", "return inverse.bincount()[inverse] > 1"
    assert_caught(checks.check_duplicates, cleaning, old, new)


def test_pca_without_centring_is_caught() -> None:
    old, new = "svd(x - mean, full", "svd(x, full"
    assert_caught(checks.check_pca_equals_sklearn, extraction, old, new)


def test_new_rows_centred_by_their_own_mean_are_caught() -> None:
    """Invisible on the training rows themselves: it takes other rows to see it."""
    old, new = "scores = (x - self.mean) @", "scores = (x - x.mean(0)) @"

    def check(module: ModuleType) -> None:
        pca = module.PCA(checks.normal(20, 3), 2)
        rows = checks.normal(6, 3, seed=1)
        alone = [pca(rows[i : i + 1])[0].tolist() for i in range(6)]
        assert alone == [pytest.approx(row, rel=1e-10, abs=1e-12) for row in pca(rows).tolist()]

    check(extraction)
    assert_caught(check, extraction, old, new)


def test_components_in_ascending_order_are_caught() -> None:
    old, new = "vectors.flip(1)[:, :num_components]", "vectors[:, :num_components]"
    assert_caught(checks.check_naive_pca, extraction, old, new)
    old, new = "fix_signs(directions[:num_components])", "fix_signs(directions[-num_components:])"
    assert_caught(checks.check_pca_equals_sklearn, extraction, old, new)


def test_signs_left_to_the_library_are_caught() -> None:
    old, new = "fix_signs(directions[:num_components])", "directions[:num_components]"
    assert_caught(checks.check_pca_equals_sklearn, extraction, old, new)


def test_singular_values_taken_for_variances_are_caught() -> None:
    old, new = "variance = singular.square() / (len(x) - 1)", "variance = singular / (len(x) - 1)"
    assert_caught(checks.check_pca_equals_sklearn, extraction, old, new)


def test_whitening_by_the_variance_is_caught() -> None:
    old = "scores / self.explained_variance.sqrt() if"
    new = "scores / self.explained_variance if"
    assert_caught(checks.check_pca_equals_sklearn, extraction, old, new)


def test_ratios_of_the_kept_variance_only_are_caught() -> None:
    old, new = "variance / variance.sum()", "variance / variance[:num_components].sum()"
    assert_caught(checks.check_pca_equals_sklearn, extraction, old, new)


def test_a_frozen_network_in_training_mode_is_caught() -> None:
    old = "super().train(mode)\n        self.network.eval()"
    assert_caught(checks.check_frozen, extraction, old, "super().train(mode)")


def test_freezing_the_network_given_is_caught() -> None:
    old, new = "copy.deepcopy(network).requires_grad_", "network.requires_grad_"
    assert_caught(checks.check_frozen, extraction, old, new)


def test_selection_on_all_rows_before_cross_validation_is_caught() -> None:
    old, new = "SelectBest(x[~test], y[~test], count", "SelectBest(x, y, count"
    assert_caught(checks.check_noise_predicts_nothing, selection, old, new)


def test_keeping_the_worst_features_is_caught() -> None:
    old, new = "argsort(descending=True", "argsort(descending=False"
    assert_caught(checks.check_the_best_are_kept, selection, old, new)


def test_class_means_that_do_not_count_their_samples_are_caught() -> None:
    old, new = "(count[:, None] * (means - x.mean(0))", "(len(x) / len(count) * (means - x.mean(0))"
    assert_caught(checks.check_f_scores, selection, old, new)


def test_information_in_bits_is_caught() -> None:
    old, new = "both * (both / alone).log(), 0.0", "both * (both / alone).log2(), 0.0"
    assert_caught(checks.check_mutual_information, selection, old, new)
