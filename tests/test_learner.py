"""Regressor, Classifier and LanguageModel against a plain PyTorch loop and whole-set metrics."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import two_processes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from companion.data.arrays import Arrays
from companion.data.batches import Batches
from companion.training import Classifier, LanguageModel, Regressor, evaluate, fit

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
EXACT = {"rtol": 1e-10, "atol": 0.0}


def linear(features: int, outputs: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(features, outputs, dtype=torch.float64)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(samples: int, seed: int = 0) -> Tensor:
    y = torch.randint(0, 4, (samples,), generator=torch.Generator().manual_seed(seed))
    y[:4] = torch.arange(4)
    return y


def regression(batch_size: int = 8) -> Arrays:
    """22, 13 and 9 samples: no number of batches is whole."""
    parts = [(numbers(n, 3, seed=n), numbers(n, 2, seed=n + 1)) for n in (22, 13, 9)]
    return Arrays(*parts, batch_size=batch_size)


def classification(batch_size: int = 8) -> Arrays:
    parts = [(numbers(n, 3, seed=n), labels(n, seed=n)) for n in (22, 13, 9)]
    return Arrays(*parts, batch_size=batch_size)


def train_by_hand(
    network: nn.Module, loss_of: Any, data: Arrays, epochs: int, seed: int
) -> tuple[list[float], list[float]]:
    """The five-step loop; returns the loss of each step and the mean over samples of each epoch."""
    optimizer = SGD(network.parameters())
    batches = Batches(data.train, data.batch_size, shuffle=True, seed=seed)
    steps, means = [], []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        total = 0.0
        for x, y in batches:
            loss = loss_of(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps.append(loss.item())
            total += loss.item() * len(x)
        means.append(total / len(data.train[0]))
    return steps, means


@pytest.mark.parametrize(
    ("kind", "data", "loss_of", "outputs"),
    [
        (Regressor, regression(), F.mse_loss, 2),
        (Classifier, classification(), F.cross_entropy, 4),
    ],
    ids=["Regressor", "Classifier"],
)
def test_training_equals_a_plain_loop(kind: type, data: Arrays, loss_of: Any, outputs: int) -> None:
    by_hand = linear(3, outputs)
    steps, means = train_by_hand(by_hand, loss_of, data, epochs=3, seed=5)
    module = kind(linear(3, outputs), optimizer=SGD)
    result = fit(module, data, epochs=3, seed=5, test=True)
    torch.testing.assert_close(module.network.weight, by_hand.weight, **EXACT)
    assert result.step_losses == pytest.approx(steps, rel=1e-10)
    assert [epoch["train_loss"] for epoch in result.history] == pytest.approx(means, rel=1e-10)
    with torch.no_grad():
        for name, (x, y) in (("val", data.validation), ("test", data.test)):
            whole = float(loss_of(by_hand(x), y))
            assert result.metrics[f"{name}_loss"] == pytest.approx(whole, rel=1e-10)


def test_accuracy_counts_samples_not_batches() -> None:
    data = classification(batch_size=8)
    module = Classifier(linear(3, 4))
    result = fit(module, data, test=True)
    for name, (x, y) in (("val", data.validation), ("test", data.test)):
        right = int((module.network(x).argmax(1) == y).sum())
        assert result.metrics[f"{name}_accuracy"] == pytest.approx(right / len(y), rel=1e-10)


def test_metrics_do_not_depend_on_the_batch_size() -> None:
    module = Classifier(linear(3, 4))
    results = [evaluate(module, classification(batch_size=size)) for size in (1, 4, 8, 100)]
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-10)


def test_validation_within_an_epoch_leaves_the_training_mean_alone() -> None:
    result = fit(Regressor(linear(3, 2)), regression(), val_check_interval=1)
    steps, sizes = result.step_losses, (8, 8, 6)
    mean = sum(loss * size for loss, size in zip(steps, sizes, strict=True)) / 22
    assert result.metrics["train_loss"] == pytest.approx(mean, rel=1e-10)


class Bigrams(nn.Module):
    """Logits of the next token from a table; (batch, time) -> (batch, time, vocabulary)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 5, dtype=torch.float64)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


