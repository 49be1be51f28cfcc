"""Whole batches: every sample once, an order that only seed and epoch decide, fair shares."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from companion.data.batches import Batches

sizes = st.integers(1, 60)


def indices(samples: int, batch_size: int, **options: object) -> list[list[int]]:
    """The sample indices in each batch."""
    return [x.tolist() for (x,) in Batches((torch.arange(samples),), batch_size, **options)]


@given(sizes, st.integers(1, 20), st.booleans())
def test_every_sample_comes_once_an_epoch(samples: int, batch_size: int, shuffle: bool) -> None:
    batches = indices(samples, batch_size, shuffle=shuffle)
    assert sorted(sum(batches, [])) == list(range(samples))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches) == -(-samples // batch_size)


def test_evaluation_keeps_the_order_and_copies_nothing() -> None:
    x = torch.arange(10.0)
    batches = [batch for (batch,) in Batches((x,), 4)]
    assert torch.equal(torch.cat(batches), x)
    assert batches[1].data_ptr() == x[4:].data_ptr()


def test_inputs_and_targets_stay_together() -> None:
    x = torch.randn(17, 3)
    y = x.sum(dim=1)
    for a, b in Batches((x, y), 5, shuffle=True):
        assert torch.equal(a.sum(dim=1), b)


def test_batches_are_contiguous() -> None:
    images = torch.randn(9, 1, 4, 4)
    assert all(x.is_contiguous() for (x,) in Batches((images,), 4, shuffle=True))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = Batches((torch.arange(50),), 50, shuffle=True, seed=seed)
        batches.set_epoch(epoch)
        return batches.order().tolist()

    orders = {(seed, epoch): tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(set(orders.values())) == 16
    torch.manual_seed(123)
    assert orders == {key: tuple(order(*key)) for key in orders}


def test_a_second_pass_without_a_new_epoch_repeats_the_order() -> None:
    batches = Batches((torch.arange(20),), 20, shuffle=True)
    first = next(iter(batches))[0]
    assert torch.equal(next(iter(batches))[0], first)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(Batches((torch.arange(20),), 6, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shuffle_is_not_the_identity() -> None:
    assert indices(50, 50, shuffle=True)[0] != list(range(50))


@given(sizes, st.integers(1, 9), st.integers(2, 5))
def test_evaluation_on_several_processes_loses_and_repeats_nothing(
    samples: int, batch_size: int, world: int
) -> None:
    shares = [indices(samples, batch_size, num_replicas=world, rank=r) for r in range(world)]
    assert sorted(sum(sum(shares, []), [])) == list(range(samples))
    assert len({len(share) for share in shares}) == 1
    if samples >= world:
        assert all(batch for share in shares for batch in share)


@given(sizes, st.integers(1, 9), st.integers(2, 5))
def test_training_on_several_processes_gives_equal_disjoint_batches(
    samples: int, batch_size: int, world: int
) -> None:
    shares = [
        indices(samples, batch_size, shuffle=True, num_replicas=world, rank=rank)
        for rank in range(world)
    ]
    seen = sum(sum(shares, []), [])
    assert len(seen) == len(set(seen)) == samples - samples % world
    for batches in zip(*shares, strict=True):
        assert len({len(batch) for batch in batches}) == 1
        assert 1 <= len(batches[0]) <= batch_size


def test_two_processes_together_see_the_batch_of_one() -> None:
    whole = indices(40, 8, shuffle=True, seed=3)
    shares = [indices(40, 4, shuffle=True, seed=3, num_replicas=2, rank=r) for r in range(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(b) for b in whole]


@given(sizes, st.integers(1, 20), st.integers(1, 4), st.booleans(), st.booleans())
def test_the_length_is_the_number_of_batches(
    samples: int, batch_size: int, world: int, shuffle: bool, drop_last: bool
) -> None:
    if drop_last and samples < batch_size * world:
        return
    batches = Batches(
        (torch.arange(samples),),
        batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_replicas=world,
    )
    assert len(batches) == len(list(batches))
    if drop_last:
        assert {len(x) for (x,) in batches} <= {batch_size}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: an integer of at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5: an integer"),
        ({"seed": -1}, "seed=-1: an integer of at least 0"),
        ({"rank": 2, "num_replicas": 2}, r"rank=2: an integer in \[0, 2\)"),
        ({"num_replicas": 0}, "num_replicas=0"),
        ({"batch_size": 11, "drop_last": True}, "10 samples leave no whole batch of 11"),
        ({"tensors": (torch.zeros(3), torch.zeros(4))}, r"lengths \[3, 4\]"),
    ],
)
def test_a_bad_argument_is_named(options: dict[str, object], message: str) -> None:
    arguments = {"tensors": (torch.zeros(10),), "batch_size": 2} | options
    with pytest.raises(ValueError, match=message):
        Batches(**arguments)
