"""Recurrent layers by hand equal torch.nn; the two networks do what they say."""

from __future__ import annotations

import pytest
import torch
from architectures import rnn_checks as checks
from architectures.rnn_checks import KINDS, TIGHT, normal
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from companion.architectures import rnn
from companion.architectures.rnn import (
    GRU,
    LSTM,
    RNN,
    CharacterRNN,
    LastOutput,
    SequenceClassifier,
)
from companion.backprop import losses
from companion.backprop.layers import Linear, Sequential


@pytest.mark.parametrize("kind", KINDS)
def test_layers_equal_torch_over_random_lengths_and_depths(kind):
    checks.check_layers(rnn, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_weights_of_torch(kind):
    torch.manual_seed(3)
    ours = getattr(rnn, kind)(4, 5, 2)
    torch.manual_seed(3)
    theirs = getattr(nn, kind)(4, 5, 2)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_autograd_goes_through_the_layers_as_well(kind):
    layer = getattr(rnn, kind)(3, 4, 2, batch_first=True).double()
    x = normal((2, 5, 3), 0).requires_grad_()
    output, _ = layer(x)
    grad = normal((2, 5, 4), 1)
    expected = torch.autograd.grad(output, [x, *layer.parameters()], grad)
    grad_x, _ = layer.backward(grad)
    for ours, theirs in zip((grad_x, *(p.grad for p in layer.parameters())), expected, strict=True):
        assert_close(ours, theirs, **TIGHT)


def test_a_sequence_in_two_halves_is_the_sequence():
    layer = LSTM(3, 4, 2, batch_first=True).double()
    x = normal((2, 6, 3), 0)
    whole, end = layer(x)
    first, state = layer(x[:, :2])
    second, again = layer(x[:, 2:], state)
    assert_close(torch.cat((first, second), 1), whole, **TIGHT)
    for one, other in zip(end, again, strict=True):
        assert_close(one, other, **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_output_in_a_sequential_has_autograd_s_gradients(kind):
    torch.manual_seed(0)
    recurrent = getattr(rnn, kind)(3, 4, batch_first=True)
    network = Sequential(LastOutput(recurrent), Linear(4, 5)).double()
    x, labels = normal((6, 7, 3), 0), torch.arange(6) % 5
    x.requires_grad_()
    expected = torch.autograd.grad(F.cross_entropy(network(x), labels), [x, *network.parameters()])
    grad_x = network.backward(losses.cross_entropy_backward(network(x).detach(), labels))
    for ours, theirs in zip(
        (grad_x, *(p.grad for p in network.parameters())), expected, strict=True
    ):
        assert_close(ours, theirs, **TIGHT)
    network(x)
    assert network.backward(torch.zeros(6, 5).double(), input_gradient=False) is None


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_padding_has_no_part_in_the_logits(cell, pool):
    checks.check_classifier(rnn, cell, pool)


def test_lengths_are_found_from_the_padding_value():
    torch.manual_seed(0)
    network = SequenceClassifier(3, 4, 5, padding_value=-1.0)
    x, lengths = torch.randn(3, 6, 3), torch.tensor([6, 2, 4])
    for row, length in zip(x, lengths, strict=True):
        row[length:] = -1.0
    assert_close(network(x), network(x, lengths))
    assert not torch.allclose(
        network(x), SequenceClassifier.forward(network, x, torch.tensor([6] * 3))
    )


def test_without_padding_value_every_step_is_real():
    torch.manual_seed(0)
    network = SequenceClassifier(3, 4, 5)
    x = torch.randn(2, 6, 3)
    x[:, 4:] = 0
    assert_close(network(x), network(x, torch.tensor([6, 6])))
    assert not torch.allclose(network(x), network(x, torch.tensor([4, 4])))


def test_the_classifier_computes_what_torch_s_layers_compute():
    torch.manual_seed(0)
    network = SequenceClassifier(3, 4, 5, "gru", num_layers=2)
    x = torch.randn(2, 6, 3)
    output, _ = network.recurrent(x)
    assert_close(network(x), F.linear(output[:, -1], network.head.weight, network.head.bias))


def test_dropout_is_at_work_in_training_only():
    torch.manual_seed(0)
    network = SequenceClassifier(3, 4, 50, dropout=0.5)
    x = torch.randn(2, 6, 3)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_the_character_model_sees_the_past_and_nothing_else():
    torch.manual_seed(0)
    network = CharacterRNN(7, embed_dim=4, hidden_size=6, num_layers=2)
    ids = torch.randint(7, (2, 9))
    logits = network(ids)
    assert logits.shape == (2, 9, 7)
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 7
    other = network(changed)
    assert torch.equal(other[:, :5], logits[:, :5])
    assert (other[:, 5:] != logits[:, 5:]).any(-1).all()


def test_the_character_model_can_go_on_from_a_state():
    torch.manual_seed(0)
    network = CharacterRNN(7, embed_dim=4, hidden_size=6)
    ids = torch.randint(7, (2, 9))
    first, state = network.advance(ids[:, :4])
    second, _ = network.advance(ids[:, 4:], state)
    assert_close(torch.cat((first, second), 1), network(ids))


def test_samples_are_repeatable_and_nearly_greedy_when_cold():
    torch.manual_seed(0)
    network = CharacterRNN(7, embed_dim=4, hidden_size=6, dropout=0.5)
    ids = torch.randint(7, (2, 3))
    longer = network.sample(ids, 8, seed=1)
    assert network.training
    assert longer.shape == (2, 11)
    assert torch.equal(longer[:, :3], ids)
    assert torch.equal(longer, network.sample(ids, 8, seed=1))
    assert not torch.equal(longer, network.sample(ids, 8, seed=2))
    network.eval()
    cold = network.sample(ids, 8, temperature=1e-4)
    for step in range(3, 11):
        assert torch.equal(cold[:, step], network(cold[:, :step])[:, -1].argmax(-1))


ONE = torch.zeros(1, 1, dtype=torch.int64)


def recurrent(features: int = 3) -> RNN:
    return RNN(features, 2, batch_first=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNN(3, 2, 0), "num_layers=0"),
        (lambda: recurrent()(torch.zeros(4, 0, 3)), r"shape \(4, 0, 3\); a sequence needs at lea"),
        (lambda: recurrent()(torch.zeros(4, 5, 2)), r"x has shape \(4, 5, 2\); its last dim.* 3"),
        (lambda: recurrent()(torch.zeros(5, 3)), r"x has shape \(5, 3\); it must be \(batch, time"),
        (
            lambda: recurrent()(torch.zeros(2, 5, 3), (torch.zeros(1, 2, 2),) * 2),
            "state holds 2 tensors in a tuple; one tensor, h",
        ),
        (
            lambda: LSTM(3, 2)(torch.zeros(5, 2, 3), torch.zeros(1, 2, 2)),
            r"a pair of tensors, \(h, c\)",
        ),
        (lambda: GRU(3, 2)(torch.zeros(5, 2, 3), torch.zeros(2, 2)), r"state has shape \(2, 2\)"),
        (
            lambda: recurrent()(torch.zeros(2, 5, 3), lengths=torch.tensor([6, 1])),
            "lengths reach 6; x is padded to 5",
        ),
        (lambda: LastOutput(RNN(3, 2)), "recurrent: an RNN, LSTM or GRU with batch_first=True"),
        (lambda: SequenceClassifier(0, 2, 4), "num_features=0"),
        (lambda: SequenceClassifier(2, 0, 4), "num_classes=0"),
        (lambda: SequenceClassifier(2, 2, 0), "hidden_size=0"),
        (lambda: SequenceClassifier(2, 2, 4, "elman"), "cell='elman': one of 'rnn', 'lstm', 'gru'"),
        (lambda: SequenceClassifier(2, 2, 4, pool="max"), "pool='max': 'last' or 'mean'"),
        (lambda: SequenceClassifier(2, 2, 4, dropout=1), "dropout=1"),
        (lambda: SequenceClassifier(2, 2, 4)(torch.zeros(3, 0, 2)), "a sequence needs at least 1"),
        (lambda: SequenceClassifier(2, 2, 4)(torch.zeros(3, 5, 3)), "last dimension must be 2"),
        (
            lambda: SequenceClassifier(2, 2, 4)(torch.zeros(2, 5, 2), torch.tensor([0, 5])),
            r"lengths=\[0, 5\]: a sequence must have at least 1 step",
        ),
        (lambda: CharacterRNN(0), "vocab_size=0"),
        (lambda: CharacterRNN(5)(torch.zeros(2, 0).long()), "with at least 1 step are needed"),
        (lambda: CharacterRNN(5)(torch.zeros(2, 3)), "ids has shape .* dtype torch.float32"),
        (
            lambda: CharacterRNN(5).sample(torch.zeros(1, 1).long(), 2, temperature=0),
            "temperature=",
        ),
        (lambda: CharacterRNN(5).sample(torch.zeros(1, 1).long(), -1), "count=-1"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_backward_without_a_forward_pass_is_refused():
    layer = recurrent()
    layer(torch.zeros(2, 5, 3))
    layer.backward(torch.zeros(2, 5, 2))
    with pytest.raises(RuntimeError, match="RNN.backward needs a forward pass"):
        layer.backward(torch.zeros(2, 5, 2))
