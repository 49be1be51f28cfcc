"""Checks of ManualBackprop against autograd, as functions of the module under test."""

from __future__ import annotations

import copy
from functools import partial
from types import ModuleType
from typing import Any

import torch
from backprop.layer_checks import TIGHT
from torch import nn
from torch.testing import assert_close

from companion.backprop.layers import Linear, ReLU, Sequential
from companion.backprop.normalization import BatchNorm1d
from companion.data.digits import Digits
from companion.training import Classifier, fit


def twins() -> tuple[Sequential, nn.Sequential]:
    """The same network twice, in float64: ours and torch.nn's.

    The normalisation comes after the ReLU: right after the first layer it would make the
    gradients of the always blank pixels exactly 0, and Adam would blow their rounding errors up.
    """
    torch.manual_seed(0)
    ours = Sequential(Linear(64, 20), ReLU(), BatchNorm1d(20), Linear(20, 10)).double()
    theirs = nn.Sequential(
        nn.Linear(64, 20), nn.ReLU(), nn.BatchNorm1d(20), nn.Linear(20, 10)
    ).double()
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    return ours, theirs


def digits() -> Digits:
    """320 images in batches of 32: ten steps an epoch."""
    return Digits(batch_size=32, flatten=True, limit=320, dtype=torch.float64)


def check_hundred_steps(manual: ModuleType, optimizer: Any) -> None:
    ours, theirs = twins()
    start = copy.deepcopy(ours.state_dict())
    first = fit(manual.ManualBackprop(ours, optimizer=optimizer), digits(), epochs=10)
    second = fit(Classifier(theirs, optimizer=optimizer), digits(), epochs=10)
    assert len(first.step_losses) == len(second.step_losses) == 100
    assert_close(first.step_losses, second.step_losses, **TIGHT)
    assert_close(first.metrics, second.metrics, **TIGHT)
    for name, value in theirs.state_dict().items():
        assert not torch.equal(ours.state_dict()[name], start[name]), f"{name} never moved"
        assert_close(ours.state_dict()[name], value, **TIGHT)


def check_schedule(manual: ModuleType, interval: str) -> None:
    ours, theirs = twins()
    options = {
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "scheduler": partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.8),
        "scheduler_interval": interval,
    }
    fit(manual.ManualBackprop(ours, **options), digits(), epochs=3)
    fit(Classifier(theirs, **options), digits(), epochs=3)
    for name, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[name], value, **TIGHT)
