"""Recipes of the page `regularization`: small networks on the digits, some with wrong labels."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.optimization.adam import AdamW
from companion.optimization.averaging import (
    ExponentialMovingAverage,
    StochasticWeightAverage,
    WeightAverage,
    ema_naive,
)
from companion.optimization.double_descent import least_norm, noisy_labels, random_features
from companion.optimization.quadratic import tuned_heavy_ball
from companion.optimization.regularization import (
    Dropout,
    clip_grad_value_,
    decay_groups,
    smoothed_cross_entropy,
)
from companion.optimization.sgd import SGD
from companion.optimization.stopping import EarlyStopping
from companion.techniques import Recipe
from companion.training import Classifier, FitResult, Regressor, evaluate, fit

OPTIONS: dict[str, Any] = {"epochs": 4, "precision": "32-true"}
STEPS = 4 * 20  # 1,293 training images in whole batches of 64


def digits() -> Digits:
    """Vectors of 64 pixels; no smaller last batch, which would compile once more on a TPU."""
    return Digits(flatten=True, drop_last=True)


def few_noisy_digits(samples: int = 256, share: float = 0.3, seed: int = 0) -> Arrays:
    """A few digits, some with a wrong label drawn by `seed`; validation and test are right."""
    data = digits()
    data.setup()
    generator = torch.Generator().manual_seed(seed)
    x, y = (part[:samples] for part in data.train)
    train = (x, noisy_labels(y, share, 10, generator))
    return Arrays(train, data.validation, data.test, num_classes=10, drop_last=True)


def mlp(*extra: nn.Module) -> nn.Sequential:
    """One hidden layer of 32, with `extra` modules after it."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), *extra, nn.Linear(32, 10))


def weights_of(module: nn.Module) -> Tensor:
    """All parameters in one vector, on the host."""
    return torch.cat([p.detach().cpu().double().flatten() for p in module.parameters()])


class WeightRecorder(Callback):
    """Copy the weights to the host after every step, in the list ``weights``."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        """Record."""
        self.weights.append(weights_of(pl_module))


def weight_decay() -> Recipe:
    """Matrices shrink against a twin's without decay, by about the factor of the decay alone."""
    network = mlp()
    twin = copy.deepcopy(network)

    def check(result: FitResult) -> None:
        plain = Classifier(twin, optimizer=partial(AdamW, lr=3e-3, weight_decay=0.0))
        fit(plain, digits(), **OPTIONS)
        last = [p.detach().cpu() for p in result.module.parameters()]
        for mine, other in zip(last, plain.parameters(), strict=True):
            if mine.dim() == 2:
                shrunk = (mine.norm() / other.norm()).item()
                assert 0.75 < shrunk < 0.95, f"a matrix is {shrunk:.2f} times the twin's"
        assert result.metrics.get("val_accuracy", 0.0) > 0.85

    def build(parameters: Any) -> AdamW:
        return AdamW(decay_groups(parameters, 0.9), lr=3e-3)

    return Recipe(Classifier(network, optimizer=build), digits(), OPTIONS, check)


def dropout_regularization() -> Recipe:
    """Half of the hidden units are off in training, none in evaluation."""
    layer = Dropout(0.5)
    network = mlp(layer)
    shares: list[float] = []

    def check(result: FitResult) -> None:
        x = torch.ones(100, 1000)
        for mode in (True, False):
            out = layer.train(mode)(x)
            shares.append((out == 0).float().mean().item())
            assert abs(out.mean().item() - 1) < 0.03, "the mean is not kept"
        assert abs(shares[-2] - 0.5) < 0.02, f"a share of {shares[-2]} is off in training"
        assert shares[-1] == 0, "units are off in evaluation"
        assert result.metrics.get("val_accuracy", 0.0) > 0.85

    optimizer = partial(torch.optim.Adam, lr=1e-2)
    return Recipe(Classifier(network, optimizer=optimizer), digits(), OPTIONS, check)


def label_smoothing() -> Recipe:
    """The network becomes as sure as the smoothed labels, 0.91, and no surer."""
    floor = -(0.91 * math.log(0.91) + 0.09 * math.log(0.01))  # the entropy of such a label

    def check(result: FitResult) -> None:
        module = result.module.cpu().eval()
        data = digits()
        data.setup()
        with torch.no_grad():
            sure = module(data.train[0]).softmax(-1).amax(-1).mean().item()
        assert 0.80 < sure < 0.95, f"its mean confidence is {sure:.3f}"
        assert min(result.step_losses) > floor - 1e-4, "a loss below its lower bound"
        assert result.metrics.get("val_accuracy", 0.0) > 0.9

    loss = partial(smoothed_cross_entropy, smoothing=0.1)
    module = Classifier(mlp(), loss=loss, optimizer=partial(torch.optim.Adam, lr=1e-2))
    return Recipe(module, digits(), OPTIONS | {"epochs": 8}, check)


