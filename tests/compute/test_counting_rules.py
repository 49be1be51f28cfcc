"""The rules for layers of torch.nn: which class they hold for, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from companion.compute.counting import count
from companion.compute.counting_rules import RULES, elementwise_rule, gradients
from companion.compute.operations import Flops


class Wider(nn.Linear):
    """A subclass without a rule of its own."""


def test_a_subclass_is_counted_as_its_base_class():
    assert Wider not in RULES
    assert count(Wider(3, 4), torch.ones(2, 3)).forward.products == 2 * 2 * 3 * 4


def test_only_what_needs_a_gradient_costs_a_product():
    layer, x = nn.Linear(3, 4), torch.ones(2, 3, requires_grad=True)
    assert gradients(layer, {"input": x}) == {"input_gradient": True, "weight_gradient": True}
    layer.requires_grad_(False)
    assert gradients(layer, {"input": x.detach()}) == {
        "input_gradient": False,
        "weight_gradient": False,
    }


def test_an_elementwise_rule_counts_the_numbers_of_the_output():
    cost = elementwise_rule(3, 2)(nn.Identity(), {}, torch.ones(2, 5))
    assert (cost.forward, cost.backward) == (Flops(0, 30), Flops(0, 20))


def test_dropout_works_in_training_only():
    layer = nn.Dropout(0.5)
    assert count(layer, torch.ones(4)).forward.other == 4
    assert count(layer.eval(), torch.ones(4)).forward.other == 0


def test_attention_without_a_batch_is_refused():
    x = torch.ones(5, 8)
    with pytest.raises(ValueError, match="a batch is needed"):
        count(nn.MultiheadAttention(8, 2), x, x, x)
