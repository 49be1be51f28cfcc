"""What every optimizer of the chapter does: refuse bad options, keep state, survive a resume."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from companion.data.digits import Digits
from companion.optimization import base
from companion.optimization.adam import Adam, AdamW
from companion.optimization.adaptive import Adagrad, RMSprop
from companion.optimization.lion import Lion
from companion.optimization.muon import Muon, MuonWithAdamW, split_parameters
from companion.training import Classifier, fit

ALL = (Adagrad, RMSprop, Adam, AdamW, Lion, Muon)
every = pytest.mark.parametrize("optimizer", ALL, ids=lambda kind: kind.__name__)


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(2, 3))


@every
@pytest.mark.parametrize("lr", [0, -1e-3, float("nan"), float("inf"), "0.1", True])
def test_a_learning_rate_that_is_not_a_positive_number_is_refused(optimizer, lr):
    with pytest.raises(ValueError, match=r"lr=.*: a finite number above 0 is needed"):
        optimizer([weight()], lr=lr)


@every
@pytest.mark.parametrize("decay", [-0.1, float("nan")])
def test_a_negative_weight_decay_is_refused(optimizer, decay):
    with pytest.raises(ValueError, match=r"weight_decay=.*: a finite number of at least 0"):
        optimizer([weight()], weight_decay=decay)


@pytest.mark.parametrize("optimizer", [Adagrad, RMSprop, Adam, AdamW, Muon])
def test_a_negative_eps_is_refused(optimizer):
    with pytest.raises(ValueError, match=r"eps=-1e-08: a finite number of at least 0"):
        optimizer([weight()], eps=-1e-8)


@pytest.mark.parametrize("optimizer", [Adam, AdamW, Lion])
@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9,), 0.9])
def test_betas_outside_of_zero_to_one_are_refused(optimizer, betas):
    with pytest.raises(ValueError, match=r"betas=.*: two numbers in \[0, 1\) are needed"):
        optimizer([weight()], betas=betas)


@pytest.mark.parametrize(
    ("optimizer", "option"), [(RMSprop, "alpha"), (RMSprop, "momentum"), (Muon, "momentum")]
)
def test_other_decays_of_one_or_more_are_refused(optimizer, option):
    with pytest.raises(ValueError, match=rf"{option}=1.0: a number in \[0, 1\)"):
        optimizer([weight()], **{option: 1.0})


def test_a_group_with_a_bad_option_is_refused_and_leaves_no_trace():
    optimizer = Adam([weight()])
    with pytest.raises(ValueError, match=r"lr=-1: "):
        optimizer.add_param_group({"params": [weight()], "lr": -1})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match=r"lr=-1: "):
        Adam([{"params": [weight()], "lr": -1}])


def test_whole_numbers_and_sparse_gradients_are_refused():
    with pytest.raises(ValueError, match=r"params: one of type torch.int64"):
        Adam([torch.zeros(3, dtype=torch.int64)])
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"a gradient is sparse"):
        Adam(table.parameters()).step()


@every
def test_a_closure_is_called_with_gradients_on_and_its_loss_comes_back(optimizer):
    parameter = weight()
    running = optimizer([parameter])

    def closure() -> torch.Tensor:
        running.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert running.step(closure).item() == 6
    assert running.step(closure).item() < 6


@every
def test_without_a_gradient_nothing_moves_and_nothing_is_kept(optimizer):
    parameter = weight()
    running = optimizer([parameter])
    running.step()
    assert torch.equal(parameter.detach(), torch.ones(2, 3))
    assert not running.state


@every
def test_parameters_without_entries_are_no_trouble(optimizer):
    parameter = nn.Parameter(torch.zeros(0, 3))
    parameter.grad = torch.zeros(0, 3)
    optimizer([parameter]).step()


@every
def test_a_step_changes_weights_in_place_and_keeps_their_type(optimizer):
    parameter = nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    storage = parameter.data_ptr()
    parameter.grad = torch.ones_like(parameter)
    running = optimizer([parameter], lr=0.1)
    running.step()
    assert parameter.data_ptr() == storage
    assert parameter.dtype == torch.bfloat16
    assert (parameter < 1).all()


@pytest.mark.parametrize(
    ("make", "buffers"),
    [
        (Adagrad, 1),
        (RMSprop, 1),
        (partial(RMSprop, centered=True, momentum=0.9), 3),
        (Adam, 2),
        (partial(Adam, amsgrad=True), 3),
        (AdamW, 2),
        (Lion, 1),
        (Muon, 1),
    ],
)
def test_state_bytes_are_a_whole_number_of_buffers(make: Callable[..., Any], buffers: int):
    params = [nn.Parameter(torch.ones(4, 5)), nn.Parameter(torch.ones(1, 1))]
    optimizer = make(params)
    for parameter in params:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.step()
    assert base.state_bytes(optimizer) == buffers * 4 * 21


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 10))


@pytest.mark.parametrize("kind", [*ALL[:-1], MuonWithAdamW], ids=lambda kind: kind.__name__)
def test_training_killed_and_resumed_from_a_checkpoint_ends_at_the_same_weights(kind, tmp_path):
    def module() -> Classifier:
        net = network()
        if kind is MuonWithAdamW:
            return Classifier(net, optimizer=lambda _: kind(*split_parameters(net)))
        return Classifier(net, optimizer=partial(kind, lr=1e-3, weight_decay=0.01))

    data = Digits(flatten=True, limit=256)
    whole = fit(module(), data, epochs=3, precision="32-true")
    fit(module(), data, epochs=1, precision="32-true", checkpoint_dir=tmp_path)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["optimizer_states"][0]["state"]
    resumed = fit(module(), data, epochs=3, precision="32-true", resume_from=tmp_path)
    assert resumed.step_losses == whole.step_losses
    for one, two in zip(resumed.module.parameters(), whole.module.parameters(), strict=True):
        assert_close(one, two, rtol=0, atol=0)
