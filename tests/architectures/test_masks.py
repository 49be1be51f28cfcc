"""Masks: True where a query may look."""

from __future__ import annotations

import pytest
import torch

from companion.architectures.masks import causal_mask, full_mask, mask_on_heads


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (4, 4), (2, 5), (1, 3)])
def test_the_last_query_sees_all_keys_and_each_one_before_it_one_less(queries, keys):
    mask = causal_mask(queries, keys)
    for t in range(queries):
        for s in range(keys):
            assert mask[t, s] == (s <= keys - queries + t)


def test_a_mask_and_the_causal_one_are_joined():
    x = torch.zeros(2, 1, 3, 4)
    padding = torch.tensor([[True, True, False], [False, True, True]])[:, None, None]
    joined = full_mask(x, x, x, padding, causal=True)
    assert torch.equal(joined, padding & causal_mask(3))
    assert full_mask(x, x, x, None, causal=False) is None


def test_masks_of_sequences_and_of_pairs_broadcast_over_heads():
    assert mask_on_heads(torch.ones(2, 5).bool(), 2, 3, 5).shape == (2, 1, 1, 5)
    assert mask_on_heads(torch.ones(2, 3, 5).bool(), 2, 3, 5).shape == (2, 1, 3, 5)
    assert mask_on_heads(torch.ones(1, 3, 5).bool(), 2, 3, 5).shape == (1, 1, 3, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: causal_mask(0), "queries=0: an integer of at least 1"),
        (lambda: causal_mask(3, 2), "keys=2: an integer of at least 3"),
        (lambda: mask_on_heads(torch.ones(2, 4).bool(), 2, 3, 5), r"mask has shape \(2, 4\)"),
        (lambda: mask_on_heads(torch.ones(2, 5), 2, 3, 5), "it must be boolean"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
