"""The facts about each data set, as far as they can be checked without its files."""

from __future__ import annotations

import re

import pytest

from companion.data.catalogue import DATASETS, DataSet

each_dataset = pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)


@pytest.mark.parametrize("dataset", [DATASETS["fashion-mnist"], DATASETS["mnist"]])
def test_the_sizes_are_those_of_60000_and_10000_images(dataset: DataSet) -> None:
    for part, images in (("train", 60_000), ("t10k", 10_000)):
        assert dataset.files[f"{part}-images-idx3-ubyte"].size == 16 + images * 28 * 28
        assert dataset.files[f"{part}-labels-idx1-ubyte"].size == 8 + images


@each_dataset
def test_every_fact_is_there(dataset: DataSet) -> None:
    assert DATASETS[dataset.name] is dataset
    assert dataset.urls or dataset.release
    assert all(re.fullmatch(r"https?://.*/", url) for url in dataset.urls)
    assert all((dataset.title, dataset.package, dataset.licence, dataset.citation))
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in dataset.files.values())


@each_dataset
def test_a_release_carries_every_file(dataset: DataSet) -> None:
    if dataset.release is not None:
        assert set(dataset.release.members) == set(dataset.files)
        assert re.fullmatch(r"[a-z-]+==[0-9.]+", dataset.release.requirement)
        assert dataset.release.requirement in dataset.package


def test_no_two_files_have_the_same_checksum() -> None:
    checksums = [file.sha256 for dataset in DATASETS.values() for file in dataset.files.values()]
    assert len(set(checksums)) == len(checksums) == 8 + 2 + 42
