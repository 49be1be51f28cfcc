"""What the image sets share: split, scaling to [0, 1], standardisation by the training set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from companion.arguments import check_fraction, check_integer
from companion.data.arrays import Pair


def check_image_options(limit: int | None, validation_fraction: float, dtype: torch.dtype) -> None:
    """Raise ValueError for an option that no image set can meet."""
    if limit is not None:
        check_integer("limit", limit, minimum=1)
    check_fraction("validation_fraction", validation_fraction)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype={dtype}: a floating-point type is needed")


def split(
    images: Pair, validation_fraction: float, limit: int | None, seed: int
) -> dict[str, Pair | None]:
    """Split ``(pixels, labels)`` at random into ``train`` and ``validation``.

    Args:
        images: pixels of shape ``(images, height, width)`` and labels ``(images,)``.
        validation_fraction: share of the images that is held out, rounded to whole images.
        limit: number of training images to keep, or None for all.
        seed: of the draw.

    Raises:
        ValueError: `limit` is larger than the training set.
    """
    pixels, labels = images
    held_out = round(validation_fraction * len(labels))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    train, validation = order[held_out:], order[:held_out]
    if limit is not None:
        if limit > len(train):
            raise ValueError(f"limit={limit}: the training set has {len(train)} images")
        train = train[:limit]
    return {
        "train": (pixels[train], labels[train]),
        "validation": (pixels[validation], labels[validation]) if held_out else None,
    }


def prepare_images(
    parts: dict[str, Pair | None], *, white: int, flatten: bool, dtype: torch.dtype
) -> tuple[Pair, Pair | None, Pair | None]:
    """Scale, standardise and shape the pixels of ``train``, ``validation`` and ``test``.

    ``x = (pixels / white - mean) / std`` with the mean and the standard deviation of all pixels
    of the *training* set: what is measured on validation and test images must not leak.

    Args:
        parts: pairs of uint8 pixels ``(images, height, width)`` and labels ``(images,)``.
        white: the largest pixel value.
        flatten: give ``(images, height * width)`` instead of ``(images, 1, height, width)``.
        dtype: of the result.
    """
    pixels = parts["train"][0]
    counts = torch.bincount(pixels.reshape(-1), minlength=white + 1).to(torch.float64)
    values = torch.arange(len(counts), dtype=torch.float64) / white
    mean = float((counts * values).sum() / counts.sum())
    variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
    std = variance**0.5 if variance > 0 else 1.0

    def prepare(pair: Pair | None) -> Pair | None:
        if pair is None:
            return None
        x = _standardise(pair[0], white, mean, std, dtype)
        return (x.flatten(1) if flatten else x.unsqueeze(1)), pair[1]

    return prepare(parts["train"]), prepare(parts["validation"]), prepare(parts["test"])


def _standardise(pixels: Tensor, white: int, mean: float, std: float, dtype: torch.dtype) -> Tensor:
    return pixels.to(dtype).div_(white).sub_(mean).div_(std)
