"""Fashion-MNIST itself, where its files are on the machine."""

from __future__ import annotations

import pytest
import torch

from companion.data import sources
from companion.data.fashion_mnist import FashionMNIST


@pytest.fixture(scope="module")
def data() -> FashionMNIST:
    try:
        sources.locate("fashion-mnist")
    except sources.DataNotFoundError as error:
        pytest.skip(str(error).partition(". ")[0])
    data = FashionMNIST()
    data.setup()
    return data


def test_shapes(data: FashionMNIST) -> None:
    assert data.train[0].shape == (55_000, 1, 28, 28)
    assert data.validation[0].shape == (5_000, 1, 28, 28)
    assert data.test[0].shape == (10_000, 1, 28, 28)
    assert data.num_classes == len(data.class_names) == 10


def test_every_class_has_6000_training_and_1000_test_images(data: FashionMNIST) -> None:
    counts = data.train[1].bincount() + data.validation[1].bincount()
    assert counts.tolist() == [6000] * 10
    assert data.test[1].bincount().tolist() == [1000] * 10


def test_the_pixels_have_the_published_mean_and_deviation(data: FashionMNIST) -> None:
    # 0.2860 and 0.3530 over the 60,000 training images are the widely published figures.
    white, black = float(data.train[0].max()), float(data.train[0].min())
    pixels = (torch.cat([data.train[0], data.validation[0]]) - black) / (white - black)
    assert float(pixels.double().mean()) == pytest.approx(0.2860, abs=5e-5)
    assert float(pixels.double().std()) == pytest.approx(0.3530, abs=5e-5)


def test_trousers_are_narrower_than_pullovers(data: FashionMNIST) -> None:
    x, y = data.test
    lit = (x[:, 0] > x.min()).any(dim=1).sum(dim=1).float()  # columns with any light
    trousers, pullovers = (lit[y == data.class_names.index(n)] for n in ("trouser", "pullover"))
    assert trousers.mean() < pullovers.mean() - 5
