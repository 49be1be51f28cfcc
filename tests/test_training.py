"""fit and evaluate from end to end."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.training import Classifier, FitResult, Regressor, evaluate, fit


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def regressor(lr: float = 0.1) -> Regressor:
    torch.manual_seed(0)
    return Regressor(nn.Linear(3, 1), optimizer=partial(torch.optim.SGD, lr=lr))


def data(samples: int = 20) -> Arrays:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, generator=generator)
    y = x.sum(dim=1, keepdim=True)
    return Arrays((x, y), (x, y), (x, y), batch_size=8)


@pytest.fixture(scope="module")
def digits() -> FitResult:
    return fit(Classifier(mlp()), Digits(flatten=True), epochs=10, test=True)


def test_a_small_network_learns_the_digits(digits: FitResult) -> None:
    assert digits.metrics["test_accuracy"] > 0.93
    assert digits.step_losses[0] == pytest.approx(torch.log(torch.tensor(10.0)).item(), rel=0.2)
    assert digits.metrics["train_loss"] < 0.5


def test_the_result_tells_the_whole_run(digits: FitResult) -> None:
    steps = -(-1293 // 64)
    assert len(digits.step_losses) == 10 * steps == digits.trainer.global_step
    assert all(type(loss) is float for loss in digits.step_losses)
    expected = {"train_loss", "val_loss", "val_accuracy"}
    assert [set(epoch) for epoch in digits.history] == [expected] * 10
    assert set(digits.metrics) == expected | {"test_loss", "test_accuracy"}
    assert all(type(value) is float for value in digits.metrics.values())
    assert digits.metrics["val_loss"] == digits.history[-1]["val_loss"]
    assert 0 < digits.seconds < 60
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits.seconds = 0.0


def test_evaluate_gives_the_metrics_of_the_trained_module(digits: FitResult) -> None:
    for split, name in (("test", "test"), ("validation", "val")):
        metrics = evaluate(digits.module, Digits(flatten=True), split=split)
        expected = {k: v for k, v in digits.metrics.items() if k.startswith(f"{name}_")}
        assert metrics == expected


def test_evaluating_trains_nothing(digits: FitResult) -> None:
    before = [p.clone() for p in digits.module.parameters()]
    evaluate(digits.module, Digits(flatten=True))
    assert all(map(torch.equal, digits.module.parameters(), before))


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_a_limit_of_steps_replaces_the_epochs(steps: int, epochs: int) -> None:
    result = fit(regressor(), data(), epochs=50, max_steps=steps)
    assert len(result.step_losses) == steps
    assert len(result.history) == epochs


def test_the_first_steps_are_those_of_a_longer_run() -> None:
    short = fit(regressor(), data(), max_steps=4)
    long = fit(regressor(), data(), epochs=3)
    assert long.step_losses[:4] == short.step_losses


def test_training_goes_on_where_a_module_stands() -> None:
    module = regressor()
    first = fit(module, data(), epochs=2)
    second = fit(module, data(), epochs=2)
    assert second.step_losses[0] < first.step_losses[0]
    assert len(second.history) == 2


def test_a_loader_serves_as_data() -> None:
    x, y = data().train
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    result = fit(regressor(), loader, epochs=2)
    assert len(result.step_losses) == 6
    assert set(result.metrics) == {"train_loss"}
    assert set(evaluate(result.module, loader)) == {"test_loss"}


def test_a_loader_without_batches_is_refused() -> None:
    x, y = data().train
    empty = DataLoader(TensorDataset(x[:0], y[:0]), batch_size=8)
    with pytest.raises(ValueError, match="data: it gives no training batch"):
        fit(regressor(), empty)


def test_options_reach_the_trainer() -> None:
    result = fit(regressor(), data(), epochs=3, limit_train_batches=2, gradient_clip_val=0.5)
    assert len(result.step_losses) == 6
    assert result.trainer.gradient_clip_val == 0.5


def test_a_strategy_object_is_taken_as_it_is() -> None:
    strategy = SingleDeviceStrategy(device=torch.device("cpu"))
    result = fit(regressor(), data(), strategy=strategy)
    assert result.trainer.strategy is strategy


def test_callbacks_work_beside_ours(tmp_path: Path) -> None:
    stop = EarlyStopping("val_loss", patience=1, min_delta=1e9)
    keep = ModelCheckpoint(tmp_path, monitor="val_loss", filename="best")
    result = fit(regressor(), data(), epochs=50, callbacks=[stop, keep])
    assert len(result.history) == 2
    assert Path(keep.best_model_path).name == "best.ckpt"


def test_a_float64_network_is_trained_in_float64() -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 3, dtype=torch.float64)
    module = Regressor(nn.Linear(3, 1, dtype=torch.float64))
    result = fit(module, Arrays((x, x[:, :1]), batch_size=8))
    assert module.network.weight.dtype == torch.float64
    assert result.step_losses[0] != float(torch.tensor(result.step_losses[0]))  # not float32
    assert result.metrics["train_loss"] != float(torch.tensor(result.metrics["train_loss"]))


def test_a_module_of_another_make_can_be_trained() -> None:
    class Plain(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def training_step(self, batch: tuple, batch_idx: int) -> dict[str, torch.Tensor]:
            loss = (self.layer(batch[0]) - batch[1]).square().mean()
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return {"loss": loss}

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    x, y = data().train
    result = fit(Plain(), Arrays((x, y), batch_size=10), epochs=2)
    assert len(result.step_losses) == 4
    assert result.metrics["train_loss"] == pytest.approx(sum(result.step_losses[2:]) / 2)


def test_bfloat16_autocast_learns_as_well() -> None:
    result = fit(Classifier(mlp()), Digits(flatten=True), epochs=10, precision="bf16-mixed")
    assert result.metrics["val_accuracy"] > 0.9
    assert {p.dtype for p in result.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_of_the_caller_s_is_computed_in_the_full_precision(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(logits.dtype)
        return nn.functional.cross_entropy(logits, labels)

    module = Classifier(mlp().to(dtype), loss=loss)
    precision = "bf16-mixed" if dtype is torch.float32 else "64-true"
    digits = Digits(flatten=True, dtype=dtype)
    fit(module, digits, max_steps=1, precision=precision, limit_val_batches=0)
    assert seen == [dtype]
