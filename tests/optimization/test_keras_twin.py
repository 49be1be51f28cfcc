"""The Keras twins take the steps of torch.optim, in float64 and with a large epsilon."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from planting import mutant

from companion.backprop.keras_twin import copy_weights, load, mlp_twin
from companion.optimization import keras_twin

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: companion[tensorflow]")

# Powers of two are exact in float32, in which Keras keeps rates.
BETAS, LR = (7 / 8, 63 / 64), 1 / 16
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("sgd", "SGD", {"momentum": 0.0}),
    ("sgd", "SGD", {"weight_decay": 1 / 8}),
    ("sgd", "SGD", {"momentum": 7 / 8}),
    ("sgd", "SGD", {"momentum": 7 / 8, "nesterov": True}),
    ("adagrad", "Adagrad", {"eps": 1 / 16, "initial_accumulator_value": 1 / 4}),
    ("rmsprop", "RMSprop", {"alpha": 15 / 16, "eps": 1 / 16}),
    ("rmsprop", "RMSprop", {"alpha": 15 / 16, "eps": 1 / 16, "momentum": 1 / 2}),
    ("adam", "Adam", {"betas": BETAS, "eps": 1 / 16}),
    ("adam", "Adam", {"betas": BETAS, "eps": 1 / 16, "amsgrad": True}),
    ("adamw", "AdamW", {"betas": BETAS, "eps": 1 / 16, "weight_decay": 1 / 8}),
]
RNG = np.random.default_rng(0)
MATRIX, TARGET, START = RNG.normal(size=(8, 6)), RNG.normal(size=8), RNG.normal(size=6)


def gradient(w: np.ndarray) -> np.ndarray:
    return MATRIX.T @ (MATRIX @ w - TARGET) / 8


def torch_path(kind: str, rates: list[float], options: dict[str, Any]) -> np.ndarray:
    weights = torch.nn.Parameter(torch.tensor(START))
    optimizer = getattr(torch.optim, kind)([weights], lr=rates[0], **options)
    path = [START]
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        weights.grad = torch.tensor(gradient(path[-1]))
        optimizer.step()
        path.append(weights.detach().numpy().copy())
    return np.stack(path)


def check_steps(module: ModuleType, name: str, kind: str, options: dict[str, Any]) -> None:
    twin = module.optimizer_twin(name, lr=LR, **options)
    path = module.trajectory(twin, START, gradient, 30)
    np.testing.assert_allclose(path, torch_path(kind, [LR] * 30, options), rtol=1e-10, atol=1e-12)


def check_defaults(module: ModuleType, name: str, kind: str) -> None:
    path = module.trajectory(module.optimizer_twin(name, lr=LR), START, gradient, 20)
    np.testing.assert_allclose(path, torch_path(kind, [LR] * 20, {}), rtol=1e-4, atol=1e-5)


def check_change(module: ModuleType) -> None:
    twin = module.optimizer_twin("sgd", lr=LR, momentum=7 / 8)

    def drop(step: int) -> None:
        if step in (10, 20):
            module.change_rate(twin, LR / (8 if step == 10 else 2))

    path = module.trajectory(twin, START, gradient, 30, drop)
    rates = [LR] * 10 + [LR / 8] * 10 + [LR / 2] * 10
    expected = torch_path("SGD", rates, {"momentum": 7 / 8})
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


def check_lion(module: ModuleType) -> None:
    twin = module.optimizer_twin("lion", lr=LR, betas=BETAS, weight_decay=1 / 8)
    path = module.trajectory(twin, START, gradient, 30)
    w, m = START.copy(), np.zeros(6)  # Chen et al. 2023, algorithm 2, with decoupled decay
    for step in range(30):
        g = gradient(w)
        w = w - LR * (np.sign(BETAS[0] * m + (1 - BETAS[0]) * g) + w / 8)
        m = BETAS[1] * m + (1 - BETAS[1]) * g
        np.testing.assert_allclose(path[step + 1], w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "kind", "options"), CASES)
def test_a_twin_takes_the_steps_of_torch(name: str, kind: str, options: dict[str, Any]) -> None:
    check_steps(keras_twin, name, kind, options)


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kind in dict((c[0], c[1]) for c in CASES).items()]
)
def test_defaults_are_those_of_torch(name: str, kind: str) -> None:
    check_defaults(keras_twin, name, kind)


def test_lion_takes_the_steps_of_the_paper() -> None:
    check_lion(keras_twin)


def test_a_changed_rate_takes_the_velocity_along() -> None:
    check_change(keras_twin)


def test_training_a_network_gives_the_losses_of_torch() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3)
    ).double()
    weights = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    model = copy_weights(weights, mlp_twin(5, 7, 3, dtype="float64"))
    batches = [(torch.randn(16, 5).double(), torch.randint(3, (16,))) for _ in range(12)]
    optimizer = torch.optim.Adam(network.parameters(), lr=LR, betas=BETAS)
    expected = []
    for x, y in batches:
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    twin = keras_twin.optimizer_twin("adam", lr=LR, betas=BETAS)
    seen: list[int] = []
    pairs = [(x.numpy(), y.numpy()) for x, y in batches]
    losses = keras_twin.train_twin(model, pairs, twin, after_step=seen.append)
    np.testing.assert_allclose(losses, expected, rtol=1e-10)
    assert seen == list(range(1, 13))


def test_a_twin_reports_its_options_to_keras() -> None:
    twin = keras_twin.optimizer_twin("adam", eps=1e-3)
    keras_twin.trajectory(twin, START, gradient, 2)
    assert twin.epsilon == 1e-3  # the shifted one does not stay
    assert isinstance(twin, load().keras.optimizers.Adam)


ADAM, RMSPROP, ADAGRAD = CASES[7], CASES[5], CASES[4]


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (
            lambda m: check_steps(m, *ADAM),
            '"adam": moved(kinds.Adam, of_adam)',
            '"adam": kinds.Adam',
        ),
        (lambda m: check_steps(m, *ADAM), "(self.iterations + 1,", "(self.iterations,"),
        (lambda m: check_steps(m, *RMSPROP), "(2 * ops.sqrt(square) + epsilon)", "epsilon"),
        (lambda m: check_steps(m, *ADAGRAD), "old + gradient * gradient", "old"),
        (lambda m: check_defaults(m, "rmsprop", "RMSprop"), '"alpha": 0.99', '"alpha": 0.9'),
        (
            lambda m: check_defaults(m, "adagrad", "Adagrad"),
            '"initial_accumulator_value": 0.0',
            '"initial_accumulator_value": 0.1',
        ),
        (
            lambda m: check_defaults(m, "adamw", "AdamW"),
            '"weight_decay": 1e-2',
            '"weight_decay": 0.4',
        ),
        (check_change, "velocity * ratio", "velocity"),
        (check_change, "velocity * ratio", "velocity / ratio"),
        (check_lion, '"lion": kinds.Lion', '"lion": kinds.Adam'),
    ],
    ids=[
        "epsilon beside the raw root",
        "steps counted from 0",
        "epsilon squared under the root",
        "epsilon from the old sum",
        "Keras's rho",
        "Keras's initial accumulator",
        "another decay",
        "velocity kept at a new rate",
        "velocity scaled the wrong way",
        "Adam for Lion",
    ],
)
def test_a_planted_mistake_is_caught(check: Any, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check(mutant(keras_twin, old, new))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("sdg", {}, "name='sdg': one of 'sgd'"),
        ("sgd", {"lr": 0.0}, "lr=0.0: a finite number above 0"),
        ("adam", {"lr": float("nan")}, "lr=nan: a finite number above 0"),
        ("adam", {"weight_decay": 0.1}, "weight_decay=0.1: the twin of 'adam' takes betas, eps"),
        ("adam", {"eps": -1.0}, "eps=-1.0: a finite number of at least 0"),
        ("adam", {"betas": (0.9, 1.0)}, r"betas\[1\]=1.0: a number in \[0, 1\)"),
        ("sgd", {"momentum": 1.5}, r"momentum=1.5: a number in \[0, 1\)"),
        ("sgd", {"nesterov": True}, "nesterov=True: a momentum above 0"),
        ("sgd", {"momentum": 0.5, "weight_decay": 0.1}, "weight_decay=0.1: with momentum"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        keras_twin.optimizer_twin(name, **options)


def test_a_bad_rate_or_number_of_steps_is_refused() -> None:
    twin = keras_twin.optimizer_twin("sgd")
    with pytest.raises(ValueError, match="lr=-1: a finite number above 0"):
        keras_twin.change_rate(twin, -1)
    with pytest.raises(ValueError, match="steps=0: an integer of at least 1"):
        keras_twin.trajectory(twin, START, gradient, 0)