class ClippedClassifier(Classifier):
    """A Classifier whose gradients are clipped by value before each step."""

    limit = 0.002

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip."""
        clip_grad_value_(self.parameters(), self.limit)


def clipping_by_value() -> Recipe:
    """No weight moves by more than the learning rate times the limit a step."""
    module = ClippedClassifier(mlp(), optimizer=partial(SGD, lr=1.0))
    recorder = WeightRecorder()
    start = weights_of(module)

    def check(result: FitResult) -> None:
        path = torch.stack([start, *recorder.weights])
        largest = path.diff(dim=0).abs().max().item()
        assert largest <= 1.001 * ClippedClassifier.limit, f"a weight moved by {largest}"
        assert largest > 0.99 * ClippedClassifier.limit, "the limit was never reached"
        assert result.metrics.get("val_accuracy", 0.0) > 0.8

    return Recipe(module, digits(), OPTIONS | {"callbacks": [recorder]}, check)


def early_stopping() -> Recipe:
    """It ends before the last epoch, with the weights of the best one."""
    stop = EarlyStopping(patience=3)
    data = few_noisy_digits()

    def check(result: FitResult) -> None:
        losses = [epoch["val_loss"] for epoch in result.history if "val_loss" in epoch]
        assert losses, "nothing was validated"
        best = min(range(len(losses)), key=losses.__getitem__)
        assert len(losses) == best + 1 + 3 < 60, f"{len(losses)} epochs, the best is {best}"
        again = evaluate(result.module, data, split="validation", precision="32-true")
        assert math.isclose(again["val_loss"], losses[best], rel_tol=1e-3), "not the best weights"

    module = Classifier(mlp(), optimizer=partial(torch.optim.Adam, lr=1e-2))
    return Recipe(module, data, OPTIONS | {"epochs": 60, "callbacks": [stop]}, check)


def averaging(callback: WeightAverage, expected: Any, *extra: nn.Module) -> Recipe:
    """The final weights are `expected` of the recorded ones."""
    recorder = WeightRecorder()

    def check(result: FitResult) -> None:
        assert len(recorder.weights) == STEPS, f"{len(recorder.weights)} steps"
        final, average = weights_of(result.module), expected(recorder.weights)
        torch.testing.assert_close(final, average, rtol=1e-3, atol=1e-5)
        assert (final - recorder.weights[-1]).abs().max() > 1e-3, "that is the last weights"
        assert result.metrics.get("val_accuracy", 0.0) > 0.85

    module = Classifier(mlp(*extra), optimizer=partial(SGD, lr=0.1, momentum=0.9))
    return Recipe(module, digits(), OPTIONS | {"callbacks": [callback, recorder]}, check)


def exponential_moving_average() -> Recipe:
    """The bias-corrected average over all steps."""
    return averaging(ExponentialMovingAverage(0.95), partial(ema_naive, decay=0.95))


def stochastic_weight_averaging() -> Recipe:
    """The mean of the ends of the last three epochs, in a network with batch normalization."""

    def ends(weights: list[Tensor]) -> Tensor:
        return torch.stack(weights[STEPS // 2 - 1 :: STEPS // 4]).mean(0)

    return averaging(StochasticWeightAverage(1), ends, nn.BatchNorm1d(32))


def double_descent() -> Recipe:
    """Gradient descent from 0 on 1,000 features of 60 samples finds the fit of least norm."""
    data = few_noisy_digits(60, 0.2)
    x, labels = data.train
    W = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0)) / 8
    features, targets = random_features(x, W), nn.functional.one_hot(labels, 10).float()
    curvature = torch.linalg.svdvals(features.double()).square() * 2 / targets.numel()
    lr, momentum, _ = tuned_heavy_ball(curvature[-1].item(), curvature[0].item())
    readout = nn.Linear(1000, 10, bias=False)
    nn.init.zeros_(readout.weight)

    def check(result: FitResult) -> None:
        theta = least_norm(features.double(), targets.double())
        found = result.module.network.weight.detach().cpu().double().T
        error = ((found - theta).norm() / theta.norm()).item()
        assert error < 0.01, f"{error:.1%} away from the fit of least norm"
        assert result.step_losses[-1] < 1e-4, "the noise is not fitted"

    module = Regressor(readout, optimizer=partial(SGD, lr=lr, momentum=momentum))
    arrays = Arrays((features, targets), batch_size=60)
    return Recipe(module, arrays, {"epochs": 300, "precision": "32-true"}, check)
