"""The range test equals a sweep by hand, suggests what it should, and leaves no trace."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from optimization import range_test_checks as checks
from pytorch_lightning.callbacks import LearningRateFinder
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from companion.backprop.layers import Linear, Sequential
from companion.backprop.manual import ManualBackprop
from companion.data.arrays import Arrays
from companion.fitting import quiet
from companion.optimization import range_test
from companion.optimization.range_test import LearningRateRangeTest, smooth, steepest, valley
from companion.training import Classifier, Regressor, fit


def test_sweep_has_the_losses_of_a_loop_by_hand():
    checks.check_sweep(range_test)


def test_every_state_is_as_before_when_training_starts():
    checks.check_no_trace(range_test)


def test_the_training_that_follows_is_the_same_bit_for_bit():
    checks.check_same_training(range_test)


def test_random_numbers_go_on_as_if_nothing_had_been_drawn():
    checks.check_random_state(range_test)


def test_smoothing_is_a_weighted_mean_from_the_first_value_on():
    checks.check_smoothing(range_test)


def test_suggestions_on_a_curve_of_known_shape():
    checks.check_suggestions(range_test)


def test_adam_starts_anew_after_the_sweep():
    adam = partial(torch.optim.Adam, lr=1e-3)
    options = {"optimizer": adam, "scheduler": None}
    plain = fit(checks.learner(**options), checks.data(), epochs=2)
    callbacks = [LearningRateRangeTest(steps=8)]
    swept = fit(checks.learner(**options), checks.data(), epochs=2, callbacks=callbacks)
    assert swept.step_losses == plain.step_losses


def test_parameter_groups_keep_the_proportion_of_their_rates():
    network = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 10)).double()
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    def build(_: Any) -> torch.optim.Optimizer:
        first, second = ({"params": part.parameters()} for part in network)
        return Spy([first | {"lr": 0.1}, second | {"lr": 0.02}])

    test = LearningRateRangeTest(1e-4, 1e-2, steps=5)
    fit(Classifier(network, optimizer=build), checks.data(), max_steps=1, callbacks=[test])
    assert [first for first, _ in seen[:5]] == pytest.approx(test.rates, rel=1e-12)
    assert [5 * second for _, second in seen[:5]] == pytest.approx(test.rates, rel=1e-12)
    assert seen[5] == [0.1, 0.02]


def test_a_loader_with_a_generator_of_its_own_gives_the_same_order_afterwards():
    x, y = torch.randn(48, 3), torch.randn(48, 1)
    losses = []
    for callbacks in ([], [LearningRateRangeTest(steps=8)]):
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(TensorDataset(x, y), 8, shuffle=True, generator=generator)
        torch.manual_seed(0)
        module = Regressor(nn.Linear(3, 1), optimizer=partial(torch.optim.SGD, lr=0.1))
        losses.append(fit(module, loader, epochs=2, callbacks=callbacks).step_losses)
    assert losses[0] == losses[1]


def quadratic(**options: Any) -> tuple[LearningRateRangeTest, Regressor, Arrays]:
    """y = 0 · x from w = 1: the loss is w², and rates above 1 make it explode."""
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(network.weight)
    module = Regressor(network, optimizer=partial(torch.optim.SGD, lr=0.1))
    x = torch.ones(4, 1, dtype=torch.float64)
    return LearningRateRangeTest(**options), module, Arrays((x, 0 * x), batch_size=4)


def test_it_stops_when_the_smoothed_loss_has_grown_fourfold():
    test, module, data = quadratic(lowest=1e-3, highest=100.0, steps=60, smoothing=0.0)
    fit(module, data, max_steps=1, callbacks=[test])
    weight, expected = 1.0, []
    for rate in range_test.sweep(1e-3, 100.0, 60):
        expected.append(weight**2)
        if expected[-1] > 4 * min(expected):
            break
        weight -= 2 * rate * weight
    assert test.losses == pytest.approx(expected, rel=1e-10)
    assert 10 < len(test.losses) < 60


def test_it_stops_at_a_loss_that_is_not_finite_and_training_goes_on():
    test, module, data = quadratic(lowest=1e3, highest=1e300, steps=20, divergence=1e308)
    result = fit(module, data, max_steps=3, callbacks=[test])
    assert not math.isfinite(test.losses[-1])
    assert result.step_losses == pytest.approx([1.0, 0.64, 0.4096], rel=1e-12)


def test_the_curve_is_that_of_lightnings_finder(tmp_path: Path):
    """Same batches, same range; its rates are one step of forty ahead of ours."""
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9), "scheduler": None}
    ours = LearningRateRangeTest(1e-4, 1.0, steps=40, smoothing=0.98, divergence=1e9)
    fit(checks.learner(0.0, **options), checks.data(), max_steps=1, callbacks=[ours])

    finder = LearningRateFinder(1e-4, 1.0, 40, early_stop_threshold=None, update_attr=False)
    with quiet():
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=1,
            callbacks=[finder],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(checks.learner(0.0, **options), checks.data())
    found = finder.optimal_lr.results
    # Lightning corrects the start of its average by 1 - s^(n + 1) after n losses, not 1 - s^n.
    count = 1 + np.arange(len(found["loss"]))
    corrected = np.asarray(found["loss"]) * (1 - 0.98 ** (count + 1)) / (1 - 0.98**count)
    grid = np.log(np.geomspace(3e-4, 0.5, 20))
    mine = np.interp(grid, np.log(ours.rates), ours.smoothed)
    lightnings = np.interp(grid, np.log(found["lr"]), corrected)
    assert mine.max() - mine.min() > 0.5, "a flat curve would compare nothing"
    assert np.abs(mine - lightnings).max() < 0.06


def test_manual_optimization_is_refused():
    module = ManualBackprop(Sequential(Linear(64, 10)))
    with pytest.raises(ValueError, match="module=ManualBackprop: it optimizes by hand"):
        fit(module, checks.data(), callbacks=[LearningRateRangeTest()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowest": 0.0}, "lowest=0.0: a number above 0"),
        ({"lowest": -1e-3}, "lowest=-0.001: a number above 0"),
        ({"lowest": 1.0, "highest": 0.1}, "highest=0.1: a finite number above lowest=1.0"),
        ({"highest": math.inf}, "highest=inf: a finite number above"),
        ({"steps": 2}, "steps=2: an integer of at least 3"),
        ({"smoothing": 1.0}, "smoothing=1.0: a number in"),
        ({"divergence": 1.0}, "divergence=1.0: a number above 1"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{message}"):
        LearningRateRangeTest(**options)


def test_suggestions_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match="method='best': one of"):
        LearningRateRangeTest().suggestion("best")
    with pytest.raises(ValueError, match="losses: 0 can be used; run the test"):
        LearningRateRangeTest().suggestion()
    for method in (steepest, valley):
        with pytest.raises(ValueError, match="losses: they fall nowhere"):
            method([1e-3, 1e-2, 1e-1], [1.0, 2.0, 3.0])


def test_without_smoothing_the_losses_stay_what_they_are():
    assert smooth([3.0, 1.0, 2.0], 0.0) == [3.0, 1.0, 2.0]
