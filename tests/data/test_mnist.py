"""MNIST itself, where its files are on the machine."""

from __future__ import annotations

import pytest

from companion.data import sources
from companion.data.mnist import MNIST


@pytest.fixture(scope="module")
def data() -> MNIST:
    try:
        sources.locate("mnist")
    except sources.DataNotFoundError as error:
        pytest.skip(str(error).partition(". ")[0])
    data = MNIST()
    data.setup()
    return data


def test_shapes(data: MNIST) -> None:
    assert data.train[0].shape == (55_000, 1, 28, 28)
    assert data.validation[0].shape == (5_000, 1, 28, 28)
    assert data.test[0].shape == (10_000, 1, 28, 28)


def test_the_classes_have_their_published_counts(data: MNIST) -> None:
    counts = data.train[1].bincount() + data.validation[1].bincount()
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.test[1].bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
