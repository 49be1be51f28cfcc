"""Linear regression against numpy.linalg.lstsq, scikit-learn, SciPy and torch.optim.

The checks take the module under test: test_linear_regression_mistakes.py runs them on planted
mistakes. ``LeastSquares`` is tested in test_least_squares.py.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor, nn
from torch.testing import assert_close

from companion.backprop import linear_regression

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
# Centring and the column of ones add digits of rounding where a coefficient is close to zero.
CLOSE = {"rtol": 1e-10, "atol": 1e-11}

# A planted mistake fails at once; shrinking each would take longer than the rest of the tests.
quick = settings(phases=(Phase.explicit, Phase.generate))
tall = {
    "p": st.integers(1, 6),
    "outputs": st.sampled_from([None, 1, 3]),
    "extra": st.integers(8, 40),
    "seed": st.integers(0, 2**31 - 1),
}


def problem(n: int, p: int, outputs: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """A well-conditioned design with unequal scales and means, and a noisy target."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=generator, dtype=torch.float64)
    x = x * torch.linspace(0.5, 2, p, dtype=x.dtype) + torch.arange(p)
    shape = (n,) if outputs is None else (n, outputs)
    return x, 3 + torch.randn(shape, generator=generator, dtype=torch.float64)


def agree(ours, weight: np.ndarray, bias: np.ndarray, tolerance: dict[str, float]) -> None:
    """Compare a LinearModel with scikit-learn's layout, (k, p), squeezed for some k = 1."""
    theirs = torch.as_tensor(np.transpose(weight).copy()).reshape(ours.weight.shape)
    assert_close(ours.weight, theirs, **tolerance)
    intercept = torch.as_tensor(bias, dtype=ours.bias.dtype).reshape(ours.bias.shape)
    assert_close(ours.bias, intercept, **tolerance)


def check_closed_forms(module: ModuleType) -> None:
    @quick
    @given(**tall)
    def agrees(p: int, outputs: int | None, extra: int, seed: int) -> None:
        x, y = problem(p + extra, p, outputs, seed)
        reference = LinearRegression().fit(x.numpy(), y.numpy())
        for solve in (module.normal_equation, module.least_squares):
            ours = solve(x, y)
            agree(ours, reference.coef_, reference.intercept_, CLOSE)
            theirs = torch.from_numpy(reference.predict(x.numpy()))
            assert_close(ours.predict(x), theirs, **CLOSE)

    agrees()


