"""Image sets stored as IDX files, the format of MNIST.

An IDX file is a header of big-endian 32-bit integers and then the bytes: a magic number whose
third byte is the type (8: unsigned byte) and whose fourth byte is the number of dimensions,
then the dimensions themselves. Source: LeCun, Cortes and Burges, "The MNIST database".
"""

from __future__ import annotations

import math
import struct

import numpy as np
import torch
from torch import Tensor

from companion.data import sources
from companion.data.arrays import InMemory
from companion.data.images import check_image_options, prepare_images, split


def parse_idx(content: bytes) -> Tensor:
    """Return the array in an IDX file of unsigned bytes, a uint8 tensor.

    Raises:
        ValueError: the header is not that of such a file, or bytes are missing or left over.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"content starts with {content[:4].hex()!r}: not an IDX file of bytes")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(f"content ends after {len(content)} bytes, inside its header")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"content has {len(content)} bytes; a header for shape {shape} "
            f"asks for {start + math.prod(shape)}"
        )
    array = np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
    return torch.from_numpy(array.copy())


class IdxImages(InMemory):
    """The 28 x 28 image sets: 60,000 images for training and validation, 10,000 for the test.

    ``x`` is ``(images, 1, 28, 28)``, or ``(images, 784)`` if `flatten`; pixels are scaled to
    [0, 1] and standardised by the mean and standard deviation of the training set. ``y`` holds
    class indices, ``(images,)``, int64. The test set is the official one and always whole.

    Args:
        batch_size: samples in a batch (and process).
        limit: keep only this many training images (after the split).
        flatten: give vectors instead of images.
        validation_fraction: share of the 60,000 training images, in [0, 1).
        dtype: floating-point type of ``x``.
        seed: of the split; and of the order of the batches, for which ``fit`` puts its own.
        drop_last: leave out a last, smaller training batch.

    Raises:
        ValueError: an argument out of range.
        companion.data.sources.DataNotFoundError: at :meth:`setup`, if the files are not here and
            cannot be fetched.
    """

    dataset = ""

    def __init__(
        self,
        batch_size: int = 128,
        *,
        limit: int | None = None,
        flatten: bool = False,
        validation_fraction: float = 1 / 12,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, seed=seed, drop_last=drop_last)
        check_image_options(limit, validation_fraction, dtype)
        self.limit = limit
        self.flatten = flatten
        self.validation_fraction = validation_fraction
        self.dtype = dtype
        self.num_classes = 10

    def prepare_data(self) -> None:
        """Fetch the files if they are nowhere on this machine (Lightning: one process a node)."""
        if not self._ready:
            sources.ensure(self.dataset)

    def load(self) -> None:
        """Read the four files, fetched if need be, and split them."""
        content = sources.read_or_fetch(self.dataset)
        arrays = {name: parse_idx(content[name]) for name in content}
        parts = split(
            (arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"].long()),
            self.validation_fraction,
            self.limit,
            self.seed,
        )
        parts["test"] = (
            arrays["t10k-images-idx3-ubyte"],
            arrays["t10k-labels-idx1-ubyte"].long(),
        )
        self.train, self.validation, self.test = prepare_images(
            parts, white=255, flatten=self.flatten, dtype=self.dtype
        )
