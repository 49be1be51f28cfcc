"""Networks on the tape: trained through Lightning, equal to torch's autograd step by step."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from backprop.expressions import F64, normal
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from companion.backprop import tape_network
from companion.backprop.primitive import primitive
from companion.backprop.tape import is_recording
from companion.backprop.tape_network import (
    TapeClassifier,
    TapeNetwork,
    as_torch,
    mlp,
    mlp_parameters,
)
from companion.backprop.tensor import Tensor, cross_entropy
from companion.backprop.tensor_ops import sigmoid
from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.training import Classifier, fit

SIZES = (64, 32, 10)


def torch_mlp(parameters: dict[str, torch.Tensor]) -> nn.Sequential:
    """The same network as an nn.Module; torch stores weights as (out, in)."""
    layers: list[nn.Module] = []
    for number in range(1, len(parameters) // 2 + 1):
        weight, bias = parameters[f"weight{number}"], parameters[f"bias{number}"]
        layer = nn.Linear(*weight.shape, dtype=weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight.T)
            layer.bias.copy_(bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def small_data() -> Arrays:
    x, y = normal((60, 5), 1), torch.arange(60) % 3
    return Arrays(train=(x, y), validation=(x, y), test=(x, y), batch_size=8)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_hundred_steps_equal_torch(optimizer):
    start = {k: v.double() for k, v in mlp_parameters([5, 7, 3]).items()}
    make = partial(optimizer, lr=0.01)
    options = {"max_steps": 100, "epochs": 20, "precision": "64-true", "seed": 3}
    ours = fit(TapeClassifier(mlp, start, optimizer=make), small_data(), **options)
    theirs = fit(Classifier(torch_mlp(start), optimizer=make), small_data(), **options)
    assert len(ours.step_losses) == len(theirs.step_losses) == 100
    assert_close(
        torch.tensor(ours.step_losses).double(),
        torch.tensor(theirs.step_losses).double(),
        rtol=1e-10,
        atol=1e-12,
    )
    network = theirs.module.network
    for number, layer in enumerate((network[0], network[2]), start=1):
        weights = ours.module.network.weights
        assert_close(weights[f"weight{number}"].T, layer.weight, rtol=1e-10, atol=1e-12)
        assert_close(weights[f"bias{number}"], layer.bias, rtol=1e-10, atol=1e-12)
    for name in ("val_loss", "val_accuracy"):
        assert ours.metrics[name] == pytest.approx(theirs.metrics[name], rel=1e-6)


def test_digits_are_learnt():
    module = TapeClassifier(
        mlp, mlp_parameters([64, 64, 10]), optimizer=partial(torch.optim.Adam, lr=3e-3)
    )
    result = fit(module, Digits(flatten=True), epochs=12, precision="32-true", test=True)
    assert result.metrics["test_accuracy"] >= 0.95
    assert result.history[-1]["train_loss"] < 0.1 * result.history[0]["train_loss"]


def test_mixed_precision_is_switched_off_inside():
    module = TapeClassifier(mlp, mlp_parameters([64, 8, 10]))
    result = fit(module, Digits(flatten=True), max_steps=2, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in result.module.parameters())
    assert len(result.step_losses) == 2


def test_loss_scaling_is_refused(monkeypatch):
    trainer = SimpleNamespace(precision="16-mixed")
    monkeypatch.setattr(TapeClassifier, "trainer", trainer, raising=False)
    with pytest.raises(ValueError, match="precision='16-mixed' divides gradients"):
        TapeClassifier(mlp, mlp_parameters([64, 8, 10])).on_fit_start()


def test_torchs_autograd_takes_no_part():
    module = TapeClassifier(mlp, mlp_parameters([4, 3, 2]))
    logits = module(torch.ones(2, 4))
    assert not logits.requires_grad
    assert logits.shape == (2, 2)
    assert is_recording()


def test_an_unused_parameter_has_no_gradient_and_does_not_move():
    start = {**mlp_parameters([5, 3]), "spare0": torch.ones(2), "spare1": torch.ones(2)}
    start = {k: v.double() for k, v in start.items()}

    def network(x, parameters):
        return x @ parameters["weight1"] + parameters["bias1"]

    module = TapeClassifier(network, start, optimizer=partial(torch.optim.SGD, lr=1.0))
    result = fit(module, small_data(), max_steps=2, precision="64-true")
    assert torch.equal(result.module.network.weights["spare0"].detach(), torch.ones(2).double())


def test_another_loss_can_be_given():
    def margin(logits: Tensor, labels: torch.Tensor) -> Tensor:
        rows = torch.arange(len(labels))
        return (logits - logits[rows, labels].reshape(-1, 1) + 1).relu().sum(1).mean()

    start = {k: v.double() for k, v in mlp_parameters([5, 8, 3]).items()}
    module = TapeClassifier(mlp, start, loss=margin, optimizer=partial(torch.optim.SGD, lr=0.05))
    result = fit(module, small_data(), epochs=5, precision="64-true")
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_the_parameters_given_are_copied():
    start = mlp_parameters([4, 2])
    network = TapeNetwork(mlp, start)
    with torch.no_grad():
        network.weights["weight1"].zero_()
    assert start["weight1"].abs().sum() > 0


def test_start_values_have_the_stated_spread_and_seed():
    weight = mlp_parameters([400, 300, 2])["weight1"]
    assert weight.std() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    first, again, other = (mlp_parameters([4, 2], seed=s)["weight1"] for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (-1, 2)])
def test_sizes_that_make_no_network_are_refused(sizes):
    with pytest.raises(ValueError, match="must name two or more positive sizes"):
        mlp_parameters(sizes)


def test_the_network_equals_its_torch_twin():
    start = {k: v.double() for k, v in mlp_parameters([5, 7, 6, 3]).items()}
    for batch in (0, 1, 4):
        x = normal((batch, 5), 1)
        assert_close(TapeNetwork(mlp, start)(x), torch_mlp(start)(x).detach())


@primitive
def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.log1p(torch.exp(x))


softplus.gradients(lambda grad, out, x: grad * sigmoid(x))


class Softplus(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return as_torch(softplus)(x)


def test_a_tape_function_works_inside_torchs_autograd():
    x = normal((3, 4), 1).requires_grad_()
    other = x.detach().clone().requires_grad_()
    (Softplus()(x * 2) ** 2).sum().backward()
    (F.softplus(other * 2) ** 2).sum().backward()
    assert_close(x.grad, other.grad, rtol=1e-10, atol=1e-12)


def test_a_tape_function_passes_torchs_own_gradient_check():
    function = as_torch(lambda a, b: (a @ b).tanh().amax(1))
    inputs = (normal((3, 4), 1).requires_grad_(), normal((4, 2), 2).requires_grad_())
    assert torch.autograd.gradcheck(function, inputs)


def test_a_tape_function_takes_one_array_twice_and_constants():
    x = normal((3,), 1).requires_grad_()
    as_torch(lambda a, b, c: a * b * c)(x, x, torch.full((3,), 2.0).double()).sum().backward()
    assert_close(x.grad, 4 * x.detach(), rtol=1e-10, atol=1e-12)


def test_a_tape_function_trains_through_the_ordinary_classifier():
    network = nn.Sequential(nn.Linear(64, 32), Softplus(), nn.Linear(32, 10))
    result = fit(Classifier(network), Digits(flatten=True), epochs=3, precision="32-true")
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_an_input_that_a_tape_function_ignores_has_gradient_zero():
    a, b = normal((2,), 1).requires_grad_(), normal((2,), 2).requires_grad_()
    as_torch(lambda a, b: a * 1.0)(a, b).sum().backward()
    assert_close(b.grad, torch.zeros(2, dtype=F64))


def test_cross_entropy_on_the_tape_is_the_default_loss():
    assert TapeClassifier(mlp, mlp_parameters([2, 2])).tape_loss is cross_entropy


TWO_PROCESSES = """
from functools import partial

import torch

from companion.backprop.tape_network import TapeClassifier, mlp, mlp_parameters
from companion.data.digits import Digits
from companion.training import fit

if __name__ == "__main__":
    start = {k: v.double() for k, v in mlp_parameters([64, 16, 10]).items()}
    runs = []
    for processes in (1, 2):
        module = TapeClassifier(mlp, start, optimizer=partial(torch.optim.SGD, lr=0.1))
        data = Digits(32 // processes, flatten=True, limit=320, dtype=torch.float64)
        strategy = "auto" if processes == 1 else "ddp_spawn"
        fit(module, data, devices=processes, strategy=strategy)
        runs.append(module)
    for one, two in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-12)
    assert not torch.equal(runs[1].network.weights["weight1"], start["weight1"])
    print("equal")
"""


@pytest.mark.slow
def test_two_processes_average_their_gradients_to_those_of_one(tmp_path):
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    root = Path(tape_network.__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment, timeout=280
    )
    assert run.stdout.strip().endswith("equal"), run.stderr[-3000:]
