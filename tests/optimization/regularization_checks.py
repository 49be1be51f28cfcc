"""Checks of the page `regularization`, as functions of the module under test.

Ordinary tests run them on the real modules, test_regularization_mistakes.py on mutants.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.testing import assert_close

from companion.data.arrays import Arrays
from companion.training import Classifier, FitResult, fit

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
QUIET: dict[str, Any] = {"precision": "64-true"}


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blobs(samples: int = 48) -> Arrays:
    """Three overlapping classes in five dimensions; four batches of 12 an epoch."""
    y = torch.arange(3 * samples) % 3
    x = normal((3 * samples, 5), 0) + F.one_hot(y, 5)
    parts = zip(x.split(samples), y.split(samples), strict=True)
    return Arrays(*parts, batch_size=12, num_classes=3)


def classifier(*, norm: bool = False, lr: float = 0.3) -> Classifier:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(8)] if norm else []
    network = nn.Sequential(nn.Linear(5, 8), *middle, nn.Tanh(), nn.Linear(8, 3)).double()
    return Classifier(network, optimizer=lambda p: torch.optim.SGD(p, lr=lr))


class Recorder(Callback):
    """Copies of the network after every step, and what each validation pass saw."""

    def __init__(self) -> None:
        self.networks: list[nn.Module] = []
        self.validated: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *batch: Any) -> None:
        self.networks.append(copy.deepcopy(pl_module.network))

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: Any, *batch: Any) -> None:
        self.validated.append(flat(pl_module))


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def run(callback: Callback, *, epochs: int = 3, **options: Any) -> tuple[FitResult, Recorder]:
    recorder = Recorder()
    module = options.pop("module", None) or classifier()
    options = {"callbacks": [callback, recorder], **QUIET, **options}
    return fit(module, blobs(), epochs=epochs, **options), recorder


# --- dropout --------------------------------------------------------------------------------------


def check_dropout_keeps_the_mean(regularization: ModuleType) -> None:
    """Over all 16 masks of four numbers, weighted by their probability, the mean is x."""
    x = normal((4,), 0)
    for p in (0.2, 0.5, 0.9):
        mean = torch.zeros_like(x)
        for code in range(16):
            keep = torch.tensor([bool(code >> i & 1) for i in range(4)])
            kept = int(keep.sum())
            weight = (1 - p) ** kept * p ** (4 - kept)
            mean += weight * regularization.dropout(x, p, training=True, keep=keep)
        assert_close(mean, x, **TIGHT)


def check_dropout_draws_the_right_share(regularization: ModuleType) -> None:
    torch.manual_seed(0)
    for p in (0.1, 0.7):
        out = regularization.Dropout(p)(torch.ones(100_000))
        assert abs((out == 0).double().mean().item() - p) < 0.01


def check_evaluation_passes_everything(regularization: ModuleType) -> None:
    x = normal((50, 7), 0)
    layer = regularization.Dropout(0.5).eval()
    assert_close(layer(x), x, rtol=0, atol=0)


# --- label smoothing ------------------------------------------------------------------------------


def check_smoothing(regularization: ModuleType) -> None:
    """Rows add up to 1; loss and gradient are torch's."""
    y = torch.tensor([0, 3, 2, 3, 1, 0])
    for smoothing in (0.0, 0.1, 0.5):
        q = regularization.smooth_labels(y, 4, smoothing).double()
        assert_close(q.sum(1), torch.ones(6).double(), rtol=1e-6, atol=0)
        logits = (5 * normal((6, 4), 1)).requires_grad_()
        expected = F.cross_entropy(logits, y, label_smoothing=smoothing)
        loss = regularization.smoothed_cross_entropy(logits, y, smoothing)
        assert_close(loss, expected, **TIGHT)
        (gradient,) = torch.autograd.grad(expected, logits)
        found = regularization.smoothed_gradient(logits.detach(), y, smoothing)
        assert_close(found, gradient, rtol=1e-6 if smoothing else 1e-10, atol=1e-8)


# --- clipping -------------------------------------------------------------------------------------


def parameters_with_gradients(scale: float = 3.0) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(s).double()) for s in ((3, 4), (5,), (2, 2), (1,))]
    for index, parameter in enumerate(parameters[:3]):
        parameter.grad = scale * 10.0**-index * normal(tuple(parameter.shape), index)
    return parameters


