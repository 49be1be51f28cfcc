"""Truncated back-propagation: the state is carried on, the gradient stops at the window."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest
import torch
from architectures.rnn_checks import TIGHT
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from companion.architectures import truncated
from companion.architectures.rnn import CharacterRNN
from companion.architectures.truncated import TruncatedBPTT
from companion.data.echo import CHANCE, Echo
from companion.training import fit

SGD = partial(torch.optim.SGD, lr=0.5)
WINDOW = 4


def network() -> CharacterRNN:
    torch.manual_seed(0)
    return CharacterRNN(2, embed_dim=3, hidden_size=5).double()


def check_one_batch(module: ModuleType, *, max_norm: float | None = None, lr: float = 0.5) -> None:
    """Against a loop written from the definition: carry, cut, step; by torch.nn throughout."""
    data = Echo(2, length=12, samples=3, batch_size=3)
    data.setup()
    learner = module.TruncatedBPTT(
        network(), window=WINDOW, max_norm=max_norm, optimizer=partial(torch.optim.SGD, lr=lr)
    )
    result = fit(learner, data, precision="64-true")
    reference = network()
    optimizer = torch.optim.SGD(reference.parameters(), lr=lr)
    x, y = next(iter(data.train_dataloader()))
    h = c = torch.zeros(1, 3, 5).double()
    sums = 0.0
    for start in range(0, 12, WINDOW):
        inputs = reference.embedding(x[:, start : start + WINDOW])
        output, (h, c) = reference.recurrent(inputs, (h.detach(), c.detach()))
        targets = y[:, start : start + WINDOW].flatten()
        loss = F.cross_entropy(reference.head(output).flatten(0, 1), targets)
        optimizer.zero_grad()
        loss.backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(reference.parameters(), max_norm)
        optimizer.step()
        sums += loss.item() * (targets != -100).sum().item()
    for one, other in zip(learner.network.parameters(), reference.parameters(), strict=True):
        assert_close(one, other, **TIGHT)
    assert_close(result.step_losses[-1], sums / 30, rtol=1e-6, atol=0)


def test_one_batch_equals_the_loop_from_the_definition():
    check_one_batch(truncated)


def test_one_batch_with_clipping_equals_the_loop_from_the_definition():
    check_one_batch(truncated, max_norm=0.05)


def test_an_echo_within_the_window_is_learnt_and_one_beyond_it_is_not():
    losses = {}
    for window in (3, 6):
        torch.manual_seed(0)
        learner = TruncatedBPTT(
            CharacterRNN(2, embed_dim=4, hidden_size=24),
            window=window,
            optimizer=partial(torch.optim.Adam, lr=1e-2),
        )
        data = Echo(3, length=120, samples=32)
        result = fit(learner, data, epochs=3 * window, precision="32-true")
        losses[window] = result.metrics["val_loss"]
    assert losses[6] < 0.05
    assert losses[3] > 0.8 * CHANCE


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruncatedBPTT(network(), window=0), "window=0"),
        (lambda: TruncatedBPTT(nn.Linear(2, 2), window=3), "network=Linear: it has no method adv"),
        (lambda: TruncatedBPTT(network(), window=3, max_norm=0), "max_norm=0: a positive number"),
        (
            lambda: fit(TruncatedBPTT(network(), window=7), Echo(2, length=12)),
            "window=7: the batch has 12 steps",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
