"""The page's widespread mistake: it is one, as stated, and its cure is right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from companion.architectures.rnn import GRU, RNN

H0, C0 = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_e7_an_rnn_that_gets_a_pair_of_states_raises(kind):
    layer = kind(2, 4, batch_first=True)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        layer(torch.zeros(3, 5, 2), (H0, C0))


def test_e7_one_state_for_the_rnn_and_a_pair_for_the_lstm():
    x = torch.randn(3, 5, 2)
    output, state = nn.RNN(2, 4, batch_first=True)(x, H0)
    assert isinstance(state, torch.Tensor)
    assert torch.equal(state[0], output[:, -1])
    output, (h, c) = nn.LSTM(2, 4, batch_first=True)(x, (H0, C0))
    assert torch.equal(h[0], output[:, -1])
    assert h.shape == c.shape
    assert not torch.equal(h, c)


def test_e7_unpacking_the_state_of_two_layers_gives_two_layers_and_no_cell():
    layer = nn.RNN(2, 4, num_layers=2, batch_first=True)
    output, (first, second) = layer(torch.randn(3, 5, 2))
    assert torch.equal(second, output[:, -1])
    assert first.shape == second.shape == (3, 4)


@pytest.mark.parametrize("kind", [RNN, GRU])
def test_e7_the_companion_says_what_is_wrong(kind):
    with pytest.raises(ValueError, match="state holds 2 tensors in a tuple; one tensor, h"):
        kind(2, 4, batch_first=True)(torch.zeros(3, 5, 2), (H0, C0))
