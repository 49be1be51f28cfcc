"""The recipes' own parts; that each trains, passes and can fail is in tests/test_recipes.py."""

from __future__ import annotations

import torch

from companion.architectures import language_model_recipes as recipes
from companion.data.shakespeare import decode_characters, encode_characters


def test_the_verses_are_six_lines_of_known_characters():
    assert recipes.VERSES.count("\n") == 6
    assert decode_characters(encode_characters(recipes.VERSES)) == recipes.VERSES


def test_the_last_line_is_from_the_verses():
    prompt, rest = recipes.last_line()
    assert decode_characters(prompt + rest) == "So long lives this, and "
    assert decode_characters(prompt + rest) in recipes.VERSES


def test_batches_have_one_shape_and_targets_are_shifted():
    data = recipes.verse_windows(encode_characters(recipes.VERSES))
    for x, y in data.train_dataloader():
        assert x.shape == y.shape == (32, recipes.CONTEXT)
        assert torch.equal(x[:, 1:], y[:, :-1])
