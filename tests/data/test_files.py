"""Descriptions of files and releases."""

from __future__ import annotations

import dataclasses

import pytest

from companion.data.files import File, Release


@pytest.mark.parametrize("what", [File(1, "0" * 64), Release("toy==1.0", True, {"a": "toy/a"})])
def test_what_is_known_of_a_data_set_cannot_be_changed(what: File | Release) -> None:
    field = dataclasses.fields(what)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(what, field, None)
