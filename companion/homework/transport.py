"""How the grader and a submission's process talk: frames of JSON and plain arrays.

A message is a JSON object and named arrays, packed as

    8 bytes   length of the header, little-endian
    header    JSON: {"text": {…}, "arrays": [[name, dtype, shape], …]}
    buffers   the arrays' bytes one after the other, C order

There is no pickle and nothing compressed: reading a hostile message can neither run code nor
take more memory than the message has bytes. On a pipe each message is a frame: its length in
8 bytes, then the message.
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LENGTH = struct.Struct("<Q")
DTYPES = ("float64", "float32", "int64", "bool", "uint8")
MAX_BYTES = 64 * 2**20


class TransportError(ValueError):
    """A message that is cut off, too long or not of the format above."""


def pack(text: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Return the message that carries `text` (JSON values) and `arrays`.

    Raises:
        TransportError: an array whose dtype is not one of :data:`DTYPES`.
    """
    entries, buffers = [], []
    for name, array in (arrays or {}).items():
        if array.dtype.name not in DTYPES:
            raise TransportError(f"array {name!r} has dtype {array.dtype}; allowed: {DTYPES}")
        entries.append([name, array.dtype.name, list(array.shape)])
        buffers.append(array.tobytes())
    header = json.dumps({"text": dict(text), "arrays": entries}).encode()
    return b"".join([LENGTH.pack(len(header)), header, *buffers])


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the text and the arrays (each a copy of its own) of a message.

    Raises:
        TransportError: the message is not what :func:`pack` makes.
    """
    import numpy as np

    if len(message) < LENGTH.size:
        raise TransportError(f"a message of {len(message)} bytes has no header")
    start = LENGTH.size + LENGTH.unpack_from(message)[0]
    try:
        header = json.loads(message[LENGTH.size : start])
        text, entries = header["text"], header["arrays"]
        entries = [(str(name), dtype, tuple(shape)) for name, dtype, shape in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TransportError("the header of the message is not readable") from error
    if not isinstance(text, dict):
        raise TransportError("the text of the message is not an object")
    arrays: dict[str, np.ndarray] = {}
    for name, dtype, shape in entries:
        if dtype not in DTYPES or not all(type(size) is int and size >= 0 for size in shape):
            raise TransportError("the message names an array of unknown kind")
        if len(shape) > 16 or math.prod(shape) > MAX_BYTES:
            raise TransportError("the message names an array that is too large")
        end = start + math.prod(shape) * np.dtype(dtype).itemsize
        if end > len(message):
            raise TransportError("the message ends before its arrays do")
        try:
            arrays[name] = np.frombuffer(message[start:end], dtype=dtype).reshape(shape).copy()
        except ValueError as error:
            raise TransportError("the message names an array of impossible shape") from error
        start = end
    if start != len(message):
        raise TransportError("the message is longer than its header says")
    return text, arrays


def write_frame(fd: int, message: bytes) -> None:
    """Write one frame to the pipe `fd`, however many writes that takes."""
    view = memoryview(LENGTH.pack(len(message)) + message)
    while view:
        view = view[os.write(fd, view) :]


def read_frame(fd: int, *, timeout_s: float | None = None) -> bytes | None:
    """Return the next message from the pipe `fd`, None if the pipe is closed before it starts.

    Raises:
        TimeoutError: the message is not complete after `timeout_s` seconds.
        TransportError: the pipe closes within a message, or the message is over MAX_BYTES.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    head = _read_exactly(fd, LENGTH.size, deadline)
    if not head:
        return None
    length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else 0
    if length > MAX_BYTES:
        raise TransportError(f"a message of {length} bytes; at most {MAX_BYTES} are read")
    message = _read_exactly(fd, length, deadline)
    if len(head) < LENGTH.size or len(message) < length:
        raise TransportError("the pipe was closed within a message")
    return message


def _read_exactly(fd: int, count: int, deadline: float | None) -> bytes:
    parts, missing = [], count
    while missing:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise TimeoutError("no complete message in time")
        part = os.read(fd, min(missing, 2**20))
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
