"""The recorder notes what each step was taken with."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from companion.data.digits import Digits
from companion.optimization.recording import RateRecorder
from companion.training import Classifier, fit


@pytest.mark.parametrize(
    ("optimizer", "momentum"),
    [
        (partial(torch.optim.SGD, momentum=0.7), 0.7),
        (partial(torch.optim.Adam, betas=(0.8, 0.99)), 0.8),
        (torch.optim.Adagrad, 0.0),
    ],
)
def test_rates_and_momenta_of_every_step(optimizer: Any, momentum: float):
    recorder = RateRecorder()
    module = Classifier(
        nn.Linear(64, 10),
        optimizer=partial(optimizer, lr=0.5),
        scheduler=partial(ExponentialLR, gamma=0.5),
    )
    fit(module, Digits(32, flatten=True, limit=64), epochs=3, callbacks=[recorder])
    assert recorder.rates == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert recorder.momenta == [momentum] * 6
