"""Mixtures of experts: against the loop over tokens, the dense network, and sums written out."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from architectures import variants_checks as checks
from architectures.variants_checks import TIGHT, config, dense_like, experts, some_ids, tokens
from torch.testing import assert_close

from companion.architectures import mixture_of_experts as moe
from companion.architectures.mixture_of_experts import (
    BalancedLanguageModel,
    MixtureOfExperts,
    add_experts_,
    auxiliary_loss,
    load_balancing_loss,
)
from companion.architectures.transformer import GPT
from companion.training import LanguageModel


def test_sorted_blocks_and_fixed_places_equal_the_loop_over_tokens():
    checks.check_equals_naive(moe)


def test_one_expert_is_the_dense_network():
    layer = experts(moe, 1, 1)
    assert_close(layer(tokens(4, 3)), dense_like(layer, 0)(tokens(4, 3)), **TIGHT)


def test_identical_experts_are_the_dense_network():
    checks.check_identical_experts(moe)


def test_the_balance_loss_is_the_sum_of_its_definition():
    checks.check_balance_loss(moe)


def test_the_balance_loss_evens_the_load_out():
    checks.check_balance_teaches_the_router(moe)


def test_the_task_s_gradient_reaches_the_router_for_any_top_k():
    checks.check_task_teaches_the_router(moe)


def test_choices_beyond_the_capacity_are_dropped_second_choices_first():
    checks.check_capacity(moe)


def test_renormalised_weights_of_one_choice_would_leave_the_router_untaught():
    layer = experts(moe, 4, 1, renormalize=True)
    (gradient,) = torch.autograd.grad(layer(tokens(9)).square().sum(), [layer.router.weight])
    assert gradient.abs().max() < 1e-12


def test_loads_are_shares_of_the_choices():
    layer = experts(moe, 4, 2)
    layer(tokens(50))
    assert_close(float(layer.loads.sum()), 1.0)
    _, chosen, _ = layer.route(tokens(50))
    assert_close(float(layer.loads[2]), int((chosen == 2).sum()) / 100)


def test_parameters_grow_with_the_experts():
    few, many = experts(moe, 2, 1), experts(moe, 8, 1)
    each = 6 * 10 + 10 + 10 * 6 + 6
    assert sum(p.numel() for p in few.parameters()) == 2 * each + 2 * 6
    assert sum(p.numel() for p in many.parameters()) == 8 * each + 8 * 6


def test_a_layer_that_has_run_can_be_copied():
    layer = experts(moe, 4, 2)
    layer(tokens(3))
    twin = copy.deepcopy(layer)
    assert twin.balance_loss is None
    assert_close(twin(tokens(3)), layer(tokens(3)))


def test_a_gpt_gets_experts_in_each_block():
    torch.manual_seed(0)
    model = add_experts_(GPT(config(causal=True)), 4, 2, hidden_dim=16, balance=0.5)
    model(some_ids())
    layers = [block.feed_forward for block in model.blocks]
    assert [layer.hidden_dim for layer in layers] == [16, 16]
    assert_close(auxiliary_loss(model), 0.5 * sum(layer.balance_loss for layer in layers))


def test_training_adds_the_auxiliary_loss_and_validation_does_not():
    torch.manual_seed(0)
    model = add_experts_(GPT(config(causal=True)), 4, balance=0.3)
    plain = LanguageModel(model).eval().measure(some_ids())[0]["loss"]
    learner = BalancedLanguageModel(model)
    assert_close(learner.eval().measure(some_ids())[0]["loss"], plain)
    trained = learner.train().measure(some_ids())[0]["loss"]
    assert_close(trained, plain + auxiliary_loss(model))
    assert trained > plain


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MixtureOfExperts(4, 8, 2, 3), "top_k=3: at most num_experts=2 are possible"),
        (lambda: MixtureOfExperts(4, 8, 2, 0), "top_k=0"),
        (lambda: MixtureOfExperts(4, 0, 2), "hidden_dim=0"),
        (lambda: MixtureOfExperts(4, 8, 2, capacity_factor=0), "capacity_factor=0: a positive"),
        (lambda: MixtureOfExperts(4, 8, 2, capacity_factor=math.nan), "capacity_factor=nan"),
        (lambda: MixtureOfExperts(4, 8, 2, balance=-1), "balance=-1: a finite number of at least"),
        (lambda: MixtureOfExperts(4, 8, 2, balance=math.nan), "balance=nan"),
        (lambda: MixtureOfExperts(4, 8, 2)(torch.ones(3, 5)), "x of shape \\(3, 5\\)"),
        (lambda: auxiliary_loss(torch.nn.Linear(2, 2)), "it has no MixtureOfExperts"),
        (lambda: auxiliary_loss(MixtureOfExperts(4, 8, 2)), "before the first forward pass"),
        (
            lambda: load_balancing_loss(torch.ones(3, 2), torch.zeros(4, 1).long()),
            "probabilities of shape \\(3, 2\\) and chosen of shape \\(4, 1\\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
