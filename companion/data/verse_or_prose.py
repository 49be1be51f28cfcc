"""Verse or prose? Speeches from Shakespeare's plays whose line ends were lost.

In the printed text the two are told apart at a glance: each line of verse begins with a capital
letter and ends where the metre ends, prose runs on to the margin. Labels are read off that; then
line ends become spaces. What remains are rhythm, choice of words, and capitals in the middle of
a sentence, which may be the start of a line, or a name.

Plays are held out whole, those of `companion.data.shakespeare`.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from companion.arguments import check_integer
from companion.data import sources
from companion.data.arrays import InMemory, Pair
from companion.data.shakespeare import ALPHABET, TEST, VALIDATION, encode_characters, load_plays

VERSE, PROSE = 0, 1
#: Ids beyond the characters: filling up short passages, and hiding a character.
PAD_ID, MASK_ID = len(ALPHABET), len(ALPHABET) + 1
VOCAB_SIZE = len(ALPHABET) + 2

# A line of its own: "HAMLET.", "FIRST LORD." or, in some plays, "Ham.", "1 Clown.".
SPEAKER = re.compile(r"[A-Z0-9][A-Z0-9' .,-]+\.|(\d )?[A-Z][\w' .-]{0,22}\.")


def label_of(lines: list[str]) -> int | None:
    """Return VERSE, PROSE or, where the layout leaves it open, None.

    Args:
        lines: of one speech, without the speaker's name.
    """
    if len(lines) < 4:
        return None
    starts = [re.sub(r"[^A-Za-z]", "", line)[:1] for line in lines[1:]]
    small = sum(start.islower() for start in starts)
    if small == 0 and all(starts):
        return VERSE
    return PROSE if small >= len(starts) / 2 else None


def speeches(text: str) -> list[tuple[str, int | None]]:
    """Return each speech of a play as running text, with its label."""
    found = []
    for part in text.split("\n\n"):
        lines = [line.strip() for line in part.strip().splitlines()]
        if lines and SPEAKER.fullmatch(lines[0]):
            lines = lines[1:]
        label = label_of(lines)
        running = re.sub(r"\[[^\]]*\]|_", " ", " ".join(lines))  # stage directions
        running = " ".join(running.split())
        if running:
            found.append((running, label))
    return found


def passages(found: list[tuple[str, int | None]], length: int) -> Pair:
    """Cut the labelled speeches into ids (N, length) and labels (N,).

    The last passage of a speech may be as short as half of `length`; PAD_ID fills it up.
    """
    rows, labels = [], []
    for text, label in found:
        if label is None:
            continue
        for start in range(0, len(text) - length // 2, length):
            ids = encode_characters(text[start : start + length])
            rows.append(ids + [PAD_ID] * (length - len(ids)))
            labels.append(label)
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(labels, dtype=torch.int64)


class VerseOrProse(InMemory):
    """Passages of running text and whether they are verse (0) or prose (1).

    ``x`` is (N, length) int64, the indices of the characters, filled up with ``PAD_ID``;
    ``y`` is (N,). Both classes are equally frequent in each part. ``unlabelled`` is all running
    text of the training plays, (windows, length), for pre-training.

    Args:
        batch_size: passages in a batch (and process).
        length: characters of a passage.
        limit: keep only this many labelled training passages.
        seed: which passages are kept, and the order of the batches.
        drop_last: leave out a last, smaller training batch.

    Raises:
        ValueError: an argument out of range.
        companion.data.sources.DataNotFoundError: at :meth:`setup`, if the plays are not here and
            cannot be fetched.
    """

    unlabelled: Tensor

    def __init__(
        self,
        batch_size: int = 32,
        length: int = 128,
        *,
        limit: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, seed=seed, drop_last=drop_last)
        check_integer("length", length, minimum=1)
        if limit is not None:
            check_integer("limit", limit, minimum=2)
        self.length, self.limit = length, limit
        self.num_classes = 2
        self.class_names = ("verse", "prose")

    def prepare_data(self) -> None:
        """Fetch the plays if they are nowhere on this machine (Lightning: one process a node)."""
        if not self._ready:
            sources.ensure("shakespeare")

    def load(self) -> None:
        """Read, label, split and encode the speeches."""
        parts: dict[str, list[tuple[str, int | None]]] = {"train": [], "validation": [], "test": []}
        for title, text in load_plays().items():
            held_out = "validation" if title in VALIDATION else "test" if title in TEST else "train"
            parts[held_out] += speeches(text)
        for name, found in parts.items():
            limit = self.limit if name == "train" else None
            setattr(self, name, balanced(passages(found, self.length), limit, self.seed))
        stream = encode_characters(" ".join(text for text, _ in parts["train"]))
        whole = len(stream) // self.length * self.length
        self.unlabelled = torch.tensor(stream[:whole], dtype=torch.int64).view(-1, self.length)


def balanced(pair: Pair, limit: int | None, seed: int) -> Pair:
    """Return equally many passages of both classes, drawn by `seed`, at most `limit` in all."""
    x, y = pair
    generator = torch.Generator().manual_seed(seed)
    each = min(int((y == label).sum()) for label in (VERSE, PROSE))
    each = each if limit is None else min(each, limit // 2)
    kept = []
    for label in (VERSE, PROSE):
        places = (y == label).nonzero()[:, 0]
        kept.append(places[torch.randperm(len(places), generator=generator)[:each]])
    order = torch.cat(kept)
    return x[order], y[order]
