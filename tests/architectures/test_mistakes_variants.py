"""The page's widespread mistake: a threshold in parameters does not say what is large."""

from __future__ import annotations

import pytest

from companion.compute.language_models import PUBLISHED, parameters

BYTES_TO_USE, BYTES_TO_TRAIN = 2, 16  # 16-bit weights; weight, gradient, two moments in 32 bits
COUNTS = {name: parameters(model.shape) for name, model in PUBLISHED.items()}


def test_e21_the_two_thresholds_disagree_about_bert():
    for name in ("BERT-base", "BERT-large"):
        assert 1e8 < COUNTS[name] < 1e9


def test_e21_the_lower_threshold_puts_models_five_hundred_fold_apart_in_one_class():
    assert COUNTS["BERT-large"] > 1e8
    assert 500 < COUNTS["GPT-3 175B"] / COUNTS["BERT-large"] < 530


@pytest.mark.parametrize(
    ("name", "gigabytes", "fits_to_use", "fits_to_train"),
    [
        ("BERT-large", 16, True, True),
        ("GPT-2 XL", 16, True, False),
        ("GPT-2 XL", 80, True, True),
        ("GPT-3 13B", 80, True, False),
        ("GPT-3 175B", 80, False, False),
    ],
)
def test_e21_large_is_relative_to_the_memory_of_the_device(
    name, gigabytes, fits_to_use, fits_to_train
):
    memory = gigabytes * 1e9
    assert (COUNTS[name] * BYTES_TO_USE <= memory) == fits_to_use
    assert (COUNTS[name] * BYTES_TO_TRAIN <= memory) == fits_to_train
