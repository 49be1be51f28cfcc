"""Passages of verse and of prose, from whole plays."""

from __future__ import annotations

import pytest
import torch

from companion.data import verse_or_prose as module
from companion.data.shakespeare import ALPHABET
from companion.data.sources import DataNotFoundError
from companion.data.verse_or_prose import MASK_ID, PAD_ID, PROSE, VERSE, VerseOrProse, speeches

VERSE_SPEECH = "HAMLET.\nTo be, or not to be,--that is the question:--\nWhether 'tis nobler in\n"
VERSE_SPEECH += "The slings and arrows [aside] of\nOr to take arms against"
PROSE_SPEECH = "1 Clown.\nIs she to be buried in Christian burial when she\nwilfully seeks her\n"
PROSE_SPEECH += "salvation? I tell thee she\nis; and therefore"


def test_labels_are_read_off_the_layout_and_the_speaker_goes():
    found = speeches(f"{VERSE_SPEECH}\n\n{PROSE_SPEECH}\n\nKING.\nToo short.\n")
    assert [label for _, label in found] == [VERSE, PROSE, None]
    assert found[0][0].startswith("To be, or not to be,--that is the question:-- Whether 'tis")
    assert "aside" not in found[0][0]
    assert found[1][0].startswith("Is she to be buried")
    assert found[2][0] == "Too short."


def test_passages_fill_up_and_leave_out_short_rests():
    x, y = module.passages([("abcdefghij", VERSE), ("abcdef", PROSE), ("xyz", None)], 4)
    text = ["".join(ALPHABET[i] for i in row if i < PAD_ID) for row in x.tolist()]
    assert text == ["abcd", "efgh", "abcd"]
    assert y.tolist() == [VERSE, VERSE, PROSE]
    x, _ = module.passages([("abcdefg", VERSE)], 4)
    assert x[1].tolist().count(PAD_ID) == 1


@pytest.fixture(scope="module")
def data() -> VerseOrProse:
    made = VerseOrProse(length=64, limit=100)
    try:
        made.setup()
    except DataNotFoundError as error:
        pytest.skip(str(error).splitlines()[0])
    return made


def test_both_classes_are_equally_frequent_in_each_part(data):
    for part in (data.train, data.validation, data.test):
        assert int((part[1] == PROSE).sum()) * 2 == len(part[1])
    assert len(data.train[0]) == 100
    assert len(data.test[0]) > 1000


def test_ids_are_characters_or_padding_and_the_mask_is_free(data):
    assert int(data.train[0].max()) <= PAD_ID < MASK_ID
    assert data.unlabelled.shape[1] == 64
    assert int(data.unlabelled.max()) < PAD_ID


def test_no_passage_of_a_held_out_play_is_in_the_text_for_pre_training(data):
    stream = "".join(ALPHABET[i] for i in data.unlabelled.flatten().tolist())
    for row in data.test[0][::40]:
        assert "".join(ALPHABET[i] for i in row.tolist() if i < PAD_ID) not in stream


def test_the_same_seed_keeps_the_same_passages(data):
    again = VerseOrProse(length=64, limit=100)
    again.setup()
    assert torch.equal(again.train[0], data.train[0])
    other = VerseOrProse(length=64, limit=100, seed=1)
    other.setup()
    assert not torch.equal(other.train[0], data.train[0])


@pytest.mark.parametrize("options", [{"length": 0}, {"limit": 1}, {"batch_size": 0}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))}=\d: an integer of at least"):
        VerseOrProse(**options)
