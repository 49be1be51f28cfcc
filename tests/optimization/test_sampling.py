"""Orders of samples: what they visit, how often, and what the mean of a batch varies by."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimization import sgd_checks as checks

from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.optimization import sampling
from companion.optimization.sampling import (
    ORDERS,
    Reordered,
    batches,
    expected_coverage,
    variance_of_mean,
)
from companion.training import Classifier, fit


def test_reshuffling_visits_every_sample_once_an_epoch_in_a_new_order():
    checks.check_reshuffling(sampling)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 3), st.sampled_from(list(ORDERS)))
def test_every_epoch_has_as_many_draws_as_samples_in_full_batches(samples, size, epochs, order):
    drawn = list(batches(samples, size, epochs=epochs, order=order))
    sizes = [len(rows) for rows in drawn]
    assert sum(sizes) == samples * epochs
    per_epoch = math.ceil(samples / size)
    assert len(drawn) == per_epoch * epochs
    assert all(length == min(size, samples) for length in sizes[: per_epoch - 1])
    assert all(int(rows.min()) >= 0 and int(rows.max()) < samples for rows in drawn)
    if order != "with replacement":
        for epoch in range(epochs):
            visited = torch.cat(drawn[epoch * per_epoch : (epoch + 1) * per_epoch])
            assert torch.equal(visited.sort().values, torch.arange(samples))


def test_in_order_and_shuffled_once_repeat_themselves():
    for order in ("in order", "shuffled once"):
        first, second = torch.cat(list(batches(30, 7, epochs=2, order=order))).split(30)
        assert torch.equal(first, second)
    assert torch.equal(torch.cat(list(batches(30, 7, order="in order"))), torch.arange(30))


def test_the_seed_decides_the_order():
    for order in ("reshuffled", "with replacement", "shuffled once"):
        one, same, other = (
            torch.cat(list(batches(100, 10, order=order, seed=seed))) for seed in (1, 1, 2)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


def test_with_replacement_an_epoch_meets_the_expected_share_of_the_samples():
    samples, trials = 500, 200
    shares = torch.tensor(
        [
            len(torch.cat(list(batches(samples, 50, order="with replacement", seed=s))).unique())
            / samples
            for s in range(trials)
        ]
    )
    error = shares.std() / trials**0.5
    assert abs(shares.mean() - expected_coverage(samples, samples)) < 4 * error
    assert error < 0.002


def test_coverage_tends_to_one_minus_one_over_e():
    assert expected_coverage(10**6, 10**6) == pytest.approx(1 - math.exp(-1), abs=1e-6)
    assert expected_coverage(2, 2) == 0.75  # of the four draws 00, 01, 10, 11 two meet both
    assert expected_coverage(5, 0) == 0
    assert expected_coverage(1, 1) == 1


def test_the_variance_of_a_batch_mean_is_exact():
    checks.check_variance_of_mean(sampling)


def test_a_population_of_one_has_no_variance():
    assert variance_of_mean(0.0, 1, population=1) == 0


def digits(order: str) -> Reordered:
    return Reordered(Digits(batch_size=32, flatten=True, limit=100), order)


def test_reordered_serves_the_order_that_was_asked_for():
    served = {}
    for order in ORDERS:
        data = digits(order)
        data.setup()
        loader = data.train_dataloader()
        epochs = []
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            epochs.append(torch.cat([x for x, _ in loader]))
        served[order] = epochs
        assert data.num_classes == 10
        assert data.test is data.data.test
    stored = data.train[0]
    assert torch.equal(served["in order"][0], stored)
    assert torch.equal(*served["in order"])
    assert torch.equal(*served["shuffled once"])
    assert not torch.equal(*served["reshuffled"])
    for epoch in served["reshuffled"]:
        assert len(epoch.unique(dim=0)) == len(stored.unique(dim=0))
    for epoch in served["with replacement"]:
        assert 50 < len(epoch.unique(dim=0)) < 80


def test_reordered_trains_under_fit_and_the_seed_of_fit_decides():
    def losses(seed: int) -> list[float]:
        torch.manual_seed(0)
        module = Classifier(torch.nn.Linear(64, 10))
        return fit(module, digits("reshuffled"), epochs=2, seed=seed).step_losses

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_reordered_takes_sorted_arrays_as_they_come():
    x, y = torch.arange(6.0).unsqueeze(1), torch.tensor([0, 0, 1, 1, 2, 2])
    data = Reordered(Arrays((x, y), batch_size=2), "in order")
    assert [pair[1].tolist() for pair in data.train_dataloader()] == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: list(batches(5, 2, order="sorted")), "order='sorted' is unknown; known: in order"),
        (lambda: Reordered(Digits(), "sorted"), "order='sorted' is unknown"),
        (lambda: list(batches(0, 2)), "samples=0: an integer of at least 1"),
        (lambda: list(batches(5, 0)), "batch_size=0: an integer of at least 1"),
        (lambda: list(batches(5, 1, epochs=0)), "epochs=0: an integer of at least 1"),
        (lambda: variance_of_mean(1.0, 7, population=6), "batch_size=7: without replacement"),
        (lambda: variance_of_mean(1.0, 0), "batch_size=0"),
        (lambda: expected_coverage(0, 3), "samples=0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
