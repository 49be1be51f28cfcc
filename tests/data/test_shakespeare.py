"""The plays as a stream of tokens, mostly with small plays made here."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.data import shakespeare, sources
from companion.data.shakespeare import ALPHABET, PLAYS, TEST, VALIDATION, Shakespeare
from companion.data.sources import DataNotFoundError

FRONT = "TITLE\n\nby William Shakespeare\n\n\n"


def made_up(title: str) -> str:
    """A play of some 700 characters in which every line names its play."""
    return "".join(f"{title}: line {i}.  \n" for i in range(30))


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve made-up plays instead of the files."""
    content = {f: f"{FRONT}{made_up(t)}\nTHE END".encode() for t, f in PLAYS.items()}
    monkeypatch.setattr(sources, "read_or_fetch", lambda name: content)


@pytest.fixture(scope="module")
def real() -> dict[str, str]:
    """The real plays, where this machine has them."""
    try:
        sources.locate("shakespeare")
    except (DataNotFoundError, ValueError):
        pytest.skip("the plays are not on this machine: companion data fetch shakespeare")
    return shakespeare.load_plays()


def test_cleaning_cuts_front_matter_blanks_and_the_closing_words():
    text = (
        "HAMLET\n\nby William Shakespeare\n\n\nHam.  \nThe rest is silence.\n\n[Dies.]\n\nTHE END"
    )
    assert shakespeare.clean(text) == "Ham.\nThe rest is silence.\n\n[Dies.]\n"
    assert shakespeare.clean("X\nby William Shakespeare\n\nAct I\n") == "Act I\n"


def test_there_are_37_plays_and_three_and_three_are_held_out():
    assert len(PLAYS) == len(set(PLAYS.values())) == 37
    assert len({*VALIDATION, *TEST} & set(PLAYS)) == 6


@pytest.mark.usefixtures("plays")
def test_no_line_of_a_held_out_play_is_in_another_part():
    data = Shakespeare(4, 16)
    data.setup()
    for title in PLAYS:
        part = "validation" if title in VALIDATION else "test" if title in TEST else "train"
        for name, text in data.texts.items():
            assert (f"{title}: line 29." in text) == (name == part)


@pytest.mark.usefixtures("plays")
@pytest.mark.parametrize("stride", [None, 5])
def test_targets_are_the_inputs_moved_on_by_one_token(stride: int | None):
    data = Shakespeare(4, 16, stride=stride)
    data.setup()
    for name in ("train", "validation", "test"):
        x, y = getattr(data, name)
        step = (stride or 16) if name == "train" else 16
        text = data.texts[name]
        assert x.dtype == y.dtype == torch.int64
        assert len(x) == (len(text) - 1 - 16) // step + 1
        for i in (0, 1, len(x) - 1):
            assert data.decode(x[i]) == text[i * step : i * step + 16]
            assert data.decode(y[i]) == text[i * step + 1 : i * step + 17]


@pytest.mark.usefixtures("plays")
def test_limits_cut_the_texts_and_batches_have_the_promised_shape():
    data = Shakespeare(4, 16, limit=1000, validation_limit=200, drop_last=True)
    data.setup()
    assert {name: len(text) for name, text in data.texts.items()} == {
        "train": 1000,
        "validation": 200,
        "test": 200,
    }
    for x, y in data.train_dataloader():
        assert x.shape == y.shape == (4, 16)
        assert torch.equal(x[:, 1:], y[:, :-1])
    assert data.input_shape == (16,)
    assert data.vocab_size == len(ALPHABET) == 96


class Bytes:
    """A tokenizer in miniature."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode()


@pytest.mark.usefixtures("plays")
def test_a_tokenizer_takes_the_place_of_the_characters():
    data = Shakespeare(4, 16, tokens=Bytes())
    data.setup()
    assert data.vocab_size == 256
    assert data.decode(data.validation[0][0]) == data.texts["validation"][:16]
    assert data.encode("\u00e9") == [0xC3, 0xA9]


@given(st.text(alphabet=ALPHABET))
def test_characters_survive_encoding(text: str):
    ids = shakespeare.encode_characters(text)
    assert all(0 <= index < 96 for index in ids)
    assert shakespeare.decode_characters(ids) == text
    assert shakespeare.decode_characters(torch.tensor(ids, dtype=torch.int64)) == text


def test_characters_and_ids_without_a_place_in_the_alphabet_are_refused():
    with pytest.raises(ValueError, match="text holds '\u00ef'"):
        Shakespeare().encode("na\u00efve")
    for index in (-1, 96):
        with pytest.raises(ValueError, match=rf"ids hold {index}: an index in \[0, 96\)"):
            Shakespeare().decode([0, index])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"context_length": 0}, "context_length=0"),
        ({"limit": 0}, "limit=0"),
        ({"validation_limit": -1}, "validation_limit=-1"),
        ({"stride": 0}, "stride=0"),
        ({"tokens": "words"}, "tokens='words': 'characters' or a tokenizer is needed"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Shakespeare(**arguments)


@pytest.mark.usefixtures("plays")
def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="text has 16 tokens; context_length=16 needs at least 17"):
        Shakespeare(context_length=16, limit=16).setup()


def test_the_real_plays_are_clean_ascii_and_of_the_known_size(real: dict[str, str]):
    text = "".join(real.values())
    assert len(text) == 4_845_157
    assert set(text) <= set(ALPHABET)
    assert "gutenberg" not in text.lower()
    assert not any(line != line.rstrip() for line in text.splitlines())
    assert "To be, or not to be,--that is the question:--" in real["Hamlet"]
    assert all(play.count("\n") > 1500 for play in real.values())


def test_no_real_line_of_verse_is_in_two_parts(real: dict[str, str]):
    """Short exclamations and stage directions recur; long lines do not, but for a few songs."""
    parts = [
        {line for line in part.splitlines() if len(line) > 40}
        for part in shakespeare.split_plays(real)
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len(parts[one] & parts[other]) <= 3
