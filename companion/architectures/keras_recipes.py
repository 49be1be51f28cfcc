"""Recipe of the page `keras`: a network and its Keras twin, trained side by side."""

from __future__ import annotations

from functools import partial

import torch

from companion.architectures.cnn import SmallCNN
from companion.data.digits import Digits
from companion.techniques import Recipe
from companion.training import Classifier, FitResult


def keras_network_twins() -> Recipe:
    """SmallCNN in Keras, from the same weights on the same batches: the same losses."""
    from companion.architectures.keras_twin import copy_weights, small_cnn_twin
    from companion.backprop.keras_twin import train_twin

    torch.manual_seed(0)
    network = SmallCNN(image_size=8, width=8, dropout=0.0)
    weights = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    twin = copy_weights(weights, small_cnn_twin(image_size=8, width=8, dropout=0.0))
    data = Digits(2000)  # one batch: its order makes no difference
    module = Classifier(network, optimizer=partial(torch.optim.SGD, lr=0.25))

    def check(result: FitResult) -> None:
        x, y = (part.numpy() for part in data.train)
        batches = [(x.transpose(0, 2, 3, 1), y)] * len(result.step_losses)
        losses = train_twin(twin, batches, learning_rate=0.25)
        torch.testing.assert_close(losses, result.step_losses, rtol=1e-2, atol=0)  # rounding grows
        assert losses[-1] < 0.6 * losses[0]

    return Recipe(module, data, {"epochs": 40, "precision": "32-true"}, check)
