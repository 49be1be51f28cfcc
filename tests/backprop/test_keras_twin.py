"""The Keras twins against torch.nn: losses, gradients, running statistics, fifty steps of SGD.

The checks take the module under test: test_keras_twin_mistakes.py runs them on planted mistakes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from companion.backprop import keras_twin, layers, losses
from companion.backprop.normalization import BatchNorm1d, LayerNorm

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: companion[tensorflow]")

ROOT = Path(__file__).resolve().parents[2]
#: Of the framework's rounding, not of the algorithm: float32 keeps 7 digits, float64 16.
TOLERANCE = {"float32": {"rtol": 1e-5, "atol": 1e-6}, "float64": {"rtol": 1e-10, "atol": 1e-13}}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}
NORMS = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def torch_mlp(
    sizes: list[int], activation: str = "relu", normalization: str | None = None, seed: int = 0
) -> nn.Sequential:
    torch.manual_seed(seed)
    stack: list[nn.Module] = []
    for width_in, width_out in zip(sizes[:-2], sizes[1:-1], strict=True):
        stack.append(nn.Linear(width_in, width_out))
        if normalization:
            stack.append(NORMS[normalization](width_out))
        stack.append(ACTIVATIONS[activation]())
    return nn.Sequential(*stack, nn.Linear(*sizes[-2:]))


def weights(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def digits_like(n: int, p: int, classes: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.normal(size=(n, p)).astype(dtype), random.integers(0, classes, n)


def assert_same_step(
    network: nn.Module, twin, loss: str, criterion, x, y, dtype: str, module=keras_twin
) -> None:
    """One forward and backward pass in both frameworks."""
    expected = criterion(network(torch.from_numpy(x)), torch.from_numpy(y))
    expected.backward()
    value, gradients = module.loss_and_gradients(twin, loss, x, y)
    assert_close(value, expected.item(), **TOLERANCE[dtype])
    for ours, parameter in zip(gradients, network.parameters(), strict=True):
        assert_close(torch.from_numpy(ours), parameter.grad, **TOLERANCE[dtype])


@dtypes
def test_linear_regression_gives_the_same_loss_and_gradients(dtype: str):
    network = torch_mlp([3, 2]).to(getattr(torch, dtype))
    twin = keras_twin.linear_regression_twin(3, 2, dtype=dtype)
    keras_twin.copy_weights(weights(network), twin)
    x, _ = digits_like(7, 3, 2, dtype)
    y, _ = digits_like(7, 2, 2, dtype)
    assert_same_step(network, twin, "mse", nn.MSELoss(), x, y, dtype)


@dtypes
def test_softmax_regression_gives_the_same_loss_and_gradients(dtype: str):
    network = torch_mlp([6, 4]).to(getattr(torch, dtype))
    twin = keras_twin.softmax_regression_twin(6, 4, dtype=dtype)
    keras_twin.copy_weights(weights(network), twin)
    x, y = digits_like(9, 6, 4, dtype)
    assert_same_step(network, twin, "cross_entropy", nn.CrossEntropyLoss(), x, y, dtype)


def check_binary(module: ModuleType, dtype: str) -> None:
    network = torch_mlp([6, 5, 1]).to(getattr(torch, dtype))
    twin = module.mlp_twin(6, 5, 1, dtype=dtype)
    module.copy_weights(weights(network), twin)
    x, y = digits_like(9, 6, 2, dtype)
    y = y[:, None].astype(dtype)
    criterion = nn.BCEWithLogitsLoss()
    assert_same_step(network, twin, "binary_cross_entropy", criterion, 50 * x, y, dtype, module)


@dtypes
def test_the_binary_loss_on_logits_gives_the_same_loss_and_gradients(dtype: str):
    check_binary(keras_twin, dtype)


def check_mlp(module: ModuleType, activation: str, normalization: str | None, dtype: str) -> None:
    sizes = [7, 6, 5, 3]
    network = torch_mlp(sizes, activation, normalization).to(getattr(torch, dtype))
    twin = module.mlp_twin(
        7, (6, 5), 3, activation=activation, normalization=normalization, dtype=dtype
    )
    module.copy_weights(weights(network), twin)
    x, y = digits_like(11, 7, 3, dtype)
    criterion = nn.CrossEntropyLoss()
    assert_same_step(network, twin, "cross_entropy", criterion, x, y, dtype, module)


@dtypes
@pytest.mark.parametrize("normalization", [None, "layer", "batch"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_gives_the_same_loss_and_gradients(
    activation: str, normalization: str | None, dtype: str
):
    check_mlp(keras_twin, activation, normalization, dtype)


def check_training(module: ModuleType, normalization: str | None, momentum: float) -> None:
    network = torch_mlp([20, 16, 4], normalization=normalization).double()
    twin = module.mlp_twin(20, 16, 4, normalization=normalization, dtype="float64")
    module.copy_weights(weights(network), twin)
    batches = [digits_like(32, 20, 4, "float64")] * 25 + [digits_like(8, 20, 4, "float64")] * 25
    # Keras holds both constants in float32: 1/8 and 7/8 are the same number there.
    optimizer = torch.optim.SGD(network.parameters(), lr=0.125, momentum=momentum)
    expected = []
    for x, y in batches:
        loss = nn.functional.cross_entropy(network(torch.from_numpy(x)), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    by_twin = module.train_twin(twin, batches, learning_rate=0.125, momentum=momentum)
    assert by_twin[-1] < 0.7 * by_twin[25]
    assert_close(by_twin, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("normalization", [None, "layer", "batch"])
@pytest.mark.parametrize("momentum", [0.0, 0.875])
def test_fifty_steps_of_sgd_on_the_same_batches_give_the_same_losses(
    normalization: str | None, momentum: float
):
    check_training(keras_twin, normalization, momentum)


@dtypes
@pytest.mark.parametrize("normalization", [None, "layer", "batch"])
def test_hand_written_gradients_equal_those_of_the_gradient_tape(
    normalization: str | None, dtype: str
):
    norms = {"layer": LayerNorm, "batch": BatchNorm1d}
    torch.manual_seed(3)
    between = [norms[normalization](6)] if normalization else []
    network = layers.Sequential(layers.Linear(7, 6), *between, layers.GELU(), layers.Linear(6, 3))
    network.to(getattr(torch, dtype))
    twin = keras_twin.mlp_twin(7, 6, 3, activation="gelu", normalization=normalization, dtype=dtype)
    keras_twin.copy_weights(weights(network), twin)
    x, y = digits_like(11, 7, 3, dtype)
    with torch.no_grad():
        logits, labels = network(torch.from_numpy(x)), torch.from_numpy(y)
        network.backward(losses.cross_entropy_backward(logits, labels))
    value, gradients = keras_twin.loss_and_gradients(twin, "cross_entropy", x, y)
    assert_close(value, losses.cross_entropy(logits, labels).item(), **TOLERANCE[dtype])
    for theirs, parameter in zip(gradients, network.parameters(), strict=True):
        assert_close(torch.from_numpy(theirs), parameter.grad, **TOLERANCE[dtype])


def check_running_statistics(module: ModuleType) -> None:
    network = torch_mlp([7, 5, 3], normalization="batch").double()
    twin = module.mlp_twin(7, 5, 3, normalization="batch", dtype="float64")
    module.copy_weights(weights(network), twin)
    x, y = digits_like(11, 7, 3, "float64")
    criterion = nn.CrossEntropyLoss()
    assert_same_step(network, twin, "cross_entropy", criterion, x, y, "float64", module)
    ours, theirs = network[1], twin.layers[1]
    assert_close(torch.from_numpy(theirs.moving_mean.numpy()), ours.running_mean)
    new_in_keras = torch.from_numpy(theirs.moving_variance.numpy()) - 0.9
    assert_close(ours.running_var - 0.9, new_in_keras * 11 / 10)


def test_the_running_variance_differs_by_n_over_n_minus_one():
    check_running_statistics(keras_twin)


def check_evaluation(module: ModuleType) -> None:
    network = torch_mlp([7, 5, 3], normalization="batch").double()
    x, _ = digits_like(11, 7, 3, "float64")
    network(torch.from_numpy(x))
    network.eval()
    twin = module.mlp_twin(7, 5, 3, normalization="batch", dtype="float64")
    module.copy_weights(weights(network), twin)
    assert_close(
        torch.from_numpy(twin(x, training=False).numpy()),
        network(torch.from_numpy(x)).detach(),
        **TOLERANCE["float64"],
    )


def test_evaluation_uses_the_copied_running_statistics():
    check_evaluation(keras_twin)


def test_the_defaults_named_are_those_of_the_two_libraries():
    keras_layers = keras_twin.load().keras.layers
    defaults = keras_twin.NORM_DEFAULTS
    theirs, ours = keras_layers.BatchNormalization(), nn.BatchNorm1d(1)
    assert defaults["BatchNorm epsilon"] == (ours.eps, theirs.epsilon)
    assert defaults["BatchNorm momentum"] == (ours.momentum, theirs.momentum)
    assert defaults["LayerNorm epsilon"] == (
        nn.LayerNorm(1).eps,
        keras_layers.LayerNormalization().epsilon,
    )


def test_dropout_keeps_the_mean_and_is_off_outside_training():
    twin = keras_twin.mlp_twin(4, 2000, 1, dropout=0.5)
    kept = twin.layers[2](np.ones((1, 2000), "float32"), training=True).numpy()
    assert set(np.unique(kept)) == {0.0, 2.0}
    assert abs(kept.mean() - 1) < 0.1
    x = np.ones((3, 4), "float32")
    assert_close(twin(x, training=False).numpy(), twin(x, training=False).numpy())


def test_the_transpose_is_what_makes_copied_weights_right():
    network = torch_mlp([4, 4])
    twin = keras_twin.linear_regression_twin(4, 4)
    keras_twin.copy_weights(weights(network), twin)
    x, _ = digits_like(5, 4, 2, "float32")
    expected = network(torch.from_numpy(x)).detach().numpy()
    assert_close(twin(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    kernel, bias = twin.layers[0].get_weights()
    twin.layers[0].set_weights([kernel.T, bias])  # a square matrix: no shape gives it away
    assert np.abs(twin(x).numpy() - expected).max() > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keras_twin.mlp_twin(0, 3, 2), "in_features=0"),
        (lambda: keras_twin.mlp_twin(3, (4, 0), 2), "hidden=0"),
        (lambda: keras_twin.linear_regression_twin(3, 0), "out_features=0"),
        (lambda: keras_twin.mlp_twin(3, 4, 2, activation="swish"), "activation='swish'"),
        (lambda: keras_twin.mlp_twin(3, 4, 2, normalization="group"), "normalization='group'"),
        (lambda: keras_twin.mlp_twin(3, 4, 2, dropout=1.0), "dropout=1.0"),
        (lambda: keras_twin.mlp_twin(3, 4, 2, dtype="float16"), "dtype='float16'"),
        (lambda: keras_twin.loss_twin("hinge"), "name='hinge'"),
        (
            lambda: keras_twin.copy_weights(
                weights(torch_mlp([3, 4, 2])), keras_twin.softmax_regression_twin(3, 2)
            ),
            "2 layers with weights",
        ),
        (
            lambda: keras_twin.copy_weights(
                weights(torch_mlp([3, 2])), keras_twin.softmax_regression_twin(2, 3)
            ),
            "transposed",
        ),
    ],
)
def test_bad_input_is_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def run_python(
    code: str, directory: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, where TensorFlow has not been imported yet."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
        cwd=directory,
    )


def test_a_missing_tensorflow_is_one_clear_error_with_the_way_to_install_it():
    code = """
