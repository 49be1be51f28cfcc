"""The bundled digits, against scikit-learn's own arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from companion.data.digits import Digits


def test_shapes_and_types() -> None:
    data = Digits()
    data.setup()
    for (x, y), samples in ((data.train, 1293), (data.validation, 144), (data.test, 360)):
        assert x.shape == (samples, 1, 8, 8)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert data.input_shape == (1, 8, 8)
    assert data.num_classes == len(data.class_names) == 10


def test_the_three_parts_are_the_images_of_scikit_learn() -> None:
    data = Digits(dtype=torch.float64)
    data.setup()
    bunch = load_digits()
    white = float(data.train[0].max())
    black = float(data.train[0].min())
    found = []
    for x, y in (data.train, data.validation, data.test):
        pixels = (x[:, 0] - black) / (white - black) * 16
        found += [
            (p.round().to(torch.uint8).numpy().tobytes(), int(t))
            for p, t in zip(pixels, y, strict=True)
        ]
    images = bunch.images.astype(np.uint8)
    expected = [(image.tobytes(), int(t)) for image, t in zip(images, bunch.target, strict=True)]
    assert sorted(found) == sorted(expected)


def test_the_training_set_is_standardised() -> None:
    data = Digits(dtype=torch.float64)
    data.setup()
    x = data.train[0]
    assert abs(float(x.mean())) < 1e-12
    assert float(x.std(correction=0)) == pytest.approx(1, rel=1e-10)


def test_the_test_set_does_not_depend_on_the_seed() -> None:
    first, second = Digits(seed=0), Digits(seed=1)
    first.setup()
    second.setup()
    assert torch.equal(first.test[1], second.test[1])
    assert not torch.equal(first.train[1], second.train[1])


def test_every_class_is_in_every_part() -> None:
    data = Digits()
    data.setup()
    for _, y in (data.train, data.validation, data.test):
        assert y.bincount(minlength=10).min() > 0


def test_options_shape_the_training_set() -> None:
    data = Digits(32, flatten=True, validation_fraction=0, limit=100, drop_last=True)
    data.setup()
    assert data.train[0].shape == (100, 64)
    assert data.validation is None
    assert [len(x) for x, _ in data.train_dataloader()] == [32, 32, 32]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"validation_fraction": 1.5}, "validation_fraction=1.5"),
        ({"limit": -3}, "limit=-3"),
        ({"seed": "x"}, "seed='x'"),
    ],
)
def test_a_bad_argument_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Digits(**options)


def test_a_limit_beyond_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match="limit=2000: the training set has 1293"):
        Digits(limit=2000).setup()
