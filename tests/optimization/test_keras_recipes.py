"""The recipe of the Keras page notices a twin that is not one."""

from __future__ import annotations

import pytest
from planting import mutant

from companion.optimization import keras_recipes
from companion.training import fit

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: companion[tensorflow]")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('optimizer_twin("adamw", lr=1e-2', 'optimizer_twin("adamw", lr=1.1e-2'),
        (
            "lr=1e-2, weight_decay=0.1)\n        losses",
            "lr=1e-2, weight_decay=0.9)\n        losses",
        ),
    ],
    ids=["another learning rate", "another decay"],
)
def test_recipe_of_the_twins_notices_a_difference(old: str, new: str) -> None:
    recipe = mutant(keras_recipes, old, new).keras_optimizer_twins()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    with pytest.raises(AssertionError):
        recipe.check(result)
