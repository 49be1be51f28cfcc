"""The page's widespread mistake: it is one, as stated, and its cure is right."""

from __future__ import annotations

import math

import torch
from optimization.sgd_checks import normal
from torch.nn import functional as F

from companion.data.digits import Digits
from companion.optimization.sampling import batches, expected_coverage


def one_epoch(order: str) -> tuple[float, float]:
    """The loop of the tutorial on Digits stored class by class: test accuracy, share of "9"."""
    data = Digits(flatten=True)
    data.setup()
    by_class = data.train[1].argsort(stable=True)
    x, y = (part[by_class] for part in data.train)
    weight, bias = torch.zeros(64, 10), torch.zeros(10)
    for rows in batches(len(x), 1, order=order):
        delta = (x[rows] @ weight + bias).softmax(1) - F.one_hot(y[rows], 10)
        weight -= 0.05 * x[rows].T @ delta
        bias -= 0.05 * delta[0]
    answer = (data.test[0] @ weight + bias).argmax(1)
    return (answer == data.test[1]).float().mean().item(), (answer == 9).float().mean().item()


def test_e16_in_stored_order_the_last_class_has_the_last_word():
    accuracy, nines = one_epoch("in order")
    assert accuracy < 0.6
    assert nines > 0.3


def test_e16_in_random_order_the_same_loop_learns():
    for order in ("reshuffled", "with replacement"):
        accuracy, nines = one_epoch(order)
        assert accuracy > 0.85
        assert 0.05 < nines < 0.2


def test_e16_one_stored_order_gives_the_same_biased_average_every_epoch():
    """w ← w − η (w − x) on x = 0 … 0, 1 … 1: in order it ends near the ones, not at the mean."""
    x = torch.cat([torch.zeros(50), torch.ones(50)]).double()
    ends = {}
    for order in ("in order", "reshuffled"):
        w, places = torch.zeros(()).double(), []
        for number, rows in enumerate(batches(100, 1, epochs=200, order=order), start=1):
            w = w - 0.05 * (w - x[rows[0]])
            if number % 100 == 0:
                places.append(w)
        ends[order] = torch.stack(places).mean().item()
    # The fixed point of one epoch in order: (1 − 0.95⁵⁰) / (1 − 0.95¹⁰⁰).
    fixed_point = (1 - 0.95**50) / (1 - 0.95**100)
    assert math.isclose(ends["in order"], fixed_point, rel_tol=1e-2)
    assert abs(ends["reshuffled"] - 0.5) < 0.03


def test_e16_random_is_not_one_thing_replacement_misses_a_third():
    samples = 1000
    seen = torch.cat(list(batches(samples, 10, order="with replacement"))).unique()
    assert abs(len(seen) / samples - expected_coverage(samples, samples)) < 0.04
    assert len(torch.cat(list(batches(samples, 10))).unique()) == samples


def test_e16_the_batch_size_sets_the_noise_of_the_gradient():
    """The mean square of a batch mean's error is σ²/B."""
    values = normal((100_000,), 0)
    for size in (1, 4, 16, 64):
        means = values[: 100_000 // size * size].reshape(-1, size).mean(1)
        assert math.isclose(means.var().item() * size, 1, rel_tol=0.1)
