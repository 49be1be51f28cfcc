"""The checks of the Transformer's recipes notice when a part does not do what its name says.

test_recipes.py runs every recipe, and cuts each short to see its check fail.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from companion.architectures import transformer_recipes as recipes
from companion.architectures.attention import MultiHeadAttention
from companion.training import fit


def trained(recipe):
    return fit(recipe.module, recipe.data, **recipe.trainer_options)


def test_attention_that_is_causal_beside_one_that_is_not_fails_the_check():
    torch.manual_seed(0)
    mine = MultiHeadAttention(32, 4, causal=True)
    recipe = recipes.against(mine, recipes.TorchHeads(mine))
    with pytest.raises(AssertionError, match="it learns another function"):
        recipe.check(trained(recipe))


def test_another_eps_fails_the_check_of_rms_norm():
    torch.manual_seed(0)
    mine = nn.Sequential(recipes.RMSByHand(), nn.Linear(32, 32))
    theirs = nn.Sequential(nn.RMSNorm(32, eps=1.0), mine[1])
    recipe = recipes.against(mine, theirs)
    with pytest.raises(AssertionError, match="it learns another function"):
        recipe.check(trained(recipe))


def test_a_model_that_sees_the_future_fails_the_check_of_the_causal_mask():
    recipe = recipes.causal_mask()
    result = trained(recipe)
    recipe.check(result)
    for block in result.module.network.blocks:
        block.attention.causal = False
    with pytest.raises(AssertionError, match="the future leaks"):
        recipe.check(result)


def test_a_full_cache_fails_the_check_of_grouped_queries():
    recipe = recipes.copies(recipes.check_half_cache)
    result = trained(recipe)
    with pytest.raises(AssertionError, match="bytes in the cache"):
        recipe.check(result)


def test_a_gate_that_is_frozen_fails_the_check_of_swiglu():
    recipe = recipes.swiglu()
    recipe.module.network.mixer.gate.weight.requires_grad_(False)
    with pytest.raises(AssertionError, match="the gate has not learnt"):
        recipe.check(trained(recipe))
