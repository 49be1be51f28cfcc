"""Recipes of the pages `linear_regression` and `keras`: what a reader would write to use each.

As in `companion.backprop.recipes`: module, data, the arguments of `companion.training.fit`, and a
check that raises AssertionError unless the technique did its work.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from companion.backprop import linear_regression as solvers
from companion.backprop.features import Standardizer, polynomial_features, standardize
from companion.backprop.least_squares import LeastSquares
from companion.backprop.linear_regression import LinearModel
from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.techniques import Recipe
from companion.training import Classifier, FitResult, Regressor

FULL_PRECISION = {"precision": "32-true"}


def diabetes() -> tuple[Tensor, Tensor]:
    """The diabetes data in its own units: x (442, 10) and y (442, 1), float32."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True, scaled=False)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None]


def zero_linear(in_features: int) -> nn.Linear:
    """One output, all parameters 0."""
    layer = nn.Linear(in_features, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def learnt(result: FitResult) -> LinearModel:
    """The last linear layer of a trained network, in the layout of the closed forms."""
    layer = [m for m in result.module.network.modules() if isinstance(m, nn.Linear)][-1]
    return LinearModel(layer.weight.detach().cpu().T, layer.bias.detach().cpu())


def assert_near(model: LinearModel, reference: LinearModel, tolerance: float) -> None:
    """All coefficients within `tolerance` of the reference, relative to its length."""
    ours, theirs = (torch.cat([m.weight.flatten(), m.bias.flatten()]) for m in (model, reference))
    error = float((ours - theirs).norm() / theirs.norm())
    assert error < tolerance, f"coefficients are off by {error:.1e} of their length"


def linear_regression() -> Recipe:
    """A Regressor around one nn.Linear walks to the closed form's coefficients."""
    x, y = diabetes()
    (x,) = standardize(x)
    module = Regressor(zero_linear(10), optimizer=partial(torch.optim.SGD, lr=0.4, momentum=0.8))

    def check(result: FitResult) -> None:
        assert_near(learnt(result), solvers.least_squares(x, y), 0.01)

    return Recipe(module, Arrays((x, y), batch_size=442), {"epochs": 250} | FULL_PRECISION, check)


def normal_equation() -> Recipe:
    """Solved in one step: the residual is orthogonal to every column, the one of ones too."""
    x, y = diabetes()
    (x,) = standardize(x)

    def check(result: FitResult) -> None:
        model = learnt(result)
        assert_near(model, solvers.normal_equation(x, y), 1e-3)
        residual = model.predict(x) - y
        cosine = solvers.with_ones(x).T @ residual / (len(x) ** 0.5 * residual.norm())
        assert float(cosine.abs().max()) < 1e-3, "the residual leans on a column"

    return Recipe(LeastSquares(10), Arrays((x, y), batch_size=442), dict(FULL_PRECISION), check)


def one_pass_least_squares() -> Recipe:
    """One epoch in mini-batches gives the solution of all rows, not a mean over the batches."""
    x, y = diabetes()
    (x,) = standardize(x)

    def check(result: FitResult) -> None:
        assert len(result.step_losses) == 7, "the data came in one piece"
        assert_near(learnt(result), solvers.least_squares(x, y), 1e-3)

    return Recipe(LeastSquares(10), Arrays((x, y), batch_size=64), dict(FULL_PRECISION), check)


def ridge_regression() -> Recipe:
    """Weight decay on the weights, none on the intercept: SGD ends at ridge's closed form."""
    x, y = diabetes()
    (x,) = standardize(x)
    weight_decay = 0.5

    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        weight, bias = parameters
        groups = [{"params": [weight], "weight_decay": weight_decay}, {"params": [bias]}]
        return torch.optim.SGD(groups, lr=0.2)

    def check(result: FitResult) -> None:
        model, closed_form = learnt(result), solvers.ridge(x, y, weight_decay=weight_decay)
        assert_near(model, closed_form, 0.01)
        assert model.weight.norm() < 0.9 * solvers.least_squares(x, y).weight.norm()

    module = Regressor(zero_linear(10), optimizer=optimizer)
    return Recipe(module, Arrays((x, y), batch_size=442), {"epochs": 100} | FULL_PRECISION, check)


def gradient_descent_regression() -> Recipe:
    """Full-batch SGD takes the same path as the gradient written by hand."""
    x, y = diabetes()
    (x,) = standardize(x)
    steps, learning_rate = 100, 0.2
    module = Regressor(zero_linear(10), optimizer=partial(torch.optim.SGD, lr=learning_rate))

    def check(result: FitResult) -> None:
        by_hand = solvers.gradient_descent(x, y, learning_rate=learning_rate, steps=steps)
        assert_near(learnt(result), by_hand.model, 0.01)
        ours, theirs = torch.tensor(by_hand.losses[:-1]), torch.tensor(result.step_losses)
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0)

    data = Arrays((x, y), batch_size=442)
    return Recipe(module, data, {"epochs": steps} | FULL_PRECISION, check)


def feature_standardization() -> Recipe:
    """A Standardizer in front: raw units, a step size of 0.2, and it converges all the same."""
    x, y = diabetes()
    network = nn.Sequential(Standardizer(x), zero_linear(10))
    module = Regressor(network, optimizer=partial(torch.optim.SGD, lr=0.2))

    def check(result: FitResult) -> None:
        best = float((solvers.least_squares(x, y).predict(x) - y).square().mean())
        assert result.step_losses[-1] < 1.02 * best, f"{result.step_losses[-1]:.0f}, {best:.0f}"

    data = Arrays((x, y), batch_size=442)
    return Recipe(module, data, {"epochs": 100} | FULL_PRECISION, check)


def polynomial_regression() -> Recipe:
    """A sine from powers of x: linear in the weights, curved in x, solved in one step."""
    x = torch.linspace(-1, 1, 200)[:, None]
    y = torch.sin(3 * x)
    features = polynomial_features(x, 5)
    straight = solvers.least_squares(x, y).predict(x)

    def check(result: FitResult) -> None:
        error = (learnt(result).predict(features) - y).square().mean()
        assert error < 0.01 * (straight - y).square().mean()

    data = Arrays((features, y), batch_size=200)
    return Recipe(LeastSquares(5), data, dict(FULL_PRECISION), check)


def keras_twin() -> Recipe:
    """The same network in Keras, from the same weights on the same batches: the same losses."""
    from companion.backprop.keras_twin import copy_weights, mlp_twin, train_twin

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    weights = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    twin = copy_weights(weights, mlp_twin(64, 32, 10))
    data = Digits(2000, flatten=True)  # one batch: its order makes no difference
    module = Classifier(network, optimizer=partial(torch.optim.SGD, lr=0.3))

    def check(result: FitResult) -> None:
        x, y = (part.numpy() for part in data.train)
        losses = train_twin(twin, [(x, y)] * len(result.step_losses), learning_rate=0.3)
        torch.testing.assert_close(losses, result.step_losses, rtol=1e-4, atol=0)
        assert losses[-1] < 0.6 * losses[0]

    return Recipe(module, data, {"epochs": 30} | FULL_PRECISION, check)
