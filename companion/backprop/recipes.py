"""One short recipe for each technique of chapter 2: what a reader would write to use it.

A recipe returns the module, the data, the arguments of `companion.training.fit`, and a check that
is given the FitResult and raises AssertionError unless the technique did its work.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from companion.backprop import losses
from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.techniques import Recipe
from companion.training import Classifier, FitResult, Regressor


def zeroed(layer: torch.nn.Linear) -> torch.nn.Linear:
    """Set a linear layer's weights and biases to 0 and return it."""
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    return layer


def sgd(learning_rate: float, **options: float) -> partial:
    """An optimizer factory for the learners."""
    return partial(torch.optim.SGD, lr=learning_rate, **options)


def outputs(result: FitResult, x: torch.Tensor) -> torch.Tensor:
    """The trained network's outputs for `x`, in x's own place and precision."""
    network = result.module.network
    with torch.no_grad():
        return network(x.to(network.weight.device)).to(x)


# Page losses


def eights(flatten: bool = True) -> Arrays:
    """Digits with the question "is it an 8?": targets 0.0 or 1.0, shape (images, 1)."""
    digits = Digits(flatten=flatten)
    digits.setup()
    pairs = [(x, (y == 8).float().unsqueeze(1)) for x, y in (digits.train, digits.test)]
    return Arrays(pairs[0], test=pairs[1], batch_size=64)


def linear_neuron() -> Recipe:
    """One neuron, XW + b, finds the line that made its data: y = 2 x₁ − 3 x₂ + 1."""
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[2.0], [-3.0]]) + 1
    module = Regressor(zeroed(torch.nn.Linear(2, 1)), optimizer=sgd(0.1))

    def check(result: FitResult) -> None:
        network = result.module.network
        torch.testing.assert_close(network.weight.tolist(), [[2.0, -3.0]], rtol=0, atol=0.02)
        torch.testing.assert_close(network.bias.tolist(), [1.0], rtol=0, atol=0.02)

    return Recipe(
        module, Arrays((x, y), batch_size=32), {"epochs": 20, "precision": "32-true"}, check
    )


def mse_loss() -> Recipe:
    """Under the squared error the best constant answer is the mean of the targets."""
    y = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).square()
    data = Arrays((torch.zeros(200, 1), y), batch_size=200)
    network = zeroed(torch.nn.Linear(1, 1))
    module = Regressor(network, loss=losses.mse_loss, optimizer=sgd(0.1))

    def check(result: FitResult) -> None:
        assert math.isclose(result.module.network.bias.item(), y.mean().item(), rel_tol=0.01)
        assert math.isclose(result.step_losses[-1], y.var(correction=0).item(), rel_tol=0.01)

    return Recipe(module, data, {"epochs": 40, "precision": "32-true"}, check)


def sigmoid() -> Recipe:
    """σ(z) is a probability: on average it equals the share of eights in the training set."""
    data = eights()
    network = zeroed(torch.nn.Linear(64, 1))
    loss = losses.binary_cross_entropy_with_logits
    module = Regressor(network, loss=loss, optimizer=sgd(0.5))

    def check(result: FitResult) -> None:
        x, y = data.train
        p = losses.sigmoid(outputs(result, x))
        assert ((p > 0) & (p < 1)).all()
        assert abs(p.mean() - y.mean()) < 0.02, f"mean probability {p.mean():.3f}, {y.mean():.3f}"

    return Recipe(module, data, {"epochs": 10, "precision": "32-true"}, check)


def binary_cross_entropy() -> Recipe:
    """Logistic regression: is it an 8? The loss starts at log 2, and eights are recognised."""
    data = eights()
    network = zeroed(torch.nn.Linear(64, 1))
    loss = losses.binary_cross_entropy_with_logits
    module = Regressor(network, loss=loss, optimizer=sgd(0.5))

    def check(result: FitResult) -> None:
        assert math.isclose(result.step_losses[0], math.log(2), rel_tol=1e-2)
        x, y = data.test
        right = ((outputs(result, x) > 0) == (y == 1)).float().mean()
        assert right > 0.93, f"{right:.3f} right; always answering no gives {1 - y.mean():.3f}"

    return Recipe(module, data, {"epochs": 20}, check)


