"""Early stopping: when it stops, and with which weights."""

from __future__ import annotations

import pytest
import torch
from optimization import regularization_checks as checks
from torch.testing import assert_close

from companion.optimization import stopping
from companion.optimization.stopping import EarlyStopping
from companion.training import fit


def scripted() -> checks.Scripted:
    network = checks.classifier().network
    return checks.Scripted(network, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def test_it_stops_after_its_patience_and_restores_the_best_weights():
    checks.check_stopping(stopping)


def test_a_resumed_run_stops_where_an_undisturbed_one_does(tmp_path):
    whole, ends = scripted(), []
    fit(whole, checks.blobs(), epochs=9, callbacks=[EarlyStopping(patience=3)], **checks.QUIET)
    first = EarlyStopping(patience=3)
    options = {"callbacks": [first], "checkpoint_dir": tmp_path, **checks.QUIET}
    fit(scripted(), checks.blobs(), epochs=5, **options)
    resumed, stop = scripted(), EarlyStopping(patience=3)
    result = fit(
        resumed, checks.blobs(), epochs=9, callbacks=[stop], resume_from=tmp_path, **checks.QUIET
    )
    ends = [epoch["val_loss"] for epoch in result.history]
    assert len(ends) == 7
    assert (stop.best, stop.best_epoch) == (2.0, 3)
    assert_close(checks.flat(resumed), checks.flat(whole), rtol=0, atol=0)


def test_mode_max_and_the_least_change_count():
    stop = EarlyStopping("val_accuracy", mode="max", min_delta=0.1)
    assert stop.improves(0.5)
    assert not stop.improves(float("nan"))
    stop.best = 0.5
    assert stop.improves(0.65)
    assert not stop.improves(0.55)
    assert not stop.improves(float("nan"))


def test_the_second_training_with_one_callback_starts_anew():
    stop = EarlyStopping(patience=3)
    for _ in range(2):
        fit(scripted(), checks.blobs(), epochs=9, callbacks=[stop], **checks.QUIET)
        assert (stop.best_epoch, stop.waited) == (3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "test_loss"}, "stopping by the test set is training on it"),
        ({"monitor": "train_loss"}, "a validation metric is needed"),
        ({"patience": 0}, "patience=0"),
        ({"min_delta": -1.0}, "min_delta=-1.0"),
        ({"mode": "best"}, "mode='best'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**options)


def test_a_metric_that_nobody_logs_is_named():
    with pytest.raises(ValueError, match="monitor='val_f1': not logged; there is"):
        fit(scripted(), checks.blobs(), callbacks=[EarlyStopping("val_f1")], **checks.QUIET)
