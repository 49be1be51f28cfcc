"""Every technique of the course: target, page, test file, and a recipe that runs and can fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from companion.techniques import TECHNIQUES, Technique, load
from companion.training import fit

ROOT = Path(__file__).resolve().parents[1]

# Techniques whose check rightly holds from the first step on, and why.
HOLDS_AFTER_ONE_STEP: dict[str, str] = {
    "normal-equation": "it solves in one step; test_regression_recipes.py shows its check fail",
    "polynomial-regression": "it solves in one step; test_regression_recipes.py as well",
}

rows = pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.name)


@rows
def test_target_can_be_imported(technique: Technique):
    assert callable(load(technique.target))


@rows
def test_page_names_the_target(technique: Technique):
    page = ROOT / "book" / f"{technique.page}.py"
    assert page.exists()
    module, name = technique.target.split(":")
    text = page.read_text(encoding="utf-8")
    assert name in text, f"{page.name} never names {name} of {module}"


@rows
def test_module_of_the_target_has_a_test_file(technique: Technique):
    parts = technique.target.split(":")[0].split(".")[1:]
    assert ROOT.joinpath("tests", *parts[:-1], f"test_{parts[-1]}.py").exists()


def skip_without_tensorflow(technique: Technique) -> None:
    if "keras_twin" in technique.target:
        pytest.importorskip("tensorflow", reason="TensorFlow is not installed")


@rows
def test_recipe_trains_and_its_check_passes(technique: Technique):
    skip_without_tensorflow(technique)
    recipe = load(technique.recipe)()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    recipe.check(result)


@rows
def test_check_fails_where_the_technique_did_not_do_its_work(technique: Technique):
    if technique.name in HOLDS_AFTER_ONE_STEP:
        pytest.skip(HOLDS_AFTER_ONE_STEP[technique.name])
    skip_without_tensorflow(technique)
    recipe = load(technique.recipe)()
    result = fit(recipe.module, recipe.data, **(dict(recipe.trainer_options) | {"max_steps": 1}))
    result = replace(result, step_losses=result.step_losses * 10)
    with pytest.raises(AssertionError):
        recipe.check(result)
