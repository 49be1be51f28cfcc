"""Byte-pair encoding against the `tokenizers` library, and on any bytes at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import language_model_checks as checks
from hypothesis import given
from hypothesis import strategies as st

from companion.architectures import tokenizer
from companion.architectures.tokenizer import BytePairTokenizer, bits_per_byte, split_pieces
from companion.data import shakespeare, sources
from companion.data.sources import DataNotFoundError

SMALL = BytePairTokenizer.train(checks.LINES, 330)


def test_naive_and_fast_training_find_the_library_s_merges():
    checks.check_merges(tokenizer)


def test_encoding_equals_the_library_s():
    checks.check_encoding(tokenizer)


def test_on_the_real_plays_merges_and_ids_equal_the_library_s():
    try:
        sources.locate("shakespeare")
    except DataNotFoundError:
        pytest.skip("the plays are not on this machine: companion data fetch shakespeare")
    plays = shakespeare.load_plays()
    text = "\n\n\n".join(plays[title] for title in ("Hamlet", "King Lear", "Othello"))
    reference = checks.reference_tokenizer(text, 1024)
    ours = BytePairTokenizer.train(text, 1024)
    assert ours.vocab_size == 1024
    assert ours.merges == checks.reference_merges(reference)
    unseen = plays["Macbeth"]
    ids = ours.encode(unseen)
    assert ids == reference.encode(unseen).ids
    assert ours.decode(ids) == unseen


@given(st.binary())
def test_any_bytes_survive(data: bytes):
    ids = SMALL.encode(data)
    assert SMALL.decode_bytes(ids) == data
    assert all(0 <= index < SMALL.vocab_size for index in ids)


@given(st.text())
def test_any_unicode_string_survives(text: str):
    assert SMALL.decode(SMALL.encode(text)) == text
    assert SMALL.encode(text) == SMALL.encode(text.encode())


@given(st.text(alphabet="ab \n'st1_.é€\u2003", max_size=60))
def test_pieces_joined_are_the_text(text: str):
    assert b"".join(split_pieces(text)) == text.encode()


@given(st.text(alphabet="ab", min_size=1, max_size=60), st.integers(256, 270))
def test_fast_and_naive_training_agree_where_pairs_overlap(text: str, vocab_size: int):
    assert tokenizer.learn_merges(text, vocab_size) == tokenizer.learn_merges_naive(
        text, vocab_size
    )


@given(st.text(min_size=1), st.text())
def test_whatever_it_was_trained_on_it_encodes_anything(text: str, other: str):
    ours = BytePairTokenizer.train(text, 260)
    assert ours.decode(ours.encode(other)) == other


def test_the_first_merge_is_the_most_frequent_pair_and_ties_go_to_the_smaller_ids():
    h, a = tokenizer.ID_OF_BYTE[ord("h")], tokenizer.ID_OF_BYTE[ord("a")]
    assert tokenizer.learn_merges("haha", 257) == [(h, a)]
    assert tokenizer.learn_merges("ha ah ha ah", 257)[0] == (a, h)


def test_a_rare_pair_is_not_merged():
    assert tokenizer.learn_merges("abc", 300) == []
    assert len(tokenizer.learn_merges("abc", 300, min_count=1)) == 2


def test_ids_below_256_are_the_bytes_and_half_a_character_decodes_to_a_mark():
    ours = BytePairTokenizer()
    assert ours.vocab_size == 256
    assert sorted(ours.tokens) == [bytes([byte]) for byte in range(256)]
    half = ours.encode("é")[:1]
    assert ours.decode(half) == "\ufffd"
    assert ours.decode_bytes(half) == b"\xc3"


def test_more_merges_give_fewer_tokens():
    lengths = [
        len(BytePairTokenizer(SMALL.merges[:count]).encode(checks.LINES)) for count in range(0, 75)
    ]
    assert lengths[0] == len(checks.LINES)
    assert all(more >= fewer for more, fewer in zip(lengths, lengths[1:], strict=False))
    assert lengths[-1] < 0.6 * lengths[0]


def test_a_saved_tokenizer_comes_back(tmp_path: Path):
    SMALL.save(tmp_path / "tokenizer.json")
    again = BytePairTokenizer.load(tmp_path / "tokenizer.json")
    assert again.merges == SMALL.merges
    assert again.encode(checks.LINES) == SMALL.encode(checks.LINES)


@pytest.mark.parametrize("content", ["{}", "[1]", '{"merges": [[1]]}', '{"merges": [[0, 999]]}'])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="not a saved tokenizer"):
        BytePairTokenizer.load(path)


@pytest.mark.parametrize("learn", [tokenizer.learn_merges, tokenizer.learn_merges_naive])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text", 255), "vocab_size=255: an integer of at least 256"),
        (("text", 300.0), "vocab_size=300.0"),
        (("text", 300, 0), "min_count=0"),
        (("", 300), "text is empty"),
        ((b"", 300), "text is empty"),
    ],
)
def test_training_refuses_what_it_cannot_learn_from(learn, arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        learn(*arguments)


def test_unknown_ids_and_merges_of_unknown_tokens_are_refused():
    for index in (-1, SMALL.vocab_size):
        with pytest.raises(ValueError, match=f"ids hold {index}"):
            SMALL.decode([0, index])
    with pytest.raises(ValueError, match=r"merges\[1\]=\(0, 257\): ids in \[0, 257\)"):
        BytePairTokenizer([(0, 0), (0, 257)])


def test_bits_per_byte_of_a_uniform_guess_is_eight():
    checks.check_bits(tokenizer)
    with pytest.raises(ValueError, match="size=0"):
        bits_per_byte(1.0, 1, 0)
    with pytest.raises(ValueError, match="tokens=0"):
        bits_per_byte(1.0, 0, 1)
