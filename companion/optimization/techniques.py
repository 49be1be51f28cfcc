"""The techniques of chapter 4: one row each, as `companion.techniques` reads them."""

from __future__ import annotations

from companion.rows import Page

PAGES: tuple[Page, ...] = (
    Page(
        "adam",
        ("adagrad", "adaptive:Adagrad", "optimizer", ""),
        ("rmsprop", "adaptive:RMSprop", "optimizer", ""),
        ("adam", "adam:Adam", "optimizer", "DE"),
        ("adamw", "adam:AdamW", "optimizer", ""),
        ("amsgrad", "adam:Adam", "optimizer", ""),
        ("lion", "lion:Lion", "optimizer", ""),
        ("muon", "muon:Muon", "optimizer", ""),
        recipes="adam_recipes",
    ),
)
