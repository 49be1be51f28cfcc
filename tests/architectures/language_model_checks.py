"""What a tokenizer, an n-gram model and a generator must do, as functions of the module.

Ordinary tests call them with the real module, the planted mistakes with a mutant of it.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from companion.architectures.transformer import GPT, TransformerConfig

LINES = (
    "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n"
    "The slings and arrows of outrageous fortune,\nOr to take arms against a sea of troubles,\n"
    "And by opposing end them. To die: to sleep;\nNo more; and by a sleep to say we end\n"
    "The heart-ache and the thousand natural shocks\nThat flesh is heir to, 'tis a consummation\n"
    "Devoutly to be wish'd. To die, to sleep;\nTo sleep: perchance to dream: ay, there's the rub;\n"
)


def reference_tokenizer(text: str, vocab_size: int):
    """Return the `tokenizers` library's byte-level BPE, trained on `text`."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = level(add_prefix_space=False, use_regex=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=level.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def reference_merges(tokenizer) -> list[tuple[int, int]]:
    """Return the merges of the library's tokenizer as pairs of its ids."""
    model = json.loads(tokenizer.to_str())["model"]
    return [(model["vocab"][first], model["vocab"][second]) for first, second in model["merges"]]


def check_merges(module: ModuleType) -> None:
    """Both ways to learn find the library's merges: on verse, and where pairs overlap and tie."""
    generator = random.Random(0)
    texts = [(LINES, 330)]
    for _ in range(60):
        length = generator.randint(1, 60)
        texts.append(("".join(generator.choice("aab -") for _ in range(length)), 266))
    for text, vocab_size in texts:
        expected = reference_merges(reference_tokenizer(text, vocab_size))
        assert module.learn_merges_naive(text, vocab_size) == expected
        assert module.learn_merges(text, vocab_size) == expected


def check_encoding(module: ModuleType) -> None:
    """The ids equal the library's on texts that the merges were not learnt from."""
    reference = reference_tokenizer(LINES, 330)
    ours = module.BytePairTokenizer(reference_merges(reference))
    generator = random.Random(0)
    texts = ["".join(generator.choice(LINES) for _ in range(40)) for _ in range(200)]
    texts.append("Tomorrow, and tomorrow,   and to-morrow's\n\nThe thousandth sleeper_ dies!? 1606")
    for text in texts:
        assert ours.encode(text) == reference.encode(text).ids
        assert ours.decode(ours.encode(text)) == text


def check_bits(module: ModuleType) -> None:
    """A uniform guess over the 256 bytes costs 8 bits a byte, however many bytes a token has."""
    assert module.bits_per_byte(math.log(256), 50, 50) == pytest.approx(8, rel=1e-12)
    assert module.bits_per_byte(3 * math.log(256), 50, 150) == pytest.approx(8, rel=1e-12)


def check_ngram(module: ModuleType) -> None:
    """Counting by sorting equals the definition, and probabilities add up to 1."""
    train = np.random.default_rng(0).integers(0, 3, 40).tolist()
    for order, discount in itertools.product((1, 2, 3, 4), (0.3, 0.9)):
        model = module.NGram(order, 3, discount=discount).fit(train)
        for context in itertools.product(range(3), repeat=order - 1):
            expected = [
                module.ngram_probability_naive(
                    train, context, token, vocab_size=3, discount=discount
                )
                for token in range(3)
            ]
            np.testing.assert_allclose(sum(expected), 1, rtol=1e-12)
            np.testing.assert_allclose(model.next_probabilities(context), expected, rtol=1e-12)


def check_ngram_by_hand(module: ModuleType) -> None:
    """ "abab" as 0 1 0 1, order 2, D = 1/2, worked out on paper.

    Bigrams, with the start 0 in front: 00, 01, 10, 01. Different bigrams that end in 0: two (00,
    10), in 1: one (01). p(1) = (1 − ½)/3 + ½·2/3·½ = 1/3, p(0) = 2/3. After 0: N = 3, T = 2, so
    p(1 | 0) = (2 − ½)/3 + ½·2/3·1/3 = 11/18. After 1: N = T = 1, p(1 | 1) = ½·1/3 = 1/6.
    """
    model = module.NGram(2, 2, discount=0.5).fit([0, 1, 0, 1])
    np.testing.assert_allclose(model.next_probabilities([0]), [7 / 18, 11 / 18], rtol=1e-12)
    np.testing.assert_allclose(model.next_probabilities([1]), [5 / 6, 1 / 6], rtol=1e-12)
    expected = -np.mean(np.log([11 / 18, 5 / 6, 11 / 18, 1 / 6]))
    np.testing.assert_allclose(model.loss([1, 0, 1, 1]), expected, rtol=1e-12)


def check_temperature(module: ModuleType) -> None:
    """p_i becomes proportional to p_i^(1/T)."""
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).double()
    for temperature in (0.3, 1.0, 2.5):
        ours = module.scale_by_temperature(logits, temperature).softmax(-1)
        powers = logits.softmax(-1) ** (1 / temperature)
        torch.testing.assert_close(ours, powers / powers.sum(-1, keepdim=True), rtol=1e-10, atol=0)


