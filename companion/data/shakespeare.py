"""Shakespeare's plays as a stream of tokens for language models.

37 plays, 4.8 million characters, in the edition that Project Gutenberg released from 1997 on and
that the Open Knowledge Foundation gathered in its package ``shakespeare``. The plays are in the
public domain. The package puts its texts under the Creative Commons Attribution licence 2.5: name
the Open Knowledge Foundation where you pass them on.

The package has already cut off Project Gutenberg's own header and licence. Here the line with
the author's name and what stands above it, a closing "THE END" and blanks at ends of lines go
too. All of it is plain ASCII. Acts III and IV of *Cymbeline* are missing in this edition.

Whole plays are held out, three for validation and three for the test, in each case a comedy, a
history and a tragedy. Lines drawn at random would leave the neighbours of every held-out line in
the training text, with the names and the events of the same scene.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from companion.arguments import check_integer
from companion.data import sources
from companion.data.arrays import InMemory, Pair

if TYPE_CHECKING:
    from companion.architectures.tokenizer import BytePairTokenizer

PLAYS: dict[str, str] = {
    "All's Well That Ends Well": "alls_well_that_ends_well_gut.txt",
    "Antony and Cleopatra": "antony_and_cleopatra_gut.txt",
    "As You Like It": "as_you_like_it_gut.txt",
    "The Comedy of Errors": "comedy_of_errors_gut.txt",
    "Coriolanus": "coriolanus_gut.txt",
    "Cymbeline": "cymbeline_gut.txt",
    "Hamlet": "hamlet_gut.txt",
    "Henry IV, Part 1": "henry_iv_part_1_gut.txt",
    "Henry IV, Part 2": "henry_iv_part_2_gut.txt",
    "Henry V": "henry_v_gut.txt",
    "Henry VI, Part 1": "henry_vi_part_1_gut.txt",
    "Henry VI, Part 2": "henry_vi_part_2_gut.txt",
    "Henry VI, Part 3": "henry_vi_part_3_gut.txt",
    "Henry VIII": "henry_viii_gut.txt",
    "King John": "john_gut.txt",
    "Julius Caesar": "julius_caesar_gut.txt",
    "King Lear": "lear_gut.txt",
    "Love's Labour's Lost": "loves_labours_lost_gut.txt",
    "Macbeth": "macbeth_gut.txt",
    "Measure for Measure": "measure_for_measure_gut.txt",
    "The Merchant of Venice": "merchant_of_venice_gut.txt",
    "The Merry Wives of Windsor": "merry_wives_of_windsor_gut.txt",
    "A Midsummer Night's Dream": "midsummer_nights_dream_gut.txt",
    "Much Ado About Nothing": "much_ado_about_nothing_gut.txt",
    "Othello": "othello_gut.txt",
    "Pericles": "pericles_gut.txt",
    "Richard II": "richard_ii_gut.txt",
    "Richard III": "richard_iii_gut.txt",
    "Romeo and Juliet": "romeo_and_juliet_gut.txt",
    "The Taming of the Shrew": "taming_of_the_shrew_gut.txt",
    "The Tempest": "tempest_gut.txt",
    "Timon of Athens": "timon_of_athens_gut.txt",
    "Titus Andronicus": "tragedy_of_titus_andronicus_gut.txt",
    "Troilus and Cressida": "troilus_and_cressida_gut.txt",
    "Twelfth Night": "twelfth_night_gut.txt",
    "The Two Gentlemen of Verona": "two_gentlemen_of_verona_gut.txt",
    "The Winter's Tale": "winters_tale_gut.txt",
}
VALIDATION = ("Julius Caesar", "Richard II", "Twelfth Night")
TEST = ("Henry V", "Macbeth", "The Tempest")
# Printable ASCII and the end of a line: no character of a held-out play can be unknown.
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
INDEX = {character: index for index, character in enumerate(ALPHABET)}
AUTHOR = "by William Shakespeare\n"


def load_plays() -> dict[str, str]:
    """Return title -> text of the 37 plays, in the order of :data:`PLAYS`.

    Raises:
        companion.data.sources.DataNotFoundError: the files are not here and cannot be fetched.
    """
    content = sources.read_or_fetch("shakespeare")
    return {title: clean(content[file].decode("ascii")) for title, file in PLAYS.items()}


def clean(text: str) -> str:
    """Return a play from its cast to its last line, which ends with one line feed."""
    text = text[text.index(AUTHOR) + len(AUTHOR) :]
    text = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return text.removesuffix("THE END").strip() + "\n"


def split_plays(plays: dict[str, str]) -> tuple[str, str, str]:
    """Return the texts for training, validation and test: whole plays, three empty lines apart."""
    held_out = {*VALIDATION, *TEST}
    train = [text for title, text in plays.items() if title not in held_out]
    parts = train, [plays[title] for title in VALIDATION], [plays[title] for title in TEST]
    return tuple("\n\n\n".join(part) for part in parts)


def encode_characters(text: str) -> list[int]:
    """Return the indices of the characters of `text` in :data:`ALPHABET`.

    Raises:
        ValueError: a character that is not printable ASCII or a line feed.
    """
    try:
        return [INDEX[character] for character in text]
    except KeyError as error:
        raise ValueError(
            f"text holds {error.args[0]!r}: only printable ASCII and line feeds have an index"
        ) from None


def decode_characters(ids: list[int] | Tensor) -> str:
    """Return the text whose characters have the indices `ids`, the inverse of the above.

    Raises:
        ValueError: an index outside ``[0, 96)``.
    """
    ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    for index in ids:
        if not 0 <= index < len(ALPHABET):
            raise ValueError(f"ids hold {index}: an index in [0, {len(ALPHABET)}) is needed")
    return "".join(ALPHABET[index] for index in ids)


def windows(ids: Tensor, length: int, stride: int) -> Pair:
    """Cut a stream into inputs and targets, which are the inputs moved on by one token.

    Args:
        ids: the stream, ``(tokens,)``.
        length: tokens in a window.
        stride: from the start of one window to that of the next.

    Returns:
        ``x`` and ``y``, both ``(windows, length)`` and both views of `ids`:
        ``y[i, t] = x[i, t + 1]``.

    Raises:
        ValueError: the stream is too short for one window and its last target.
    """
    if len(ids) <= length:
        raise ValueError(
            f"text has {len(ids)} tokens; context_length={length} needs at least {length + 1}"
        )
    return ids[:-1].unfold(0, length, stride), ids[1:].unfold(0, length, stride)


class Shakespeare(InMemory):
    """The plays, cut into windows of `context_length` tokens: ``x`` and ``y``, ``(N, T)`` int64.

    ``y`` is ``x`` moved on by one token. Training windows start every `stride` tokens; those of
    validation and test do not overlap: each token of theirs is predicted once, but for the
    remainder that fills no window.

    Args:
        batch_size: windows in a batch (and process).
        context_length: tokens in a window.
        tokens: ``"characters"``, which gives the 96 characters of :data:`ALPHABET`, or a trained
            tokenizer.
        limit: keep only this many characters of the training text.
        validation_limit: keep only this many characters of the validation text and of the test
            text each.
        stride: from window to window in training, by default `context_length`. Half of it gives
            each token a second place in the context, at no cost of memory.
        seed: of the order of the batches, for which ``fit`` puts its own.
        drop_last: leave out a last, smaller training batch.

    Attributes:
        vocab_size: number of different tokens.
        texts: ``"train"``, ``"validation"`` and ``"test"``, the texts after the limits.

    Raises:
        ValueError: an argument out of range; at :meth:`setup`, a text shorter than a window.
        companion.data.sources.DataNotFoundError: at :meth:`setup`, if the plays are not here and
            cannot be fetched.
    """

    texts: dict[str, str]

    def __init__(
        self,
        batch_size: int = 32,
        context_length: int = 128,
        *,
        tokens: str | BytePairTokenizer = "characters",
        limit: int | None = None,
        validation_limit: int | None = None,
        stride: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, seed=seed, drop_last=drop_last)
        check_integer("context_length", context_length, minimum=1)
        for name, value in (("limit", limit), ("validation_limit", validation_limit)):
            if value is not None:
                check_integer(name, value, minimum=1)
        if stride is not None:
            check_integer("stride", stride, minimum=1)
        if isinstance(tokens, str) and tokens != "characters":
            raise ValueError(f"tokens={tokens!r}: 'characters' or a tokenizer is needed")
        self.context_length = context_length
        self.tokens = tokens
        self.limit = limit
        self.validation_limit = validation_limit
        self.stride = context_length if stride is None else stride

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return len(ALPHABET) if isinstance(self.tokens, str) else self.tokens.vocab_size

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`; ValueError for a character without one."""
        return encode_characters(text) if isinstance(self.tokens, str) else self.tokens.encode(text)

    def decode(self, ids: list[int] | Tensor) -> str:
        """Return the text of token ids; ValueError for an id that no token has."""
        if isinstance(self.tokens, str):
            return decode_characters(ids)
        return self.tokens.decode(ids.tolist() if isinstance(ids, Tensor) else list(ids))

    def prepare_data(self) -> None:
        """Fetch the plays if they are nowhere on this machine (Lightning: one process a node)."""
        if not self._ready:
            sources.ensure("shakespeare")

    def load(self) -> None:
        """Read, split and encode the plays."""
        train, validation, test = split_plays(load_plays())
        self.texts = {
            "train": train[: self.limit],
            "validation": validation[: self.validation_limit],
            "test": test[: self.validation_limit],
        }
        for name, text in self.texts.items():
            stride = self.stride if name == "train" else self.context_length
            ids = torch.tensor(self.encode(text), dtype=torch.int64)
            setattr(self, name, windows(ids, self.context_length, stride))
