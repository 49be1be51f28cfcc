"""Padding, masks and packing, against torch.nn.utils.rnn."""

from __future__ import annotations

import pytest
import torch
from architectures.rnn_checks import check_mask, lengths_of_rows, normal, seeds
from hypothesis import given
from torch.nn.utils import rnn as library
from torch.testing import assert_close

from companion.architectures import sequences


@given(lengths_of_rows, seeds)
def test_padding_equals_torch_s(rows, seed):
    parts = [normal((n, 3), seed + i) for i, n in enumerate(rows)]
    padded, lengths = sequences.pad(parts, value=7.0)
    assert torch.equal(padded, library.pad_sequence(parts, batch_first=True, padding_value=7.0))
    assert lengths.tolist() == rows


@given(lengths_of_rows, seeds)
def test_packing_equals_torch_s_and_unpacking_takes_it_back(rows, seed):
    lengths = torch.tensor(sorted(rows, reverse=True))
    x = normal((len(rows), max(rows) + 1, 2), seed)
    ours = sequences.pack(x, lengths)
    theirs = library.pack_padded_sequence(x, lengths, batch_first=True)
    assert torch.equal(ours.data, theirs.data)
    assert torch.equal(ours.batch_sizes, theirs.batch_sizes)
    assert len(ours.data) == sum(rows)
    padded, again = sequences.unpack(ours, value=-1.0)
    expected, _ = library.pad_packed_sequence(theirs, batch_first=True, padding_value=-1.0)
    assert torch.equal(padded, expected)
    assert torch.equal(again, lengths)


@given(lengths_of_rows, seeds)
def test_lengths_are_found_again_in_the_padding(rows, seed):
    parts = [normal((n, 2), seed + i) for i, n in enumerate(rows)]
    padded, lengths = sequences.pad(parts)
    assert torch.equal(sequences.lengths_from_padding(padded), lengths)


def test_a_step_of_zeros_inside_a_sequence_is_real():
    x = torch.tensor([[[1.0], [0.0], [2.0], [0.0]], [[0.0], [0.0], [0.0], [0.0]]])
    assert sequences.lengths_from_padding(x).tolist() == [3, 1]


@given(lengths_of_rows, seeds)
def test_last_step_and_mean_look_at_real_steps_only(rows, seed):
    output, lengths = normal((len(rows), max(rows) + 2, 3), seed), torch.tensor(rows)
    last, mean = sequences.last_step(output, lengths), sequences.masked_mean(output, lengths)
    for row, n in enumerate(rows):
        assert torch.equal(last[row], output[row, n - 1])
        assert_close(mean[row], output[row, :n].mean(0), rtol=1e-10, atol=1e-12)


def test_the_mask_counts_the_lengths():
    check_mask(sequences)


X = torch.zeros(2, 4, 3)
NAN = torch.tensor([[1.0, 2.0], [float("nan"), 0.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sequences.pad([]), "sequences is empty"),
        (lambda: sequences.pad([torch.zeros(2, 3), torch.zeros(0, 3)]), r"\[1\] has length 0"),
        (lambda: sequences.pad([torch.zeros(2, 3), torch.zeros(2, 4)]), r"must be \(time, 3\)"),
        (lambda: sequences.pad([torch.zeros(2)]), r"sequences\[0\] has shape \(2,\)"),
        (lambda: sequences.pad([NAN]), r"sequences\[0\] holds NaN at step 1"),
        (lambda: sequences.pack(X, torch.tensor([4, 0])), r"lengths=\[4, 0\].* at least 1 step"),
        (lambda: sequences.pack(X, torch.tensor([5, 2])), "lengths reach 5; x is padded to 4"),
        (lambda: sequences.pack(X, torch.tensor([2, 4])), r"lengths=\[2, 4\] are not sorted"),
        (lambda: sequences.pack(X, torch.tensor([4])), r"integers of shape \(2,\) are needed"),
        (lambda: sequences.pack(X, torch.tensor([4.0, 2.0])), "dtype torch.float32; integers"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
