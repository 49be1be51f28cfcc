"""The checks of the recipes fail where everything was trained but the technique left out."""

from __future__ import annotations

import copy

import pytest
from torch import Tensor, nn

from companion.optimization import preprocessing_recipes as recipes
from companion.optimization.augmentation import CutMix, Mixup
from companion.techniques import Recipe
from companion.training import fit


class Unmixed(Mixup):
    """Every image keeps all of itself."""

    def share(self, x: Tensor) -> Tensor:
        return x.new_ones(())


class Uncut(CutMix):
    """Every image keeps all of itself."""

    share = Unmixed.share


def train(recipe: Recipe) -> None:
    recipe.check(fit(recipe.module, recipe.data, **recipe.trainer_options))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: recipes.random_horizontal_flip(nn.Identity()), "mirrored digits"),
        (lambda: recipes.random_crop(nn.Identity()), "not read when cut"),
        (lambda: recipes.mixup(Unmixed()), "below the floor"),
        (lambda: recipes.cutmix(Uncut()), "below the floor"),
        (lambda: recipes.whitening(whiten=False), "not close"),
    ],
    ids=["flip", "crop", "mixup", "cutmix", "whitening"],
)
def test_without_the_technique_the_check_fails(make, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        train(make())


RECIPES = (
    recipes.label_noise_detection,
    recipes.random_horizontal_flip,
    recipes.random_crop,
    recipes.mixup,
    recipes.cutmix,
    recipes.principal_components,
    recipes.whitening,
    recipes.frozen_features,
    recipes.feature_selection,
)


@pytest.mark.parametrize("make", RECIPES)
def test_the_check_passes_after_training(make) -> None:
    train(make())


@pytest.mark.parametrize("make", RECIPES)
def test_the_check_fails_after_one_step(make) -> None:
    recipe = make()
    options = dict(recipe.trainer_options) | {"max_steps": 1}
    with pytest.raises(AssertionError):
        train(Recipe(recipe.module, recipe.data, options, recipe.check))


def test_features_that_moved_are_noticed() -> None:
    recipe = recipes.frozen_features()
    module = copy.copy(recipe.module)
    module.network[0].requires_grad_(True)
    with pytest.raises(AssertionError, match="the features moved"):
        train(Recipe(module, recipe.data, recipe.trainer_options, recipe.check))
