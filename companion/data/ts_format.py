"""The `.ts` format of the time-series archive at timeseriesclassification.com, read strictly.

    # a comment                        any number, before the data
    @key value …                       the header, ended by @data
    1.2,1.3:0.5,0.7:label              a line a series: its channels between colons, its label last

Series may have different lengths, the channels of one series may not. A file that breaks a rule is
refused with its name and the number of the line; no value is guessed.
"""

from __future__ import annotations

import numpy as np

Series = tuple[np.ndarray, str]


def parse_ts(content: bytes, name: str) -> list[Series]:
    """Return the series of a file, each an array (time, channels), float64, and its label.

    Args:
        content: the bytes of the file.
        name: what error messages call it.

    Raises:
        ValueError: not UTF-8, no or a wrong header, no data, or a line that breaks the format:
            wrong number of channels, channels of different lengths, an empty channel, something
            that is no finite number (a missing value among them), a label not in the header.
    """
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: byte {error.start} is not UTF-8; a .ts file is text") from error
    header, first = _header(lines, name)
    labels, channels = _described(header, name)
    series = [
        _series(line, f"{name}, line {number}", labels, channels)
        for number, line in enumerate(lines[first:], start=first + 1)
        if line.strip()
    ]
    if not series:
        raise ValueError(f"{name}: no series after @data; at least 1 is needed")
    return series


def _header(lines: list[str], name: str) -> tuple[dict[str, list[str]], int]:
    """Return the header, keys in lower case, and the index of the first line of data."""
    header: dict[str, list[str]] = {}
    for index, line in enumerate(lines):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not text.startswith("@"):
            raise ValueError(
                f"{name}, line {index + 1}: {text[:20]!r} before @data; a header is @…"
            )
        key, *values = text[1:].lower().split() or [""]
        if key == "data":
            return header, index + 1
        # Labels are compared as written, everything else in lower case.
        header[key] = text.split()[1:] if key == "classlabel" else values
    raise ValueError(f"{name}: no line @data; is the file cut off?")


def _described(header: dict[str, list[str]], name: str) -> tuple[list[str], int]:
    """Return the labels and the number of channels."""
    if header.get("timestamps", ["false"]) != ["false"]:
        raise ValueError(f"{name}: @timeStamps {header['timestamps']}; only false can be read")
    known = header.get("classlabel", [])
    if len(known) < 2 or known[0].lower() != "true":
        raise ValueError(f"{name}: @classLabel {' '.join(known)}; 'true' and the labels are needed")
    count = " ".join(header.get("dimensions", ["1"]))
    if not (count.isascii() and count.isdecimal() and int(count) >= 1):
        raise ValueError(f"{name}: @dimensions {count}; one whole number >= 1 is needed")
    return known[1:], int(count)


def _series(line: str, place: str, labels: list[str], channels: int) -> Series:
    *parts, label = line.strip().split(":")
    if label.strip() not in labels:
        raise ValueError(f"{place}: label {label.strip()[:20]!r} is not one of {', '.join(labels)}")
    if len(parts) != channels:
        raise ValueError(f"{place}: {len(parts)} channels; the header says {channels}")
    rows = [[_number(text, place) for text in part.split(",")] for part in parts]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise ValueError(f"{place}: channels of lengths {lengths}; they must be equal")
    return np.array(rows).T.copy(), label.strip()


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{place}: {text.strip()[:20]!r} is not a finite number")
    return value
