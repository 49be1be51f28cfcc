"""The recipes' checks fail where the schedule is another one; that they pass: test_recipes.py."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from companion.optimization import schedule_recipes as recipes
from companion.optimization.schedules import schedule
from companion.training import fit


def test_a_schedule_advanced_per_epoch_fails_the_check():
    recipe = recipes.cosine_schedule()
    recipe.module.scheduler_interval = "epoch"
    with pytest.raises(AssertionError, match="step 1 was taken with rate 0.1, not"):
        recipe.check(fit(recipe.module, recipe.data, **recipe.trainer_options))


def test_another_schedule_fails_the_check():
    recipe = recipes.warmup_stable_decay()
    recipe.module.scheduler = schedule("cosine", total_steps=recipes.STEPS, warmup_steps=10)
    with pytest.raises(AssertionError, match="step 11 was taken with rate"):
        recipe.check(fit(recipe.module, recipe.data, **recipe.trainer_options))


def test_a_plateau_that_never_reduces_fails_the_check():
    recipe = recipes.reduce_on_plateau()
    recipe.module.scheduler = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=50)
    with pytest.raises(AssertionError):
        recipe.check(fit(recipe.module, recipe.data, **recipe.trainer_options))
