"""The chapter's networks in TensorFlow/Keras, to hold the PyTorch ones against.

    nn.Sequential(nn.Linear(p, k))                   linear_regression_twin(p, k)
    nn.Sequential(nn.Linear(p, classes))             softmax_regression_twin(p, classes)
    nn.Sequential(nn.Linear, [norm], nn.ReLU, [nn.Dropout], ..., nn.Linear)
                                                     mlp_twin(p, hidden, classes, ...)

A twin has the same layers, the same constants (Keras has other defaults, see `NORM_DEFAULTS`) and,
after :func:`copy_weights`, the same weights; so the same batch must give the same loss and
gradients up to rounding. Outputs are logits: every loss here takes ``from_logits=True``.

This is the only file of the chapter that imports TensorFlow, and it does so on first use.

Sources: the Keras 3 reference of the layers named below; Ioffe, Szegedy, "Batch normalization"
(2015), for the running statistics.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import keras

ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu")
LOSSES = ("mse", "binary_cross_entropy", "cross_entropy")

#: (PyTorch's default, Keras's default). PyTorch's momentum weighs the *new* batch statistic,
#: Keras's the *old* running one: 0.1 there is 0.9 here.
NORM_DEFAULTS = {
    "LayerNorm epsilon": (1e-5, 1e-3),
    "BatchNorm epsilon": (1e-5, 1e-3),
    "BatchNorm momentum": (0.1, 0.99),
}


class Frameworks(NamedTuple):
    """The two modules that :func:`load` imports."""

    tf: Any
    keras: Any


@functools.cache
def load() -> Frameworks:
    """Import TensorFlow and Keras once, without the log lines that their C++ code prints.

    Raises:
        ValueError: TensorFlow is not installed, or Keras runs on another backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The variable counts until Keras is imported, and not any more.
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules:
        backend = sys.modules["keras"].backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"KERAS_BACKEND={backend}: the twin needs tensorflow, set before Keras is imported"
        )
    try:
        with _file_descriptor_2_set_aside(), _files_called_keras_hidden():
            import keras
            import tensorflow as tf
    except ImportError as error:
        raise ValueError(
            f"the Keras twin needs TensorFlow, which does not import here ({error}): "
            'pip install "companion[tensorflow]", or pip install tensorflow'
        ) from error
    return Frameworks(tf, keras)


@contextmanager
def _file_descriptor_2_set_aside() -> Iterator[None]:
    """Send what C++ writes to standard error into a file; show it if the block fails.

    TensorFlow 2.21 writes a few lines on import before it reads TF_CPP_MIN_LOG_LEVEL.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            aside.seek(0)
            os.write(2, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def _files_called_keras_hidden() -> Iterator[None]:
    """Leave folders with a ``keras.py`` off the search path: it would be imported as Keras.

    The page ``keras`` of this course has such a file beside it, and a notebook's own folder comes
    first on the path.
    """
    kept = sys.path[:]
    sys.path[:] = [
        folder for folder in kept if not os.path.isfile(os.path.join(folder or ".", "keras.py"))
    ]
    try:
        yield
    finally:
        sys.path[:] = kept


def linear_regression_twin(
    in_features: int, out_features: int = 1, *, dtype: str = "float32"
) -> keras.Sequential:
    """One Dense layer: (n, in_features) -> (n, out_features)."""
    return mlp_twin(in_features, (), out_features, dtype=dtype)


def softmax_regression_twin(
    in_features: int, classes: int, *, dtype: str = "float32"
) -> keras.Sequential:
    """One Dense layer of logits: (n, in_features) -> (n, classes). The loss holds the softmax."""
    return mlp_twin(in_features, (), classes, dtype=dtype)


def mlp_twin(
    in_features: int,
    hidden: int | Sequence[int],
    out_features: int,
    *,
    activation: str = "relu",
    normalization: str | None = None,
    dropout: float = 0.0,
    dtype: str = "float32",
) -> keras.Sequential:
    """A multi-layer perceptron with PyTorch's constants: (n, in_features) -> (n, out_features).

    Args:
        hidden: width of the hidden layer, or one width a hidden layer.
        activation: one of :data:`ACTIVATIONS`.
        normalization: None, "layer" or "batch": between each hidden Dense layer and its activation.
        dropout: share of the activations set to 0 in training, after each activation.
        dtype: of weights and arithmetic, "float32" or "float64".

    Raises:
        ValueError: an argument is out of its range, or TensorFlow is missing.
    """
    widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    for name, size in [("in_features", in_features), ("out_features", out_features)] + [
        ("hidden", width) for width in widths
    ]:
        if size < 1:
            raise ValueError(f"{name}={size}: it must be at least 1")
    _one_of("activation", activation, ACTIVATIONS)
    _one_of("normalization", normalization, (None, "layer", "batch"))
    _one_of("dtype", dtype, ("float32", "float64"))
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: it must lie in [0, 1)")
    layers = load().keras.layers
    stack = [layers.Input((in_features,), dtype=dtype)]
    for width in widths:
        stack.append(layers.Dense(width, dtype=dtype))
        if normalization == "layer":
            stack.append(layers.LayerNormalization(epsilon=1e-5, dtype=dtype))
        elif normalization == "batch":
            stack.append(layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtype))
        function = gelu if activation == "gelu" else activation
        stack.append(layers.Activation(function, dtype=dtype))
        if dropout:
            stack.append(layers.Dropout(dropout, dtype=dtype))
    stack.append(layers.Dense(out_features, dtype=dtype))
    return load().keras.Sequential(stack)


def gelu(x: Any) -> Any:
    """x Φ(x). Keras's own goes through a √2 in float32, so in float64 it is off by about 1e-9."""
    tf = load().tf
    return x * (1 + tf.math.erf(x / tf.sqrt(tf.constant(2, x.dtype)))) / 2


