"""Recipes of a second or less for the tests of the machinery around recipes."""

from __future__ import annotations

import functools

from companion.techniques import Recipe, Technique


def row(name: str, recipe: str, **options) -> Technique:
    return Technique(
        name=name,
        chapter="backprop",
        page="backprop/losses",
        target="torch.nn:Linear",
        form="module",
        sources="",
        recipe=f"toy_recipes:{recipe}",
        **options,
    )


def _recipe(check) -> Recipe:
    import torch

    from companion.data.arrays import Arrays
    from companion.training import Regressor

    torch.manual_seed(0)
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    data = Arrays(train=(x, y), batch_size=16)
    optimizer = functools.partial(torch.optim.SGD, lr=0.1)
    module = Regressor(torch.nn.Linear(3, 1), optimizer=optimizer)
    return Recipe(module, data, {"epochs": 3}, check)


def good() -> Recipe:
    def check(result) -> None:
        assert result.step_losses[-1] < result.step_losses[0], "the loss did not fall"

    return _recipe(check)


def wrong() -> Recipe:
    def check(result) -> None:
        raise AssertionError("the loss is not 42")

    return _recipe(check)


def broken() -> Recipe:
    raise RuntimeError("the recipe itself is broken\nsecond line")


TOYS = (
    row("good-toy", "good"),
    row("wrong-toy", "wrong"),
    row("broken-toy", "broken"),
    row("no-cpu-toy", "good", devices={"cpu": "it needs a crystal ball"}),
)
