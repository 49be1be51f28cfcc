"""What the recipes of the page `transformer_variants` start from."""

from __future__ import annotations

import torch

from companion.architectures import variant_recipes as recipes


def test_the_pixels_are_tokens_of_real_digits():
    train, _ = recipes.pixels().train
    assert train.shape == (1437, 64)
    assert int(train.min()) == 0
    assert int(train.max()) == 16


def test_without_the_balancing_loss_two_experts_keep_everything():
    """So the recipe's check cannot pass by itself."""
    torch.manual_seed(0)
    recipe = recipes.load_balancing_loss()
    network = recipe.module.network
    with torch.no_grad():
        network(torch.randn(200, 64))
    assert network[1].layer.loads.max() > 0.45


def test_room_for_every_choice_drops_nothing():
    torch.manual_seed(0)
    layer = recipes.sparse_network(0.01)[1].layer
    x = torch.randn(40, 32)
    torch.testing.assert_close(layer(x), layer.forward_naive(x))
