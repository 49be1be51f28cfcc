"""The checks of the layer recipes notice when a layer does not do what its name says.

test_recipes.py runs every recipe, and cuts each short to see its check fail.
"""

from __future__ import annotations

import pytest
import torch

from companion.backprop import layer_recipes as recipes
from companion.backprop.layers import Dropout
from companion.training import fit


def trained(recipe):
    return fit(recipe.module, recipe.data, **recipe.trainer_options)


def test_dropout_that_drops_nothing_fails_its_check():
    recipe = recipes.dropout()
    for layer in recipe.module.network:
        if isinstance(layer, Dropout):
            layer.p = 0.0
    with pytest.raises(AssertionError, match="nothing was dropped"):
        recipe.check(trained(recipe))


def test_an_unused_row_that_moved_fails_the_check_of_embedding():
    recipe = recipes.embedding()
    result = trained(recipe)
    recipe.check(result)
    with torch.no_grad():
        result.module.network[0].weight[11, 0] += 1e-3
    with pytest.raises(AssertionError):
        recipe.check(result)


def test_weights_another_epoch_away_from_autograd_s_fail_the_check():
    recipe = recipes.layer_norm()
    result = fit(recipe.module, recipe.data, **(recipe.trainer_options | {"epochs": 6}))
    with pytest.raises(AssertionError, match="of its way from autograd's"):
        recipe.check(result)
