"""Recipes of chapter 2; what holds for every recipe is in tests/test_recipes.py."""

from __future__ import annotations

import pytest
from planting import mutant

from companion.backprop import recipes
from companion.training import fit


def test_recipe_of_the_penalty_notices_that_the_bias_decays_too():
    old = "return losses.regularized_loss(network.weight, mean_loss, weight_decay)"
    new = old.replace("network.weight", "torch.cat([network.weight, network.bias[:, None]], 1)")
    recipe = mutant(recipes, old, new).l2_regularized_loss()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    with pytest.raises(AssertionError, match="weight differs"):
        recipe.check(result)
