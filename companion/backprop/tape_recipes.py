"""Recipes of the page on autograd: what a reader would write to use the tape."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from companion.backprop import gradient_check as checking
from companion.backprop import higher_order
from companion.backprop.forward_mode import jvp
from companion.backprop.primitive import primitive
from companion.backprop.tape_network import TapeClassifier, as_torch, mlp, mlp_parameters
from companion.backprop.tensor import cross_entropy
from companion.backprop.tensor_ops import sigmoid
from companion.data.digits import Digits
from companion.techniques import Recipe
from companion.training import Classifier, FitResult

OPTIONS = {"epochs": 8, "test": True, "precision": "32-true"}


def _classifier() -> TapeClassifier:
    adam = partial(torch.optim.Adam, lr=3e-3)
    return TapeClassifier(mlp, mlp_parameters([64, 32, 10]), optimizer=adam)


def _learnt(result: FitResult) -> None:
    accuracy = result.metrics["test_accuracy"]
    assert accuracy > 0.92, f"test accuracy {accuracy:.3f}"


def _loss_at_the_end(result: FitResult, data: Digits):
    """The loss on twenty images as a function of the weights, and the trained weights."""
    x, labels = (part[:20] for part in data.test)
    trained = {
        k: v.detach().to(x.device).double() for k, v in result.module.network.weights.items()
    }

    def loss(*weights):
        return cross_entropy(mlp(x.double(), dict(zip(trained, weights, strict=True))), labels)

    return loss, list(trained.values())


def _directions(weights: list[torch.Tensor]) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(w.shape, generator=random, dtype=w.dtype) for w in weights]


def tape_network() -> Recipe:
    """A network whose gradients come from our tape learns the digits."""
    return Recipe(_classifier(), Digits(flatten=True), OPTIONS, _learnt)


@primitive
def softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + eˣ), an operation that the tape does not have, in a form that never overflows."""
    return torch.logaddexp(x, torch.zeros_like(x))


softplus.gradients(lambda grad, out, x: grad * sigmoid(x))


class Softplus(nn.Module):
    """An ordinary module around an operation of the tape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return as_torch(softplus)(x)


def tape_function() -> Recipe:
    """A new operation of the tape inside an nn.Module, trained by the ordinary Classifier."""
    network = nn.Sequential(nn.Linear(64, 32), Softplus(), nn.Linear(32, 10))
    adam = partial(torch.optim.Adam, lr=3e-3)

    def check(result: FitResult) -> None:
        _learnt(result)
        z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
        checking.gradient_check(softplus, [z])

    return Recipe(Classifier(network, optimizer=adam), Digits(flatten=True), OPTIONS, check)


def gradient_check() -> Recipe:
    """The gradient of a trained network passes along random directions through all weights."""
    data = Digits(flatten=True)

    def check(result: FitResult) -> None:
        _learnt(result)
        loss, weights = _loss_at_the_end(result, data)
        report = checking.gradient_check(loss, weights, projections=5)
        assert report.compared == 5

    return Recipe(_classifier(), data, OPTIONS, check)


def forward_mode() -> Recipe:
    """One forward pass with dual numbers gives the slope that reverse mode gives."""
    data = Digits(flatten=True)

    def check(result: FitResult) -> None:
        _learnt(result)
        loss, weights = _loss_at_the_end(result, data)
        directions = _directions(weights)
        _, slope = jvp(loss, weights, directions)
        pairs = zip(higher_order.gradients(loss, weights), directions, strict=True)
        torch.testing.assert_close(slope, sum((g * d).sum() for g, d in pairs))

    return Recipe(_classifier(), data, OPTIONS, check)


def hessian_vector_product() -> Recipe:
    """Hv is the change of the gradient along v: it equals a difference of two gradients."""
    data = Digits(flatten=True)

    def check(result: FitResult) -> None:
        _learnt(result)
        loss, weights = _loss_at_the_end(result, data)
        directions, step = _directions(weights), 1e-6
        products = higher_order.hessian_vector_product(loss, weights, directions)
        ahead, behind = (
            higher_order.gradients(
                loss, [w + h * d for w, d in zip(weights, directions, strict=True)]
            )
            for h in (step, -step)
        )
        for product, a, b in zip(products, ahead, behind, strict=True):
            torch.testing.assert_close(product, (a - b) / (2 * step), rtol=1e-4, atol=1e-6)

    return Recipe(_classifier(), data, OPTIONS, check)
