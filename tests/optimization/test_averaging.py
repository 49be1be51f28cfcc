"""Averages of the weights, against NumPy and torch.optim.swa_utils."""

from __future__ import annotations

import pytest
import torch
from optimization import regularization_checks as checks
from torch import nn
from torch.testing import assert_close

from companion.optimization import averaging
from companion.optimization.averaging import (
    ExponentialMovingAverage,
    StochasticWeightAverage,
    ema_naive,
    ema_share,
    update_batch_norm,
)
from companion.training import evaluate


def test_corrected_shares_add_up_to_a_weighted_mean():
    checks.check_share(averaging)


def test_module_and_validation_get_the_average_of_all_steps():
    checks.check_ema_in_a_run(averaging)


def test_training_goes_on_with_the_raw_weights():
    checks.check_training_is_untouched(averaging)


def test_both_averages_equal_torch_averaged_model():
    checks.check_against_averaged_model(averaging)


def test_batch_norm_statistics_belong_to_the_averaged_weights():
    checks.check_batch_norm(averaging)


def test_a_resumed_run_has_the_same_average(tmp_path):
    checks.check_resumed(averaging, tmp_path)


def test_the_last_validation_is_that_of_the_final_module():
    result, _ = checks.run(ExponentialMovingAverage(0.9), module=checks.classifier(norm=True))
    again = evaluate(result.module, checks.blobs(), split="validation")
    assert abs(again["val_loss"] / result.metrics["val_loss"] - 1) < 1e-2


def test_accumulated_batches_make_one_move():
    callback = ExponentialMovingAverage(0.9)
    checks.run(callback, accumulate_grad_batches=2)
    assert callback.count == 6


def test_no_epoch_counted_means_no_average():
    result, recorder = checks.run(StochasticWeightAverage(5))
    assert_close(checks.flat(result.module), checks.flat(recorder.networks[-1]), rtol=0, atol=0)


def test_warm_up_lets_the_decay_grow():
    shares = [ema_share(step, 0.9, "warmup") for step in range(1, 200)]
    assert shares[0] == 1
    assert shares[1] == 1 - 3 / 12
    assert shares == sorted(shares, reverse=True)
    assert_close(shares[-1], 0.1)


def test_update_batch_norm_leaves_modes_and_momentum():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).double()
    network[2].eval()
    x = checks.normal((20, 3), 0)
    update_batch_norm(network, [x])
    assert [part.training for part in network.modules()] == [True, True, True, False]
    assert network[1].momentum == 0.1
    hidden = network[0](x).detach()
    assert_close(network[1].running_mean, hidden.mean(0), **checks.TIGHT)
    assert_close(network[1].running_var, hidden.var(0), **checks.TIGHT)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ExponentialMovingAverage(1.0), "decay=1.0"),
        (lambda: ExponentialMovingAverage(-0.1), "decay=-0.1"),
        (lambda: ExponentialMovingAverage(0.9, start="zero"), "start='zero'"),
        (lambda: StochasticWeightAverage(-1), "start_epoch=-1"),
        (lambda: ema_share(0, 0.9), "step=0"),
        (lambda: ema_naive([], 0.9), "there are none"),
        (lambda: ema_naive([torch.ones(1)], 1.5), "decay=1.5"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
