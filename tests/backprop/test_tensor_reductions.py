"""Sums, means and largest elements equal torch over every axis, with and without keepdim."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from backprop.expressions import F64, assert_like_torch, normal
from torch.testing import assert_close

from companion.backprop import tensor_reductions
from companion.backprop.tensor import Tensor

DIMS = [None, 0, 1, -1, (0, 1), (-1, 0), (0, 1, 2)]


def check_sum(reductions: ModuleType) -> None:
    for dim in (0, 1, (0, 2)):
        for keepdim in (False, True):
            assert_like_torch(
                lambda x, d=dim, k=keepdim: reductions.sum(x, d, k),
                lambda x, d=dim, k=keepdim: x.sum(d, k),
                [normal((3, 3, 3), 1)],
            )


def check_mean(reductions: ModuleType) -> None:
    for dim in (None, 0, (0, 1)):
        assert_like_torch(
            lambda x, d=dim: reductions.mean(x, d), lambda x, d=dim: x.mean(d), [normal((3, 4), 1)]
        )


def check_ties(reductions: ModuleType) -> None:
    x = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], dtype=F64)
    assert_like_torch(lambda x: reductions.amax(x, 1), lambda x: x.amax(1), [x])
    assert_like_torch(lambda x: reductions.amin(x, 1), lambda x: x.amin(1), [x])
    assert_like_torch(reductions.amax, torch.max, [x])


def test_sums_equal_torch():
    check_sum(tensor_reductions)


def test_means_equal_torch():
    check_mean(tensor_reductions)


def test_ties_for_the_largest_share_the_gradient_evenly():
    check_ties(tensor_reductions)


def test_a_tie_of_three_gives_each_a_third():
    x = Tensor(torch.full((3,), 7.0, dtype=F64), requires_grad=True)
    x.amax().backward()
    assert_close(x.grad.value, torch.full((3,), 1 / 3, dtype=F64))


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", DIMS, ids=str)
@pytest.mark.parametrize("kind", ["sum", "mean", "amax", "amin"])
def test_every_reduction_equals_torch_over_every_axis(kind, dim, keepdim):
    axes = () if dim is None and kind in ("amax", "amin") else dim
    assert_like_torch(
        lambda x: getattr(x, kind)(dim, keepdim),
        lambda x: getattr(x, kind)(axes, keepdim),
        [normal((2, 3, 4), 1)],
    )


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
@pytest.mark.parametrize("kind", ["sum", "mean"])
def test_reductions_of_empty_arrays_equal_torch(kind, shape):
    for dim in (None, 0, -1):
        assert_like_torch(
            lambda x, d=dim: getattr(x, kind)(d),
            lambda x, d=dim: getattr(x, kind)(d),
            [normal(shape, 1)],
        )


def test_the_largest_over_an_axis_that_is_not_empty_may_be_taken_of_an_empty_array():
    assert_like_torch(lambda x: x.amax(1), lambda x: x.amax(1), [normal((0, 3), 1)])


def test_nan_wins_as_in_torch():
    x = torch.tensor([[1.0, float("nan")], [2.0, 1.0]], dtype=F64)
    assert_like_torch(lambda x: x.amax(1), lambda x: x.amax(1), [x])


def test_a_number_may_be_reduced():
    for kind in ("sum", "mean", "amax", "amin"):
        x = Tensor(torch.tensor(3.0, dtype=F64), requires_grad=True)
        y = getattr(x, kind)()
        y.backward()
        assert (y.item(), x.grad.item()) == (3.0, 1.0)


def test_no_axes_means_no_reduction():
    x = Tensor(normal((2, 3), 1), requires_grad=True)
    for kind in ("sum", "amax"):
        assert_close(getattr(x, kind)(()).value, x.value)


def test_axes_that_are_not_there_are_refused():
    x = Tensor(torch.zeros(2, 3))
    for dim in (2, -3, (0, 0), (0, -2)):
        with pytest.raises(ValueError, match="must name different axes of the 2"):
            x.sum(dim)


def test_the_largest_of_nothing_is_refused():
    with pytest.raises(ValueError, match="it has no largest element"):
        Tensor(torch.zeros(2, 0)).amax(1)
