"""Classic mistakes planted in tuning, comparing and fleet, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from optimization import tuning_checks as checks
from planting import mutant

from companion.optimization import comparing, fleet, tuning


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def test_a_uniform_instead_of_a_log_uniform_learning_rate_is_caught():
    old = "math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))"
    assert_caught(checks.check_dimensions, tuning, old, "self.low + u * (self.high - self.low)")


def test_one_draw_for_all_dimensions_is_caught():
    old = "random_sample((trials, len(space)))"
    new = "random_sample((trials, 1)).repeat(len(space), axis=1)"
    pytest.importorskip("optuna", reason="optuna is not installed")
    assert_caught(checks.check_optuna, tuning, old, new)


def test_the_worst_instead_of_the_best_is_caught():
    """A loss maximised, or an accuracy minimised."""
    old = "return max(scored, key"
    pytest.importorskip("optuna", reason="optuna is not installed")
    assert_caught(checks.check_optuna, tuning, old, "return min(scored, key")


def test_a_grid_along_the_diagonal_is_caught():
    old = "list(itertools.product(centres, repeat=len(space)))"
    assert_caught(checks.check_distinct_values, tuning, old, "[[c] * len(space) for c in centres]")


def test_halving_that_keeps_the_worst_is_caught():
    old = "key=lambda i: _rank(scores[i]), reverse=True)"
    assert_caught(checks.check_halving, tuning, old, "key=lambda i: _rank(scores[i]))")


def test_halving_that_starts_again_in_every_round_is_caught():
    old = "advance(alive, budget - given)"
    assert_caught(checks.check_halving, tuning, old, "advance(alive, budget)")


def test_a_standard_deviation_taken_for_the_standard_error_is_caught():
    old = "values.std(ddof=1) / math.sqrt(len(values))"
    assert_caught(checks.check_standard_error, comparing, old, "values.std(ddof=1)")


def test_the_variance_of_a_population_is_caught():
    assert_caught(checks.check_standard_error, comparing, "std(ddof=1)", "std(ddof=0)")


def test_a_normal_quantile_for_a_few_seeds_is_caught():
    old = "float(t.ppf(0.5 + level / 2, len(values) - 1))"
    assert_caught(checks.check_t_interval, comparing, old, "_quantile(level)")


def test_one_degree_of_freedom_too_many_is_caught():
    old = "t.ppf(0.5 + level / 2, len(values) - 1)"
    assert_caught(checks.check_t_interval, comparing, old, "t.ppf(0.5 + level / 2, len(values))")


def test_the_unpaired_formula_for_paired_data_is_caught():
    old = "mean, error = float(differences.mean()), standard_error(differences)"
    new = old.replace(
        "standard_error(differences)",
        "math.hypot(standard_error(first), standard_error(second))",
    )
    assert_caught(checks.check_paired, comparing, old, new)


def test_a_one_sided_p_value_given_as_two_sided_is_caught():
    old = "np.abs((signs * values).mean(axis=1)) >= observed"
    assert_caught(
        checks.check_sign_flips, comparing, old, "(signs * values).mean(axis=1) >= observed"
    )
    old = "p = 2 * float(t.sf(abs(mean) / error, len(differences) - 1))"
    assert_caught(checks.check_paired, comparing, old, old.replace("2 * ", ""))


def test_a_permutation_p_value_of_zero_is_caught():
    old = "(as_large.sum() + 1) / (flips + 1)"
    assert_caught(checks.check_sign_flips, comparing, old, "as_large.mean()")


def test_a_strict_comparison_that_leaves_the_data_out_is_caught():
    old = ">= observed - 1e-12 * np.abs(values).max()"
    assert_caught(
        checks.check_sign_flips, comparing, old, "> observed + 1e-12 * np.abs(values).max()"
    )


def test_a_bootstrap_without_replacement_is_caught():
    old = "integers(n, size=(resamples, n))"
    new = "permuted(np.tile(np.arange(n), (resamples, 1)), axis=1)"
    assert_caught(checks.check_bootstrap, comparing, old, new)


def test_mcnemar_on_all_images_is_caught():
    old = "n, k = only_first + only_second,"
    assert_caught(checks.check_mcnemar, comparing, old, "n, k = len(first),")


def test_the_error_bar_of_an_accuracy_without_its_root_is_caught():
    old = "math.sqrt(accuracy * (1 - accuracy) / images)"
    new = "accuracy * (1 - accuracy) / math.sqrt(images)"
    assert_caught(checks.check_accuracy_error, comparing, old, new)


def test_bonferroni_without_an_order_taken_for_holm_is_caught():
    old = "np.arange(len(p), 0, -1)"
    assert_caught(checks.check_holm, comparing, old, "len(p)")


def test_adjusted_p_values_in_sorted_order_is_caught():
    assert_caught(checks.check_holm, comparing, "answer[order] = adjusted", "answer[:] = adjusted")


def test_a_power_that_forgets_the_root_of_the_seeds_is_caught():
    old = "abs(difference) / spread * math.sqrt(seeds)"
    new = "abs(difference) / spread * math.sqrt(seeds - 1)"
    assert_caught(checks.check_power, comparing, old, new)


def test_the_maximum_of_two_taken_for_that_of_many_is_caught():
    assert_caught(
        checks.check_expected_maximum,
        comparing,
        "below ** (count - 1)",
        "below ** min(1, count - 1)",
    )


def test_networks_that_share_one_order_of_batches_is_caught():
    old = "torch.stack([orders[seed] for seed in seeds])"
    assert_caught(
        checks.check_fleet, fleet, old, "torch.stack([orders[seeds[0]] for seed in seeds])"
    )


def test_a_momentum_that_starts_anew_with_every_call_is_caught():
    old = "        seeds = [0] * len(self) if order_seeds is None"
    new = "        [v.zero_() for v in self.velocity]\n" + old
    assert_caught(checks.check_fleet, fleet, old, new)


def test_a_gradient_summed_over_the_batch_is_caught():
    assert_caught(checks.check_fleet, fleet, "        delta /= x.shape[1]\n", "")
