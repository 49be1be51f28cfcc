"""Views, broadcasting, indexing and joining equal torch, and each undoes the other's gradient."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from backprop.expressions import F64, assert_like_torch, normal
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from companion.backprop import tensor_views
from companion.backprop.tensor import Tensor


def check_broadcast(views: ModuleType) -> None:
    for small, large in [((3, 1), (3, 3)), ((1, 3), (3, 3)), ((1, 3), (3, 1, 3)), ((), (2, 2))]:
        assert_like_torch(
            lambda x, s=large: views.broadcast_to(x, s),
            lambda x, s=large: x.broadcast_to(s),
            [normal(small, 1)],
        )


def check_sum_over_the_right_axis(views: ModuleType) -> None:
    """On square arrays nothing but the numbers can tell one axis from the other."""
    x = torch.tensor([[1.0, 2.0], [30.0, 40.0]], dtype=F64)
    column, row = views.sum_to(x, (2, 1)), views.sum_to(x, (1, 2))
    assert column.flatten().tolist() == [3.0, 70.0]
    assert row.flatten().tolist() == [31.0, 42.0]


def check_picked_twice(views: ModuleType) -> None:
    rows = torch.tensor([0, 2, 2, 0, 0])
    assert_like_torch(lambda x: views.index(x, key=rows), lambda x: x[rows], [normal((3, 2), 1)])


def check_permute(views: ModuleType) -> None:
    assert_like_torch(
        lambda x: views.permute(x, (1, 2, 0)), lambda x: x.permute(1, 2, 0), [normal((3, 3, 3), 1)]
    )


def check_concatenate(views: ModuleType) -> None:
    assert_like_torch(
        lambda a, b: views.concatenate([a, b, a], 1),
        lambda a, b: torch.cat([a, b, a], 1),
        [normal((2, 3), 1), normal((2, 3), 2)],
    )


def test_the_gradient_of_broadcasting_is_the_sum_over_the_broadcast_axes():
    check_broadcast(tensor_views)


def test_un_broadcasting_sums_over_the_axis_that_was_stretched():
    check_sum_over_the_right_axis(tensor_views)


def test_an_element_that_is_picked_twice_gets_both_gradients():
    check_picked_twice(tensor_views)


def test_the_gradient_of_a_permutation_is_the_inverse_permutation():
    check_permute(tensor_views)


def test_the_gradient_of_joining_is_cut_at_the_seams():
    check_concatenate(tensor_views)


KEYS = [
    0,
    -1,
    slice(1, None),
    slice(None, None, 2),
    (slice(None), 1),
    (0, slice(1, 3)),
    (..., 0),
    None,
    (None, ..., None),
    (),
    torch.tensor([2, 0]),
    torch.tensor([[2, 0], [2, 2]]),
    [1, 1],
    (torch.tensor([0, 0, 1]), torch.tensor([1, 1, 3])),
    (slice(None), torch.tensor([3, 3])),
    (torch.tensor([[0], [1]]), slice(0, 2)),
    torch.tensor([True, False, True]),
    (slice(0, 0),),
    torch.zeros(0, dtype=torch.long),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_equals_torch(key):
    assert_like_torch(lambda x: x[key], lambda x: x[key], [normal((3, 4), 1)])


def test_a_boolean_mask_made_by_comparison_is_an_index():
    x = normal((3, 4), 1)
    assert_like_torch(lambda t: t[t > 0], lambda t: t[t > 0], [x])


shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)


@given(shapes, st.data())
def test_sum_to_is_the_transpose_of_broadcast_to(large, data):
    small = tuple(data.draw(st.sampled_from([n, 1])) for n in large)
    small = small[data.draw(st.integers(0, len(small))) :]
    x, y = normal(small, 1), normal(large, 2)
    stretched = tensor_views.broadcast_to(x, large)
    summed = tensor_views.sum_to(y, small)
    assert_close((stretched * y).sum(), (x * summed).sum(), rtol=1e-10, atol=1e-12)
    assert_close(summed, y.sum_to_size(small), rtol=1e-10, atol=1e-12)


@given(shapes, st.data())
def test_put_is_the_transpose_of_index(shape, data):
    shape = (3, *shape)
    rows = data.draw(st.lists(st.integers(-3, 2), max_size=5))
    key = torch.tensor(rows, dtype=torch.long)
    x, y = normal(shape, 1), normal((len(rows), *shape[1:]), 2)
    placed = tensor_views.put(y, key=key, shape=shape)
    assert_close((x[key] * y).sum(), (x * placed).sum(), rtol=1e-10, atol=1e-12)


def test_reshape_works_out_one_size():
    x = Tensor(normal((2, 6), 1))
    assert x.reshape(-1, 4).shape == (3, 4)
    assert x.reshape((12,)).shape == (12,)
    assert Tensor(torch.zeros(0, 3)).reshape(3, -1).shape == (3, 0)


@pytest.mark.parametrize("shape", [(5,), (-1, 5), (-1, -1), (-2, -6), (0, -1)])
def test_reshape_refuses_sizes_that_do_not_hold_the_elements(shape):
    with pytest.raises(ValueError, match="does not hold the 12 elements"):
        Tensor(torch.zeros(2, 6)).reshape(shape)


def test_stack_equals_torch_along_every_new_axis():
    for dim in (-3, -2, -1, 0, 1, 2):
        assert_like_torch(
            lambda a, b, d=dim: tensor_views.stack([a, b], d),
            lambda a, b, d=dim: torch.stack([a, b], d),
            [normal((2, 3), 1), normal((2, 3), 2)],
        )


def test_bad_views_are_refused():
    x = Tensor(torch.zeros(2, 3, dtype=F64))
    with pytest.raises(ValueError, match=r"shape \(2, 3\) does not broadcast to \(3, 3\)"):
        x.broadcast_to(3, 3)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) does not broadcast to \(3,\)"):
        x.broadcast_to(3)
    with pytest.raises(ValueError, match=r"dims=\(0, 0\) is not a permutation of the 2 axes"):
        x.permute(0, 0)
    with pytest.raises(ValueError, match="dim0=0, dim1=2"):
        x.transpose(0, 2)
    with pytest.raises(ValueError, match="nothing to concatenate"):
        tensor_views.concatenate([])
    with pytest.raises(ValueError, match="dim=2 is no axis"):
        tensor_views.concatenate([x], 2)
    with pytest.raises(ValueError, match="differ outside dim=0"):
        tensor_views.concatenate([x, x.T])
    with pytest.raises(ValueError, match="must share one shape"):
        tensor_views.stack([x, x.T])
    with pytest.raises(ValueError, match="dim=5 is no axis"):
        tensor_views.stack([x, x], 5)
    with pytest.raises(IndexError):
        x[5]
