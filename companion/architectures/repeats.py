"""Sequences that repeat themselves: a task for attention, since the answer stands in the past.

A piece of random tokens, then the same piece again. Nothing in the first half can be known; all of
the second half can, by whoever looks back for the last occurrence of the present token and reads
what came after it.

Source: Olsson et al., "In-context Learning and Induction Heads", arXiv:2209.11895, whose measure of
an induction head is its behaviour on repeated random sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from companion.arguments import check_integer
from companion.data.arrays import InMemory


class Repeats(InMemory):
    """Batches ``(x, y)``, (N, T) int64 each; y is x one step later, −100 where it is chance.

    Args:
        batch_size: sequences a batch.
        vocab_size: V, number of different tokens.
        context_length: T, tokens in x.
        period: length of the piece in all sequences; None draws one for each, from a third to half
            of the sequence, so that counting steps does not help.
        size: training sequences; a quarter as many for validation.
        seed: of the sequences.
    """

    def __init__(
        self,
        batch_size: int = 64,
        *,
        vocab_size: int = 16,
        context_length: int = 24,
        period: int | None = None,
        size: int = 4096,
        seed: int = 0,
    ) -> None:
        check_integer("vocab_size", vocab_size, minimum=2)
        check_integer("context_length", context_length, minimum=8)
        check_integer("size", size, minimum=4)
        if period is not None:
            check_integer("period", period, minimum=1)
            if period >= context_length:
                raise ValueError(f"period={period}: less than context_length={context_length}")
        super().__init__(batch_size, seed=seed, drop_last=True)
        self.vocab_size, self.context_length = vocab_size, context_length
        self.period, self.size = period, size

    def load(self) -> None:
        """Draw the sequences."""
        generator = torch.Generator().manual_seed(self.seed)
        x, y = self._draw(self.size + self.size // 4, generator)
        self.train = (x[: self.size], y[: self.size])
        self.validation = (x[self.size :], y[self.size :])

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        length = self.context_length + 1
        tokens = torch.randint(self.vocab_size, (count, length), generator=generator)
        low, high = (length // 3, length // 2) if self.period is None else [self.period] * 2
        pieces = torch.randint(low, high + 1, (count, 1), generator=generator)
        place = torch.arange(length)
        ids = tokens.gather(1, place % pieces)
        # The first token of the second piece cannot be known; from the next one on, all can.
        known = place > pieces
        return ids[:, :-1], torch.where(known, ids, -100)[:, 1:]