def check_top_k(module: ModuleType) -> None:
    """The k largest stay as they are; of equal ones exactly k."""
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 0.0]])
    inf = torch.inf
    for k, expected in (
        (1, [-inf, 3.0, -inf, -inf, -inf]),
        (2, [-inf, 3.0, -inf, 3.0, -inf]),
        (3, [-inf, 3.0, 2.0, 3.0, -inf]),
        (9, [1.0, 3.0, 2.0, 3.0, 0.0]),
    ):
        assert module.keep_top_k(logits, k).tolist() == [expected]


def check_top_p(module: ModuleType) -> None:
    """The nucleus is the smallest set that reaches p, found here by trying all sets."""
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double() * 2
    for row, p in itertools.product(logits, (0.05, 0.5, 0.9, 0.999, 1.0)):
        shares = row.softmax(-1)
        sets = (s for n in range(1, 7) for s in itertools.combinations(range(6), n))
        reach = (s for s in sets if n_sum(shares, s) >= p - 1e-12)
        best = min(reach, key=lambda s: (len(s), -n_sum(shares, s)))
        kept = module.keep_top_p(row, p)
        assert torch.isfinite(kept).nonzero().flatten().tolist() == sorted(best)
        assert torch.equal(kept[list(best)], row[list(best)])


def n_sum(shares: torch.Tensor, chosen: tuple[int, ...]) -> float:
    """Return the sum of the chosen shares."""
    return float(shares[list(chosen)].sum())


def check_draws(module: ModuleType) -> None:
    """10,000 evenly spaced random numbers fall on the tokens as their probabilities say."""
    logits = torch.tensor([0.0, -torch.inf, 1.0, 2.0, -torch.inf])
    uniform = (torch.arange(10_000).double() + 0.5) / 10_000
    tokens = module.draw(logits.expand(10_000, 5), uniform)
    shares = torch.bincount(tokens, minlength=5) / 10_000
    torch.testing.assert_close(shares, logits.softmax(-1), rtol=0, atol=2e-4)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert module.draw(logits.expand(2, 5), ends).tolist() == [0, 3]


def small_gpt(positions: str = "rotary", context_length: int = 12) -> GPT:
    """A GPT in float64 whose guesses are neither flat nor certain."""
    torch.manual_seed(0)
    model = GPT(
        TransformerConfig(
            vocab_size=11,
            context_length=context_length,
            num_layers=2,
            num_heads=2,
            embed_dim=8,
            positions=positions,
        )
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8).add_(torch.randn_like(parameter) * 0.05)
    return model


def generate_plainly(
    model: nn.Module, prompt: list[int], count: int, temperature: float, seed: int
) -> list[int]:
    """The definition, for prompts and results within the context: no cache, no filters."""
    generator, ids = torch.Generator().manual_seed(seed), list(prompt)
    for _ in range(count):
        with torch.no_grad():
            scores = model(torch.tensor([ids]))[0, -1] / temperature
        share, total, number = 0.0, scores.softmax(-1), 0
        uniform = float(torch.rand(1, generator=generator, dtype=torch.float64))
        while share + float(total[number]) <= uniform:
            share += float(total[number])
            number += 1
        ids.append(number)
    return ids


def check_generation(module: ModuleType) -> None:
    """With a cache and without one come the tokens of the definition; greedy takes the argmax."""
    for positions in ("rotary", "learnt", "sinusoidal"):
        model = small_gpt(positions)
        for seed, temperature in itertools.product(range(4), (0.7, 1.5)):
            options = {"temperature": temperature, "seed": seed}
            expected = generate_plainly(model, [1, 2, 3], 9, temperature, seed)
            for use_cache in (True, False):
                ids = module.generate(model, [1, 2, 3], 9, use_cache=use_cache, **options)
                assert ids.tolist() == expected
        greedy = [4, 2]
        for _ in range(9):
            with torch.no_grad():
                greedy.append(int(model(torch.tensor([greedy]))[0, -1].argmax()))
        for use_cache in (True, False):
            ids = module.generate(model, [4, 2], 9, top_k=1, use_cache=use_cache)
            assert ids.tolist() == greedy


def check_long_generation(module: ModuleType) -> None:
    """Beyond the context, too, cache and no cache agree; the model sees at most the context."""
    model = small_gpt(context_length=6)
    for seed in range(3):
        runs = [
            module.generate(model, [1, 2, 3], 30, use_cache=use_cache, seed=seed)
            for use_cache in (True, False)
        ]
        assert torch.equal(*runs)
        assert len(runs[0]) == 33
    greedy = module.generate(model, [1, 2, 3], 30, top_k=1)
    start = 0
    for end in range(3, 33):
        if end - start > 6:
            start = end - 3  # the older half is forgotten
        with torch.no_grad():
            assert greedy[end] == model(greedy[None, start:end])[0, -1].argmax()
