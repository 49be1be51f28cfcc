"""The .ts reader: what a file says, and a clear refusal of everything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.data.ts_format import parse_ts

HEADER = b"# a comment\n@problemName Toy\n@timeStamps false\n@dimensions 2\n@classLabel true A b\n"
GOOD = HEADER + b"@data\n1,2.5,-3:0,0,1e-3:A\n\n4:5:b\n"


def test_the_numbers_channels_and_labels_are_read():
    (first, label), (second, other) = parse_ts(GOOD, "toy.ts")
    assert (label, other) == ("A", "b")
    np.testing.assert_array_equal(first, [[1, 0], [2.5, 0], [-3, 1e-3]])
    np.testing.assert_array_equal(second, [[4, 5]])
    assert first.dtype == np.float64


numbers = st.floats(-1e6, 1e6)


@given(st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), min_size=1))
def test_what_was_written_is_read_again(series):
    lines = [
        ",".join(repr(a) for a, _ in one) + ":" + ",".join(repr(b) for _, b in one) + ":A"
        for one in series
    ]
    found = parse_ts(HEADER + b"@data\n" + "\n".join(lines).encode(), "toy.ts")
    assert [array.tolist() for array, _ in found] == [[list(f) for f in one] for one in series]


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3), st.integers(0, 4))
def test_a_damaged_file_is_read_or_refused_with_its_name(place, noise, cut):
    """Any bytes may come: other errors than ValueError, and silent NaNs, may not."""
    damaged = GOOD[:place] + noise + GOOD[place + cut :]
    try:
        series = parse_ts(damaged, "toy.ts")
    except ValueError as error:
        assert str(error).startswith("toy.ts")  # noqa: PT017
    else:
        assert all(np.isfinite(array).all() and len(array) for array, _ in series)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"@data\n", b"", "toy.ts, line 6: .* before @data; a header"),
        (b"@data\n1,2.5,-3:0,0,1e-3:A\n\n4:5:b\n", b"", "no line @data; is the file cut off"),
        (b"1,2.5,-3:0,0,1e-3:A\n\n4:5:b\n", b"", "no series after @data"),
        (b"@timeStamps false", b"@timeStamps true", "only false can be read"),
        (b"@classLabel true A b", b"@classLabel false", "@classLabel false; 'true' and the labels"),
        (b"@dimensions 2", b"@dimensions two", "@dimensions two; one whole number"),
        (b"@dimensions 2", b"@dimensions 0", "@dimensions 0; one whole number"),
        (b"@dimensions 2", b"@dimensions 3", "line 7: 2 channels; the header says 3"),
        (b":A\n", b":C\n", "line 7: label 'C' is not one of A, b"),
        (b":A\n", b"\n", "line 7: label '0,0,1e-3' is not one of"),
        (b"4:5:b", b"4:5,6:b", r"line 9: channels of lengths \[1, 2\]"),
        (b"4:5:b", b"4::b", "line 9: '' is not a finite number"),
        (b"2.5", b"?", "line 7: '\\?' is not a finite number"),
        (b"2.5", b"nan", "line 7: 'nan' is not a finite number"),
        (b"2.5", b"inf", "line 7: 'inf' is not a finite number"),
        (b"2.5", b"2,5x", "line 7: '5x' is not a finite number"),
        (b"Toy", b"\xff\xfe", "toy.ts: byte 25 is not UTF-8"),
    ],
)
def test_a_broken_rule_is_named_with_its_line(old, new, message):
    assert GOOD.count(old) == 1
    with pytest.raises(ValueError, match=message):
        parse_ts(GOOD.replace(old, new), "toy.ts")
