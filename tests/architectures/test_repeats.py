"""Sequences that repeat themselves: what counts can be known, what cannot be known does not."""

from __future__ import annotations

import pytest
import torch

from companion.architectures.repeats import Repeats


def ready(**options) -> Repeats:
    data = Repeats(**({"size": 400} | options))
    data.setup()
    return data


@pytest.mark.parametrize("period", [None, 5])
def test_every_target_that_counts_is_the_token_one_period_before(period):
    data = ready(period=period)
    x, y = data.train
    assert x.shape == y.shape == (400, 24)
    for row, targets in zip(x.tolist(), y.tolist(), strict=True):
        known = [t for t, target in enumerate(targets) if target >= 0]
        first = known[0]  # the piece's first token, met again
        assert known == list(range(first, 24))
        assert first == period if period else 8 <= first <= 12
        whole = [*row, targets[-1]]
        for t in known:
            assert targets[t] == whole[t + 1] == whole[t + 1 - first]


def test_pieces_have_all_lengths_and_tokens_are_even():
    x, y = ready(size=4000).train
    lengths = (y >= 0).double().argmax(1).bincount()
    assert (lengths[8:13] > 600).all()
    counts = x.flatten().bincount(minlength=16).double()
    assert (counts / counts.mean() - 1).abs().max() < 0.1


def test_the_same_seed_gives_the_same_sequences_and_parts_differ():
    one, other, another = ready(), ready(), ready(seed=1)
    assert torch.equal(one.train[0], other.train[0])
    assert not torch.equal(one.train[0], another.train[0])
    assert len(one.validation[0]) == 100
    assert not torch.equal(one.train[0][:100], one.validation[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 1}, "vocab_size=1"),
        ({"context_length": 4}, "context_length=4"),
        ({"size": 1}, "size=1"),
        ({"period": 0}, "period=0"),
        ({"period": 24}, "period=24: less than context_length=24"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Repeats(**options)