def copy_weights(state_dict: Mapping[str, np.ndarray], model: keras.Model) -> keras.Model:
    """Write the weights of a PyTorch network into its twin, layer by layer in order.

    torch.nn.Linear keeps W as (out, in), Dense its kernel as (in, out): the matrix is transposed.

    Args:
        state_dict: ``{name: tensor.numpy()}`` of the network's ``state_dict()``.
        model: the twin; changed in place and returned.

    Raises:
        ValueError: another number of layers, another kind of layer, or another shape.
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state_dict.items():
        prefix, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            groups.setdefault(prefix, {})[kind] = np.asarray(array)
    layers = [layer for layer in model.layers if layer.weights]
    if len(groups) != len(layers):
        raise ValueError(
            f"state_dict has {len(groups)} layers with weights ({', '.join(groups)}): "
            f"the model has {len(layers)}"
        )
    for layer, (prefix, group) in zip(layers, groups.items(), strict=True):
        arrays = _in_keras_order(group)
        want = [tuple(weight.shape) for weight in layer.weights]
        if [array.shape for array in arrays] != want:
            have = {kind: array.shape for kind, array in group.items()}
            raise ValueError(
                f"state_dict[{prefix!r}] has shapes {have}: "
                f"{type(layer).__name__} takes {want} (a kernel is the transposed weight)"
            )
        layer.set_weights(arrays)
    return model


def _in_keras_order(group: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    order = ("weight", "bias", "running_mean", "running_var")
    arrays = [group[kind] for kind in order if kind in group]
    return [array.T if array.ndim == 2 else array for array in arrays]


def loss_twin(name: str, *, dtype: str = "float32") -> Callable[[Any, Any], Any]:
    """A Keras loss ``f(target, output)``, target first, that equals PyTorch's of that name.

    Args:
        name: "mse" (torch.nn.MSELoss), "binary_cross_entropy" (BCEWithLogitsLoss) or
            "cross_entropy" (CrossEntropyLoss with class indices).
        dtype: of the arithmetic. Keras computes a loss in its global float type, float32, whatever
            the model's, unless it is told otherwise.
    """
    _one_of("name", name, LOSSES)
    losses = load().keras.losses
    if name == "mse":
        return losses.MeanSquaredError(dtype=dtype)
    if name == "binary_cross_entropy":
        return losses.BinaryCrossentropy(from_logits=True, dtype=dtype)
    return losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)


def loss_and_gradients(
    model: keras.Model, loss: str, x: np.ndarray, y: np.ndarray, *, training: bool = True
) -> tuple[float, list[np.ndarray]]:
    """The mean loss of one batch and its gradients, in PyTorch's layout and parameter order.

    Args:
        loss: a name that :func:`loss_twin` knows.
        x: (n, in_features), of the model's dtype; y: what the loss takes.

    Returns:
        the loss, and one array for each of ``network.parameters()``.
    """
    tf = load().tf
    criterion = loss_twin(loss, dtype=model.layers[-1].compute_dtype)
    with tf.GradientTape() as tape:
        value = criterion(y, model(x, training=training))
    gradients = tape.gradient(value, model.trainable_variables)
    arrays = [gradient.numpy() for gradient in gradients]
    return float(value), [array.T if array.ndim == 2 else array for array in arrays]


def train_twin(
    model: keras.Model,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    loss: str = "cross_entropy",
    learning_rate: float = 0.1,
    momentum: float = 0.0,
) -> list[float]:
    """One step of SGD a batch; the loss of each batch before its step."""
    keras = load().keras
    optimizer = keras.optimizers.SGD(learning_rate, momentum=momentum)
    criterion = loss_twin(loss, dtype=model.layers[-1].compute_dtype)

    @load().tf.function
    def step(x: Any, y: Any) -> Any:
        with load().tf.GradientTape() as tape:
            value = criterion(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return value

    optimizer.build(model.trainable_variables)
    return [float(step(x, y)) for x, y in batches]


def _one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: it must be one of {', '.join(map(str, allowed))}")
