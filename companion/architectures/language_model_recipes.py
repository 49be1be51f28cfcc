"""What a reader would write to use the techniques of the page on language models.

Each recipe learns the end of one sonnet by heart, in a second or two: enough to tell a model that
predicts the next token from one that does not, and no data set has to be fetched.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from companion.architectures.generation import (
    generate,
    keep_top_k,
    keep_top_p,
    scale_by_temperature,
)
from companion.architectures.ngram import NGram
from companion.architectures.tokenizer import BytePairTokenizer
from companion.architectures.transformer import GPT, TransformerConfig
from companion.data.arrays import Arrays
from companion.data.shakespeare import ALPHABET, encode_characters, windows
from companion.techniques import Recipe
from companion.training import FitResult, LanguageModel

VERSES = """But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st,
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st,
So long as men can breathe, or eyes can see,
So long lives this, and this gives life to thee.
"""
CONTEXT = 24
OPTIONS = {"precision": "32-true", "max_steps": 240}
ADAMW = partial(torch.optim.AdamW, lr=3e-3)


def verse_windows(ids: list[int]) -> Arrays:
    """Return windows at every offset, in batches of one shape."""
    pair = windows(torch.tensor(ids), CONTEXT, 1)
    return Arrays(train=pair, batch_size=32, drop_last=True)


def small_gpt(vocab_size: int) -> GPT:
    """Return a GPT of one block."""
    torch.manual_seed(0)
    return GPT(
        TransformerConfig(
            vocab_size=vocab_size,
            context_length=CONTEXT,
            num_layers=1,
            num_heads=2,
            embed_dim=64,
            positions="rotary",
        )
    )


def last_line() -> tuple[list[int], list[int]]:
    """Return 18 characters of the last line and the 6 that follow, as ids."""
    ids = encode_characters("So long lives this, and this")
    return ids[:18], ids[18:24]


def next_logits(network: GPT) -> tuple[Tensor, int]:
    """Return the logits after "So long lives this" and the index of the comma that comes next."""
    ids = encode_characters("So long lives this,")
    with torch.no_grad():
        return network.eval()(torch.tensor([ids[:-1]]))[0, -1].double(), ids[-1]


def character_gpt() -> Recipe:
    """A Transformer that predicts the next character."""

    def check(result: FitResult) -> None:
        prompt, rest = last_line()
        network = result.module.network.cpu()
        text = generate(network, prompt, len(rest), top_k=1).tolist()
        assert text[len(prompt) :] == rest, "it cannot recite the last line"

    data = verse_windows(encode_characters(VERSES))
    return Recipe(LanguageModel(small_gpt(len(ALPHABET)), optimizer=ADAMW), data, OPTIONS, check)


def kv_cache_generation() -> Recipe:
    """Generation that reads each token once."""
    recipe = character_gpt()

    def check(result: FitResult) -> None:
        recipe.check(result)
        network, (prompt, _) = result.module.network.double(), last_line()
        runs = [
            generate(network, prompt, 12, use_cache=use_cache, seed=1)
            for use_cache in (True, False)
        ]
        assert torch.equal(*runs), "the cache changed the tokens"

    return Recipe(recipe.module, recipe.data, recipe.trainer_options, check)


def byte_pair_encoding() -> Recipe:
    """The same model on the tokens of a byte-pair tokenizer."""
    tokenizer = BytePairTokenizer.train(VERSES, 320)
    ids = tokenizer.encode(VERSES)

    def check(result: FitResult) -> None:
        assert len(ids) < 0.75 * len(VERSES), "the merges hardly shorten the text"
        assert tokenizer.decode(ids) == VERSES
        start = len(ids) - CONTEXT
        network = result.module.network.cpu()
        text = generate(network, ids[start : start + 12], 8, top_k=1).tolist()
        assert text == ids[start : start + 20], "it cannot recite the last line"

    network = small_gpt(tokenizer.vocab_size)
    return Recipe(LanguageModel(network, optimizer=ADAMW), verse_windows(ids), OPTIONS, check)


def n_gram_model() -> Recipe:
    """A table of logits, one row a character: gradient descent finds what counting finds."""
    ids = encode_characters(VERSES)
    counted = NGram(2, len(ALPHABET), discount=1e-6).fit(ids)
    torch.manual_seed(0)
    network = nn.Embedding(len(ALPHABET), len(ALPHABET))

    def check(result: FitResult) -> None:
        table = result.module.network.weight.detach().cpu()
        learnt = table[ids[:-1]].log_softmax(-1)
        targets = torch.tensor(ids[1:]).unsqueeze(1)
        loss = -float(learnt.gather(1, targets).mean())
        best = -float(counted.log_probabilities(ids)[1:].mean())
        assert best - 1e-3 < loss < best + 0.05, f"learnt {loss:.3f}, counted {best:.3f} nats"

    module = LanguageModel(network, optimizer=partial(torch.optim.AdamW, lr=0.2, weight_decay=0.0))
    return Recipe(module, verse_windows(ids), OPTIONS, check)


def temperature_sampling() -> Recipe:
    """Dividing the logits: a cool model is surer of what it learnt, a hot one less."""
    recipe = character_gpt()

    def check(result: FitResult) -> None:
        logits, right = next_logits(result.module.network.cpu())
        shares = [
            float(scale_by_temperature(logits, temperature).softmax(-1)[right])
            for temperature in (0.5, 1.0, 5.0)
        ]
        assert shares[0] > shares[1] > shares[2], "cooling did not sharpen the right guess"
        assert shares[0] > 0.9, "even cooled, the model is not sure of what it learnt"

    return Recipe(recipe.module, recipe.data, recipe.trainer_options, check)


def top_k_sampling() -> Recipe:
    """Drawing from the k likeliest characters only."""
    recipe = character_gpt()

    def check(result: FitResult) -> None:
        network = result.module.network.cpu()
        logits, right = next_logits(network)
        kept = torch.isfinite(keep_top_k(logits, 3)).nonzero().flatten().tolist()
        assert len(kept) == 3
        assert right in kept, "the right character is not among the three likeliest"
        prompt = torch.tensor([encode_characters("So long lives this")]).expand(100, -1)
        drawn = generate(network, prompt, 1, temperature=3.0, top_k=3)[:, -1]
        assert set(drawn.tolist()) <= set(kept)

    return Recipe(recipe.module, recipe.data, recipe.trainer_options, check)


def top_p_sampling() -> Recipe:
    """Drawing from the likeliest characters that hold 90 % of the probability."""
    recipe = character_gpt()

    def check(result: FitResult) -> None:
        network = result.module.network.cpu()
        logits, right = next_logits(network)
        kept = torch.isfinite(keep_top_p(logits, 0.9))
        assert float(logits.softmax(-1)[kept].sum()) >= 0.9
        assert kept[right], "the right character is not in the nucleus"
        assert kept.sum() <= 3, "a model that knows the text needs few characters for 90 %"
        prompt = torch.tensor([encode_characters("So long lives this")]).expand(100, -1)
        drawn = generate(network, prompt, 1, top_p=0.9)[:, -1]
        assert kept[drawn].all()

    return Recipe(recipe.module, recipe.data, recipe.trainer_options, check)
