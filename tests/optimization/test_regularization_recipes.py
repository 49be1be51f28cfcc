"""The recipes' checks fail where the technique is left out; that they pass: test_recipes.py."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from companion.optimization import regularization_recipes as recipes
from companion.optimization.adam import AdamW
from companion.techniques import Recipe
from companion.training import fit


def assert_fails(recipe: Recipe, message: str) -> None:
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    with pytest.raises(AssertionError, match=message):
        recipe.check(result)


def test_without_decay_the_check_fails():
    recipe = recipes.weight_decay()
    recipe.module.optimizer = partial(AdamW, lr=3e-3, weight_decay=0.0)
    assert_fails(recipe, "times the twin's")


def test_without_smoothing_the_check_fails():
    recipe = recipes.label_smoothing()
    recipe.module.loss = nn.functional.cross_entropy
    assert_fails(recipe, "confidence|lower bound")


def test_without_clipping_the_check_fails():
    recipe = recipes.clipping_by_value()
    recipe.module.on_before_optimizer_step = lambda optimizer: None
    assert_fails(recipe, "a weight moved by")


@pytest.mark.parametrize(
    "build", [recipes.exponential_moving_average, recipes.stochastic_weight_averaging]
)
def test_without_averaging_the_checks_fail(build):
    recipe = build()
    recipe.trainer_options["callbacks"].pop(0)
    assert_fails(recipe, "not close")


def test_without_stopping_the_check_fails():
    recipe = recipes.early_stopping()
    recipe.trainer_options["callbacks"].clear()
    assert_fails(recipe, "epochs, the best is")


def test_a_start_away_from_zero_finds_another_fit():
    recipe = recipes.double_descent()
    with torch.no_grad():
        recipe.module.network.weight.normal_()
    assert_fails(recipe, "away from the fit of least norm")
