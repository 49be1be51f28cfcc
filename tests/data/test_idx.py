"""The IDX format and the image sets stored in it, with small files made here."""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given

from companion.data.catalogue import DATASETS, File
from companion.data.idx import parse_idx
from companion.data.mnist import MNIST


def to_idx(array: np.ndarray) -> bytes:
    """Write an array of bytes as the format's description says."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5)))
def test_an_array_survives_the_format(array: np.ndarray) -> None:
    parsed = parse_idx(to_idx(array))
    assert parsed.dtype == torch.uint8
    assert np.array_equal(parsed.numpy(), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x1f\x8b\x08\x00", "1f8b0800"),
        (b"\x00\x00\x0d\x01" + bytes(8), "not an IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "inside its header"),
        (
            to_idx(np.zeros((2, 3), np.uint8))[:-1],
            r"17 bytes; a header for shape \(2, 3\) asks for 18",
        ),
        (to_idx(np.zeros((2, 3), np.uint8)) + b"\x00", "19 bytes"),
    ],
)
def test_what_is_not_such_a_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_idx(content)


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A little MNIST of 24 + 5 images in $COMPANION_DATA, half of it gzipped."""
    random = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": random.integers(0, 256, (24, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": random.integers(0, 10, 24, dtype=np.uint8),
        "t10k-images-idx3-ubyte": random.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": random.integers(0, 10, 5, dtype=np.uint8),
    }
    directory = tmp_path / "mnist"
    directory.mkdir()
    files = {}
    for name, array in arrays.items():
        content = to_idx(array)
        files[name] = File(len(content), hashlib.sha256(content).hexdigest())
        if "images" in name:
            (directory / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (directory / name).write_bytes(content)
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], files=files))
    monkeypatch.setenv("COMPANION_DATA", str(tmp_path))
    return arrays


def test_images_and_labels_arrive_together(arrays: dict[str, np.ndarray]) -> None:
    data = MNIST(batch_size=4, validation_fraction=0.25, dtype=torch.float64)
    data.prepare_data()
    data.setup()
    assert data.train[0].shape == (18, 1, 28, 28)
    assert data.validation[0].shape == (6, 1, 28, 28)
    assert torch.equal(data.test[1], torch.from_numpy(arrays["t10k-labels-idx1-ubyte"]).long())
    white, black = float(data.train[0].max()), float(data.train[0].min())
    images = {
        image.tobytes(): label
        for image, label in zip(
            arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"], strict=True
        )
    }
    seen = 0
    for x, y in (data.train, data.validation):
        pixels = ((x[:, 0] - black) / (white - black) * 255).round().to(torch.uint8).numpy()
        for image, label in zip(pixels, y.tolist(), strict=True):
            assert images[image.tobytes()] == label
            seen += 1
    assert seen == 24


def test_a_set_up_module_reads_no_file_again(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    data = MNIST(validation_fraction=0)
    data.setup()
    for path in (tmp_path / "mnist").iterdir():
        path.unlink()
    data.prepare_data()
    data.setup()
    assert len(data.train[0]) == 24


def test_vectors_limit_and_seed(arrays: dict[str, np.ndarray]) -> None:
    data = MNIST(limit=7, flatten=True, validation_fraction=0.25, seed=2)
    data.setup()
    assert data.train[0].shape == (7, 784)
    assert data.validation[0].shape == (6, 784)
    other = MNIST(limit=7, validation_fraction=0.25, seed=3)
    other.setup()
    assert not torch.equal(other.train[0].flatten(1), data.train[0])
