"""Accumulated gradients are the large batch's, except where samples of a batch meet."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from optimization import sgd_checks as checks
from torch import nn
from torch.nn import functional as F

from companion.data.digits import Digits
from companion.optimization import accumulation
from companion.optimization.accumulation import MicroBatchClassifier, accumulate_gradients
from companion.optimization.sgd import SGD
from companion.training import Classifier, fit


def test_accumulated_gradients_equal_the_large_batch_s_uneven_ends_included():
    checks.check_accumulation(accumulation)


def test_gradients_are_added_to_what_is_there():
    network, x, y = checks.mlp(), checks.normal((5, 6), 1), torch.arange(5) % 3
    for _ in range(2):
        accumulate_gradients(network, F.cross_entropy, x, y, micro_batch_size=2)
    twice = checks.gradient_of(network)
    network.zero_grad()
    F.cross_entropy(network(x), y).backward()
    for mine, once in zip(twice, checks.gradient_of(network), strict=True):
        torch.testing.assert_close(mine, 2 * once, **checks.TIGHT)


def test_batch_normalisation_makes_it_another_function():
    x, y = checks.normal((24, 6), 1), torch.arange(24) % 3
    found = []
    for size in (24, 8):
        torch.manual_seed(0)
        layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)
        network = nn.Sequential(*layers).double()
        accumulate_gradients(network, F.cross_entropy, x, y, micro_batch_size=size)
        found.append(network[0].weight.grad)
    assert ((found[0] - found[1]).norm() / found[0].norm()) > 0.05


def trained(kind, batch_size: int, limit: int, *, drop_last: bool = False, **options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).double()
    module = kind(network, optimizer=partial(SGD, lr=0.1, momentum=0.9))
    data = Digits(batch_size, flatten=True, dtype=torch.float64, limit=limit, drop_last=drop_last)
    return fit(module, data, epochs=3, precision="64-true", **options)


def distance(one, other) -> float:
    pairs = zip(one.module.parameters(), other.module.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_lightning_s_accumulation_equals_the_large_batch_where_all_are_whole():
    large = trained(Classifier, 64, 256)
    small = trained(Classifier, 16, 256, accumulate_grad_batches=4)
    assert distance(large, small) < 1e-12
    assert small.step_losses == pytest.approx(large.step_losses, rel=1e-10)


def test_lightning_s_accumulation_weighs_a_short_micro_batch_as_a_whole_one():
    large = trained(Classifier, 50, 50)
    small = trained(Classifier, 16, 50, accumulate_grad_batches=4)  # 16, 16, 16 and 2
    assert distance(large, small) > 1e-3


@pytest.mark.parametrize(("limit", "micro"), [(256, 16), (250, 24), (50, 7)])
def test_micro_batches_within_a_batch_equal_it_whatever_their_sizes(limit, micro):
    large = trained(Classifier, 64, limit)
    small = trained(partial(MicroBatchClassifier, micro_batch_size=micro), 64, limit)
    assert distance(large, small) < 1e-12
    assert small.step_losses == pytest.approx(large.step_losses, rel=1e-10)
    assert small.metrics["train_loss"] == pytest.approx(large.metrics["train_loss"], rel=1e-10)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_schedule_advances_as_under_automatic_optimization(interval):
    def run(kind):
        torch.manual_seed(0)
        module = kind(
            nn.Linear(64, 10).double(),
            optimizer=partial(SGD, lr=0.1),
            scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5),
            scheduler_interval=interval,
        )
        data = Digits(32, flatten=True, dtype=torch.float64, limit=128)
        return fit(module, data, epochs=3, precision="64-true")

    assert distance(run(Classifier), run(partial(MicroBatchClassifier, micro_batch_size=8))) < 1e-12


@pytest.mark.parametrize(
    ("size", "samples", "targets", "message"),
    [
        (0, 4, 4, "micro_batch_size=0: an integer of at least 1"),
        (2, 4, 3, "x has 4 samples and y has 3"),
        (2, 0, 0, "x has 0 samples and y has 0"),
    ],
)
def test_bad_input_is_refused(size, samples, targets, message):
    x, y = torch.zeros(samples, 6).double(), torch.zeros(targets, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        accumulate_gradients(checks.mlp(), F.cross_entropy, x, y, micro_batch_size=size)


def test_a_bad_micro_batch_size_is_refused_by_the_module_as_well():
    with pytest.raises(ValueError, match="micro_batch_size=0"):
        MicroBatchClassifier(nn.Linear(2, 2), micro_batch_size=0)