def check_without_intercept(module: ModuleType) -> None:
    @quick
    @given(n=st.integers(1, 20), p=st.integers(1, 6), seed=st.integers(0, 2**31 - 1))
    def agrees(n: int, p: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        # Orthonormal columns (or rows) times unequal scales: full rank, condition number 4.
        x = torch.linalg.qr(
            torch.randn(max(n, p), min(n, p), generator=generator, dtype=torch.float64)
        ).Q * torch.linspace(1, 4, min(n, p), dtype=torch.float64)
        x = x if n >= p else x.T
        y = torch.randn(n, generator=generator, dtype=torch.float64)
        ours = module.least_squares(x, y, intercept=False)
        theirs = np.linalg.lstsq(x.numpy(), y.numpy())[0]
        assert_close(ours.weight, torch.from_numpy(theirs), **TIGHT)
        assert ours.bias == 0

    agrees()


def check_ridge(module: ModuleType) -> None:
    @quick
    @given(**tall, weight_decay=st.sampled_from([1e-3, 0.1, 1.0, 30.0]), wide=st.booleans())
    def agrees(
        p: int, outputs: int | None, extra: int, seed: int, weight_decay: float, wide: bool
    ) -> None:
        n = 3 if wide else p + extra
        x, y = problem(n, p, outputs, seed)
        alpha = y.numel() * weight_decay / 2
        reference = Ridge(alpha=alpha, solver="svd").fit(x.numpy(), y.numpy())
        agree(
            module.ridge(x, y, weight_decay=weight_decay),
            reference.coef_,
            reference.intercept_,
            CLOSE,
        )

    agrees()


def check_gradient_descent(module: ModuleType) -> None:
    """Every point of the path against autograd and torch.optim.SGD on the same batches."""

    @settings(quick, max_examples=60)
    @given(
        **tall,
        batch=st.sampled_from([None, 1, 5]),
        weight_decay=st.sampled_from([0.0, 0.3]),
    )
    def agrees(
        p: int, outputs: int | None, extra: int, seed: int, batch: int | None, weight_decay: float
    ) -> None:
        x, y = problem(p + extra, p, outputs, seed)
        steps, rate = 12, 0.01
        descent = module.gradient_descent(
            x,
            y,
            learning_rate=rate,
            steps=steps,
            batch_size=batch,
            weight_decay=weight_decay,
            seed=seed,
        )
        weight = torch.zeros((p, *y.shape[1:]), dtype=x.dtype, requires_grad=True)
        bias = torch.zeros(y.shape[1:], dtype=x.dtype, requires_grad=True)
        optimizer = torch.optim.SGD(
            [
                {"params": [weight], "weight_decay": weight_decay},
                {"params": [bias], "weight_decay": 0.0},
            ],
            lr=rate,
        )
        path, losses = [], []
        for rows in [*batches(len(x), batch, steps, seed), torch.arange(0)]:
            with torch.no_grad():
                penalty = weight_decay / 2 * weight.square().sum()
                losses.append(float(nn.functional.mse_loss(x @ weight + bias, y) + penalty))
                path.append(torch.cat([weight.flatten(), bias.flatten()]).clone())
            optimizer.zero_grad()
            nn.functional.mse_loss(x[rows] @ weight + bias, y[rows]).backward()
            optimizer.step()
        assert_close(descent.path, torch.stack(path), **TIGHT)
        assert_close(descent.losses, losses, **TIGHT)
        assert_close(descent.path[-1][: weight.numel()], descent.model.weight.flatten())

    agrees()


def batches(n: int, size: int | None, steps: int, seed: int) -> list[Tensor]:
    """`steps` batches: each epoch a permutation of the rows, cut in pieces of `size`."""
    generator = torch.Generator().manual_seed(seed)
    if size is None:
        return [torch.arange(n)] * steps
    chosen: list[Tensor] = []
    while len(chosen) < steps:
        chosen += torch.randperm(n, generator=generator).split(size)
    return chosen[:steps]


def check_standard_errors(module: ModuleType) -> None:
    @quick
    @given(n=st.integers(4, 60), seed=st.integers(0, 2**31 - 1))
    def agrees(n: int, seed: int) -> None:
        x, y = problem(n, 1, None, seed)
        line = scipy.stats.linregress(x[:, 0].numpy(), y.numpy())
        ours = module.standard_errors(x, y)
        assert_close(float(ours.weight), float(line.stderr), rtol=1e-8, atol=1e-12)
        assert_close(float(ours.bias), float(line.intercept_stderr), rtol=1e-8, atol=1e-12)

    agrees()


def check_hessian(module: ModuleType) -> None:
    x, y = problem(20, 3, None, 0)

    def objective(theta: Tensor) -> Tensor:
        loss = nn.functional.mse_loss(x @ theta[:-1] + theta[-1], y)
        return loss + 0.4 / 2 * theta[:-1].square().sum()

    reference = torch.autograd.functional.hessian(objective, torch.ones(4, dtype=x.dtype))
    assert_close(module.hessian(x, weight_decay=0.4), reference, **TIGHT)


def test_closed_forms_equal_scikit_learn_over_random_shapes():
    check_closed_forms(linear_regression)


def test_without_intercept_it_equals_numpy_lstsq_tall_square_and_wide():
    check_without_intercept(linear_regression)


def test_ridge_equals_scikit_learn_with_alpha_n_lambda_over_two():
    check_ridge(linear_regression)


def test_gradient_descent_follows_autograd_and_torch_sgd_step_by_step():
    check_gradient_descent(linear_regression)


def test_standard_errors_equal_scipy_linregress():
    check_standard_errors(linear_regression)


def test_hessian_equals_autograd():
    check_hessian(linear_regression)


def test_on_the_diabetes_data_all_ways_lead_to_the_same_coefficients():
    data, target = load_diabetes(return_X_y=True)
    x, y = torch.from_numpy(data) * len(data) ** 0.5, torch.from_numpy(target)
    reference = LinearRegression().fit(x.numpy(), target)
    agree(linear_regression.least_squares(x, y), reference.coef_, reference.intercept_, TIGHT)
    agree(linear_regression.normal_equation(x, y), reference.coef_, reference.intercept_, TIGHT)
    largest = torch.linalg.eigvalsh(linear_regression.hessian(x))[-1]
    walk = linear_regression.gradient_descent(x, y, learning_rate=float(1 / largest), steps=8000)
    agree(walk.model, reference.coef_, reference.intercept_, {"rtol": 1e-4, "atol": 1e-4})


def test_the_step_size_limit_is_two_over_the_largest_eigenvalue():
    x, y = problem(40, 3, None, 1)
    limit = 2 / float(torch.linalg.eigvalsh(linear_regression.hessian(x))[-1])
    best = float((linear_regression.least_squares(x, y).predict(x) - y).square().mean())
    below = linear_regression.gradient_descent(x, y, learning_rate=0.98 * limit, steps=3000)
    above = linear_regression.gradient_descent(x, y, learning_rate=1.02 * limit, steps=3000)
    assert below.losses[-1] == pytest.approx(best, rel=1e-6)
    assert not above.losses[-1] < 1e6


def test_zero_weight_decay_is_least_squares():
    x, y = problem(20, 3, None, 2)
    assert_close(
        linear_regression.ridge(x, y, weight_decay=0.0), linear_regression.least_squares(x, y)
    )


def test_gradient_descent_with_weight_decay_ends_at_ridge():
    x, y = problem(40, 3, None, 3)
    curvature = torch.linalg.eigvalsh(linear_regression.hessian(x, weight_decay=0.5))
    walk = linear_regression.gradient_descent(
        x, y, learning_rate=float(2 / (curvature[0] + curvature[-1])), steps=4000, weight_decay=0.5
    )
    assert_close(walk.model, linear_regression.ridge(x, y, weight_decay=0.5), rtol=1e-9, atol=1e-11)


def test_dependent_columns_get_the_smallest_weights():
    x, y = problem(20, 2, None, 4)
    twice = torch.cat([x, x], dim=1)
    once, both = linear_regression.least_squares(x, y), linear_regression.least_squares(twice, y)
    assert_close(both.weight, torch.cat([once.weight, once.weight]) / 2, rtol=1e-9, atol=1e-12)
    assert_close(both.predict(twice), once.predict(x), rtol=1e-9, atol=1e-12)


def test_with_fewer_rows_than_features_the_fit_is_exact_and_equals_scikit_learn():
    x, y = problem(4, 9, None, 5)
    ours = linear_regression.least_squares(x, y)
    assert_close(ours.predict(x), y, rtol=1e-9, atol=1e-11)
    reference = LinearRegression().fit(x.numpy(), y.numpy())
    agree(ours, reference.coef_, reference.intercept_, {"rtol": 1e-9, "atol": 1e-11})


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_feature_gets_weight_zero(value: float):
    x, y = problem(20, 2, None, 6)
    wider = torch.cat([x, torch.full((20, 1), value, dtype=x.dtype)], dim=1)
    ours = linear_regression.least_squares(wider, y)
    assert_close(ours.weight[:2], linear_regression.least_squares(x, y).weight, rtol=1e-8, atol=0)
    assert abs(float(ours.weight[2])) <= 1e-12


def test_one_row_is_fitted_by_the_intercept_alone():
    ours = linear_regression.least_squares(torch.tensor([[2.0, 3.0]]), torch.tensor([5.0]))
    assert_close(ours.weight, torch.zeros(2))
    assert ours.bias == 5


def test_the_normal_equation_loses_what_qr_keeps():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(100, generator=generator, dtype=torch.float64)
    second = first + 1e-3 * torch.randn(100, generator=generator, dtype=torch.float64)
    x = torch.stack([first, second], dim=1).float()
    y = (x.double() @ torch.tensor([1.0, 2.0], dtype=torch.float64)).float()
    truth = torch.tensor([1.0, 2.0])
    assert_close(linear_regression.least_squares(x, y).weight, truth, rtol=1e-3, atol=0)
    lost = (linear_regression.normal_equation(x, y).weight - truth).abs().max()
    assert lost > 0.1


@pytest.mark.parametrize("n", [2, 3, 20])
def test_the_normal_equation_refuses_dependent_features(n: int):
    x, y = problem(n, 2, None, 7)
    with pytest.raises(ValueError, match="linearly dependent"):
        linear_regression.normal_equation(torch.cat([x, x], dim=1), y)


def test_a_schedule_is_called_with_the_number_of_the_step():
    x, y = problem(10, 1, None, 8)
    asked: list[int] = []

    def rate(step: int) -> float:
        asked.append(step)
        return 0.01

    scheduled = linear_regression.gradient_descent(x, y, learning_rate=rate, steps=4)
    constant = linear_regression.gradient_descent(x, y, learning_rate=0.01, steps=4)
    assert sorted(set(asked)) == [0, 1, 2, 3]
    assert torch.equal(scheduled.path, constant.path)


def test_gradient_descent_leaves_its_start_alone_and_can_go_on_from_an_end():
    x, y = problem(10, 2, None, 9)
    whole = linear_regression.gradient_descent(x, y, learning_rate=0.01, steps=6)
    half = linear_regression.gradient_descent(x, y, learning_rate=0.01, steps=3)
    before = half.model.weight.clone()
    rest = linear_regression.gradient_descent(x, y, learning_rate=0.01, steps=3, start=half.model)
    assert torch.equal(half.model.weight, before)
    assert_close(rest.path[-1], whole.path[-1], **TIGHT)


GOOD = torch.ones(4, 2), torch.ones(4)


@pytest.mark.parametrize(
    "solve",
    [
        linear_regression.normal_equation,
        linear_regression.least_squares,
        lambda x, y: linear_regression.ridge(x, y, weight_decay=1.0),
        linear_regression.standard_errors,
        lambda x, y: linear_regression.gradient_descent(x, y, learning_rate=0.1, steps=1),
    ],
)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.ones(0, 2), torch.ones(0), "needs a row"),
        (torch.ones(4, 0), torch.ones(4), "a feature"),
        (torch.ones(4), torch.ones(4), r"x has shape \(4,\)"),
        (torch.ones(4, 2, dtype=torch.int64), torch.ones(4), "floating-point"),
        (torch.ones(4, 2), torch.ones(5), r"y has shape \(5,\)"),
        (torch.ones(4, 2), torch.ones(4, 1, 1), "y has shape"),
        (torch.ones(4, 2), torch.ones(4, dtype=torch.float64), "y has dtype"),
        (torch.full((4, 2), float("nan")), torch.ones(4), "x holds NaN"),
        (torch.ones(4, 2), torch.full((4,), float("inf")), "y holds NaN or infinity"),
    ],
)
def test_bad_data_is_named(solve, x: Tensor, y: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        solve(x, y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_regression.ridge(*GOOD, weight_decay=-1.0), "weight_decay=-1.0"),
        (lambda: linear_regression.ridge(*GOOD, weight_decay=float("nan")), "weight_decay=nan"),
        (lambda: linear_regression.hessian(GOOD[0], weight_decay=-1.0), "weight_decay"),
        (
            lambda: linear_regression.gradient_descent(*GOOD, learning_rate=0.1, steps=-1),
            "steps=-1",
        ),
        (
            lambda: linear_regression.gradient_descent(
                *GOOD, learning_rate=0.1, steps=1, batch_size=5
            ),
            "batch_size=5",
        ),
        (
            lambda: linear_regression.gradient_descent(
                *GOOD, learning_rate=0.1, steps=1, batch_size=0
            ),
            "batch_size=0",
        ),
        (
            lambda: linear_regression.standard_errors(torch.randn(3, 2), torch.ones(3)),
            "more rows than features",
        ),
        (
            lambda: linear_regression.standard_errors(torch.randn(9, 2), torch.ones(9, 2)),
            "one output",
        ),
    ],
)
def test_bad_arguments_are_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
