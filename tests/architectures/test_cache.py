"""The cache holds what it was given, in place, and says when it is full."""

from __future__ import annotations

import pytest
import torch
from architectures import attention_checks as checks
from backprop.layer_checks import normal

from companion.architectures import cache as module
from companion.architectures.cache import KeyValueCache


def test_it_returns_all_positions_so_far_and_copies_none():
    checks.check_cache_object(module)


def test_truncated_positions_are_written_over():
    cache = KeyValueCache(1, 4)
    cache.update(0, normal((1, 1, 3, 2), 0), normal((1, 1, 3, 2), 0))
    cache.advance(3)
    cache.truncate(1)
    new = normal((1, 1, 2, 2), 1)
    keys, _ = cache.update(0, new, new)
    assert torch.equal(keys, torch.cat((normal((1, 1, 3, 2), 0)[..., :1, :], new), -2))


def full() -> KeyValueCache:
    cache = KeyValueCache(1, 3)
    cache.update(0, normal((1, 1, 2, 2), 0), normal((1, 1, 2, 2), 0))
    cache.advance(2)
    return cache


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KeyValueCache(0, 4), "num_layers=0"),
        (lambda: KeyValueCache(1, 0), "capacity=0"),
        (lambda: full().update(0, *[normal((1, 1, 2, 2), 0)] * 2), "4 positions do not fit"),
        (lambda: full().update(0, *[normal((2, 1, 1, 2), 0)] * 2), r"\(1, 1\).*\(2, 1\)"),
        (lambda: full().truncate(3), "length=3: a number from 0 to 2"),
        (
            lambda: full().update(0, *[normal((1, 1, 1, 2), 0).requires_grad_()] * 2),
            "use it under torch.no_grad",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
