"""The recipes that are done after one step, and so need a test of their own that they can fail.

test_recipes.py runs every recipe, and cuts each of the others short to see its check fail.
"""

from __future__ import annotations

import pytest
import torch

from companion.backprop import regression_recipes as recipes
from companion.training import fit


@pytest.mark.parametrize(
    "make",
    [
        recipes.normal_equation,
        recipes.one_pass_least_squares,
        recipes.polynomial_regression,
    ],
)
def test_the_check_of_a_recipe_that_solves_in_one_step_fails_off_the_solution(make):
    recipe = make()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    recipe.check(result)
    with torch.no_grad():
        result.module.network.weight[0, 0] *= 1.5
    with pytest.raises(AssertionError):
        recipe.check(result)


def test_the_diabetes_data_is_in_its_own_units():
    x, y = recipes.diabetes()
    assert x.shape == (442, 10)
    assert y.shape == (442, 1)
    assert float(x[:, 0].min()) == 19
    assert float(x[:, 0].max()) == 79
    assert (float(y.min()), float(y.max())) == (25, 346)
