"""The checks of the SGD recipes notice when a recipe does not do what its name says.

test_recipes.py runs every recipe, and cuts each short to see its check fail.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from companion.optimization import sgd_recipes as recipes
from companion.optimization.sampling import with_replacement
from companion.optimization.sgd import SGD
from companion.training import fit


def trained(recipe, **changes):
    torch.manual_seed(0)
    return fit(recipe.module, recipe.data, **(dict(recipe.trainer_options) | changes))


def test_plain_sgd_fails_the_check_of_momentum():
    recipe = recipes.momentum()
    recipe.module.optimizer = partial(SGD, lr=0.05)
    with pytest.raises(AssertionError, match="of its way from the reference"):
        recipe.check(trained(recipe))


def test_momentum_fails_the_check_of_nesterov():
    recipe = recipes.nesterov_momentum()
    recipe.module.optimizer = partial(SGD, lr=0.05, momentum=0.9)
    with pytest.raises(AssertionError, match="of its way from the reference"):
        recipe.check(trained(recipe))


def test_mini_batches_fail_the_check_of_gradient_descent():
    recipe = recipes.gradient_descent()
    recipe.data.batch_size = 32
    with pytest.raises(AssertionError, match="does not climb"):
        recipe.check(trained(recipe))


def test_drawing_with_replacement_fails_the_check_of_reshuffling():
    recipe = recipes.sampling_without_replacement()
    recipe.data.draw = with_replacement
    with pytest.raises(AssertionError, match="of the samples were used"):
        recipe.check(trained(recipe))


def test_no_accumulation_fails_the_check_of_accumulation():
    recipe = recipes.gradient_accumulation()
    with pytest.raises(AssertionError):
        recipe.check(trained(recipe, accumulate_grad_batches=1))
