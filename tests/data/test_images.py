"""Splitting and standardising images, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from companion.data.images import check_image_options, prepare_images, split


def make_images(samples: int = 40) -> tuple[Tensor, Tensor]:
    """Images that carry their own index in one pixel, so that each can be told from the rest."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (samples, 5, 4), dtype=np.uint8)
    pixels[:, 0, 0] = np.arange(samples)
    return torch.from_numpy(pixels), torch.arange(samples)


def test_a_split_is_disjoint_and_complete() -> None:
    parts = split(make_images(), 0.25, None, seed=1)
    train, validation = parts["train"][1].tolist(), parts["validation"][1].tolist()
    assert len(validation) == 10
    assert sorted(train + validation) == list(range(40))
    for pixels, labels in parts.values():
        assert torch.equal(pixels[:, 0, 0].long(), labels)


def test_a_split_depends_on_its_seed_only() -> None:
    torch.manual_seed(0)
    first = split(make_images(), 0.25, None, seed=1)["validation"][1]
    torch.manual_seed(1)
    assert torch.equal(split(make_images(), 0.25, None, seed=1)["validation"][1], first)
    assert not torch.equal(split(make_images(), 0.25, None, seed=2)["validation"][1], first)


def test_a_limit_shortens_training_and_leaves_validation() -> None:
    whole, limited = (split(make_images(), 0.25, limit, seed=1) for limit in (None, 7))
    assert torch.equal(limited["train"][1], whole["train"][1][:7])
    assert torch.equal(limited["validation"][1], whole["validation"][1])


def test_no_validation_fraction_means_no_validation_set() -> None:
    parts = split(make_images(), 0.0, None, seed=1)
    assert parts["validation"] is None
    assert len(parts["train"][1]) == 40


def test_pixels_are_standardised_by_the_training_set() -> None:
    parts = split(make_images(), 0.25, None, seed=1)
    parts["test"] = make_images(12)
    prepared = prepare_images(parts, white=255, flatten=False, dtype=torch.float64)
    scaled = parts["train"][0].numpy() / 255
    for (x, _), name in zip(prepared, ("train", "validation", "test"), strict=True):
        expected = (parts[name][0].numpy() / 255 - scaled.mean()) / scaled.std()
        np.testing.assert_allclose(x.numpy()[:, 0], expected, rtol=1e-10, atol=1e-12)


def test_shapes_are_those_of_images_or_vectors() -> None:
    parts = {"train": make_images(), "validation": None, "test": None}
    (images, _), none, _ = prepare_images(parts, white=255, flatten=False, dtype=torch.float32)
    (vectors, _), _, _ = prepare_images(parts, white=255, flatten=True, dtype=torch.float32)
    assert images.shape == (40, 1, 5, 4)
    assert none is None
    assert torch.equal(vectors, images.reshape(40, 20))


def test_a_constant_training_set_does_not_divide_by_zero() -> None:
    parts = {"train": (torch.full((3, 2, 2), 9, dtype=torch.uint8), torch.arange(3))}
    parts |= {"validation": None, "test": None}
    (x, _), _, _ = prepare_images(parts, white=255, flatten=False, dtype=torch.float32)
    torch.testing.assert_close(x, torch.zeros(3, 1, 2, 2), rtol=0, atol=1e-8)


def test_a_limit_beyond_the_training_set_is_refused() -> None:
    with pytest.raises(ValueError, match="limit=31: the training set has 30 images"):
        split(make_images(), 0.25, 31, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0, 0.1, torch.float32), "limit=0"),
        ((2.0, 0.1, torch.float32), "limit=2.0"),
        ((None, 1.0, torch.float32), r"validation_fraction=1.0: a number in \[0, 1\)"),
        ((None, -0.1, torch.float32), "validation_fraction=-0.1"),
        ((None, float("nan"), torch.float32), "validation_fraction=nan"),
        ((None, "0.1", torch.float32), "validation_fraction='0.1'"),
        ((None, 0.1, torch.int64), "dtype=torch.int64: a floating-point type"),
        ((None, 0.1, float), "dtype="),
    ],
)
def test_a_bad_option_is_named(options: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_image_options(*options)
