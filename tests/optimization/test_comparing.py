"""Standard errors, intervals, tests and power, against scipy, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optimization import tuning_checks as checks

from companion.optimization import comparing

CHECKS = [
    checks.check_standard_error,
    checks.check_accuracy_error,
    checks.check_t_interval,
    checks.check_paired,
    checks.check_unpaired,
    checks.check_sign_flips,
    checks.check_bootstrap,
    checks.check_mcnemar,
    checks.check_holm,
    checks.check_power,
    checks.check_expected_maximum,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_equals_an_independent_number(check):
    check(comparing)


@given(st.lists(st.floats(-1, 1).map(lambda v: round(v, 3)), min_size=2, max_size=8))
def test_a_sign_flip_p_value_is_a_share_of_the_patterns_and_never_zero(differences):
    p = comparing.sign_flip_test(differences)
    assert 2 / 2 ** len(differences) <= p <= 1
    assert p == comparing.sign_flip_test([-value for value in differences])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_raw_p_and_bonferroni_and_keeps_the_order(p_values):
    adjusted, p = comparing.holm(p_values), np.array(p_values)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, len(p) * p)).all() or len(p) > 1
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_drawn_signs_come_close_to_all_of_them(monkeypatch):
    first, second = checks.pairs(12, seed=4)
    differences = first - second - 0.002
    exact = comparing.sign_flip_test(differences)
    monkeypatch.setattr(comparing, "MOST_EXACT", 1)
    drawn = comparing.sign_flip_test(differences, flips=20_000)
    assert 0.001 < exact < 0.9
    assert abs(drawn - exact) < 5 * (exact / 20_000) ** 0.5


def test_power_is_the_share_of_simulated_tests_that_see_the_difference():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.6, 1.0, (4000, 12))
    t = draws.mean(1) / (draws.std(1, ddof=1) / 12**0.5)
    seen = (abs(t) > 2.200985).mean()  # Student's limit for 11 degrees of freedom, 5 %, two-sided
    assert seen == pytest.approx(comparing.power(12, 0.6, 1.0), abs=4 * 0.5 / 4000**0.5)


def test_no_spread_at_all_is_certain_or_no_difference():
    for compare in (comparing.paired_comparison, comparing.unpaired_comparison):
        assert compare([2.0, 2.0], [1.0, 1.0]).p == 0
        assert compare([1.0, 1.0], [1.0, 1.0]).p == 1
        assert compare([2.0, 2.0], [1.0, 1.0]).interval == (1.0, 1.0)


def test_the_plain_interval_is_the_accuracy_and_two_errors():
    low, high = comparing.accuracy_interval(0.9, 900, wilson=False)
    assert (high - low) / 2 == pytest.approx(1.959963985 * 0.01, rel=1e-8)
    assert (high + low) / 2 == pytest.approx(0.9, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: comparing.standard_error([1.0]), "values has the shape .*at least 2"),
        (lambda: comparing.t_interval([1.0]), "at least 2 numbers"),
        (lambda: comparing.bootstrap_interval([1.0]), "at least 2 numbers"),
        (lambda: comparing.bootstrap_interval([1.0, 2.0], resamples=0), "resamples=0"),
        (lambda: comparing.sign_flip_test([1.0]), "differences has the shape"),
        (lambda: comparing.sign_flip_test([1.0, 2.0], flips=0), "flips=0"),
        (lambda: comparing.standard_error([1.0, float("nan")]), "values: every number"),
        (lambda: comparing.paired_comparison([1, 2, 3], [1, 2]), "first has 3 numbers, second 2"),
        (lambda: comparing.paired_comparison([1], [1]), "first has the shape"),
        (lambda: comparing.unpaired_comparison([1, 2], [1]), "second has the shape"),
        (lambda: comparing.accuracy_error(1.2, 10), r"accuracy=1.2: a number in \[0, 1\]"),
        (lambda: comparing.accuracy_error(-0.1, 10), "accuracy=-0.1"),
        (lambda: comparing.accuracy_error(float("nan"), 10), "accuracy=nan"),
        (lambda: comparing.accuracy_error(0.5, 0), "images=0"),
        (lambda: comparing.accuracy_interval(0.5, 9, level=1.0), "level=1.0"),
        (lambda: comparing.t_interval([1, 2], level=0), "level=0"),
        (lambda: comparing.mcnemar_test([True], [True, False]), "equal lengths"),
        (lambda: comparing.holm([0.1, 1.1]), "p_values"),
        (lambda: comparing.holm([]), "p_values"),
        (lambda: comparing.power(1, 0.1, 1.0), "seeds=1"),
        (lambda: comparing.power(5, 0.1, 0.0), "spread=0.0"),
        (lambda: comparing.power(5, 0.1, 1.0, alpha=1), "alpha=1"),
        (lambda: comparing.seeds_needed(0.0, 1.0), "difference=0.0"),
        (lambda: comparing.seeds_needed(0.1, 1.0, wanted=1.0), "wanted=1.0"),
        (lambda: comparing.expected_maximum(0), "count=0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