def check_clipping_by_value(regularization: ModuleType) -> None:
    for limit in (0.01, 0.5, 100.0):
        ours, theirs = parameters_with_gradients(), parameters_with_gradients()
        regularization.clip_grad_value_(ours, limit)
        torch.nn.utils.clip_grad_value_(theirs, limit)
        for mine, other in zip(ours[:3], theirs[:3], strict=True):
            assert_close(mine.grad, other.grad, **TIGHT)


def check_clipping_by_norm(clipping: ModuleType) -> None:
    """One factor for all tensors: the direction of the whole gradient stays."""
    ours, theirs = parameters_with_gradients(), parameters_with_gradients()
    before = torch.cat([p.grad.flatten() for p in ours[:3]])
    clipping.clip_grad_norm_(ours, 0.5)
    torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    after = torch.cat([p.grad.flatten() for p in ours[:3]])
    assert_close(F.cosine_similarity(before, after, dim=0).item(), 1.0, rtol=1e-12, atol=0)
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        assert_close(mine.grad, other.grad, **TIGHT)


# --- decay ----------------------------------------------------------------------------------------


def check_decay_without_gradient(adam: ModuleType) -> None:
    """AdamW shrinks a weight by (1 − ηλ)^t, whatever the size of the gradients that others get."""
    for scale in (1e-3, 1.0, 1e3):
        weight = nn.Parameter(torch.tensor([2.0, 2.0]).double())
        optimizer = adam.AdamW([weight], lr=0.01, weight_decay=0.5, eps=1e-30)
        signs = torch.tensor([1.0, -1.0]).double()
        for _ in range(20):
            weight.grad = scale * signs  # Adam moves both by ∓ lr, so their mean only decays
            optimizer.step()
        assert_close(weight.mean().item(), 2 * (1 - 0.005) ** 20, rtol=1e-10, atol=0)


