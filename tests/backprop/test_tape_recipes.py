"""The new operation of the tape's recipes, and what their checks say of a network that is wrong."""

from __future__ import annotations

import pytest
import torch
from backprop.expressions import F64, assert_like_torch, normal
from torch.nn import functional as F

from companion.backprop import tape_recipes
from companion.backprop.gradient_check import gradient_check
from companion.backprop.tape_recipes import Softplus, softplus
from companion.training import fit


def test_the_recipes_softplus_equals_torch_and_never_overflows():
    x = torch.cat([normal((5,), 1), torch.tensor([-1000.0, 0.0, 1000.0], dtype=F64)])
    assert_like_torch(softplus, lambda x: torch.logaddexp(x, torch.zeros_like(x)), [x])
    assert_like_torch(softplus, F.softplus, [normal((3, 4), 2)])
    gradient_check(softplus, [x])


def test_the_softplus_module_passes_torchs_gradient_check():
    assert torch.autograd.gradcheck(Softplus(), normal((3, 2), 1).requires_grad_())


@pytest.mark.parametrize("name", ["gradient_check", "forward_mode", "hessian_vector_product"])
def test_the_check_notices_weights_that_are_not_numbers(name):
    recipe = getattr(tape_recipes, name)()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    recipe.check(result)
    with torch.no_grad():
        result.module.network.weights["weight1"].fill_(float("nan"))
    with pytest.raises(AssertionError):
        recipe.check(result)
