"""Japanese vowels: nine men say /ae/, and the speaker is to be named from the sound.

640 utterances, each a sequence of 7 to 29 frames; a frame is 12 numbers, the cepstrum coefficients
of a linear prediction analysis of 25.6 ms of speech, and the next begins 6.4 ms later. 270
utterances, 30 a speaker, are for training; 370, between 24 and 88 a speaker, for testing.

Source: Kudo, Toyama and Shimbo, "Multidimensional curve classification using passing-through
regions", Pattern Recognition Letters 20 (1999); UCI repository, "Japanese Vowels".
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from companion.arguments import check_fraction
from companion.data.arrays import InMemory
from companion.data.sources import read_or_fetch
from companion.data.ts_format import Series, parse_ts

STEPS, CHANNELS, SPEAKERS = 29, 12, 9


class JapaneseVowels(InMemory):
    """640 utterances by nine speakers, in the split of the paper: 270 for training, 370 to test.

    ``x`` is ``(utterances, 29, 12)``: the frames, each channel standardised by the mean and the
    standard deviation of the training frames, then frames of zeros. No real frame is all zero, so
    ``SequenceClassifier(…, padding_value=0.0)`` finds the lengths; they also stand in
    :attr:`lengths`. ``y`` holds the speakers 0 to 8, ``(utterances,)``, int64.

    Args:
        batch_size: utterances in a batch (and process).
        validation_fraction: share of each speaker's training utterances that is held out, in
            [0, 1), rounded to whole utterances. Choose hyper-parameters on these, never on the
            test set; then train on all with 0.
        dtype: floating-point type of ``x``.
        seed: of the split; and of the order of the batches, for which ``fit`` puts its own.
        drop_last: leave out a last, smaller training batch.

    Attributes:
        lengths: ``{"train": …, "validation": …, "test": …}``, frames of each utterance, int64;
            ``validation`` is None where nothing is held out.
        padding_value: what stands in the frames after an utterance's end.

    Raises:
        ValueError: an argument out of range, a file that is not what it should be.
    """

    padding_value = 0.0

    def __init__(
        self,
        batch_size: int = 30,
        *,
        validation_fraction: float = 0.2,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, seed=seed, drop_last=drop_last)
        check_fraction("validation_fraction", validation_fraction)
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"dtype={dtype}: a floating-point type is needed")
        self.validation_fraction = validation_fraction
        self.dtype = dtype
        self.num_classes = SPEAKERS
        self.class_names = tuple(f"speaker {number}" for number in range(1, SPEAKERS + 1))
        self.lengths: dict[str, Tensor | None] = {}

    def load(self) -> None:
        """Read the two files, hold out the validation set, standardise, pad."""
        files = read_or_fetch("japanese-vowels")
        given, test = (
            parse_ts(files[name], name)
            for name in ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")
        )
        held_out = hold_out([label for _, label in given], self.validation_fraction, self.seed)
        parts = {
            "train": [given[i] for i in range(len(given)) if i not in held_out],
            "validation": [given[i] for i in sorted(held_out)],
            "test": test,
        }
        frames = np.concatenate([frames for frames, _ in parts["train"]])
        mean, std = frames.mean(0), frames.std(0)
        for name, part in parts.items():
            pair, lengths = None, None
            if part:
                pair, lengths = self._prepare(part, mean, std)
            setattr(self, name, pair)
            self.lengths[name] = lengths

    def _prepare(
        self, part: list[Series], mean: np.ndarray, std: np.ndarray
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        lengths = torch.tensor([len(frames) for frames, _ in part])
        x = torch.full((len(part), STEPS, CHANNELS), self.padding_value, dtype=self.dtype)
        for row, (frames, _) in zip(x, part, strict=True):
            row[: len(frames)] = torch.from_numpy((frames - mean) / std)
        y = torch.tensor([int(label) - 1 for _, label in part])
        return (x, y), lengths


def hold_out(labels: list[str], fraction: float, seed: int) -> set[int]:
    """Draw the same share of every label's positions; return the positions."""
    generator = np.random.default_rng(seed)
    drawn: set[int] = set()
    for label in sorted(set(labels)):
        places = [i for i, other in enumerate(labels) if other == label]
        count = round(fraction * len(places))
        drawn.update(int(i) for i in generator.permutation(places)[:count])
    return drawn
