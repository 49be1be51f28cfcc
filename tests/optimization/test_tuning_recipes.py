"""What the recipes of `tuning` build: the configuration that the validation set chose."""

from __future__ import annotations

import pytest

from companion.optimization import tuning_recipes as recipes
from companion.training import fit


def test_the_three_parts_of_the_data_share_no_image():
    data = recipes.digits()
    parts = {
        name: {row.numpy().tobytes() for row in getattr(data, name)[0]}
        for name in ("train", "validation", "test")
    }
    assert [len(data.train[0]), len(data.test[0])] == [512, 360]
    assert not parts["train"] & parts["validation"]
    assert not (parts["train"] | parts["validation"]) & parts["test"]


def test_a_bad_learning_rate_does_not_pass_the_check_of_the_search():
    recipe = recipes.random_search()
    result = fit(recipes.classifier(lr=1e-4), recipe.data, **recipe.trainer_options)
    with pytest.raises(AssertionError):
        recipe.check(result)
