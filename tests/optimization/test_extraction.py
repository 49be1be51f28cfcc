"""Extraction: principal components against scikit-learn, frozen networks against their promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimization import preprocessing_checks as checks
from torch import nn

from companion.optimization import extraction
from companion.optimization.extraction import PCA, Frozen


@pytest.mark.parametrize(
    "check", [checks.check_pca_equals_sklearn, checks.check_naive_pca, checks.check_frozen]
)
def test_extraction_is_right(check) -> None:
    check(extraction)


@given(
    rows=st.integers(3, 12), columns=st.integers(1, 9), seed=st.integers(0, 1000), data=st.data()
)
def test_components_are_orthonormal_and_all_of_them_give_the_rows_back(
    rows: int, columns: int, seed: int, data: st.DataObject
) -> None:
    x = checks.normal(rows, columns, seed=seed) + 10
    rank = min(rows - 1, columns)
    whiten = data.draw(st.booleans())
    pca = PCA(x, rank, whiten=whiten)
    eye = torch.eye(rank, dtype=torch.float64)
    torch.testing.assert_close(pca.components @ pca.components.T, eye, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(pca.inverse(pca(x)), x, rtol=1e-8, atol=0)
    with pytest.raises(ValueError, match=f"num_components={rank + 1}: at most the rank"):
        PCA(x, rank + 1)


def test_what_is_lost_is_the_variance_of_the_components_left_out() -> None:
    x = checks.pixels()[:300]
    pca = PCA(x, 10)
    error = (x - pca.inverse(pca(x))).square().sum() / (len(x) - 1)
    total = x.var(0).sum()
    torch.testing.assert_close(1 - error / total, pca.explained_ratio.sum())


def test_a_constant_column_is_no_direction() -> None:
    x = torch.cat([checks.normal(20, 2), torch.full((20, 1), 4.0, dtype=torch.float64)], dim=1)
    assert PCA(x, 2)(x).shape == (20, 2)
    with pytest.raises(ValueError, match="rank of the centred rows, 2"):
        PCA(x, 3)


def test_statistics_travel_with_the_network() -> None:
    x = checks.normal(30, 4)
    saved = nn.Sequential(PCA(x, 2)).state_dict()
    other = nn.Sequential(PCA(checks.normal(30, 4, seed=1), 2))
    other.load_state_dict(saved)
    torch.testing.assert_close(other(x), PCA(x, 2)(x))


def test_features_are_one_row_a_sample() -> None:
    assert Frozen(nn.Conv2d(1, 2, 3))(torch.ones(5, 1, 4, 4)).shape == (5, 8)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PCA(torch.ones(3), 1), r"x of shape \(3,\): \(samples, features\)"),
        (lambda: PCA(torch.ones(0, 3), 1), r"x of shape \(0, 3\) is empty"),
        (lambda: PCA(torch.ones(1, 3), 1), "x has 1 row"),
        (lambda: PCA(torch.tensor([[1.0], [torch.nan]]), 1), r"1 values .* first at \[1, 0\]"),
        (lambda: PCA(torch.eye(3), 0), "num_components=0: an integer of at least 1"),
        (lambda: PCA(torch.eye(3), 3), "num_components=3: at most the rank .*, 2, .* 3 x 3"),
        (lambda: PCA(torch.eye(3), 1)(torch.ones(2, 4)), r"x of shape \(2, 4\): \(samples, 3\)"),
        (lambda: PCA(torch.eye(3), 1).inverse(torch.ones(2, 2)), r"\(samples, 1\) is needed"),
        (lambda: Frozen(torch.relu), "an nn.Module is needed"),
    ],
)
def test_bad_input_is_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
