"""Features against scikit-learn; what is learnt from the training rows stays theirs.

The checks take the module under test: test_features_mistakes.py runs them on planted mistakes.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from torch.testing import assert_close

from companion.backprop import features

TIGHT = {"rtol": 1e-10, "atol": 1e-12}

# A planted mistake fails at once; shrinking each would take longer than the rest of the tests.
quick = settings(phases=(Phase.explicit, Phase.generate))
shapes = {"n": st.integers(1, 30), "p": st.integers(1, 5), "seed": st.integers(0, 2**31 - 1)}


def normal(n: int, p: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, p, generator=generator, dtype=torch.float64)


def check_polynomial_features(module: ModuleType) -> None:
    @quick
    @given(**shapes, degree=st.integers(1, 4))
    def agrees(n: int, p: int, seed: int, degree: int) -> None:
        x = normal(n, p, seed)
        theirs = PolynomialFeatures(degree, include_bias=False).fit_transform(x.numpy())
        assert_close(module.polynomial_features(x, degree), torch.from_numpy(theirs), **TIGHT)

    agrees()


def check_one_hot(module: ModuleType) -> None:
    @quick
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.booleans())
    def agrees(labels: list[int], drop: bool) -> None:
        encoder = OneHotEncoder(
            categories=[range(5)], drop=[0] if drop else None, sparse_output=False
        )
        theirs = encoder.fit_transform(np.array(labels)[:, None])
        ours = module.one_hot(torch.tensor(labels), 5, drop_first=drop)
        assert_close(ours, torch.from_numpy(theirs).to(ours.dtype))

    agrees()


def check_standardize(module: ModuleType) -> None:
    @quick
    @given(**shapes)
    def agrees(n: int, p: int, seed: int) -> None:
        train, test = 5 + 3 * normal(n, p, seed), 7 - 2 * normal(4, p, seed + 1)
        scaler = StandardScaler().fit(train.numpy())
        for ours, rows in zip(module.standardize(train, test), (train, test), strict=True):
            assert_close(ours, torch.from_numpy(scaler.transform(rows.numpy())), **TIGHT)

    agrees()


def check_constant_column(module: ModuleType) -> None:
    for value in (0.0, 0.1, -3e7):
        x = torch.full((7, 1), value, dtype=torch.float64)
        (z,) = module.standardize(x)
        assert z.isfinite().all()
        assert z.abs().max() <= 1e-8


def check_split(module: ModuleType) -> None:
    @quick
    @given(st.integers(5, 60), st.integers(0, 2**31 - 1))
    def keeps_rows_together_and_apart(n: int, seed: int) -> None:
        x = torch.arange(n, dtype=torch.float64)[:, None]
        parts = module.train_validation_test_split(x, 10 * x[:, 0], seed=seed)
        for part in parts:
            assert_close(part.y, 10 * part.x[:, 0])
        together = torch.cat([part.x[:, 0] for part in parts])
        assert sorted(together.tolist()) == list(range(n))
        assert len(parts.test.x) == len(parts.validation.x) == round(0.2 * n)

    keeps_rows_together_and_apart()


def test_polynomial_features_equal_scikit_learn():
    check_polynomial_features(features)


def test_one_hot_equals_scikit_learn_with_and_without_the_baseline():
    check_one_hot(features)


def test_standardize_uses_the_statistics_of_the_training_rows_only():
    check_standardize(features)


def test_a_column_that_does_not_vary_becomes_zero():
    check_constant_column(features)


def test_the_three_parts_are_disjoint_complete_and_keep_x_and_y_together():
    check_split(features)


def test_the_split_is_shuffled_and_depends_on_the_seed_alone():
    x = torch.arange(100.0)[:, None]
    first, again, other = (
        features.train_validation_test_split(x, x, seed=seed).train.x for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, first.sort(dim=0).values)


def test_inverse_undoes_the_scaling():
    x = 3 + 2 * normal(20, 4, 0)
    scaler = features.Standardizer(x)
    assert_close(scaler.inverse(scaler(x)), x, **TIGHT)


def test_the_statistics_travel_in_the_state_dict():
    scaler = features.Standardizer(normal(20, 4, 0))
    other = features.Standardizer(normal(20, 4, 1))
    other.load_state_dict(scaler.state_dict())
    x = normal(3, 4, 2)
    assert torch.equal(scaler(x), other(x))


def test_the_full_one_hot_columns_add_up_to_the_intercept():
    columns = features.one_hot(torch.tensor([0, 2, 1, 2]), 3)
    assert torch.equal(columns.sum(dim=1), torch.ones(4))
    assert features.one_hot(torch.tensor([0, 2, 1, 2]), 3, drop_first=True).shape == (4, 2)


def test_one_hot_of_no_labels_has_no_rows():
    assert features.one_hot(torch.empty(0, dtype=torch.int64), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: features.polynomial_features(torch.ones(3, 1), 0), "degree=0"),
        (lambda: features.polynomial_features(torch.ones(3), 2), r"shape \(3,\)"),
        (lambda: features.polynomial_features(torch.ones(3, 1, dtype=torch.int64), 2), "dtype"),
        (lambda: features.Standardizer(torch.ones(0, 2)), "needs a row"),
        (lambda: features.Standardizer(torch.ones(3, 2))(torch.ones(3, 3)), "3 features"),
        (lambda: features.one_hot(torch.tensor([0, 3]), 3), "num_classes"),
        (lambda: features.one_hot(torch.tensor([-1]), 3), "num_classes"),
        (lambda: features.one_hot(torch.tensor([0.5]), 3), "integer"),
        (
            lambda: features.train_validation_test_split(torch.ones(9, 1), torch.ones(8)),
            "y has 8 rows",
        ),
        (
            lambda: features.train_validation_test_split(torch.ones(2, 1), torch.ones(2)),
            "leave a part empty",
        ),
        (
            lambda: features.train_validation_test_split(
                torch.ones(9, 1), torch.ones(9), test_fraction=0.9
            ),
            "test_fraction=0.9",
        ),
    ],
)
def test_bad_input_is_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
