"""Operations of single layers against multiplications counted one by one and torch's counter."""

from __future__ import annotations

import pytest
from compute import counting_checks as checks
from hypothesis import given
from hypothesis import strategies as st

from companion.compute import operations
from companion.compute.operations import Cost, Flops


def test_linear_counts_two_for_a_multiply_add_and_one_for_a_bias():
    checks.check_linear(operations)


@given(
    groups=st.sampled_from([1, 2]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_convolution_equals_its_products_done_one_by_one(groups, stride, padding, dilation):
    checks.check_convolution(operations, groups, stride, padding, dilation)


def test_attention_equals_the_library_s_count_of_the_plain_kernel():
    checks.check_attention(operations)


def test_causal_attention_counts_the_pairs_that_the_mask_leaves():
    checks.check_causal_attention(operations)


def test_recurrent_layers_count_every_weight_once_a_step():
    checks.check_recurrent(operations)


def test_experts_cost_what_a_token_visits():
    checks.check_experts(operations)


def test_a_first_layer_needs_no_gradient_of_its_input_and_a_frozen_one_none_of_its_weights():
    full = operations.linear(4, 3, 2).backward.products
    assert operations.linear(4, 3, 2, input_gradient=False).backward.products == full // 2
    frozen = operations.linear(4, 3, 2, weight_gradient=False)
    assert frozen.backward == Flops(full // 2, 0)


def test_norms_and_tables_do_no_products():
    for kind, numbers in (("layer", 7), ("batch", 7), ("rms", 4)):
        cost = operations.normalization(10, kind=kind)
        assert cost.forward == Flops(0, numbers * 10)
    assert operations.embedding(6, 4) == Cost(Flops(), Flops(0, 24))


def test_costs_add_and_multiply():
    one = operations.linear(1, 2, 3)
    assert one + one == one * 2
    assert (one * 2).forward.total == 2 * (12 + 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: operations.linear(1, 0, 3), "in_features=0: an integer of at least 1"),
        (lambda: operations.convolution(1, 4, 6, (3,), (5,), groups=3), "groups=3: it must divide"),
        (lambda: operations.convolution(1, 4, 6, (3, 3), (5,)), "one length for both"),
        (lambda: operations.recurrent("elman", 1, 1, 1, 1), "cell='elman': one of rnn, lstm, gru"),
        (lambda: operations.recurrent("rnn", 1, 0, 1, 1), "steps=0"),
        (lambda: operations.attention(1, 1, 5, 3, 2, causal=True), "queries=5: .* keys=3"),
        (lambda: operations.normalization(5, kind="group"), "kind='group'"),
        (lambda: operations.mixture_of_experts(1, 2, 3, 4, 5), "top_k=5: at most num_experts=4"),
    ],
)
def test_sizes_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
