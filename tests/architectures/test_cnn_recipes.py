"""What the recipes of the page `cnn` rest on; tests/test_recipes.py runs the recipes."""

from __future__ import annotations

import pytest
import torch
from backprop.layer_checks import TIGHT, normal
from torch.nn import functional as F
from torch.testing import assert_close

from companion.architectures import cnn_recipes
from companion.architectures.cnn import ResNet
from companion.training import Classifier, fit


def test_a_dense_layer_on_columns_is_a_convolution():
    layer, x = cnn_recipes.MatrixConvolution(3, 5, 2).double(), normal((4, 3, 6, 7), 0)
    kernel = layer.dense.weight.view(5, 3, 2, 2)
    assert_close(layer(x), F.conv2d(x, kernel, layer.dense.bias), **TIGHT)


def test_enlarged_digits_keep_their_labels_and_take_the_lenets_size():
    small, large = cnn_recipes.images(), cnn_recipes.enlarged()
    small.setup()
    assert large.train[0].shape == (len(small.train[0]), 1, 28, 28)
    assert torch.equal(large.test[1], small.test[1])
    back = F.interpolate(large.test[0], size=(8, 8), mode="area")
    assert (back - small.test[0]).abs().mean() < 0.3 * small.test[0].abs().mean()


def test_the_residual_check_notices_missing_shortcuts():
    recipe = cnn_recipes.residual_network()
    plain = Classifier(
        ResNet(widths=(8, 16, 32), blocks_per_stage=2, shortcuts=False),
        optimizer=cnn_recipes.ADAM,
    )
    result = fit(plain, recipe.data, **dict(recipe.trainer_options))
    result.metrics["test_accuracy"] = 1.0  # whatever it learnt
    with pytest.raises(AssertionError, match="must pass x through"):
        recipe.check(result)


def test_the_receptive_field_check_notices_a_network_that_sees_too_little():
    recipe = cnn_recipes.field_of_view()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    with torch.no_grad():
        result.module.network[0][2].weight[:, :, 0] = 0  # the top row of each kernel is blind
    with pytest.raises(AssertionError):
        recipe.check(result)
