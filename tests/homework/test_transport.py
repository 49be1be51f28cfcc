"""Messages come back as they went; a broken or hostile one is refused without harm."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from companion.homework.transport import (
    DTYPES,
    LENGTH,
    TransportError,
    pack,
    read_frame,
    unpack,
    write_frame,
)

ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
TEXT = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())
)


@given(TEXT, st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3))
def test_a_message_comes_back_as_it_went(text, arrays) -> None:
    got_text, got_arrays = unpack(pack(text, arrays))
    assert got_text == text
    assert list(got_arrays) == list(arrays)
    for name, array in arrays.items():
        assert got_arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(got_arrays[name], array)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(message: bytes) -> None:
    with pytest.raises(TransportError):
        unpack(message)


@given(st.data())
def test_a_message_that_is_cut_off_is_refused(data) -> None:
    message = pack({"a": 1}, {"x": np.arange(5.0)})
    length = data.draw(st.integers(0, len(message) - 1))
    with pytest.raises(TransportError):
        unpack(message[:length])
    with pytest.raises(TransportError, match="longer"):
        unpack(message + b"!")


def header(value: object, tail: bytes = b"") -> bytes:
    text = json.dumps(value).encode()
    return LENGTH.pack(len(text)) + text + tail


@pytest.mark.parametrize(
    "message",
    [
        header([]),
        header({"text": {}}),
        header({"text": [], "arrays": []}),
        header({"text": {}, "arrays": 3}),
        header({"text": {}, "arrays": [["x", "object", [1]]]}, bytes(8)),
        header({"text": {}, "arrays": [["x", "float64", [-1]]]}),
        header({"text": {}, "arrays": [["x", "float64", [1.0]]]}, bytes(8)),
        header({"text": {}, "arrays": [["x", "float64", [True]]]}, bytes(8)),
        header({"text": {}, "arrays": [["x", "bool", [10**12]]]}),
        header({"text": {}, "arrays": [["x", "bool", [0] * 80]]}),
        header({"text": {}, "arrays": [["x", "bool", [0, 2**62, 2**62]]]}),
        header({"text": {}, "arrays": [["x", ["bool"], [1]]]}, bytes(1)),
        LENGTH.pack(2**63) + b"{}",
        LENGTH.pack(10**6) + b"[" * 10**6,
    ],
)
def test_a_hostile_header_is_refused(message: bytes) -> None:
    with pytest.raises(TransportError):
        unpack(message)


def test_an_array_that_cannot_travel_is_named() -> None:
    with pytest.raises(TransportError, match=r"'x' has dtype object"):
        pack({}, {"x": np.array([object()])})


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


def test_frames_larger_than_a_pipe_travel_in_order(pipe) -> None:
    reading, writing = pipe
    messages = [os.urandom(300_000), b"", b"end"]
    writer = threading.Thread(target=lambda: [write_frame(writing, m) for m in messages])
    writer.start()
    assert [read_frame(reading, timeout_s=30) for _ in messages] == messages
    writer.join()


def test_a_closed_pipe_reads_as_none(pipe) -> None:
    reading, writing = pipe
    os.close(writing)
    assert read_frame(reading) is None


def test_a_frame_that_stops_half_way_is_refused(pipe) -> None:
    reading, writing = pipe
    os.write(writing, LENGTH.pack(10) + b"abc")
    os.close(writing)
    with pytest.raises(TransportError, match="closed within"):
        read_frame(reading)


def test_a_frame_that_does_not_come_times_out(pipe) -> None:
    reading, writing = pipe
    os.write(writing, LENGTH.pack(10) + b"abc")
    with pytest.raises(TimeoutError):
        read_frame(reading, timeout_s=0.05)


def test_a_frame_that_announces_too_much_is_refused(pipe) -> None:
    reading, writing = pipe
    os.write(writing, LENGTH.pack(2**60))
    with pytest.raises(TransportError, match="at most"):
        read_frame(reading, timeout_s=1)