import sys
sys.modules["tensorflow"] = None
from companion.backprop import keras_twin
try:
    keras_twin.mlp_twin(3, 4, 2)
except ValueError as error:
    print(error)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert 'pip install "companion[tensorflow]"' in result.stdout


def test_importing_the_module_does_not_import_tensorflow_and_loading_it_is_silent():
    code = """
import sys
from companion.backprop import keras_twin
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
keras_twin.mlp_twin(3, 4, 2)
assert "tensorflow" in sys.modules
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert result.stderr == ""


def test_a_file_called_keras_in_the_working_directory_is_not_taken_for_keras(tmp_path: Path):
    (tmp_path / "keras.py").write_text("raise RuntimeError('imported the wrong file')")
    code = """
import sys
sys.path.insert(0, "")
from companion.backprop import keras_twin
path = sys.path[:]
print(keras_twin.load().keras.__version__)
assert sys.path == path
"""
    result = run_python(code, directory=tmp_path)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split(".")[0]) >= 3


def test_another_keras_backend_is_refused():
    code = """
from companion.backprop import keras_twin
try:
    keras_twin.load()
except ValueError as error:
    print(error)
"""
    result = run_python(code, KERAS_BACKEND="numpy")
    assert "KERAS_BACKEND=numpy" in result.stdout
