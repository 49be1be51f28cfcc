"""SGD against torch.optim.SGD, and the forms of momentum against each other."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimization import sgd_checks as checks
from torch import nn

from companion.optimization import sgd
from companion.optimization.sgd import SGD, descend


@pytest.mark.parametrize("name", checks.OPTIONS)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("foreach", [False, True])
def test_fifty_steps_equal_torch_s(name: str, scale: float, foreach: bool):
    checks.check_against_torch(sgd, checks.OPTIONS[name], scale, foreach=foreach)


def test_every_option_equals_torch_s_for_small_weights_as_well():
    checks.check_all_options(sgd)


@settings(max_examples=50)
@given(st.floats(1e-4, 1), st.floats(0, 0.99), st.floats(0, 0.9), st.floats(0, 0.5), st.booleans())
def test_any_options_equal_torch_s(lr, momentum, dampening, weight_decay, nesterov):
    nesterov = nesterov and momentum > 0
    options = {
        "lr": lr,
        "momentum": momentum,
        "dampening": 0.0 if nesterov else dampening,
        "weight_decay": weight_decay,
        "nesterov": nesterov,
    }
    ours, theirs = checks.parameters(), checks.parameters()
    checks.run(SGD(ours, **options), ours, 8, 1.0)
    checks.run(torch.optim.SGD(theirs, **options), theirs, 8, 1.0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **checks.TIGHT)


def test_the_one_tensor_step_equals_torch_s():
    checks.check_naive_step(sgd)


def test_parameter_groups_keep_their_own_options():
    checks.check_groups(sgd)


def test_state_saved_mid_way_goes_on_here_and_in_torch():
    checks.check_resuming(sgd)


def test_a_copy_goes_on_like_the_original():
    weights = checks.parameters()
    optimizer = SGD(weights, lr=0.1, momentum=0.9)
    checks.run(optimizer, weights, 5, 1.0)
    pair = copy.deepcopy((weights, optimizer))
    checks.run(optimizer, weights, 5, 1.0)
    checks.run(pair[1], pair[0], 5, 1.0)
    checks.assert_same_weights(pair[0], weights)


def test_gradients_stay_as_they_are():
    checks.check_gradients_untouched(sgd)


def test_torch_s_foreach_form_changes_gradients_under_nesterov():
    """Why our benchmark's baseline does one copy less than we do."""
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    torch.optim.SGD([weight], lr=0.1, momentum=0.9, nesterov=True, foreach=True).step()
    assert not torch.equal(weight.grad, torch.ones(3))


def test_rows_without_gradient_stay_unless_momentum_moves_them():
    for momentum, still in ((0.0, True), (0.9, False)):
        table = nn.Parameter(torch.ones(4, 2))
        optimizer = SGD([table], lr=0.1, momentum=momentum)
        for rows in ([0, 1], [2]):
            table.grad = torch.zeros(4, 2)
            table.grad[rows] = 1.0
            optimizer.step()
        after_first = torch.full((2, 2), 0.9)
        assert torch.equal(table.detach()[:2], after_first) is still
        assert torch.equal(table.detach()[3], torch.ones(2))


def test_a_group_without_any_gradient_is_left_alone():
    weights = checks.parameters()
    before = [w.detach().clone() for w in weights]
    optimizer = SGD(weights, lr=0.1, momentum=0.9, weight_decay=1.0)
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        assert torch.equal(weight, old)
    assert not optimizer.state


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = SGD([weight], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert weight.item() == 1.0


def test_a_scheduler_may_take_the_rate_to_zero():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = SGD([weight], lr=0.5)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == 2.0


def test_torch_s_nesterov_is_the_paper_s_in_the_look_ahead_variable():
    checks.check_nesterov_forms(sgd)


def test_the_paper_s_nesterov_is_the_two_sequence_form():
    checks.check_nesterov_1983(sgd)


def test_polyak_s_heavy_ball_is_momentum_without_dampening():
    checks.check_heavy_ball(sgd)


def test_descend_returns_the_start_and_every_step():
    start = torch.tensor([4.0, -2.0], dtype=torch.float64)
    path = descend(lambda w: w, start, steps=3, lr=0.5)
    expected = start * (0.5 ** torch.arange(4, dtype=torch.float64)).unsqueeze(1)
    torch.testing.assert_close(path, expected, rtol=1e-12, atol=0)
    assert torch.equal(descend(lambda w: w, start, steps=0, lr=1.0), start.unsqueeze(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, "lr=0: a learning rate above 0 is needed"),
        ({"lr": -0.1}, "lr=-0.1: a learning rate above 0"),
        ({"lr": float("nan")}, "lr=nan: a finite number"),
        ({"lr": "fast"}, "lr='fast': a finite number"),
        ({"lr": 0.1, "momentum": -0.9}, "momentum=-0.9: it must not be negative"),
        ({"lr": 0.1, "weight_decay": -1}, "weight_decay=-1: it must not be negative"),
        ({"lr": 0.1, "dampening": float("inf")}, "dampening=inf: a finite number"),
        ({"lr": 0.1, "nesterov": True}, "nesterov=True with momentum=0.* needs momentum > 0"),
        (
            {"lr": 0.1, "nesterov": True, "momentum": 0.9, "dampening": 0.1},
            "dampening=0.1: it needs momentum > 0 and dampening = 0",
        ),
    ],
)
def test_a_bad_option_is_refused_by_name_value_and_rule(options, message):
    weight = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=message):
        SGD([weight], **options)
    with pytest.raises(ValueError, match=message):
        SGD([{"params": [weight], **options}], lr=0.1)
    with pytest.raises(ValueError, match=message):
        descend(lambda w: w, torch.zeros(2), steps=1, **options)


def test_no_parameter_at_all_is_refused():
    for nothing in ([], iter(()), nn.ReLU().parameters()):
        with pytest.raises(ValueError, match=r"params=\[\]: at least one parameter"):
            SGD(nothing, lr=0.1)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="steps=-1: an integer of at least 0"):
        descend(lambda w: w, torch.zeros(2), steps=-1, lr=0.1)


def test_a_sparse_gradient_is_refused_with_the_cure():
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"a gradient is sparse.*Embedding\(sparse=False\)"):
        SGD(table.parameters(), lr=0.1).step()
