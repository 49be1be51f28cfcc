"""The n-gram model against its definition, a case worked out on paper, and simple limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from architectures import language_model_checks as checks
from hypothesis import given
from hypothesis import strategies as st

from companion.architectures import ngram
from companion.architectures.ngram import NGram


def test_counting_by_sorting_equals_the_definition():
    checks.check_ngram(ngram)


def test_a_case_worked_out_on_paper():
    checks.check_ngram_by_hand(ngram)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50), st.integers(1, 5), st.data())
def test_probabilities_are_positive_and_add_up_to_one(tokens: list[int], order: int, data):
    model = NGram(order, 5, discount=data.draw(st.floats(0.01, 1))).fit(tokens)
    context = data.draw(st.lists(st.integers(0, 4), max_size=6))
    probabilities = model.next_probabilities(context)
    assert (probabilities > 0).all()
    assert math.isclose(probabilities.sum(), 1, rel_tol=1e-12)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 4))
def test_the_loss_of_a_text_is_that_of_its_tokens_one_by_one(tokens: list[int], order: int):
    model = NGram(order, 3).fit([0, 1, 2, 1, 0, 0, 1])
    one_by_one = [
        math.log(model.next_probabilities(tokens[:i])[token]) for i, token in enumerate(tokens)
    ]
    np.testing.assert_allclose(model.log_probabilities(tokens), one_by_one, rtol=1e-12)
    np.testing.assert_allclose(model.loss(torch.tensor(tokens)), -np.mean(one_by_one), rtol=1e-12)


def test_with_little_discount_a_unigram_model_is_the_shares():
    model = NGram(1, 4, discount=1e-9).fit([0, 1, 1, 3, 3, 3, 3, 3])
    np.testing.assert_allclose(model.next_probabilities([]), [1 / 8, 2 / 8, 0, 5 / 8], atol=1e-8)


def test_full_discount_of_a_text_of_unique_tokens_is_uniform():
    model = NGram(1, 7, discount=1.0).fit([0, 1, 2])
    np.testing.assert_allclose(model.next_probabilities([]), np.full(7, 1 / 7), rtol=1e-12)


def test_a_token_frequent_in_one_context_only_counts_little_elsewhere():
    """Kneser and Ney's point: 3 always follows 2; it is no better a guess after 4 than 1 is."""
    tokens = [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 0, 1]
    probabilities = NGram(2, 5).fit(tokens).next_probabilities([4])
    assert tokens.count(3) > tokens.count(1)
    assert probabilities[3] == pytest.approx(probabilities[1], rel=1e-12)


def test_a_deterministic_text_is_learnt():
    tokens = [0, 1, 2, 3] * 50
    assert NGram(2, 4).fit(tokens).loss(tokens) < 0.05
    assert NGram(1, 4).fit(tokens).loss(tokens) == pytest.approx(math.log(4), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5), "order=0"),
        ((2, 0), "vocab_size=0"),
        ((10, 100), "order=10: with vocab_size=100 a gram does not fit into 63 bits"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        NGram(*arguments)


def test_discounts_texts_and_ids_out_of_range_are_refused():
    for discount in (0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="discount="):
            NGram(2, 5, discount=discount)
    with pytest.raises(ValueError, match="tokens is empty"):
        NGram(2, 5).fit([])
    with pytest.raises(ValueError, match=r"tokens reach from 0 to 5: ids in \[0, 5\)"):
        NGram(2, 5).fit([0, 5])
    with pytest.raises(ValueError, match="tokens reach from -1"):
        NGram(2, 5).fit([0, 1]).next_probabilities([-1])
    with pytest.raises(ValueError, match="call fit before"):
        NGram(2, 5).loss([0, 1])
