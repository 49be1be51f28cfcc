"""The chapter's layers counted by hooks: against torch's counter and against closed forms."""

from __future__ import annotations

import pytest
import torch
from architectures.variants_checks import config, some_ids
from compute.counting_checks import library_counts

from companion.architectures.counting_rules import RULES
from companion.architectures.encoder import Encoder, EncoderClassifier
from companion.architectures.mixture_of_experts import add_experts_
from companion.architectures.transformer import GPT
from companion.compute.counting import count
from companion.compute.language_models import TransformerShape, forward_cost, parameters

LLAMA = {"norm": "rms", "feed_forward": "swiglu", "positions": "rotary", "bias": False}


@pytest.mark.parametrize(
    "model",
    [
        GPT(config(causal=True)),
        GPT(config(causal=True, num_kv_heads=1, **LLAMA)),
        GPT(config(causal=True, positions="sinusoidal", norm_first=False)),
        Encoder(config(), pad_id=21),
        EncoderClassifier(Encoder(config()), 3),
        add_experts_(GPT(config(causal=True)), 4, 2),
        add_experts_(GPT(config(causal=True)), 4, 2, capacity_factor=1.25),
    ],
    ids=["gpt", "llama", "post-norm", "encoder", "classifier", "experts", "capacity"],
)
def test_products_equal_the_library_s_forward_and_backward(model):
    counted = count(model, some_ids(), rules=RULES)
    assert (counted.forward.products, counted.backward.products) == library_counts(
        model, some_ids()
    )


def test_a_gpt_equals_its_closed_form():
    shape = TransformerShape(2, 8, 2, 22, 12)
    counted = count(GPT(config(causal=True)), some_ids(5), rules=RULES)
    assert counted.parameters == parameters(shape)
    assert counted.forward.products == forward_cost(shape, 12, batch=5).forward.products


def test_eight_experts_do_the_work_of_one_and_hold_eight():
    dense = count(GPT(config(causal=True)), some_ids(), rules=RULES)
    sparse = count(add_experts_(GPT(config(causal=True)), 8, 1), some_ids(), rules=RULES)
    router = 2 * 36 * 8 * 8  # products of a router, 36 tokens
    assert sparse.forward.products - dense.forward.products == 2 * router
    mlp = 8 * 32 + 32 + 32 * 8 + 8
    assert sparse.parameters - dense.parameters == 2 * (7 * mlp + 8 * 8)


def test_with_a_cache_a_new_token_looks_at_all_that_are_in_it():
    model = GPT(config(causal=True)).eval()
    cache = model.new_cache()
    with torch.no_grad():
        model(some_ids(1, 7), cache)
        counted = count(model, some_ids(1, 1), cache, rules=RULES)
    assert counted.backward.total == 0
    attention = next(row for row in counted.rows if row.kind == "MultiHeadAttention")
    assert attention.cost.forward.products == 2 * 2 * 8 * 8  # 2 heads of 4 numbers, 8 keys
