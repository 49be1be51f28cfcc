"""Generation against its definition and `transformers`' own filters; with a cache and without."""

from __future__ import annotations

import math

import pytest
import torch
from architectures import language_model_checks as checks
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from companion.architectures import generation
from companion.architectures.generation import (
    choose_from,
    draw,
    generate,
    keep_top_k,
    keep_top_p,
    scale_by_temperature,
)


def test_temperature_is_a_power_of_the_probabilities():
    checks.check_temperature(generation)


def test_top_k_keeps_the_k_largest():
    checks.check_top_k(generation)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    checks.check_top_p(generation)


def test_draws_fall_as_the_probabilities_say():
    checks.check_draws(generation)


def test_generation_with_and_without_cache_equals_the_definition():
    checks.check_generation(generation)


def test_generation_beyond_the_context_agrees_with_and_without_cache():
    checks.check_long_generation(generation)


@pytest.mark.parametrize("positions", ["learnt", "rotary", "sinusoidal"])
def test_logits_with_a_cache_equal_those_without(positions: str):
    model = checks.small_gpt(positions)
    ids = torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids)
        cache = model.new_cache()
        parts = [model(part, cache) for part in ids.split([4, 1, 1, 3, 1, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-10, atol=1e-12)


def logits_of(rows: int, columns: int, seed: int) -> Tensor:
    """Logits without ties."""
    return 2 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double()


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 1000))
def test_top_k_equals_the_library_s(columns: int, k: int, seed: int):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    logits = logits_of(3, columns, seed)
    library = transformers.TopKLogitsWarper(top_k=k)
    assert torch.equal(keep_top_k(logits, k), library(None, logits.clone()))


@given(st.integers(1, 30), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_top_p_equals_the_library_s(columns: int, p: float, seed: int):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    logits = logits_of(3, columns, seed)
    library = transformers.TopPLogitsWarper(top_p=p)
    assert torch.equal(keep_top_p(logits, p), library(None, logits.clone()))


@given(st.floats(0.01, 10), st.integers(0, 1000))
def test_the_chain_equals_the_library_s(temperature: float, seed: int):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    logits = logits_of(2, 20, seed)
    expected = transformers.TemperatureLogitsWarper(temperature)(None, logits.clone())
    torch.testing.assert_close(scale_by_temperature(logits, temperature), expected)
    expected = transformers.TopKLogitsWarper(7)(None, expected)
    expected = transformers.TopPLogitsWarper(0.8)(None, expected)
    ours = choose_from(logits, temperature, 7, 0.8)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def test_filters_leave_their_input_alone_and_take_vectors():
    logits = logits_of(1, 9, 0)[0]
    before = logits.clone()
    for result in (keep_top_k(logits, 2), keep_top_p(logits, 0.5), scale_by_temperature(logits, 2)):
        assert result.shape == logits.shape
    assert torch.equal(logits, before)


def test_many_samples_have_the_temperature_s_shares():
    """20,000 draws; each share within five standard errors of its probability."""
    logits = logits_of(1, 6, 0)
    expected = scale_by_temperature(logits, 0.7).softmax(-1)[0]
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = draw(scale_by_temperature(logits, 0.7).expand(20_000, -1), uniform)
    shares = torch.bincount(tokens, minlength=6) / 20_000
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((shares - expected).abs() < 5 * error).all()


def test_samples_come_only_from_the_top_k_and_from_the_nucleus():
    model = checks.small_gpt()
    prompts = torch.tensor([[1, 2, 3]]).expand(500, 3)
    with torch.no_grad():
        probabilities = model(prompts[:1])[0, -1].softmax(-1)
    likely = probabilities.argsort(descending=True).tolist()
    drawn = generate(model, prompts, 1, top_k=3)[:, -1]
    assert set(drawn.tolist()) == set(likely[:3])
    nucleus = []
    while sum(probabilities[token] for token in nucleus) < 0.8:
        nucleus.append(likely[len(nucleus)])
    drawn = generate(model, prompts, 1, top_p=0.8)[:, -1]
    assert set(drawn.tolist()) == set(nucleus)
    assert len(set(generate(model, prompts, 1)[:, -1].tolist())) > len(nucleus)


def test_a_batch_continues_each_prompt_and_seeds_repeat():
    model = checks.small_gpt()
    prompts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    greedy = generate(model, prompts, 5, top_k=1)
    for row, prompt in zip(greedy, prompts, strict=True):
        assert torch.equal(row, generate(model, prompt, 5, top_k=1))
    runs = [generate(model, prompts, 8, seed=seed).tolist() for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_dropout_is_off_and_the_mode_comes_back():
    model = checks.small_gpt()
    for block in model.blocks:
        block.dropout.p = 0.5
    model.train()
    runs = [generate(model, [1], 8, top_k=1).tolist() for _ in range(2)]
    assert runs[0] == runs[1]
    assert model.training
    with pytest.raises(ValueError, match="temperature"):
        generate(model, [1], 8, temperature=0)
    assert model.training


class Successor(nn.Module):
    """No cache and no config: the token after i is i + 1, modulo 5."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.one_hot((ids + 1) % 5, 5) * self.scale


def test_any_network_without_a_cache_can_generate_without_one():
    assert generate(Successor(), [3], 4, use_cache=False).tolist() == [3, 4, 0, 1, 2]
    with pytest.raises(ValueError, match="use_cache=True: Successor has no new_cache"):
        generate(Successor(), [3], 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature=0: a number above 0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0: an integer of at least 1"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"top_p": 0.0}, r"top_p=0.0: a number in \(0, 1\]"),
        ({"top_p": 1.01}, "top_p=1.01"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"seed": -1}, "seed=-1"),
        ({"prompt_ids": []}, "at least one token"),
        ({"prompt_ids": torch.zeros(1, 1, 1, dtype=torch.long)}, r"shape \(1, 1, 1\)"),
        ({"prompt_ids": [0.5]}, "token ids are integers"),
        ({"prompt_ids": [0] * 13}, "13 tokens; context_length=12 is the most"),
        ({"prompt_ids": [0, 11]}, r"reach from 0 to 11: ids in \[0, 11\)"),
        ({"prompt_ids": [-1]}, "reach from -1 to -1"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict, message: str):
    arguments = {"prompt_ids": [1], "max_new_tokens": 2} | options
    with pytest.raises(ValueError, match=message):
        generate(checks.small_gpt(), **arguments)