def check_groups(regularization: ModuleType) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    decayed, kept = regularization.decay_groups(network.parameters(), 0.1)
    assert [p.dim() for p in decayed["params"]] == [4, 2]
    assert [p.dim() for p in kept["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


# --- early stopping -------------------------------------------------------------------------------


class Scripted(Classifier):
    """A Classifier that logs given validation losses."""

    losses = (5.0, 3.0, 4.0, 2.0, 2.5, 2.2, 2.1, 1.0, 0.5)

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", torch.tensor(self.losses[self.trainer.current_epoch]))


class EpochEnds(Callback):
    """The weights at the end of every epoch."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.weights.append(flat(pl_module))


def check_stopping(stopping: ModuleType) -> None:
    """The best of 5 3 4 2 2.5 2.2 2.1 … is the fourth; three worse ones end it."""
    stop, ends = stopping.EarlyStopping(patience=3), EpochEnds()
    module = Scripted(classifier().network, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    fit(module, blobs(), epochs=9, callbacks=[stop, ends], **QUIET)
    assert len(ends.weights) == 7, f"{len(ends.weights)} epochs instead of 7"
    assert (stop.best, stop.best_epoch) == (2.0, 3)
    assert_close(flat(module), ends.weights[3], rtol=0, atol=0)


# --- averages -------------------------------------------------------------------------------------


def check_share(averaging: ModuleType) -> None:
    """The moves add up to NumPy's weighted mean with the weights βᵗ⁻ⁱ."""
    values = normal((30, 4), 0)
    average = torch.zeros(4).double()
    for step, value in enumerate(values, start=1):
        average = average + averaging.ema_share(step, 0.9) * (value - average)
        weights = 0.9 ** np.arange(step)[::-1]
        expected = weights @ values[:step].numpy() / weights.sum()
        assert_close(average.numpy(), expected, **TIGHT)
        assert_close(averaging.ema_naive(list(values[:step]), 0.9).numpy(), expected, **TIGHT)


def check_ema_in_a_run(averaging: ModuleType) -> None:
    result, recorder = run(averaging.ExponentialMovingAverage(0.9))
    weights = torch.stack([flat(network) for network in recorder.networks]).numpy()
    assert len(weights) == 12

    def mean(steps: int) -> Any:
        factors = 0.9 ** np.arange(steps)[::-1]
        return factors @ weights[:steps] / factors.sum()

    assert_close(flat(result.module).numpy(), mean(12), **TIGHT)
    for epoch in range(3):  # validation sees the average of all steps so far
        assert_close(recorder.validated[4 * epoch].numpy(), mean(4 * epoch + 4), **TIGHT)


def check_training_is_untouched(averaging: ModuleType) -> None:
    """The raw weights take the way that they take without the callback."""
    _, with_average = run(averaging.ExponentialMovingAverage(0.9), module=classifier(norm=True))
    _, without = run(Callback(), module=classifier(norm=True))
    for mine, other in zip(with_average.networks, without.networks, strict=True):
        for key, value in other.state_dict().items():
            assert_close(mine.state_dict()[key], value, rtol=0, atol=0)


def check_against_averaged_model(averaging: ModuleType) -> None:
    """SWA and the EMA that starts at the first weights, against torch.optim.swa_utils."""
    ema = averaging.ExponentialMovingAverage(0.8, start="first")
    for callback, options, start in (
        (ema, {"multi_avg_fn": get_ema_multi_avg_fn(0.8)}, slice(0, None)),
        (averaging.StochasticWeightAverage(1), {}, slice(7, None, 4)),
    ):
        result, recorder = run(callback)
        theirs = AveragedModel(recorder.networks[0], **options)
        for network in recorder.networks[start]:
            theirs.update_parameters(network)
        assert_close(flat(result.module), flat(theirs.module), **TIGHT)


def check_batch_norm(averaging: ModuleType) -> None:
    """The running means are those that update_bn finds for the averaged weights."""
    result, recorder = run(averaging.StochasticWeightAverage(1), module=classifier(norm=True))
    theirs = AveragedModel(recorder.networks[0])
    for network in recorder.networks[7::4]:
        theirs.update_parameters(network)
    data = blobs()
    update_bn([(data.train[0][rows],) for rows in torch.arange(48).split(12)], theirs)
    mine, other = result.module.network[1], theirs.module[1]
    assert_close(mine.running_mean, other.running_mean, **TIGHT)
    assert mine.momentum == 0.1
    # The variances depend on which samples meet in a batch; of one batch they are tested apart.
    raw = recorder.networks[-1][1]
    assert (mine.running_mean - raw.running_mean).abs().max() > 1e-3


def check_resumed(averaging: ModuleType, directory: Path) -> None:
    """Two epochs, a stop, two more: the average of four in one go."""
    whole, _ = run(averaging.ExponentialMovingAverage(0.95), epochs=4)
    run(averaging.ExponentialMovingAverage(0.95), epochs=2, checkpoint_dir=directory)
    resumed, _ = run(averaging.ExponentialMovingAverage(0.95), epochs=4, resume_from=directory)
    assert_close(flat(resumed.module), flat(whole.module), rtol=0, atol=0)
    assert resumed.metrics["val_loss"] == whole.metrics["val_loss"]


# --- double descent -------------------------------------------------------------------------------


def check_least_norm(double_descent: ModuleType) -> None:
    """Against the pseudo-inverse, and ridge against the normal equation."""
    for samples, features in ((20, 7), (7, 20), (9, 9)):
        Phi, Y = normal((samples, features), samples), normal((samples, 3), 1)
        theta = double_descent.least_norm(Phi, Y)
        assert_close(theta.numpy(), np.linalg.pinv(Phi.numpy()) @ Y.numpy(), rtol=1e-9, atol=1e-11)
        for ridge in (1e-2, 1.0):
            normal_matrix = Phi.T @ Phi + ridge * torch.eye(features).double()
            expected = torch.linalg.solve(normal_matrix, Phi.T @ Y)
            found = double_descent.least_norm(Phi, Y, ridge)
            assert_close(found, expected, rtol=1e-9, atol=1e-11)


def check_noise(double_descent: ModuleType) -> None:
    y = torch.arange(1000) % 10
    noisy = double_descent.noisy_labels(y, 0.2, 10, torch.Generator().manual_seed(0))
    assert int((noisy != y).sum()) == 200
    assert 0 <= int(noisy.min()) <= int(noisy.max()) <= 9
