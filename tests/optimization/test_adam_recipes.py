"""Recipes of the page `adam`; what holds for every recipe is in tests/test_recipes.py."""

from __future__ import annotations

import pytest
from planting import mutant

from companion.optimization import adam_recipes
from companion.training import fit


def test_the_recipe_of_adamw_notices_that_plain_adam_was_used():
    recipe = mutant(
        adam_recipes, "return same_options(AdamW, torch", "return same_options(Adam, torch"
    ).adamw()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    with pytest.raises(AssertionError, match="of its way from torch"):
        recipe.check(result)


def test_the_recipe_of_amsgrad_notices_that_the_maximum_is_missing():
    old = "partial(ours, **options)"
    new = "partial(ours, **(options | {'amsgrad': False}))"
    recipe = mutant(adam_recipes, old, new).amsgrad()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    with pytest.raises(AssertionError, match="of its way from torch"):
        recipe.check(result)


def test_the_recipe_of_lion_notices_steps_that_are_not_signs():
    recipe = mutant(adam_recipes, "partial(Lion, lr=lr)", "partial(Adam, lr=lr)").lion()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    with pytest.raises(AssertionError, match="moved by parts of lr"):
        recipe.check(result)
