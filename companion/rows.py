"""How a chapter writes down its techniques: the rows of one page, data only.

Each chapter's ``techniques`` module holds a tuple ``PAGES`` of these;
:mod:`companion.techniques` makes the table of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, init=False)
class Page:
    """The techniques of one page.

    Attributes:
        name: of the page, without folder and suffix.
        rows: ``(name, "module:name" within the chapter, form, sources)``, one a technique.
        recipes: module of the chapter that holds, under each technique's name, its recipe.
        devices: evidence level -> why it is not applicable; it holds for all of these rows.
    """

    name: str
    rows: tuple[tuple[str, str, str, str], ...]
    recipes: str
    devices: Mapping[str, str] = field(default_factory=dict)

    def __init__(
        self,
        name: str,
        *rows: tuple[str, str, str, str],
        recipes: str = "recipes",
        devices: Mapping[str, str] | None = None,
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "recipes", recipes)
        object.__setattr__(self, "devices", devices or {})
