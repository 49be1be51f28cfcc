"""The block equals torch's, the model keeps the future hidden, the cache changes nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from architectures import transformer_checks as checks
from architectures.attention_checks import spread_out
from backprop.layer_checks import TIGHT
from torch.testing import assert_close

from companion.architectures import transformer as module
from companion.architectures.transformer import GPT, Block, TransformerConfig, check_ids

small = partial(
    TransformerConfig, vocab_size=10, context_length=8, num_layers=2, num_heads=4, embed_dim=16
)
LLAMA = {
    "norm": "rms",
    "feed_forward": "swiglu",
    "positions": "rotary",
    "num_kv_heads": 2,
    "bias": False,
    "tie_embeddings": False,
}


@pytest.mark.parametrize("norm_first", [True, False])
def test_block_equals_torch_with_the_same_weights(norm_first):
    checks.check_block(module, norm_first=norm_first)


@pytest.mark.parametrize(
    "options", [{}, {"positions": "sinusoidal"}, LLAMA], ids=["learnt", "sinusoidal", "llama"]
)
def test_a_cache_changes_nothing(options):
    checks.check_cache(module, **options)


def test_no_token_is_seen_before_its_time():
    checks.check_no_leak(module)


def test_the_stream_is_normalised_at_its_end():
    checks.check_final_norm(module)


def test_tied_embeddings_are_one_parameter_that_both_ends_train():
    checks.check_tied(module)


def test_an_encoder_sees_both_sides_and_no_padding():
    model = GPT(small(causal=False)).double().eval()
    spread_out(model)
    ids = torch.randint(10, (2, 6))
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    changed = ids.clone()
    changed[1, 4:] = (changed[1, 4:] + 1) % 10
    before, after = model.hidden(ids, mask), model.hidden(changed, mask)
    assert_close(before[1, :4], after[1, :4], **TIGHT)
    assert_close(before[1:, :4], model.hidden(ids[1:, :4]), **TIGHT)
    changed[0, 5] = (changed[0, 5] + 1) % 10
    assert ((model.hidden(changed, mask) - before)[0].abs().amax(-1) > 1e-9).all()


def test_padding_on_the_left_under_a_cache_is_hidden_too():
    model = GPT(small(**LLAMA)).double().eval()
    spread_out(model)
    ids, mask = torch.randint(10, (2, 6)), torch.ones(2, 6, dtype=torch.bool)
    mask[0, :2] = False
    with torch.no_grad():
        whole, cache = model(ids, mask=mask), model.new_cache()
        parts = [model(ids[:, t : t + 1], cache, mask[:, : t + 1]) for t in range(6)]
    assert whole.isfinite().all()
    assert_close(torch.cat(parts, 1), whole, **TIGHT)
    # Rotary positions see distances only, so the padding shifts nothing.
    assert_close(whole[:1, 2:], model(ids[:1, 2:]), **TIGHT)


def test_hidden_is_normalised_and_the_head_makes_it_logits():
    model = GPT(small()).eval()
    ids = torch.randint(10, (3, 7))
    hidden = model.hidden(ids)
    assert hidden.shape == (3, 7, 16)
    assert hidden.mean(-1).abs().max() < 1e-5
    assert_close(model(ids), hidden @ model.token_embedding.weight.T)


def test_a_new_model_knows_nothing_and_its_stream_keeps_its_size():
    torch.manual_seed(0)
    model = GPT(TransformerConfig(65, 32, 8, 4, 64)).eval()
    ids = torch.randint(65, (4, 32))
    loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten())
    assert abs(loss.item() - torch.tensor(65.0).log().item()) < 0.1
    written = [m.weight.std().item() for b in model.blocks for m in (b.attention.output,)]
    assert all(abs(std - 0.02 / 16**0.5) < 2e-4 for std in written)


def test_the_same_seed_gives_the_same_weights_and_state_dicts_hold_no_tables():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(GPT(small(**LLAMA)))
    for one, other in zip(*(m.state_dict().values() for m in models), strict=True):
        assert torch.equal(one, other)
    assert not [name for name in models[0].state_dict() if "rotary" in name]


def test_dropout_acts_in_training_only():
    model = GPT(small(dropout=0.5))
    ids = torch.randint(10, (1, 8))
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_a_block_takes_another_feed_forward():
    block = Block(small(), feed_forward=torch.nn.Identity())
    x = torch.randn(2, 3, 16)
    u = x + block.attention(block.attention_norm(x))
    assert_close(block(x), u + block.feed_forward_norm(u))


def test_all_parameters_get_a_gradient():
    for options in ({}, LLAMA, {"norm_first": False, "positions": "sinusoidal"}):
        model = GPT(small(**options))
        model(torch.randint(10, (2, 8))).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


gpt = GPT(small()).eval()


def filled_cache() -> module.KeyValueCache:
    cache = gpt.new_cache()
    with torch.no_grad():
        gpt(torch.zeros(1, 7, dtype=torch.int64), cache)
    return cache


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gpt(torch.zeros(1, 9).long()), "positions 0 to 8 do not fit: context_length=8"),
        (lambda: gpt(torch.zeros(1, 0).long()), "the sequence has length 0"),
        (lambda: gpt(torch.zeros(3).long()), r"ids has shape \(3,\)"),
        (lambda: gpt(torch.zeros(1, 3)), "dtype torch.float32; it must be .* int64 or int32"),
        (lambda: gpt(torch.tensor([[0, 10]])), "ids reach from 0 to 10; with vocab_size=10"),
        (lambda: gpt(torch.tensor([[-1, 3]])), "ids reach from -1 to 3"),
        (lambda: check_ids(torch.tensor([[3, 12]]), 12), r"must lie in \[0, 11\]"),
        (lambda: gpt(torch.zeros(1, 2).long(), filled_cache()), "positions 7 to 8 do not fit"),
        (lambda: gpt.hidden(torch.zeros(1, 3).long(), torch.ones(1, 4).bool()), "mask has shape"),
        (lambda: gpt(torch.zeros(1, 1).long(), gpt.new_cache()), "under torch.no_grad"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
