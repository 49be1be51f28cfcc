r"""The adding problem: two numbers, far apart in a long sequence of others, are to be added.

Each step of a sequence is a pair (value, mark). Values are uniform in [0, 1]; two marks are 1, one
somewhere in the first half and one in the second, the others 0. The target is the sum of the two
marked values. Who always answers 1, the mean of the sum, has a mean squared error of 1/6, the
variance of a sum of two uniform numbers; anything less shows that something was remembered.

Source: Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9 (1997), section
5.4, in the form of Le, Jaitly and Hinton, arXiv:1504.00941, section 4.1. (The original has values
in [−1, 1], random lengths, the first mark among the first ten steps, and scales the sum.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from companion.arguments import check_integer
from companion.data.arrays import InMemory, Pair

CHANCE = 1 / 6  # mean squared error of the constant answer 1


class AddingProblem(InMemory):
    """Sequences ``x`` of shape ``(samples, length, 2)`` and sums ``y`` of shape ``(samples, 1)``.

    Args:
        length: steps of every sequence, at least 2.
        samples: training sequences.
        batch_size: sequences in a batch (and process).
        held_out: sequences in the validation set, and as many in the test set.
        seed: of the sequences; and of the order of the batches, for which ``fit`` puts its own.
        drop_last: leave out a last, smaller training batch.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        length: int = 100,
        *,
        samples: int = 10_000,
        batch_size: int = 100,
        held_out: int = 1000,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, seed=seed, drop_last=drop_last)
        check_integer("length", length, minimum=2)
        check_integer("samples", samples, minimum=1)
        check_integer("held_out", held_out, minimum=1)
        self.length, self.samples, self.held_out = length, samples, held_out

    def load(self) -> None:
        """Draw the sequences."""
        generator = np.random.default_rng(self.seed)
        self.train = draw(self.length, self.samples, generator)
        self.validation = draw(self.length, self.held_out, generator)
        self.test = draw(self.length, self.held_out, generator)


def draw(length: int, samples: int, generator: np.random.Generator) -> Pair:
    """Return sequences (samples, length, 2) and their sums (samples, 1), float32."""
    values = generator.random((samples, length))
    half = length // 2
    first = generator.integers(0, half, samples)
    second = generator.integers(half, length, samples)
    rows, marks = np.arange(samples), np.zeros((samples, length))
    marks[rows, first] = marks[rows, second] = 1
    sums = values[rows, first] + values[rows, second]
    x: Tensor = torch.from_numpy(np.stack((values, marks), axis=2))
    return x.float(), torch.from_numpy(sums).float().unsqueeze(1)
