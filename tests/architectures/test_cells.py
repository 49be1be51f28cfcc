"""Each cell by hand equals torch.nn's: state, and the gradients of everything."""

from __future__ import annotations

import pytest
import torch
from architectures import rnn_checks as checks
from architectures.rnn_checks import KINDS, TIGHT, normal
from torch import nn
from torch.testing import assert_close

from companion.architectures import cells
from companion.architectures.cells import GRUCell, LSTMCell, RNNCell


@pytest.mark.parametrize("kind", KINDS)
def test_cell_equals_torch_over_random_shapes(kind):
    checks.check_cell(cells, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_weights_of_torch(kind):
    torch.manual_seed(3)
    ours = getattr(cells, f"{kind}Cell")(4, 5)
    torch.manual_seed(3)
    theirs = getattr(nn, f"{kind}Cell")(4, 5)
    for (name, one), (other_name, other) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_state_it_starts_from_zeros(kind):
    cell, theirs = getattr(cells, f"{kind}Cell")(3, 2), getattr(nn, f"{kind}Cell")(3, 2)
    theirs.load_state_dict(cell.state_dict())
    x = torch.randn(4, 3)
    assert_close(cell(x), theirs(x))


def test_gradients_of_several_calls_add_up():
    cell = LSTMCell(3, 2).double()
    x, grad = normal((4, 3), 0), (normal((4, 2), 1), normal((4, 2), 2))
    cell(x)
    cell.backward(grad)
    once = cell.weight_hh.grad.clone(), cell.weight_ih.grad.clone()
    cell(x)
    cell.backward(grad)
    assert_close(cell.weight_ih.grad, 2 * once[1], **TIGHT)
    assert_close(cell.weight_hh.grad, 2 * once[0], **TIGHT)


def test_gru_with_its_reset_gate_before_the_product_is_another_function():
    """The paper's variant, written out: both agree only where r is 1 or the bias is 0 and so on."""
    cell = GRUCell(3, 2).double()
    x, h = normal((4, 3), 0), normal((4, 2), 1)
    a, b = x @ cell.weight_ih.T + cell.bias_ih, h @ cell.weight_hh.T + cell.bias_hh
    r, z = torch.sigmoid(a[:, :2] + b[:, :2]), torch.sigmoid(a[:, 2:4] + b[:, 2:4])
    n = torch.tanh(a[:, 4:] + (r * h) @ cell.weight_hh[4:].T + cell.bias_hh[4:])
    paper = (1 - z) * n + z * h
    assert (cell(x, h) - paper).abs().max() > 1e-3


def test_an_open_lstm_keeps_its_cell_state_and_a_closed_one_forgets_it():
    for forget, kept in ((40.0, 1.0), (-40.0, 0.0)):
        a = torch.zeros(1, 4).double()
        a[0, 0], a[0, 1] = -40.0, forget  # nothing comes in
        (_, c), _ = LSTMCell.step(a, torch.zeros_like(a), *(torch.full((1, 1), 0.7).double(),) * 2)
        assert_close(c, torch.tensor([[0.7 * kept]]).double(), rtol=1e-10, atol=1e-12)


def test_backward_without_a_forward_pass_is_refused():
    with pytest.raises(RuntimeError, match="RNNCell.backward needs a forward pass"):
        RNNCell(3, 2).backward(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNNCell(0, 3), "input_size=0: an integer of at least 1"),
        (lambda: LSTMCell(3, 0), "hidden_size=0: an integer of at least 1"),
        (lambda: GRUCell(3, 2)(torch.zeros(4, 2)), r"x has shape \(4, 2\); its last dim.* be 3"),
        (lambda: GRUCell(3, 2)(torch.zeros(4, 5, 3)), r"x has shape \(4, 5, 3\); it must be"),
        (lambda: RNNCell(3, 2)(torch.zeros(4, 3).long()), "x has dtype torch.int64"),
        (lambda: RNNCell(3, 2)(torch.zeros(4, 3), torch.zeros(4, 3)), r"state has shape \(4, 3\)"),
        (
            lambda: RNNCell(3, 2)(torch.zeros(4, 3), (torch.zeros(4, 2), torch.zeros(4, 2))),
            "state holds 2 tensors in a tuple; one tensor, h",
        ),
        (
            lambda: LSTMCell(3, 2)(torch.zeros(4, 3), torch.zeros(4, 2)),
            r"state holds 1 tensors in a Tensor; a pair of tensors, \(h, c\)",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
