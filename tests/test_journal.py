"""Same seed, same losses: again, after another run, after a kill; and the stop at a NaN."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import killed_run
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from companion import checkpoints, journal
from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.journal import Journal, seed_everything
from companion.training import Classifier, FitResult, NonFiniteLossError, Regressor, fit


def pair(samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, 3, generator=generator)
    return x, x.sum(dim=1, keepdim=True)


def data() -> Arrays:
    return Arrays(pair(20), pair(11), batch_size=8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def outcome(result: FitResult) -> tuple[Any, ...]:
    """Everything of a run that must be equal bit for bit."""
    weights = [p.detach().clone() for p in result.module.state_dict().values()]
    return result.step_losses, result.history, result.metrics, [w.tolist() for w in weights]


def test_the_same_seed_gives_the_same_run_bit_for_bit() -> None:
    def run(seed: int) -> tuple[Any, ...]:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(288, 10)
        )
        return outcome(fit(Classifier(net), Digits(), epochs=2, seed=seed, test=True))

    first = run(seed=1)
    assert run(seed=1) == first
    assert run(seed=2)[0] != first[0]
    torch.rand(100)
    fit(Regressor(network()), data())
    assert run(seed=1) == first


def test_dropout_depends_on_the_seed_and_not_on_the_callers_generator() -> None:
    def run(caller: int, seed: int) -> list[float]:
        module = Regressor(network(), optimizer=partial(torch.optim.SGD, lr=0.0))
        torch.manual_seed(caller)
        return fit(module, Arrays(pair(8), batch_size=8), seed=seed).step_losses

    assert run(0, 0) == run(1, 0)
    assert run(0, 0) != run(0, 1)


def test_each_epoch_draws_other_numbers() -> None:
    module = Regressor(network(), optimizer=partial(torch.optim.SGD, lr=0.0))
    in_order = DataLoader(TensorDataset(*pair(8)), batch_size=8)  # so that only dropout differs
    result = fit(module, in_order, epochs=6)
    assert len(set(result.step_losses)) == 6


def test_each_process_draws_other_numbers() -> None:
    drawn = []
    for rank in (0, 1):
        trainer = FakeTrainer()
        trainer.distributed_sampler_kwargs = {"rank": rank, "num_replicas": 2}
        Journal(seed=0).on_train_batch_start(trainer, Regressor(network()), None, 0)
        drawn.append(torch.rand(1))
    assert drawn[0] != drawn[1]


def test_a_run_resumed_after_sigkill_equals_an_undisturbed_one(tmp_path: Path) -> None:
    script = [sys.executable, killed_run.__file__, str(tmp_path)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) == 2 * killed_run.STEPS + 5:  # in the middle of the third epoch
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["last.ckpt"]
    assert checkpoints.load(tmp_path / "last.ckpt")["global_step"] == 2 * killed_run.STEPS
    undisturbed = killed_run.train()
    resumed = killed_run.train(resume_from=tmp_path)
    assert len(resumed.step_losses) == killed_run.EPOCHS * killed_run.STEPS
    assert outcome(resumed) == outcome(undisturbed)
    assert resumed.trainer.current_epoch == killed_run.EPOCHS


class Manual(Regressor):
    """Takes its steps itself, and logs as an ordinary LightningModule would."""

    def __init__(self) -> None:
        super().__init__(network(), optimizer=partial(torch.optim.Adam, lr=0.01))
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return loss.detach()


class Restless(Regressor):
    """Draws random numbers before it trains, as a module that measures something might."""

    def __init__(self) -> None:
        super().__init__(network())

    def on_train_start(self) -> None:
        torch.rand(3)


def loader() -> DataLoader:
    return DataLoader(TensorDataset(*pair(20)), batch_size=8, shuffle=True)


def scheduled(scheduler: Callable[..., Any]) -> Regressor:
    return Regressor(network(), optimizer=partial(torch.optim.SGD, lr=0.1), scheduler=scheduler)


VARIANTS: dict[str, tuple[Callable[[], pl.LightningModule], Callable[[], Any], dict[str, Any]]] = {
    "adamw": (lambda: Regressor(network()), data, {}),
    "manual optimization": (Manual, data, {}),
    "numbers drawn at the start": (Restless, data, {}),
    "a shuffling DataLoader": (lambda: Regressor(network()), loader, {}),
    "accumulated gradients": (
        lambda: Regressor(network()), data, {"accumulate_grad_batches": 2}
    ),
    "a schedule of epochs": (lambda: scheduled(partial(StepLR, step_size=2)), data, {}),
    "a plateau": (
        lambda: scheduled(partial(ReduceLROnPlateau, patience=0, threshold=0.5)), data, {}
    ),
    "validation within the epoch": (
        lambda: Regressor(network()), data, {"val_check_interval": 1}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("module", "source", "options"), VARIANTS.values(), ids=VARIANTS)
def test_a_resumed_run_equals_an_undisturbed_one(
    tmp_path: Path, module: Any, source: Any, options: dict[str, Any]
) -> None:
    undisturbed = fit(module(), source(), epochs=5, **options)
    fit(module(), source(), epochs=2, checkpoint_dir=tmp_path, **options)
    resumed = fit(module(), source(), epochs=5, resume_from=tmp_path, **options)
    assert outcome(resumed) == outcome(undisturbed)


@pytest.mark.parametrize("first", [3, 7])
def test_a_limit_of_steps_resumes_from_the_last_whole_epoch(tmp_path: Path, first: int) -> None:
    undisturbed = fit(Regressor(network()), data(), max_steps=13)
    fit(Regressor(network()), data(), max_steps=first, checkpoint_dir=tmp_path)
    assert checkpoints.load(tmp_path / "last.ckpt")["global_step"] == first // 3 * 3
    resumed = fit(Regressor(network()), data(), max_steps=13, resume_from=tmp_path)
    assert len(resumed.step_losses) == 13
    assert outcome(resumed) == outcome(undisturbed)


def test_resuming_a_finished_run_trains_no_more(tmp_path: Path) -> None:
    finished = fit(Regressor(network()), data(), epochs=2, checkpoint_dir=tmp_path)
    for options in ({"epochs": 2}, {"max_steps": 6}):
        again = fit(Regressor(network()), data(), resume_from=tmp_path, **options)
        assert outcome(again) == outcome(finished)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 2, "seed": 1}, "seed=1: the checkpoint .* was made with seed 0"),
        ({"epochs": 1}, "epochs=1: the checkpoint .* has 2 already"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    fit(Regressor(network()), data(), epochs=2, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=message):
        fit(Regressor(network()), data(), resume_from=tmp_path, **options)


def test_a_damaged_or_foreign_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    fit(Regressor(network()), data(), checkpoint_dir=tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"last.ckpt' cannot be read: ") as caught:
        fit(Regressor(network()), data(), resume_from=path)
    assert "\n" not in str(caught.value)
    for content in ({"weight": torch.zeros(3)}, torch.zeros(3)):
        torch.save(content, path)
        with pytest.raises(ValueError, match="no checkpoint that fit has written"):
            fit(Regressor(network()), data(), resume_from=path)


def test_a_checkpoint_of_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    fit(Regressor(network()), data(), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"resume_from='.*': its weights are of another network$"):
        fit(Regressor(nn.Linear(3, 1)), data(), epochs=2, resume_from=tmp_path)


def test_checkpoints_hold_tensors_and_plain_data_only(tmp_path: Path) -> None:
    result = fit(Regressor(network()), data(), epochs=2, checkpoint_dir=tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["callbacks"]["Journal"]["step_losses"].tolist() == result.step_losses
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_losses_are_counted_by_optimizer_steps() -> None:
    module = Regressor(network(), optimizer=partial(torch.optim.SGD, lr=0.0))
    module.network[1].p = 0.0
    single = fit(module, data(), epochs=2).step_losses
    double = fit(module, data(), epochs=2, accumulate_grad_batches=2).step_losses
    assert len(single) == 6
    # Three batches an epoch: the first step has two of them, the second one the last, halved.
    expected = [
        (single[0] + single[1]) / 2,
        single[2] / 2,
        (single[3] + single[4]) / 2,
        single[5] / 2,
    ]
    assert double == pytest.approx(expected, rel=1e-6)
    assert len(fit(Manual(), data(), epochs=2).step_losses) == 6


def test_history_has_the_metrics_of_every_epoch() -> None:
    result = fit(Regressor(network()), data(), epochs=3)
    assert [set(epoch) for epoch in result.history] == [{"train_loss", "val_loss"}] * 3
    assert len({epoch["val_loss"] for epoch in result.history}) == 3
    assert result.history[-1] == result.metrics


class Spoilt(Regressor):
    """Gives a loss that is not finite at one step."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__(network())
        self.step, self.value = step, value

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * self.value if self.trainer.global_step == self.step else loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path: Path, value: float) -> None:
    module = Spoilt(step=4, value=value)
    with pytest.raises(NonFiniteLossError, match=f"the training loss is {value} at step 4") as e:
        fit(module, data(), epochs=3, checkpoint_dir=tmp_path)
    assert module.trainer.global_step == 5
    for cause in ("learning rate is too high", "logarithm of 0", "16-bit", "hold no NaN"):
        assert cause in str(e.value)
    assert "\n" not in str(e.value)
    # What was saved is from before, and training can go on from there.
    assert checkpoints.load(tmp_path / "last.ckpt")["global_step"] == 3
    assert len(fit(Regressor(network()), data(), epochs=3, resume_from=tmp_path).step_losses) == 9