def test_a_language_model_averages_over_the_tokens_that_count() -> None:
    tokens = torch.randint(0, 5, (11, 7), generator=torch.Generator().manual_seed(0))
    x, y = tokens[:, :-1], tokens[:, 1:].clone()
    y[0, :] = y[8:, 2:] = -100
    module = LanguageModel(Bigrams())
    metrics = evaluate(module, Arrays(train=(x, y), test=(x, y), batch_size=4))
    nll = -module.network(x).log_softmax(-1).detach()
    terms = [float(nll[i, t, y[i, t]]) for i in range(11) for t in range(6) if y[i, t] >= 0]
    mean = sum(terms) / len(terms)
    assert metrics["test_loss"] == pytest.approx(mean, rel=1e-10)
    assert metrics["test_perplexity"] == pytest.approx(math.exp(mean), rel=1e-10)


def test_tokens_alone_are_predicted_from_those_before() -> None:
    tokens = torch.randint(0, 5, (6, 7))
    module = LanguageModel(Bigrams())
    pairs = torch.utils.data.DataLoader(list(zip(tokens[:, :-1], tokens[:, 1:], strict=True)))
    alone = torch.utils.data.DataLoader(tokens)
    in_tuples = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tokens))
    expected = evaluate(module, pairs)
    assert evaluate(module, alone) == evaluate(module, in_tuples) == expected


def test_a_language_model_learns_the_pairs_it_sees() -> None:
    tokens = torch.arange(5).repeat(8, 2)
    optimizer = partial(torch.optim.Adam, lr=0.3)
    module = LanguageModel(Bigrams(), optimizer=optimizer)
    result = fit(module, torch.utils.data.DataLoader(tokens, batch_size=4), epochs=20)
    assert result.metrics["train_perplexity"] < 1.1
    assert module.network.table.weight.argmax(1).tolist() == [1, 2, 3, 4, 0]


def test_the_default_optimizer_is_fused_adamw() -> None:
    result = fit(Regressor(linear(3, 2)), regression())
    (optimizer,) = result.trainer.optimizers
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["lr"] == 1e-3
    assert optimizer.defaults["fused"] is True


def test_frozen_parameters_are_left_out() -> None:
    network = nn.Sequential(linear(3, 3), linear(3, 2))
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    fit(Regressor(network, optimizer=SGD), regression())
    assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize(("interval", "moves"), [("epoch", 3), ("step", 9)])
def test_a_scheduler_moves_per_epoch_or_per_step(interval: str, moves: int) -> None:
    scheduler = partial(ExponentialLR, gamma=0.5)
    module = Regressor(
        linear(3, 2), optimizer=SGD, scheduler=scheduler, scheduler_interval=interval
    )
    result = fit(module, regression(), epochs=3)
    assert result.trainer.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**moves


def test_a_plateau_scheduler_watches_the_validation_loss() -> None:
    scheduler = partial(ReduceLROnPlateau, patience=0, threshold=0.2)
    module = Regressor(linear(3, 2), optimizer=SGD, scheduler=scheduler)
    result = fit(module, regression(), epochs=8)
    optimizer = SGD([nn.Parameter(torch.zeros(1))])
    reference = scheduler(optimizer)
    for epoch in result.history:
        reference.step(epoch["val_loss"])
    rate = optimizer.param_groups[0]["lr"]
    assert 0 < rate < 0.1
    assert result.trainer.optimizers[0].param_groups[0]["lr"] == rate


def test_a_plateau_scheduler_that_advances_every_step_is_refused() -> None:
    scheduler = partial(ReduceLROnPlateau, patience=0)
    module = Classifier(linear(3, 4), optimizer=SGD, scheduler=scheduler, scheduler_interval="step")
    with pytest.raises(ValueError, match="scheduler_interval='step': ReduceLROnPlateau.*'epoch'"):
        fit(module, classification())


