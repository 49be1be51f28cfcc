"""The 8 x 8 handwritten digits bundled with scikit-learn: no download, 1,797 images."""

from __future__ import annotations

import numpy as np
import torch

from companion.data.arrays import InMemory
from companion.data.images import check_image_options, prepare_images, split


class Digits(InMemory):
    """Handwritten digits, 8 x 8 pixels, 10 classes, 1,797 images.

    One fifth (360 images, drawn once and for all) is the test set; `validation_fraction` of the
    rest is the validation set, drawn by `seed`. ``x`` is ``(images, 1, 8, 8)``, or
    ``(images, 64)`` if `flatten`; pixels are scaled to [0, 1] and standardised by the mean and
    standard deviation of the training set. ``y`` holds class indices, ``(images,)``, int64.

    Source: the test part of Alpaydin and Kaynak's "Optical Recognition of Handwritten Digits"
    (UCI repository), as packaged in ``sklearn.datasets.load_digits``.

    Args:
        batch_size: samples in a batch (and process).
        flatten: give vectors instead of images.
        validation_fraction: share of the training images, in [0, 1).
        limit: keep only this many training images (after the split).
        dtype: floating-point type of ``x``.
        seed: of the split; and of the order of the batches, for which ``fit`` puts its own.
        drop_last: leave out a last, smaller training batch.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        batch_size: int = 64,
        *,
        flatten: bool = False,
        validation_fraction: float = 0.1,
        limit: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, seed=seed, drop_last=drop_last)
        check_image_options(limit, validation_fraction, dtype)
        self.flatten = flatten
        self.validation_fraction = validation_fraction
        self.limit = limit
        self.dtype = dtype
        self.num_classes = 10
        self.class_names = tuple("0123456789")

    def load(self) -> None:
        """Read the bundled file and split it."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = torch.from_numpy(bunch.images.astype(np.uint8))
        labels = torch.from_numpy(bunch.target.astype(np.int64))
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
        test, rest = order[:360], order[360:]
        parts = split((pixels[rest], labels[rest]), self.validation_fraction, self.limit, self.seed)
        parts["test"] = (pixels[test], labels[test])
        self.train, self.validation, self.test = prepare_images(
            parts, white=16, flatten=self.flatten, dtype=self.dtype
        )
