"""Recipe of the page `keras`: an optimizer and its Keras twin, side by side."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from companion.data.digits import Digits
from companion.optimization.adam import AdamW
from companion.techniques import Recipe
from companion.training import Classifier, FitResult


def keras_optimizer_twins() -> Recipe:
    """AdamW in Keras, from the same weights on the same batches: the same losses."""
    from companion.backprop.keras_twin import copy_weights, mlp_twin
    from companion.optimization.keras_twin import optimizer_twin, train_twin

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    weights = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    twin = copy_weights(weights, mlp_twin(64, 32, 10))
    data = Digits(2000)  # one batch: its order makes no difference
    module = Classifier(network, optimizer=partial(AdamW, lr=1e-2, weight_decay=0.1))

    def check(result: FitResult) -> None:
        x, y = (part.numpy() for part in data.train)
        batches = [(x.reshape(len(x), -1), y)] * len(result.step_losses)
        optimizer = optimizer_twin("adamw", lr=1e-2, weight_decay=0.1)
        losses = train_twin(twin, batches, optimizer)
        torch.testing.assert_close(losses, result.step_losses, rtol=1e-3, atol=0)
        assert losses[-1] < 0.5 * losses[0]

    return Recipe(module, data, {"epochs": 40, "precision": "32-true"}, check)