def test_a_learning_rate_that_is_too_high_is_caught() -> None:
    module = Regressor(network(), optimizer=partial(torch.optim.SGD, lr=1e6))
    with pytest.raises(NonFiniteLossError, match="learning rate"):
        fit(module, data(), epochs=50)


@pytest.mark.parametrize("where", [0, 1], ids=["x", "y"])
def test_nan_in_the_data_is_said_so(where: int) -> None:
    spoilt = pair(20)
    arrays = Arrays(spoilt, batch_size=8)
    spoilt[where][17, 0] = math.nan  # after Arrays has looked, or it would refuse them
    with pytest.raises(NonFiniteLossError, match="Cause: the training data holds NaN"):
        fit(Regressor(network()), arrays)
    with pytest.raises(NonFiniteLossError, match="Cause: the batch holds NaN"):
        fit(Regressor(network()), DataLoader(TensorDataset(*spoilt), batch_size=8))


class Remote(Tensor):
    """A tensor that says it is on an accelerator and counts how often it is read."""

    reads = 0

    @property
    def device(self) -> torch.device:
        return torch.device("xpu")

    def tolist(self) -> list[float]:
        Remote.reads += 1
        return torch.Tensor.tolist(self.as_subclass(Tensor))

    def item(self) -> float:
        Remote.reads += 1
        return torch.Tensor.item(self.as_subclass(Tensor))


