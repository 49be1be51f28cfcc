"""The echo: the target is the bit of `lag` steps ago."""

from __future__ import annotations

import pytest

from companion.data.echo import IGNORED, Echo
from companion.training import LanguageModel


@pytest.mark.parametrize("lag", [1, 5])
def test_the_target_is_the_bit_of_lag_steps_ago(lag):
    data = Echo(lag, length=20, samples=7)
    data.setup()
    for x, y in (data.train, data.validation):
        assert x.shape == y.shape == (7, 20)
        assert set(x.unique().tolist()) == {0, 1}
        for t in range(20):
            assert (y[:, t] == (x[:, t - lag] if t >= lag else IGNORED)).all()
    assert not (data.train[0] == data.validation[0]).all()
    assert IGNORED == LanguageModel.IGNORED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lag": 0}, "lag=0"),
        ({"lag": 5, "length": 5}, "length=5"),
        ({"lag": 1, "samples": 0}, "s=0"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Echo(**options)
