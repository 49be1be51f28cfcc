"""ManualBackprop trains exactly as autograd does, with autograd switched off."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from backprop import manual_checks as checks
from backprop.layer_checks import TIGHT
from torch import nn
from torch.testing import assert_close

from companion.backprop import manual
from companion.backprop.layers import GELU, Dropout, Linear, ReLU, Sequential, Tanh
from companion.backprop.losses import MSE
from companion.backprop.manual import ManualBackprop
from companion.backprop.normalization import BatchNorm1d, LayerNorm
from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.training import Classifier, Regressor, fit

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(SGD, lr=0.1),
        partial(SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
        partial(ADAM, lr=1e-3),
        None,
    ],
    ids=["sgd", "momentum", "adam", "default-adamw"],
)
def test_a_hundred_steps_give_the_weights_of_autograd(optimizer):
    checks.check_hundred_steps(manual, optimizer)


def test_a_hundred_steps_of_regression_give_the_weights_of_autograd():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    data = partial(Arrays, (x, x.sin().sum(1, keepdim=True)), batch_size=16)
    ours = Sequential(Linear(3, 8), GELU(), LayerNorm(8), Linear(8, 1), Tanh()).double()
    theirs = nn.Sequential(
        nn.Linear(3, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 1), nn.Tanh()
    ).double()
    theirs.load_state_dict(ours.state_dict())
    adam = partial(ADAM, lr=1e-2)
    first = fit(ManualBackprop(ours, loss=MSE, optimizer=adam), data(), epochs=25)
    second = fit(Regressor(theirs, optimizer=adam), data(), epochs=25)
    assert len(first.step_losses) == 100
    assert_close(first.step_losses, second.step_losses, **TIGHT)
    for name, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[name], value, **TIGHT)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_schedule_is_followed_as_under_automatic_optimization(interval):
    checks.check_schedule(manual, interval)


def test_a_plateau_schedule_sees_the_validation_loss():
    scheduler = partial(
        torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0, threshold=1e9
    )
    module = ManualBackprop(
        Sequential(Linear(64, 10)), optimizer=partial(SGD, lr=1.0), scheduler=scheduler
    )
    result = fit(module, Digits(flatten=True, limit=64), epochs=3)
    assert result.trainer.optimizers[0].param_groups[0]["lr"] == 0.125  # no loss is good enough


def test_a_plateau_schedule_cannot_advance_after_each_step():
    module = ManualBackprop(
        Sequential(Linear(64, 10)),
        scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau,
        scheduler_interval="step",
    )
    with pytest.raises(ValueError, match="scheduler_interval='step': ReduceLROnPlateau watches"):
        fit(module, Digits(flatten=True, limit=64), epochs=1)


def test_a_plateau_schedule_without_a_validation_set_is_refused():
    module = ManualBackprop(
        Sequential(Linear(64, 10)), scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau
    )
    images = Digits(flatten=True, limit=64)
    images.setup()
    with pytest.raises(ValueError, match="the data have no validation set"):
        fit(module, Arrays(images.train), epochs=1)


def test_it_logs_what_classifier_logs():
    data = partial(Digits, flatten=True)
    options = {"epochs": 2, "test": True}
    network = Sequential(Linear(64, 32), ReLU(), Linear(32, 10))
    adam = partial(ADAM, lr=1e-2)
    ours = fit(ManualBackprop(network, optimizer=adam), data(), **options)
    assert ours.metrics.keys() >= {
        "train_loss",
        "val_loss",
        "val_accuracy",
        "test_loss",
        "test_accuracy",
    }
    assert ours.metrics["test_accuracy"] > 0.85
    assert ours.history[1]["train_loss"] < ours.history[0]["train_loss"]
    twin = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    theirs = fit(Classifier(twin), data(), **options)
    assert ours.metrics.keys() == theirs.metrics.keys()


def test_autograd_takes_no_part(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("autograd's backward pass was called")

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    network = Sequential(Linear(64, 16), BatchNorm1d(16), ReLU(), Dropout(0.1), Linear(16, 10))
    result = fit(ManualBackprop(network), Digits(flatten=True, limit=128), epochs=1)
    assert len(result.step_losses) == 2


def test_the_same_seed_gives_the_same_weights_twice():
    states = []
    network = Sequential(Linear(64, 16), Dropout(0.3), ReLU(), Linear(16, 10))
    for _ in range(2):
        module = ManualBackprop(copy.deepcopy(network))
        states.append(fit(module, Digits(flatten=True), epochs=1).module.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


def test_killed_and_resumed_gives_the_losses_of_one_run(tmp_path):
    network = Sequential(Linear(64, 16), BatchNorm1d(16), ReLU(), Linear(16, 10))

    def module() -> ManualBackprop:
        schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
        adam = partial(ADAM, lr=1e-2)
        return ManualBackprop(copy.deepcopy(network), optimizer=adam, scheduler=schedule)

    whole = fit(module(), Digits(flatten=True), epochs=3)
    fit(module(), Digits(flatten=True), epochs=1, checkpoint_dir=tmp_path)
    resumed = fit(module(), Digits(flatten=True), epochs=3, resume_from=tmp_path)
    assert resumed.step_losses == whole.step_losses


def test_bfloat16_autocast_trains():
    network = Sequential(Linear(64, 32), LayerNorm(32), GELU(), Linear(32, 10))
    module = ManualBackprop(network, optimizer=partial(ADAM, lr=1e-2))
    result = fit(module, Digits(flatten=True), epochs=2, precision="bf16-mixed", test=True)
    assert result.metrics["test_accuracy"] > 0.8


def test_loss_scaling_is_refused():
    module = ManualBackprop(Sequential(Linear(2, 2)))
    module._trainer = SimpleNamespace(precision="16-mixed")
    with pytest.raises(ValueError, match="precision='16-mixed' divides gradients by a loss scale"):
        module.on_fit_start()


def test_a_network_without_backward_is_refused():
    with pytest.raises(ValueError, match="network is Linear, which has no backward method"):
        ManualBackprop(nn.Linear(2, 2))


def test_a_loss_without_backward_is_refused():
    with pytest.raises(ValueError, match="it must be a pair such as"):
        ManualBackprop(Sequential(Linear(2, 2)), loss=nn.functional.mse_loss)


TWO_PROCESSES = """
import copy
from functools import partial

import torch

from companion.backprop.layers import Linear, ReLU, Sequential
from companion.backprop.manual import ManualBackprop
from companion.data.digits import Digits
from companion.training import fit

if __name__ == "__main__":
    torch.manual_seed(0)
    network = Sequential(Linear(64, 16), ReLU(), Linear(16, 10)).double()
    sgd = partial(torch.optim.SGD, lr=0.1)
    runs = []
    for processes in (1, 2):
        module = ManualBackprop(copy.deepcopy(network), optimizer=sgd)
        data = Digits(32 // processes, flatten=True, limit=320, dtype=torch.float64)
        strategy = "auto" if processes == 1 else "ddp_spawn"
        fit(module, data, devices=processes, strategy=strategy)
        runs.append(module)
    for one, two in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-12)
    start = network[0].weight
    assert not torch.equal(runs[1].network[0].weight, start)
    print("equal")
"""


@pytest.mark.slow
def test_two_processes_average_their_gradients_to_those_of_one(tmp_path):
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    root = Path(manual.__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment, timeout=280
    )
    assert run.stdout.strip().endswith("equal"), run.stderr[-3000:]
