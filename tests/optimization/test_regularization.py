"""Decay, dropout, label smoothing and clipping by value, against torch and closed forms."""

from __future__ import annotations

import pytest
import torch
from optimization import regularization_checks as checks
from torch import nn
from torch.testing import assert_close

from companion.architectures import clipping
from companion.optimization import adam, regularization
from companion.optimization.adam import Adam
from companion.optimization.sgd import SGD


def test_dropout_keeps_the_mean_over_all_masks():
    checks.check_dropout_keeps_the_mean(regularization)


def test_dropout_turns_off_the_share_it_is_told():
    checks.check_dropout_draws_the_right_share(regularization)


def test_dropout_passes_everything_in_evaluation():
    checks.check_evaluation_passes_everything(regularization)


def test_smoothing_equals_torch_in_loss_and_gradient():
    checks.check_smoothing(regularization)


def test_clipping_by_value_equals_torch():
    checks.check_clipping_by_value(regularization)


def test_clipping_by_norm_keeps_the_direction_of_the_whole_gradient():
    checks.check_clipping_by_norm(clipping)


def test_decoupled_decay_does_not_depend_on_the_gradients():
    checks.check_decay_without_gradient(adam)


def test_matrices_decay_and_vectors_do_not():
    checks.check_groups(regularization)


def test_groups_without_vectors_are_one_group():
    assert len(regularization.decay_groups([torch.ones(2, 2)], 0.1)) == 1


def train(kind: type, decay: str) -> torch.Tensor:
    """20 steps with λ = 0.1 as a penalty in the loss, as the optimizer's option, or beside it."""
    weight = nn.Parameter(checks.normal((6,), 0))
    options = {"weight_decay": 0.1} if decay == "option" else {}
    optimizer = kind([weight], lr=0.05, **options)
    for step in range(20):
        before = weight.detach().clone()
        loss = (10.0 ** torch.arange(-3, 3).double() * weight * checks.normal((6,), step)).sum()
        if decay == "penalty":
            loss = loss + regularization.l2_penalty([weight], 0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if decay == "beside":
            with torch.no_grad():
                weight -= 0.05 * 0.1 * before
    return weight.detach()


def test_under_sgd_penalty_and_decay_are_the_same():
    for decay in ("option", "beside"):
        assert_close(train(SGD, decay), train(SGD, "penalty"), **checks.TIGHT)


def test_under_adam_they_are_not():
    assert_close(train(Adam, "option"), train(Adam, "penalty"), **checks.TIGHT)
    apart = (train(Adam, "beside") - train(Adam, "penalty")).abs().max()
    assert apart > 0.01


def test_predictions_with_dropout_leave_the_modes_as_they_were():
    network = nn.Sequential(
        nn.Linear(4, 50), nn.BatchNorm1d(50), regularization.Dropout(0.5), nn.Linear(50, 3)
    ).eval()
    network[3].train()
    running = network[1].running_mean.clone()
    mean, std = regularization.predict_with_dropout(network, torch.randn(8, 4), 30)
    assert [part.training for part in network.modules()] == [False, False, False, False, True]
    assert_close(mean.sum(1), torch.ones(8))
    assert mean.shape == std.shape == (8, 3)
    assert std.min() > 0
    assert_close(network[1].running_mean, running, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: regularization.decay_groups([], 1.0), "weight_decay=1.0"),
        (lambda: regularization.decay_groups([], -0.1), "weight_decay=-0.1"),
        (lambda: regularization.Dropout(1.0), "p=1.0"),
        (lambda: regularization.dropout(torch.ones(2), -0.5, training=True), "p=-0.5"),
        (
            lambda: regularization.dropout(torch.ones(2), 0.5, training=True, keep=torch.ones(3)),
            "keep of shape",
        ),
        (lambda: regularization.smooth_labels(torch.tensor([0]), 3, 1.0), "smoothing=1.0"),
        (lambda: regularization.smooth_labels(torch.tensor([3]), 3, 0.1), "from 3 to 3"),
        (lambda: regularization.smooth_labels(torch.tensor([-1]), 3, 0.1), "from -1 to -1"),
        (
            lambda: regularization.smoothed_cross_entropy(torch.ones(2, 3), torch.zeros(3).long()),
            "logits of shape",
        ),
        (lambda: regularization.clip_grad_value_([], -1.0), "max_value=-1.0"),
        (lambda: regularization.clip_grad_value_([], 0.0), "max_value=0.0"),
        (lambda: regularization.l2_penalty([torch.ones(1)], -1.0), "decay=-1.0"),
        (lambda: regularization.l2_penalty([], 0.1), "there are none"),
        (
            lambda: regularization.predict_with_dropout(nn.Linear(1, 1), torch.ones(1, 1), 5),
            "no dropout layer",
        ),
        (
            lambda: regularization.predict_with_dropout(nn.Dropout(), torch.ones(1, 1), 1),
            "draws=1",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
