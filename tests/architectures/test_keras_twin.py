"""The chapter's Keras twins against PyTorch: outputs, losses, every gradient.

The checks take the module under test, so that planted mistakes can be shown to fail them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from planting import mutant
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from companion.architectures import keras_twin
from companion.architectures.cnn import SmallCNN
from companion.architectures.configuration import TransformerConfig
from companion.architectures.rnn import SequenceClassifier
from companion.architectures.transformer import GPT

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: companion[tensorflow]")

#: Of the frameworks' rounding. Some gradients are zero but for rounding: keys shift every score
#: alike, so their bias cannot matter.
TOLERANCE = {"float32": {"rtol": 1e-5, "atol": 1e-6}, "float64": {"rtol": 1e-10, "atol": 1e-13}}
CONFIG = TransformerConfig(vocab_size=11, context_length=8, num_layers=2, num_heads=2, embed_dim=8)

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
cells = pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])


def weights(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def scrambled(network: nn.Module, dtype: str) -> nn.Module:
    """Random values everywhere: zero biases and unit scales would hide a swapped one."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return network.to(getattr(torch, dtype)).eval()


def assert_same_step(
    module: ModuleType,
    network: nn.Module,
    twin: Any,
    x: torch.Tensor,
    y: torch.Tensor,
    dtype: str,
    *,
    images: bool = False,
) -> None:
    """Outputs, loss and gradients of one batch in both frameworks, from the same weights."""
    network = scrambled(network, dtype)
    x = x.to(getattr(torch, dtype)) if x.is_floating_point() else x
    module.copy_weights(weights(network), twin)
    theirs = x.numpy().transpose(0, 2, 3, 1) if images else x.numpy()
    output = network(x)
    ours = torch.from_numpy(np.array(twin(theirs, training=False)))
    assert_close(ours, output.detach(), **TOLERANCE[dtype])
    loss = F.cross_entropy(output.flatten(0, -2), y.flatten())
    loss.backward()
    value, gradients = module.loss_and_gradients(twin, theirs, y.numpy())
    assert_close(value, loss.item(), **TOLERANCE[dtype])
    assert set(gradients) == {name for name, _ in network.named_parameters()}
    for name, parameter in network.named_parameters():
        gradient = torch.from_numpy(np.ascontiguousarray(gradients[name]))
        assert_close(gradient, parameter.grad, **TOLERANCE[dtype], msg=lambda m, n=name: n + m)


def check_small_cnn(module: ModuleType, dtype: str = "float64") -> None:
    torch.manual_seed(0)
    x, y = torch.randn(5, 2, 10, 10), torch.randint(4, (5,))
    network = SmallCNN(4, in_channels=2, image_size=10, width=3)
    twin = module.small_cnn_twin(4, in_channels=2, image_size=10, width=3, dtype=dtype)
    assert_same_step(module, network, twin, x, y, dtype, images=True)


def check_sequence_classifier(module: ModuleType, cell: str, dtype: str = "float64") -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 6, 3), torch.randint(5, (4,))
    network = SequenceClassifier(3, 5, 7, cell)
    twin = module.sequence_classifier_twin(3, 5, 7, cell, dtype=dtype)
    assert_same_step(module, network, twin, x, y, dtype)


def check_padding(module: ModuleType, cell: str, dtype: str = "float64") -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 6, 3), torch.randint(5, (4,))
    for row, length in enumerate((6, 1, 4, 3)):
        x[row, length:] = 0.0
    network = SequenceClassifier(3, 5, 7, cell, padding_value=0.0)
    twin = module.sequence_classifier_twin(3, 5, 7, cell, padding_value=0.0, dtype=dtype)
    assert_same_step(module, network, twin, x, y, dtype)


def check_gpt(module: ModuleType, dtype: str = "float64") -> None:
    torch.manual_seed(0)
    ids, y = torch.randint(11, (3, 6)), torch.randint(11, (3, 6))
    assert_same_step(module, GPT(CONFIG), module.gpt_twin(CONFIG, dtype=dtype), ids, y, dtype)


@dtypes
def test_small_cnn_and_its_twin_are_equal(dtype: str) -> None:
    check_small_cnn(keras_twin, dtype)


@dtypes
@cells
def test_sequence_classifiers_and_their_twins_are_equal(cell: str, dtype: str) -> None:
    check_sequence_classifier(keras_twin, cell, dtype)


@cells
def test_masked_padding_counts_in_neither_framework(cell: str) -> None:
    check_padding(keras_twin, cell)


@dtypes
def test_gpt_and_its_twin_are_equal(dtype: str) -> None:
    check_gpt(keras_twin, dtype)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (check_small_cnn, "transpose(2, 3, 1, 0)", "transpose(3, 2, 1, 0)"),
        (check_small_cnn, "        layers.Permute((3, 1, 2), dtype=dtype),\n", ""),
        (check_small_cnn, 'padding="same"', 'padding="same", activation="relu6"'),
        (
            lambda m: check_sequence_classifier(m, "gru"),
            "[second, first, third]",
            "[first, second, third]",
        ),
        (
            lambda m: check_sequence_classifier(m, "lstm"),
            'group["bias_ih_l0"] + group["bias_hh_l0"]',
            'group["bias_ih_l0"]',
        ),
        (
            lambda m: check_padding(m, "rnn"),
            "if padding_value is not None:",
            "if padding_value is None:",
        ),
        (check_gpt, "use_causal_mask=config.causal", "use_causal_mask=False"),
        (check_gpt, "epsilon=epsilon", "epsilon=1e-3"),
        (check_gpt, "attention(y, y,", "attention(y, x,"),
    ],
    ids=[
        "kernels turned by 90 degrees",
        "features flattened channels last",
        "another activation",
        "GRU gates in PyTorch's order",
        "one of two biases forgotten",
        "padding not masked",
        "GPT sees the future",
        "Keras's default epsilon",
        "values taken before the norm",
    ],
)
def test_a_planted_mistake_is_caught(check, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check(mutant(keras_twin, old, new))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: keras_twin.small_cnn_twin(0), "num_classes=0: an integer of at least 1"),
        (lambda: keras_twin.small_cnn_twin(dropout=1.0), r"dropout=1.0: a number in \[0, 1\)"),
        (lambda: keras_twin.sequence_classifier_twin(3, 2, 4, "elman"), "cell='elman': one of"),
        (
            lambda: keras_twin.gpt_twin(TransformerConfig(11, 8, 1, 2, 8, positions="rotary")),
            "config.positions='rotary': the twin has 'learnt'",
        ),
        (
            lambda: keras_twin.copy_weights(
                weights(SmallCNN(width=2)), keras_twin.small_cnn_twin(width=3)
            ),
            "gives .*: the twin takes",
        ),
        (
            lambda: keras_twin.copy_weights({}, keras_twin.small_cnn_twin(width=2)),
            "state_dict has no 'features.0', which the twin needs",
        ),
        (
            lambda: keras_twin.copy_weights(
                weights(SmallCNN(width=2)) | {"more.weight": np.ones(1)},
                keras_twin.small_cnn_twin(width=2),
            ),
            "state_dict has more: the twin has no such layer",
        ),
    ],
)
def test_bad_input_is_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
