"""Classic mistakes planted in tokenizer, n-gram model, generation and data, each caught."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from architectures import language_model_checks as checks
from planting import mutant

from companion.architectures import generation, ngram, tokenizer
from companion.data import shakespeare


def assert_caught(
    check: Callable[[ModuleType], None], module: ModuleType, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check(mutant(module, old, new))


def check_shift(module: ModuleType) -> None:
    """Targets are the next tokens."""
    x, y = module.windows(torch.arange(20), 4, 4)
    assert torch.equal(y, x + 1)


def check_held_out(module: ModuleType) -> None:
    """No line of a held-out play is in the training text."""
    train, validation, test = module.split_plays({title: f"<{title}>" for title in module.PLAYS})
    for title in module.PLAYS:
        held_out = title in (*module.VALIDATION, *module.TEST)
        assert (f"<{title}>" in train) != held_out
        assert (f"<{title}>" in validation + test) == held_out


def test_the_unplanted_data_pass():
    check_shift(shakespeare)
    check_held_out(shakespeare)


def test_targets_that_are_not_shifted_are_caught():
    assert_caught(check_shift, shakespeare, "ids[1:].unfold", "ids[:-1].unfold")


def test_targets_shifted_the_other_way_are_caught():
    old = "return ids[:-1].unfold(0, length, stride), ids[1:].unfold(0, length, stride)"
    new = "return ids[1:].unfold(0, length, stride), ids[:-1].unfold(0, length, stride)"
    assert_caught(check_shift, shakespeare, old, new)


def test_held_out_plays_that_leak_into_training_are_caught():
    old, new = "if title not in held_out]", "if title not in TEST]"
    assert_caught(check_held_out, shakespeare, old, new)


def test_merges_carried_out_in_the_order_of_the_text_are_caught():
    old = "best = min(pairs, key=lambda pair: self._ranks.get(pair, math.inf))"
    new = "best = next((p for p in pairs if p in self._ranks), None)"
    assert_caught(checks.check_encoding, tokenizer, old, new)


def test_ties_that_go_to_the_larger_ids_are_caught():
    old, new = (
        "key=lambda pair: (-counts[pair], pair)",
        "key=lambda pair: (-counts[pair], -pair[0])",
    )
    assert_caught(checks.check_merges, tokenizer, old, new)


def test_counts_that_go_out_of_date_are_caught():
    old, new = "for ids, sign in ((before, -1), (after, 1)):", "for ids, sign in ((after, 1),):"
    assert_caught(checks.check_merges, tokenizer, old, new)


def test_pieces_counted_once_however_frequent_they_are_are_caught():
    old, new = "counts[pair] += n\n", "counts[pair] += 1\n"
    assert_caught(checks.check_merges, tokenizer, old, new)


def test_merges_across_the_border_between_words_are_caught():
    old = 'return [piece.encode("utf-8") for piece in PIECE.findall(text)]'
    assert_caught(checks.check_merges, tokenizer, old, 'return [text.encode("utf-8")]')


def test_bits_per_token_called_bits_per_byte_are_caught():
    assert_caught(checks.check_bits, tokenizer, "loss * tokens / (size * ", "loss / (")


def test_lower_orders_that_count_occurrences_are_caught():
    """Plain interpolation in place of Kneser and Ney's."""
    old = "grams, counts = np.unique(shorter, return_counts=True)"
    new = (
        "kinds = np.unique(shorter); "
        "counts = np.array([counts[shorter == k].sum() for k in kinds]); grams = kinds"
    )
    assert_caught(checks.check_ngram_by_hand, ngram, old, new)


def test_a_discount_that_is_never_handed_down_is_caught():
    old, new = "kept + self.discount * types * probability", "kept"
    assert_caught(checks.check_ngram_by_hand, ngram, old, new)


def test_a_discount_handed_down_once_and_not_for_each_kind_is_caught():
    old, new = "self.discount * types * probability", "self.discount * probability"
    assert_caught(checks.check_ngram, ngram, old, new)


def test_a_context_read_from_its_wrong_end_is_caught():
    old, new = "grams // self.vocab_size, return_index", "grams % self.vocab_size, return_index"
    assert_caught(checks.check_ngram, ngram, old, new)


def test_temperature_multiplied_instead_of_divided_is_caught():
    old, new = "return logits / temperature", "return logits * temperature"
    assert_caught(checks.check_temperature, generation, old, new)
    assert_caught(checks.check_generation, generation, old, new)


def test_top_k_that_keeps_one_more_is_caught():
    assert_caught(checks.check_top_k, generation, ".cumsum(-1) > k)", ".cumsum(-1) > k + 1)")


def test_top_p_that_drops_the_token_that_crosses_p_is_caught():
    old = "before = probabilities.cumsum(dim=-1) - probabilities"
    new = "before = probabilities.cumsum(dim=-1)"
    assert_caught(checks.check_top_p, generation, old, new)


def test_top_p_that_forgets_to_undo_the_sorting_is_caught():
    old, new = "mask.scatter(-1, order, removed.expand_as(order))", "removed.expand_as(order)"
    assert_caught(checks.check_top_p, generation, old, new)
    assert_caught(checks.check_top_k, generation, old, new)


def test_draws_off_by_one_token_are_caught():
    assert_caught(checks.check_draws, generation, "(ends <= position).sum", "(ends < 0).sum")
    old, new = (
        "(ends <= position).sum(dim=-1)",
        "(ends <= position).sum(dim=-1).sub(1).clamp(min=0)",
    )
    assert_caught(checks.check_draws, generation, old, new)


def test_guesses_taken_from_the_wrong_position_are_caught():
    old, new = "choose_from(logits[:, -1],", "choose_from(logits[:, 0],"
    assert_caught(checks.check_generation, generation, old, new)


def test_a_cache_position_off_by_one_is_caught():
    """The last token of the prompt is read twice: everything after it stands one too far."""
    old = "logits = model(ids[:, start:], cache)  # the prompt, in one pass"
    new = old.split("  #")[0] + "\n                logits = model(ids[:, -1:], cache)"
    assert_caught(checks.check_generation, generation, old, new)


def test_a_cache_fed_with_the_token_before_the_last_is_caught():
    old, new = "model(ids[:, -1:], cache)", "model(ids[:, -2:-1], cache)"
    assert_caught(checks.check_generation, generation, old, new)


def test_a_cache_kept_when_the_context_moves_is_caught():
    old, new = "max(1, limit // 2), None", "max(1, limit // 2), model.new_cache()"
    assert_caught(checks.check_long_generation, generation, old, new)


def test_dropout_left_on_is_caught():
    def check(module: ModuleType) -> None:
        model = checks.small_gpt().train()
        for block in model.blocks:
            block.dropout.p = 0.5
        runs = {tuple(module.generate(model, [1], 8, top_k=1).tolist()) for _ in range(5)}
        assert len(runs) == 1

    check(generation)
    assert_caught(check, generation, "    model.eval()\n", "")
