"""Every technique of the course, one row each: data only, nothing heavy is imported.

The listing ``companion techniques``, the appendix pages, the device evidence and the tests are
all made from this table. ``target`` and ``recipe`` are import paths (``"package.module:name"``);
:func:`load` turns one into the object.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from companion.architectures import techniques as architectures
from companion.backprop import techniques as backprop
from companion.optimization import techniques as optimization

if TYPE_CHECKING:
    from pytorch_lightning import LightningDataModule, LightningModule

    from companion.training import FitResult

FORMS = (
    "function",
    "module",
    "layer",
    "loss",
    "optimizer",
    "lightning-module",
    "callback",
    "strategy",
    "verb",
)
LEVELS = ("cpu", "cuda", "xla-cpu", "tpu-compiled", "tpu")


@dataclass(frozen=True)
class Technique:
    """One row of the table.

    Attributes:
        name: kebab-case, unique; what ``companion run`` takes.
        chapter: folder name of the chapter, e.g. ``"backprop"``.
        page: path of the page below ``book/`` without its suffix.
        target: import path of the thing itself, ``"module:name"``.
        form: one of :data:`FORMS`.
        sources: letters of the source articles that name it; empty if the course adds it.
        recipe: import path of a function without arguments that returns a :class:`Recipe`.
        devices: evidence level (of :data:`LEVELS`) -> why it is not applicable there.
    """

    name: str
    chapter: str
    page: str
    target: str
    form: str
    sources: str
    recipe: str
    devices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What a reader would write to use a technique.

    Attributes:
        module: the LightningModule to train.
        data: the LightningDataModule it trains on.
        trainer_options: keyword arguments of :func:`companion.training.fit`.
        check: called with the FitResult; raises AssertionError unless the technique did what
            makes it this technique.
    """

    module: LightningModule
    data: LightningDataModule
    trainer_options: Mapping[str, Any]
    check: Callable[[FitResult], None]


TECHNIQUES: tuple[Technique, ...] = tuple(
    Technique(
        name,
        chapter=chapter,
        page=f"{chapter}/{page.name}",
        target=f"companion.{chapter}.{target}",
        form=form,
        sources=sources,
        recipe=f"companion.{chapter}.{page.recipes}:{name.replace('-', '_')}",
        devices=page.devices,
    )
    for chapter, pages in (
        ("backprop", backprop.PAGES),
        ("architectures", architectures.PAGES),
        ("optimization", optimization.PAGES),
    )
    for page in pages
    for name, target, form, sources in page.rows
)


def get(name: str) -> Technique:
    """Return the technique called `name`.

    Raises:
        ValueError: no such technique; the message offers the nearest names.
    """
    by_name = {technique.name: technique for technique in TECHNIQUES}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`companion techniques` lists them."
    raise ValueError(f"name={name!r} is not a technique: {hint}")


def load(path: str) -> Any:
    """Import the object that ``"module:name"`` points to."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