class FakeTrainer:
    """As much of a Trainer as the journal asks for in a batch."""

    world_size = 1
    is_last_batch = True
    callback_metrics: dict[str, Tensor] = {}
    distributed_sampler_kwargs: dict[str, int] | None = None
    current_epoch = 0
    global_step = 0


def feed(diary: Journal, losses: list[float]) -> FakeTrainer:
    trainer, module = FakeTrainer(), Regressor(network())
    Remote.reads = 0
    for step, loss in enumerate(losses):
        trainer.global_step = step + 1
        remote = torch.tensor(loss).as_subclass(Remote)
        diary.on_train_batch_end(trainer, module, {"loss": remote}, None, step)
    return trainer


def test_losses_on_an_accelerator_are_read_every_fifty_steps() -> None:
    diary = Journal(seed=0)
    losses = [float(step) for step in range(120)]
    trainer = feed(diary, losses)
    assert Remote.reads == 2
    assert diary.step_losses == losses[:100]
    diary.on_train_epoch_end(trainer, Regressor(network()))
    assert Remote.reads == 3
    assert diary.step_losses == losses


def test_a_nan_on_an_accelerator_is_found_within_fifty_steps_and_dated_rightly() -> None:
    losses = [1.0] * 70 + [math.nan] * 60
    with pytest.raises(NonFiniteLossError, match="the training loss is nan at step 70"):
        feed(Journal(seed=0), losses)
    assert Remote.reads == 2


def test_a_nan_is_found_in_lists_and_mappings() -> None:
    spoilt = {"a": [torch.zeros(2), (torch.tensor([1.0, math.inf]),)], "b": "text"}
    assert "the batch holds NaN" in journal.likely_causes(None, spoilt)
    assert "hold no NaN" in journal.likely_causes(None, {"a": [torch.arange(3)], "b": None})


def test_seeds_of_epochs_and_streams_are_far_apart() -> None:
    import random

    import numpy as np

    seen = set()
    for seed in range(3):
        for epoch in range(3):
            for stream in range(3):
                seed_everything(seed, epoch, stream)
                seen.add((random.random(), float(np.random.rand()), float(torch.rand(1))))
    for numbers in zip(*seen, strict=True):
        assert len(set(numbers)) == 27
