"""Classic mistakes of a port to Keras, planted in keras_twin.py, each caught by a check."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from planting import mutant

from companion.backprop import keras_twin

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: companion[tensorflow]")

from backprop import test_keras_twin as checks  # noqa: E402


def assert_caught(check: Callable[[ModuleType], None], old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check(mutant(keras_twin, old, new))


def test_cross_entropy_of_logits_taken_for_probabilities_is_caught():
    old = "SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)"
    new = "SparseCategoricalCrossentropy(dtype=dtype)"
    assert_caught(lambda m: checks.check_mlp(m, "relu", None, "float32"), old, new)


def test_binary_cross_entropy_of_logits_taken_for_probabilities_is_caught():
    old = "BinaryCrossentropy(from_logits=True, dtype=dtype)"
    assert_caught(
        lambda m: checks.check_binary(m, "float32"), old, "BinaryCrossentropy(dtype=dtype)"
    )


def test_a_loss_in_float32_for_a_float64_model_is_caught():
    old = "SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)"
    new = "SparseCategoricalCrossentropy(from_logits=True)"
    assert_caught(lambda m: checks.check_mlp(m, "relu", None, "float64"), old, new)


def test_keras_own_epsilon_in_layer_norm_is_caught():
    old, new = "LayerNormalization(epsilon=1e-5, ", "LayerNormalization("
    assert_caught(lambda m: checks.check_mlp(m, "relu", "layer", "float32"), old, new)


def test_keras_own_epsilon_in_batch_norm_is_caught():
    old, new = "momentum=0.9, epsilon=1e-5, dtype", "momentum=0.9, dtype"
    assert_caught(lambda m: checks.check_mlp(m, "relu", "batch", "float32"), old, new)


def test_pytorchs_momentum_handed_to_keras_is_caught():
    assert_caught(checks.check_running_statistics, "momentum=0.9, eps", "momentum=0.1, eps")


def test_gradients_that_are_not_transposed_back_are_caught():
    old = "[array.T if array.ndim == 2 else array for array in arrays]\n\n\ndef train_twin"
    new = "[array.reshape(array.shape[::-1]) for array in arrays]\n\n\ndef train_twin"
    assert_caught(lambda m: checks.check_mlp(m, "relu", None, "float32"), old, new)


def test_running_statistics_in_the_wrong_order_are_caught():
    old = '"running_mean", "running_var")'
    assert_caught(checks.check_evaluation, old, '"running_var", "running_mean")')


def test_kerass_rounded_gelu_is_caught_in_float64():
    old, new = 'gelu if activation == "gelu" else activation', "activation"
    assert_caught(lambda m: checks.check_mlp(m, "gelu", None, "float64"), old, new)


def test_stepping_in_evaluation_mode_is_caught():
    old = "value = criterion(y, model(x, training=True))"
    new = "value = criterion(y, model(x, training=False))"
    assert_caught(lambda m: checks.check_training(m, "batch", 0.0), old, new)


def test_an_optimizer_without_its_momentum_is_caught():
    old = "SGD(learning_rate, momentum=momentum)"
    assert_caught(lambda m: checks.check_training(m, None, 0.875), old, "SGD(learning_rate)")
