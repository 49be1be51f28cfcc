"""Masked prediction and the encoder: against probabilities, one by one, and against GPT."""

from __future__ import annotations

import math

import pytest
import torch
from architectures import variants_checks as checks
from architectures.variants_checks import MASK, ORDINARY, PAD, TIGHT, config, some_ids
from torch.testing import assert_close

from companion.architectures import encoder
from companion.architectures.encoder import (
    Encoder,
    EncoderClassifier,
    MaskedLanguageModel,
    choose_and_corrupt,
    pad_sequences,
)
from companion.architectures.transformer import GPT


def test_blanks_follow_the_rule_of_fifteen_and_eighty_ten_ten():
    checks.check_corruption_rule(encoder)


def test_the_loss_is_the_mean_over_the_blanks_and_nothing_else():
    checks.check_only_blanks_count(encoder)


def test_every_position_sees_every_other():
    checks.check_both_sides(encoder)


def test_padding_changes_nothing():
    checks.check_padding(encoder)


def test_padding_is_never_a_blank():
    checks.check_no_blank_in_padding(encoder)


def test_an_encoder_is_a_gpt_without_the_causal_mask():
    torch.manual_seed(0)
    made = Encoder(config(causal=True))
    gpt = GPT(config(causal=False))
    gpt.load_state_dict(made.body.state_dict())
    assert_close(made(some_ids()), gpt.hidden(some_ids()))
    assert_close(made.logits(some_ids()), gpt(some_ids()))


def test_the_encoder_equals_the_library_s_transformer_encoder():
    """torch.nn's pre-norm encoder with the same weights, padding included."""
    made = checks.encoder(encoder)
    layer = torch.nn.TransformerEncoderLayer(
        8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    library = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(8).double(), False)
    pairs = {"norm1": "attention_norm", "norm2": "feed_forward_norm"}
    pairs |= {"linear1": "feed_forward.up", "linear2": "feed_forward.down"}
    pairs |= {"self_attn.out_proj": "attention.output"}
    for theirs, ours in zip(library.layers, made.body.blocks, strict=True):
        for name, own in pairs.items():
            theirs.get_submodule(name).load_state_dict(ours.get_submodule(own).state_dict())
        three = [getattr(ours.attention, name) for name in ("query", "key", "value")]
        with torch.no_grad():
            theirs.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in three]))
            theirs.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in three]))
    library.norm.load_state_dict(made.body.final_norm.state_dict())
    ids = some_ids()
    ids[0, 7:] = PAD
    expected = library(made.body.embed(ids), src_key_padding_mask=ids == PAD)
    real = ids != PAD
    assert_close(made(ids)[real], expected[real], **TIGHT)


def test_the_same_noise_gives_the_same_blanks_and_training_draws_new_ones():
    ids, noise = some_ids(), torch.rand(3, 3, 12)
    first = choose_and_corrupt(ids, MASK, ORDINARY, noise=noise)
    second = choose_and_corrupt(ids, MASK, ORDINARY, noise=noise)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    learner = MaskedLanguageModel(Encoder(config()), mask_id=MASK)
    torch.manual_seed(0)
    training = {learner.measure(ids)[0]["loss"].item() for _ in range(4)}
    validation = {learner.eval().measure(ids)[0]["loss"].item() for _ in range(4)}
    assert len(training) == 4
    assert len(validation) == 1


def test_a_batch_without_a_blank_has_loss_zero_and_weight_zero():
    learner = MaskedLanguageModel(Encoder(config()), mask_id=MASK, mask_fraction=1e-9)
    metrics, blanks = learner.measure((some_ids(), None))
    assert metrics["loss"] == 0
    assert blanks == 0


def test_a_sequence_of_nothing_but_padding_gives_finite_classes():
    ids = torch.full((1, 4), PAD)
    logits = EncoderClassifier(Encoder(config(), pad_id=PAD), 2)(ids)
    assert logits.isfinite().all()


def test_pad_sequences_fills_and_cuts():
    expected = torch.tensor([[1, 2, 9], [3, 9, 9]])
    assert torch.equal(pad_sequences([[1, 2], [3]], 9, 3), expected)
    assert torch.equal(pad_sequences([[1, 2], [3]], 9), expected[:, :2])
    assert torch.equal(pad_sequences([[1, 2, 3]], 9, 1), torch.tensor([[1]]))


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, math.nan, True, "0.15"])
def test_a_mask_fraction_outside_zero_and_one_is_refused(value):
    message = "mask_fraction=.*: a number in \\(0, 1\\) is needed"
    with pytest.raises(ValueError, match=message):
        MaskedLanguageModel(Encoder(config()), mask_id=MASK, mask_fraction=value)
    with pytest.raises(ValueError, match=message):
        choose_and_corrupt(some_ids(), MASK, ORDINARY, mask_fraction=value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Encoder(config(), pad_id=22), "pad_id=22: an id in \\[0, 22\\)"),
        (lambda: MaskedLanguageModel(Encoder(config()), mask_id=22), "mask_id=22: an id in"),
        (lambda: MaskedLanguageModel(Encoder(config()), mask_id=0), "num_tokens=0"),
        (lambda: EncoderClassifier(Encoder(config()), 1), "num_classes=1"),
        (lambda: pad_sequences([[1], []], 0), "none of length zero"),
        (lambda: choose_and_corrupt(some_ids(), MASK, 0), "num_tokens=0"),
        (
            lambda: choose_and_corrupt(some_ids(), MASK, 5, candidates=torch.ones(2, 2)),
            "candidates has shape \\(2, 2\\); it must be \\(3, 12\\)",
        ),
        (lambda: Encoder(config())(some_ids(1, 0)), "length 0"),
        (
            lambda: MaskedLanguageModel(Encoder(config()), mask_id=MASK).measure(some_ids() + 9),
            "ids reach from .* vocab_size=22",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
