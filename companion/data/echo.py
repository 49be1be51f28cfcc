"""The echo: say what was said `lag` steps ago. The simplest task that needs a memory.

``x`` are random bits and ``y`` the same bits, `lag` steps later; the first `lag` targets are
``IGNORED``, as nothing has been said yet. A model without memory cannot do better than log 2 nats a
step, one bit; a model that remembers comes down to 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from companion.arguments import check_integer
from companion.data.arrays import InMemory, Pair

IGNORED = -100  # targets that do not count; companion.training.LanguageModel.IGNORED
CHANCE = math.log(2)  # nats a step


class Echo(InMemory):
    """Bits ``x`` and targets ``y``, both ``(samples, length)``, int64.

    Args:
        lag: steps from a bit to its echo, at least 1.
        length: steps of a sequence, more than `lag`.
        samples: training sequences; there are as many for validation.
        batch_size: sequences in a batch (and process).
        seed: of the bits; and of the order of the batches, for which ``fit`` puts its own.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        lag: int,
        *,
        length: int = 256,
        samples: int = 32,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed=seed)
        check_integer("lag", lag, minimum=1)
        check_integer("length", length, minimum=lag + 1)
        check_integer("samples", samples, minimum=1)
        self.lag, self.length, self.samples = lag, length, samples
        self.vocab_size = 2

    def load(self) -> None:
        """Draw the bits."""
        generator = np.random.default_rng(self.seed)
        self.train, self.validation = self._draw(generator), self._draw(generator)

    def _draw(self, generator: np.random.Generator) -> Pair:
        x = torch.from_numpy(generator.integers(0, 2, (self.samples, self.length)))
        y = torch.full_like(x, IGNORED)
        y[:, self.lag :] = x[:, : -self.lag]
        return x, y