def softmax() -> Recipe:
    """Rows of probabilities whose largest entry means what it says: confidence ≈ accuracy."""
    data = Digits(flatten=True)
    network = zeroed(torch.nn.Linear(64, 10))
    module = Classifier(network, loss=losses.cross_entropy, optimizer=sgd(0.1))

    def check(result: FitResult) -> None:
        x, y = data.test
        p = losses.softmax(outputs(result, x))
        torch.testing.assert_close(p.sum(dim=1), torch.ones(len(x)))
        confidence, answer = p.max(dim=1)
        accuracy = (answer == y).float().mean()
        assert abs(confidence.mean() - accuracy) < 0.1, f"{confidence.mean():.2f}, {accuracy:.2f}"

    return Recipe(module, data, {"epochs": 40}, check)


def softmax_cross_entropy() -> Recipe:
    """Softmax regression on ten digits: the loss starts at log 10."""
    network = zeroed(torch.nn.Linear(64, 10))
    module = Classifier(network, loss=losses.cross_entropy, optimizer=sgd(0.1))

    def check(result: FitResult) -> None:
        assert math.isclose(result.step_losses[0], math.log(10), rel_tol=1e-2)
        assert sum(result.step_losses[-10:]) / 10 < 0.5
        assert result.metrics["test_accuracy"] > 0.93

    return Recipe(module, Digits(flatten=True), {"epochs": 10, "test": True}, check)


def log_softmax() -> Recipe:
    """Logits a thousand times too large: log-softmax in one piece still gives finite losses."""

    def loss(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        log_p = losses.log_softmax(1000 * z)
        return -log_p.gather(1, labels.unsqueeze(1)).mean()

    module = Classifier(zeroed(torch.nn.Linear(64, 10)), loss=loss, optimizer=sgd(1e-4))

    def check(result: FitResult) -> None:
        assert max(result.step_losses) > 100, "no logit was large enough to overflow"
        assert all(math.isfinite(value) for value in result.step_losses)
        assert result.metrics["test_accuracy"] > 0.9

    options = {"epochs": 10, "test": True, "precision": "32-true"}
    return Recipe(module, Digits(flatten=True), options, check)


def l2_regularized_loss() -> Recipe:
    """Mean loss + λ/2 ‖W‖², bias left out: the same weights as hand-written weight decay."""
    weight_decay, epochs = 0.2, 60
    network = zeroed(torch.nn.Linear(64, 10))

    def loss(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        mean_loss = losses.cross_entropy(z, labels)
        return losses.regularized_loss(network.weight, mean_loss, weight_decay)

    data = Digits(2000, flatten=True)  # one batch: its order makes no difference
    module = Classifier(network, loss=loss, optimizer=sgd(0.3))
    return Recipe(
        module,
        data,
        {"epochs": epochs, "precision": "32-true"},
        partial(_check_against_hand_written_loop, data, 0.3, epochs, weight_decay),
    )


def five_step_training_loop() -> Recipe:
    """`fit` takes the five steps: the same weights as the loop written out in plain tensors."""
    data, epochs = Digits(2000, flatten=True), 60
    network = zeroed(torch.nn.Linear(64, 10))
    module = Classifier(network, loss=losses.cross_entropy, optimizer=sgd(0.3))
    return Recipe(
        module,
        data,
        {"epochs": epochs, "precision": "32-true"},
        partial(_check_against_hand_written_loop, data, 0.3, epochs, 0.0),
    )


def _check_against_hand_written_loop(
    data: Digits, learning_rate: float, epochs: int, weight_decay: float, result: FitResult
) -> None:
    from companion.backprop.training_loop import train_layer

    x, labels = data.train
    by_hand = train_layer(
        x,
        labels,
        losses.CROSS_ENTROPY,
        outputs=10,
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=len(x),
        weight_decay=weight_decay,
    )
    # A TPU multiplies float32 matrices in bfloat16 unless told otherwise: 8 bits of each factor.
    tolerance = 0.01 if result.trainer.strategy.root_device.type == "xla" else 1e-4
    network = result.module.network
    for name, trained, expected in (
        ("weight", torch.tensor(network.weight.tolist()).T, by_hand.weight),
        ("bias", torch.tensor(network.bias.tolist()), by_hand.bias),
    ):
        error = ((trained - expected).norm() / expected.norm()).item()
        assert error < tolerance, f"{name} differs by {error:.1e} from the loop in plain tensors"
    assert math.isclose(result.step_losses[-1], by_hand.losses[-1], rel_tol=tolerance)
