"""LeastSquares against scikit-learn: any batches, weight decay, two processes, resuming.

The checks take the module under test: test_linear_regression_mistakes.py runs them on planted
mistakes.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor
from torch.testing import assert_close

from companion.backprop import least_squares
from companion.data.arrays import Arrays
from companion.training import fit

CLOSE = {"rtol": 1e-10, "atol": 1e-11}


def problem(n: int, p: int, k: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=generator, dtype=torch.float64) + torch.arange(p)
    return x, 3 + torch.randn(n, k, generator=generator, dtype=torch.float64)


def solve(module: ModuleType, x: Tensor, y: Tensor, batch_size: int, **options):
    learner = module.LeastSquares(x.shape[1], y.shape[1], dtype=x.dtype, **options)
    return fit(learner, Arrays(train=(x, y), batch_size=batch_size))


def agree(learner, reference) -> None:
    weight = torch.from_numpy(reference.coef_).reshape(learner.network.weight.shape)
    bias = torch.as_tensor(reference.intercept_).reshape(-1)
    assert_close(learner.network.weight.detach(), weight, **CLOSE)
    assert_close(learner.network.bias.detach(), bias, **CLOSE)


def check_one_pass(module: ModuleType) -> None:
    cases = [(1, 1, 100), (1, 2, 7), (3, 1, 1), (4, 1, 7), (5, 2, 3), (5, 1, 100)]
    for seed, (p, k, batch_size) in enumerate(cases):
        for weight_decay in (0.0, 0.5):
            x, y = problem(p + 15, p, k, seed)
            result = solve(module, x, y, batch_size, weight_decay=weight_decay)
            alpha = y.numel() * weight_decay / 2
            reference = Ridge(alpha=alpha, solver="svd") if alpha else LinearRegression()
            agree(result.module, reference.fit(x.numpy(), y.numpy()))
            assert result.trainer.global_step == 1


def test_one_epoch_in_batches_of_any_size_gives_the_closed_form_of_all_rows():
    check_one_pass(least_squares)


def test_the_step_losses_are_those_before_the_step():
    x, y = problem(20, 3, 1, 0)
    losses = solve(least_squares, x, y, 5).step_losses
    assert len(losses) == 4
    assert sum(losses) / 4 == pytest.approx(float(y.square().mean()), rel=1e-10)


def test_a_second_epoch_starts_afresh_and_changes_nothing():
    x, y = problem(20, 3, 1, 1)
    learner = least_squares.LeastSquares(3, dtype=x.dtype)
    result = fit(learner, Arrays(train=(x, y), batch_size=8), epochs=2)
    agree(learner, LinearRegression().fit(x.numpy(), y.numpy()))
    residual = (learner(x) - y).square().mean().detach()
    assert result.history[-1]["train_loss"] == pytest.approx(float(residual), rel=1e-9)


def test_max_steps_ends_the_training():
    x, y = problem(20, 3, 1, 2)
    learner = least_squares.LeastSquares(3, dtype=x.dtype)
    assert fit(learner, Arrays(train=(x, y), batch_size=8), max_steps=2).trainer.global_step == 2


@pytest.mark.slow
def test_two_processes_give_the_solution_of_all_rows():
    x, y = problem(22, 3, 2, 3)
    learner = least_squares.LeastSquares(3, 2, dtype=x.dtype, weight_decay=0.1)
    data = Arrays(train=(x, y), batch_size=4)
    fit(learner, data, devices=2, strategy="ddp_spawn")
    agree(learner, Ridge(alpha=2.2, solver="svd").fit(x.numpy(), y.numpy()))


def test_dependent_features_are_named_and_weight_decay_settles_them():
    x, y = problem(20, 2, 1, 4)
    twice = torch.cat([x, x], dim=1)
    with pytest.raises(ValueError, match="linearly dependent"):
        solve(least_squares, twice, y, 8)
    learner = solve(least_squares, twice, y, 8, weight_decay=0.1).module
    agree(learner, Ridge(alpha=1.0, solver="svd").fit(twice.numpy(), y.numpy()))


def test_fewer_rows_than_unknowns_are_refused():
    x, y = problem(3, 3, 1, 5)
    with pytest.raises(ValueError, match="linearly dependent"):
        solve(least_squares, x, y, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_features": 0}, "in_features=0"),
        ({"in_features": 1, "out_features": 0}, "out_features=0"),
        ({"in_features": 1, "weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"in_features": 1, "weight_decay": float("inf")}, "weight_decay=inf"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        least_squares.LeastSquares(**options)