def test_a_custom_loss_is_what_is_minimised_and_logged() -> None:
    data = regression()
    module = Regressor(linear(3, 2), loss=F.l1_loss)
    metrics = evaluate(module, data)
    x, y = data.test
    expected = (module.network(x) - y).abs().mean().item()
    assert metrics["test_loss"] == pytest.approx(expected, rel=1e-10)


def test_the_modules_run_under_a_plain_trainer() -> None:
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, enable_model_summary=False, precision="64-true", **options)
    trainer.fit(Classifier(linear(3, 4)), classification())
    assert {"train_loss", "val_loss", "val_accuracy"} <= set(trainer.callback_metrics)


def test_predictions_are_the_network_outputs() -> None:
    data = regression()
    module = Regressor(linear(3, 2))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(precision="64-true", **options)
    predicted = torch.cat(trainer.predict(module, data))
    torch.testing.assert_close(predicted, module.network(data.test[0]), **EXACT)


def test_two_processes_give_the_losses_and_metrics_of_one(tmp_path: Path) -> None:
    path = tmp_path / "results.pt"
    subprocess.run([sys.executable, two_processes.__file__, str(path)], check=True)
    two = torch.load(path)
    one = two_processes.classifier()
    expected = fit(one, two_processes.data(8), epochs=2, test=True)
    assert two["step_losses"] == pytest.approx(expected.step_losses, rel=1e-10)
    assert two["whole"] == pytest.approx(expected.step_losses, rel=1e-10)
    assert two["again"] == two["step_losses"]
    assert two["metrics"] == pytest.approx(expected.metrics, rel=1e-10)
    for epoch, other in zip(two["history"], expected.history, strict=True):
        assert epoch == pytest.approx(other, rel=1e-10)
    torch.testing.assert_close(two["weight"], one.network.weight.detach(), **EXACT)
    assert two["error"].startswith("the training loss is nan at step ")
    assert "training data holds NaN" in two["error"]


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (
            Regressor(linear(3, 1)),
            Arrays(train=(numbers(9, 3), numbers(9)), batch_size=8),
            r"prediction of shape \(8, 1\) and target of shape \(8,\): they must be equal",
        ),
        (
            Classifier(linear(3, 3)),
            classification(),
            "network has 3 outputs and the data 4 classes",
        ),
        (
            Classifier(linear(3, 4)),
            Arrays(train=(numbers(9, 3), numbers(9))),
            "targets of type torch.float64: class indices are integers",
        ),
        (
            Classifier(linear(3, 4)),
            Arrays(train=(numbers(9, 3), torch.zeros(9, 1, dtype=torch.int64))),
            r"targets of shape \(9, 1\): \(batch, classes\) and \(batch,\)",
        ),
        (
            LanguageModel(nn.Embedding(5, 5)),
            Arrays(train=(torch.zeros(4, 6, dtype=torch.int64), torch.zeros(4, 5))),
            r"targets of shape \(4, 5\): \(batch, time, vocabulary\)",
        ),
        (
            Regressor(linear(3, 2).requires_grad_(False)),
            regression(),
            "network: it has no trainable parameter",
        ),
        (
            Regressor(linear(3, 2), optimizer=partial(torch.optim.SGD, lr=-1.0)),
            regression(),
            "Invalid learning rate: -1.0",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(
    module: pl.LightningModule, data: Arrays, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        fit(module, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": torch.relu}, "network=builtin_function_or_method: an nn.Module"),
        ({"loss": "mse"}, "loss=str: a callable"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)], lr=1)}, "optimizer=SGD: a callable"),
        ({"scheduler": 3}, "scheduler=int"),
        ({"scheduler_interval": "batch"}, "scheduler_interval='batch': 'epoch' or 'step'"),
    ],
)
def test_a_bad_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regressor(**{"network": linear(3, 2)} | options)
