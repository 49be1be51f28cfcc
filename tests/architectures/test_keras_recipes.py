"""The recipe of the Keras page notices a twin that is not one."""

from __future__ import annotations

import pytest
from planting import mutant

from companion.architectures import keras_recipes
from companion.training import fit

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: companion[tensorflow]")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("learning_rate=0.25)", "learning_rate=0.24)"),
        ("copy_weights(weights, small_cnn_twin(image_size=8", "(small_cnn_twin(image_size=8"),
    ],
    ids=["another learning rate", "other weights"],
)
def test_recipe_of_the_twins_notices_a_difference(old: str, new: str) -> None:
    recipe = mutant(keras_recipes, old, new).keras_network_twins()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    with pytest.raises(AssertionError):
        recipe.check(result)
