"""The module around a hand-written pair: keeping, spending, accumulating, refusing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from backprop import layer_checks as checks
from backprop.layer_checks import TIGHT, normal
from torch import nn
from torch.testing import assert_close

from companion.backprop import base
from companion.backprop.base import kept_bytes, kept_tensors
from companion.backprop.layers import Dropout, Linear, ReLU, Sequential, Sigmoid


def test_gradients_accumulate_until_they_are_cleared():
    checks.check_accumulation(base)


def test_backward_before_forward_is_refused():
    with pytest.raises(RuntimeError, match="Linear.backward needs a forward pass before each call"):
        Linear(3, 2).backward(torch.zeros(1, 2))


def test_a_second_backward_is_refused_as_what_was_kept_is_gone():
    layer = ReLU()
    layer(torch.ones(2))
    layer.backward(torch.ones(2))
    with pytest.raises(RuntimeError, match="ReLU.backward needs a forward pass"):
        layer.backward(torch.ones(2))


def test_a_gradient_of_another_shape_is_refused_even_if_it_would_broadcast():
    layer = Linear(3, 2)
    layer(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"grad_output has shape \(2,\).*Linear, \(4, 2\)"):
        layer.backward(torch.zeros(2))
    layer.backward(torch.zeros(4, 2))  # the refused call spent nothing


def test_a_weight_changed_between_forward_and_backward_is_noticed():
    layer = Linear(3, 2)
    layer(torch.zeros(4, 3))
    with torch.no_grad():
        layer.weight -= 1
    with pytest.raises(RuntimeError, match="Linear: a tensor kept for backward was changed"):
        layer.backward(torch.zeros(4, 2))


def test_a_frozen_parameter_gets_no_gradient():
    layer = Linear(3, 2)
    layer.weight.requires_grad_(False)
    layer(torch.ones(4, 3))
    layer.backward(torch.ones(4, 2))
    assert layer.weight.grad is None
    assert_close(layer.bias.grad, torch.full((2,), 4.0))


def test_backward_builds_no_graph():
    layer = Linear(3, 2)
    layer(torch.ones(4, 3))
    assert not layer.backward(torch.ones(4, 2)).requires_grad
    assert not layer.weight.grad.requires_grad


def test_a_pass_under_inference_mode_works():
    layer = Linear(3, 2)
    with torch.inference_mode():
        layer(torch.ones(4, 3))
        layer.backward(torch.ones(4, 2))
    assert_close(layer.weight.grad, torch.full((2, 3), 4.0))


def test_a_layer_that_keeps_something_can_be_copied_and_pickled():
    network = Sequential(Linear(3, 2), ReLU())
    x = torch.ones(4, 3)
    network(x)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert_close(twin(x), network(x))


def test_autograd_on_our_forward_agrees_with_our_backward():
    layer = Linear(3, 2).double()
    x = normal((4, 3), 0).requires_grad_()
    grad_output = normal((4, 2), 1)
    layer(x).backward(grad_output)
    by_autograd = x.grad, layer.weight.grad
    layer.weight.grad = None
    layer(x)
    assert_close(layer.backward(grad_output), by_autograd[0], **TIGHT)
    assert_close(layer.weight.grad, by_autograd[1], **TIGHT)


def test_a_bfloat16_forward_leaves_float32_gradients():
    layer = Linear(3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(torch.ones(4, 3))
        assert y.dtype == torch.bfloat16
        layer.backward(torch.ones_like(y))
    assert_close(layer.weight.grad, torch.full((2, 3), 4.0))  # its dtype is compared too


def test_kept_bytes_counts_each_piece_once_and_no_parameter():
    n, inputs, hidden, outputs = 32, 7, 11, 5
    network = Sequential(Linear(inputs, hidden), ReLU(), Linear(hidden, outputs), Sigmoid())
    assert kept_bytes(network) == 0
    network(torch.randn(n, inputs))
    # x; the ReLU's output, which is also the second Linear's input; the sigmoid's output.
    assert kept_bytes(network) == 4 * n * (inputs + hidden + outputs)
    assert len(list(kept_tensors(network))) == 6
    network.backward(torch.zeros(n, outputs))
    assert kept_bytes(network) == 0


def test_a_dropout_mask_costs_one_byte_an_entry():
    layer = Dropout(0.5)
    layer(torch.ones(10, 10))
    assert kept_bytes(layer) == 100


def test_kept_bytes_equals_what_autograd_saves():
    network = Sequential(Linear(7, 11), ReLU(), Linear(11, 5))
    twin = nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 5))
    own = {p.untyped_storage().data_ptr() for p in twin.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    x = torch.randn(32, 7)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = twin(x)
    network(x)
    assert output.shape == (32, 5)
    assert kept_bytes(network) == sum(storage.nbytes() for storage in saved.values())
