"""Chrono initialisation: gate biases of the stated distribution, and a memory that lasts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from companion.architectures import rnn
from companion.architectures.chrono import chrono_init_
from companion.data.adding_problem import CHANCE


@pytest.mark.parametrize("kind", [nn.LSTM, rnn.LSTM])
def test_time_constants_are_uniform_up_to_the_longest(kind):
    torch.manual_seed(0)
    layer = chrono_init_(kind(2, 4000, 1), 101)
    i, f, g, o = (layer.bias_ih_l0 + layer.bias_hh_l0).detach().chunk(4)
    steps = f.exp()
    assert 1 - 1e-4 <= steps.min() < 1.2
    assert 99.5 < steps.max() <= 100.01
    assert abs(steps.mean().item() - 50.5) < 5 * 28.6 / 4000**0.5  # five standard errors
    assert torch.equal(i, -f)
    for gate in (g, o):
        assert gate.abs().max() <= 2 / 4000**0.5 + 1e-6


def test_every_layer_is_set():
    layer = chrono_init_(nn.LSTM(2, 50, 2), 20)
    for name in ("l0", "l1"):
        assert (getattr(layer, f"bias_ih_{name}")[50:100] >= 0).all()
        assert not getattr(layer, f"bias_hh_{name}")[:100].any()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="longest=2: an integer of at least 3"):
        chrono_init_(nn.LSTM(2, 3), 2)
    with pytest.raises(ValueError, match="recurrent=GRU: an LSTM has a forget gate"):
        chrono_init_(nn.GRU(2, 3), 9)
    with pytest.raises(ValueError, match="it has no biases"):
        chrono_init_(nn.LSTM(2, 3, bias=False), 9)


def test_chance_is_the_variance_of_a_sum_of_two_uniform_numbers():
    u = (torch.arange(1000).double() + 0.5) / 1000
    sums = u.unsqueeze(0) + u.unsqueeze(1)
    assert sums.var(correction=0).item() == pytest.approx(CHANCE, rel=1e-5)
