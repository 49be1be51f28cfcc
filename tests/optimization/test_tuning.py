"""Search spaces, random and grid search, successive halving."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optimization import tuning_checks as checks

from companion.optimization import tuning
from companion.optimization.tuning import (
    Choice,
    LogUniform,
    Trial,
    Uniform,
    best,
    configurations,
    grid,
    grid_search,
    hit_probability,
    random_search,
    successive_halving,
)

SPACE = {"a": Uniform(0.0, 1.0)}


def test_every_dimension_maps_shares_of_its_range():
    checks.check_dimensions(tuning)


def test_random_search_makes_optunas_trials_from_the_same_seed():
    pytest.importorskip("optuna", reason="optuna is not installed")
    checks.check_optuna(tuning)


def test_a_grid_repeats_values_and_random_search_does_not():
    checks.check_distinct_values(tuning)


def test_successive_halving_keeps_the_best_and_pays_only_the_difference():
    checks.check_halving(tuning)


@given(st.floats(1e-6, 1.0), st.floats(1.01, 1e6), st.floats(0, 0.999999))
def test_a_value_stays_in_its_range_and_its_logarithm_is_linear(low, ratio, u):
    value = LogUniform(low, low * ratio).at(u)
    assert low * (1 - 1e-9) <= value <= low * ratio * (1 + 1e-9)
    share = math.log(value / low) / math.log(low * ratio / low)
    assert share == pytest.approx(u, abs=1e-6)


@given(st.integers(1, 40), st.integers(2, 4), st.integers(1, 5))
def test_halving_spends_what_its_rounds_say_and_ends_with_one(count, keep, first):
    rng = np.random.default_rng(count)
    scores = rng.random(count)
    halving = successive_halving(
        lambda alive, more: scores[list(alive)], count, first_budget=first, keep=keep
    )
    assert halving.best == int(scores.argmax())
    before, spent = 0, 0
    for rung in halving.rungs:
        spent += len(rung.alive) * (rung.budget - before)
        before = rung.budget
    assert halving.spent == spent
    assert len(halving.rungs[-1].alive) == 1


def test_halving_never_keeps_a_score_that_is_not_a_number():
    halving = successive_halving(lambda alive, more: [math.nan if i else 0.1 for i in alive], 4)
    assert halving.best == 0


def test_a_grid_search_scores_every_cell():
    space = {"a": Uniform(0.0, 1.0), "b": Choice(("x", "y"))}
    trials = grid_search(lambda c: c["a"] + (c["b"] == "y"), space, per_dimension=2)
    assert [t.score for t in trials] == [0.25, 1.25, 0.75, 1.75]
    assert best(trials).configuration == {"a": 0.75, "b": "y"}


def test_the_best_is_the_first_of_equals_and_never_nan():
    trials = [Trial({"a": i}, score) for i, score in enumerate((math.nan, 1.0, 2.0, 2.0))]
    assert best(trials).configuration == {"a": 2}


def test_the_chance_of_a_hit_is_that_of_not_always_missing():
    assert hit_probability(0.05, 60) == pytest.approx(1 - 0.95**60, rel=1e-12)
    assert hit_probability(0.05, 59) > 0.95 > hit_probability(0.05, 58)
    assert (hit_probability(0.0, 5), hit_probability(1.0, 1), hit_probability(0.3, 0)) == (0, 1, 0)
    hits = np.random.default_rng(0).random((20_000, 8)).min(1) < 0.1
    assert hits.mean() == pytest.approx(hit_probability(0.1, 8), abs=4 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_search(len, {}, trials=3), "space={}: at least one hyper-parameter"),
        (lambda: grid({}, 3), "space={}"),
        (lambda: configurations({}, np.zeros((1, 0))), "space={}"),
        (lambda: random_search(len, SPACE, trials=0), "trials=0: an integer of at least 1"),
        (lambda: grid(SPACE, 0), "per_dimension=0: an integer of at least 1"),
        (lambda: Uniform(1.0, 1.0), "low=1.0, high=1.0: finite numbers with low < high"),
        (lambda: Uniform(0.0, math.inf), "high=inf"),
        (lambda: LogUniform(2.0, 1.0), "low=2.0, high=1.0"),
        (lambda: LogUniform(0.0, 1.0), "low=0.0: a logarithm needs a number above 0"),
        (lambda: LogUniform(-1.0, 1.0), "low=-1.0: a logarithm"),
        (lambda: LogUniform(math.nan, 1.0), "low=nan: a logarithm"),
        (lambda: Choice(()), "options=.*at least one option"),
        (lambda: configurations(SPACE, np.zeros((3, 2))), r"draws has the shape \(3, 2\)"),
        (lambda: configurations(SPACE, np.ones((3, 1))), r"draws: every number must lie in"),
        (lambda: best([]), "trials: none of 0 has a score"),
        (lambda: best([Trial({}, math.nan)]), "trials: none of 1 has a score"),
        (lambda: hit_probability(1.5, 3), "share=1.5"),
        (lambda: hit_probability(0.5, -1), "trials=-1"),
        (lambda: successive_halving(len, 0), "count=0"),
        (lambda: successive_halving(len, 4, first_budget=0), "first_budget=0"),
        (lambda: successive_halving(len, 4, keep=1), "keep=1"),
        (lambda: successive_halving(lambda a, m: [1.0], 4), "returned 1 scores for 4 indices"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
