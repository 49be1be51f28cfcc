"""Our GPT with the weights of randomly initialised `transformers` models gives the same logits."""

from __future__ import annotations

import pytest
import torch
from architectures import hugging_face_checks as checks
from torch.testing import assert_close

pytest.importorskip("transformers", reason="transformers is not installed")

from companion.architectures import hugging_face as module
from companion.architectures.hugging_face import from_gpt2, from_llama


def test_gpt2_has_the_same_logits():
    checks.check_gpt2(module)


def test_llama_with_grouped_queries_has_the_same_logits():
    checks.check_llama(module)


def test_llama_with_tied_embeddings_and_another_rotary_base_has_the_same_logits():
    theirs = checks.llama(
        tie_word_embeddings=True,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    checks.check_same_logits(from_llama, theirs, exact=1e-5)


def test_an_inner_width_of_ones_own_is_read():
    checks.check_same_logits(from_gpt2, checks.gpt2(n_inner=40), exact=1e-12)


def test_our_cache_gives_their_logits_token_by_token():
    theirs = checks.llama()
    ours, ids = from_llama(theirs), torch.randint(61, (2, 9))
    with torch.no_grad():
        cache = ours.new_cache()
        steps = torch.cat([ours(ids[:, t : t + 1], cache) for t in range(9)], 1)
        assert_close(steps, theirs(ids).logits, rtol=0, atol=1e-5)


def test_the_weights_are_copies():
    theirs = checks.gpt2()
    ours = from_gpt2(theirs)
    with torch.no_grad():
        ours.token_embedding.weight.zero_()
    assert theirs.transformer.wte.weight.abs().sum() > 0
    assert not ours.training


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_gpt2(checks.llama()), "config.model_type='llama': 'gpt2' is needed"),
        (lambda: from_llama(checks.gpt2()), "config.model_type='gpt2': 'llama' is needed"),
        (
            lambda: from_gpt2(checks.gpt2(activation_function="relu")),
            "config.activation_function='relu'",
        ),
        (lambda: from_llama(checks.llama(attention_bias=True)), "config.attention_bias=True"),
        (lambda: from_llama(checks.llama(head_dim=16)), "head_dim=16: hidden_size / heads = 8"),
        (
            lambda: from_llama(
                checks.llama(
                    rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
                )
            ),
            "rope_type='linear': 'default' is needed",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
