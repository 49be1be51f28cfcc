"""A page's rows, as the chapters write them down."""

from __future__ import annotations

import dataclasses

import pytest

from companion.rows import Page

ROW = ("relu", "layers:ReLU", "layer", "CD")


def test_rows_keep_their_order_and_recipes_have_a_usual_place() -> None:
    page = Page("layers", ROW, ("tanh", "layers:Tanh", "layer", ""))
    assert page.name == "layers"
    assert [row[0] for row in page.rows] == ["relu", "tanh"]
    assert page.recipes == "recipes"
    assert dict(page.devices) == {}


def test_recipes_and_devices_hold_for_all_rows_of_a_page() -> None:
    page = Page("keras", ROW, recipes="twins", devices={"tpu": "it compares two frameworks"})
    assert (page.recipes, dict(page.devices)) == ("twins", {"tpu": "it compares two frameworks"})


def test_a_page_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Page("layers", ROW).name = "other"
