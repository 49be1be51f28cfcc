"""Japanese vowels: the split of the paper, read by other means, standardised and padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from companion.architectures.sequences import lengths_from_padding
from companion.data.japanese_vowels import JapaneseVowels, hold_out
from companion.data.sources import read_or_fetch

TEST_COUNTS = [31, 35, 88, 44, 29, 24, 40, 50, 29]  # utterances a speaker, from the UCI repository


@pytest.fixture(scope="module")
def whole() -> JapaneseVowels:
    data = JapaneseVowels(validation_fraction=0.0, dtype=torch.float64)
    data.setup()
    return data


def plain_series(file: str) -> list[tuple[np.ndarray, int]]:
    """Split the file's text by hand; no code of the module under test."""
    text = read_or_fetch("japanese-vowels")[file].decode()
    found = []
    for line in text[text.index("@data") + 6 :].split():
        *channels, label = line.split(":")
        found.append((np.array([np.fromstring(c, sep=",") for c in channels]).T, int(label)))
    return found


def test_the_split_of_the_paper(whole):
    assert whole.train[0].shape == (270, 29, 12)
    assert whole.test[0].shape == (370, 29, 12)
    assert whole.validation is None
    assert whole.lengths["validation"] is None
    assert whole.train[1].bincount().tolist() == [30] * 9
    assert whole.test[1].bincount().tolist() == TEST_COUNTS
    assert whole.lengths["train"].min() == 7
    assert max(whole.lengths[part].max() for part in ("train", "test")) == 29


@pytest.mark.parametrize("part", ["train", "test"])
def test_frames_and_speakers_are_those_of_the_file(whole, part):
    series = plain_series(f"JapaneseVowels_{part.upper()}.ts")
    frames = np.concatenate([f for f, _ in plain_series("JapaneseVowels_TRAIN.ts")])
    x, y = getattr(whole, part)
    for row, speaker, length, (expected, label) in zip(
        x, y, whole.lengths[part], series, strict=True
    ):
        assert int(speaker) == label - 1
        assert int(length) == len(expected)
        again = row[:length].numpy() * frames.std(0) + frames.mean(0)
        np.testing.assert_allclose(again, expected, rtol=1e-10, atol=1e-12)
        assert not row[length:].any()


def test_training_frames_are_standardised(whole):
    x, lengths = whole.train[0], whole.lengths["train"]
    frames = torch.cat([row[:length] for row, length in zip(x, lengths, strict=True)])
    torch.testing.assert_close(frames.mean(0), torch.zeros(12).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(frames.std(0, correction=0), torch.ones(12).double())


def test_the_lengths_can_be_read_off_the_padding(whole):
    for part in ("train", "test"):
        found = lengths_from_padding(getattr(whole, part)[0], whole.padding_value)
        assert torch.equal(found, whole.lengths[part])


def test_validation_takes_the_same_share_of_every_speaker_and_leaves_the_test_alone():
    one, other = JapaneseVowels(seed=0), JapaneseVowels(seed=1)
    for data in (one, other):
        data.setup()
        assert data.validation[1].bincount().tolist() == [6] * 9
        assert data.train[1].bincount().tolist() == [24] * 9
        assert len(data.lengths["validation"]) == 54
    assert torch.equal(one.test[1], other.test[1])
    assert not torch.equal(one.lengths["validation"], other.lengths["validation"])
    assert one.num_classes == len(one.class_names) == 9


def test_held_out_positions_are_a_share_of_each_label():
    labels = ["a"] * 10 + ["b"] * 5
    drawn = hold_out(labels, 0.4, seed=3)
    assert sum(labels[i] == "a" for i in drawn) == 4
    assert sum(labels[i] == "b" for i in drawn) == 2
    assert hold_out(labels, 0.0, seed=3) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"dtype": torch.int64}, "dtype=torch.int64: a floating-point type"),
    ],
)
def test_a_bad_argument_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        JapaneseVowels(**options)
