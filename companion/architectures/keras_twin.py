"""The chapter's networks in TensorFlow/Keras, to hold the PyTorch ones against.

    SmallCNN                 small_cnn_twin
    SequenceClassifier       sequence_classifier_twin     ("rnn", "lstm" or "gru")
    GPT                      gpt_twin                     (GPT-2's kind of block)

Layers bear the names of PyTorch's modules, so weights and gradients find their partners by name;
:data:`LAYOUTS` says, layer by layer, how Keras stores the same numbers:

    Conv2D       (height, width, in, out)          nn.Conv2d  (out, in, height, width)
    LSTM         gates i, f, c, o; one bias        nn.LSTM    gates i, f, g, o; two biases, added
    GRU          gates z, r, h                     nn.GRU     gates r, z, n
    attention    (C, heads, D) and (heads, D, C)   Linear     (C, C)

This is the only file of the chapter that imports TensorFlow, and it does so on first use.

Sources: the Keras 3 reference of the layers named here; Cho et al., EMNLP 2014, and its first
preprint's form of the GRU (`reset_after=True`, which cuDNN and PyTorch compute).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from companion.architectures.configuration import TransformerConfig
from companion.arguments import check_fraction, check_integer
from companion.backprop.keras_twin import gelu, load, loss_twin

if TYPE_CHECKING:
    import keras

CELLS = {"rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}

Arrays = list[np.ndarray]
Group = dict[str, np.ndarray]


class Layout(NamedTuple):
    """How a layer's numbers change places: PyTorch's to Keras's, and gradients back."""

    to_keras: Callable[[Group], Arrays]
    to_torch: Callable[[Arrays], Group]


def _matrix(group: Group) -> Arrays:
    return [group["weight"].T, *([group["bias"]] if "bias" in group else [])]


def _matrix_back(arrays: Arrays) -> Group:
    return {"weight": arrays[0].T, **({"bias": arrays[1]} if len(arrays) > 1 else {})}


def _convolution_back(arrays: Arrays) -> Group:
    return {"weight": arrays[0].transpose(3, 2, 0, 1), "bias": arrays[1]}


def _recurrent(group: Group) -> Arrays:
    bias = group["bias_ih_l0"] + group["bias_hh_l0"]
    return [group["weight_ih_l0"].T, group["weight_hh_l0"].T, bias]


def _recurrent_back(arrays: Arrays) -> Group:
    kernel, recurrent, bias = arrays
    # The two biases of PyTorch are added, so each has the gradient of the sum.
    parts = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T}
    return {**parts, "bias_ih_l0": bias, "bias_hh_l0": bias}


def _swap_gates(array: np.ndarray) -> np.ndarray:
    """Exchange the first two of three gates along the first axis: r, z, n and z, r, n."""
    first, second, third = np.split(array, 3)
    return np.concatenate([second, first, third])


def _gated(group: Group) -> Arrays:
    swapped = {name: _swap_gates(array) for name, array in group.items()}
    biases = np.stack([swapped["bias_ih_l0"], swapped["bias_hh_l0"]])
    return [swapped["weight_ih_l0"].T, swapped["weight_hh_l0"].T, biases]


def _gated_back(arrays: Arrays) -> Group:
    kernel, recurrent, (bias_ih, bias_hh) = arrays
    parts = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T}
    parts |= {"bias_ih_l0": bias_ih, "bias_hh_l0": bias_hh}
    return {name: _swap_gates(array) for name, array in parts.items()}


#: Class of the Keras layer -> how its weights lie.
LAYOUTS = {
    "Dense": Layout(_matrix, _matrix_back),
    "Conv2D": Layout(
        lambda group: [group["weight"].transpose(2, 3, 1, 0), group["bias"]], _convolution_back
    ),
    "Embedding": Layout(lambda group: [group["weight"]], lambda arrays: {"weight": arrays[0]}),
    "LayerNormalization": Layout(
        lambda group: [group["weight"], group["bias"]],
        lambda arrays: dict(zip(("weight", "bias"), arrays, strict=True)),
    ),
    "SimpleRNN": Layout(_recurrent, _recurrent_back),
    "LSTM": Layout(_recurrent, _recurrent_back),
    "GRU": Layout(_gated, _gated_back),
}

ATTENTION = ("query", "key", "value", "output")


def small_cnn_twin(
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int = 28,
    width: int = 32,
    dropout: float = 0.25,
    *,
    dtype: str = "float32",
) -> keras.Sequential:
    """SmallCNN: (n, image_size, image_size, in_channels) to logits (n, num_classes).

    Keras puts the channels last. Before the dense layer they are moved to the front, so that
    flattening gives the features in PyTorch's order and its weight only has to be transposed.

    Raises:
        ValueError: an argument out of range, or TensorFlow is missing.
    """
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
    for name, size in sizes.items():
        check_integer(name, size, minimum=1)
    check_integer("image_size", image_size, minimum=4)
    check_fraction("dropout", dropout)
    layers = load().keras.layers
    stack = [layers.Input((image_size, image_size, in_channels), dtype=dtype)]
    for index, channels in ((0, width), (3, 2 * width)):
        name = f"features.{index}"
        stack += [
            layers.Conv2D(channels, 3, padding="same", name=name, dtype=dtype),
            layers.MaxPooling2D(2, dtype=dtype),
            layers.ReLU(dtype=dtype),
        ]
    stack += [
        layers.Permute((3, 1, 2), dtype=dtype),
        layers.Flatten(dtype=dtype),
        layers.Dropout(dropout, dtype=dtype),
        layers.Dense(num_classes, name="classifier", dtype=dtype),
    ]
    return load().keras.Sequential(stack)


def sequence_classifier_twin(
    num_features: int,
    num_classes: int,
    hidden_size: int,
    cell: str = "lstm",
    *,
    padding_value: float | None = None,
    dtype: str = "float32",
) -> keras.Sequential:
    """SequenceClassifier with one layer: (n, T, num_features) to logits (n, num_classes).

    Args:
        cell: "rnn", "lstm" or "gru".
        padding_value: steps of which every feature has this value are masked out.

    Raises:
        ValueError: an argument out of range, or TensorFlow is missing.
    """
    sizes = {"num_features": num_features, "num_classes": num_classes, "hidden_size": hidden_size}
    for name, size in sizes.items():
        check_integer(name, size, minimum=1)
    if cell not in CELLS:
        raise ValueError(f"cell={cell!r}: one of {', '.join(map(repr, CELLS))} is needed")
    layers = load().keras.layers
    stack = [layers.Input((None, num_features), dtype=dtype)]
    if padding_value is not None:
        stack.append(layers.Masking(padding_value, dtype=dtype))
    recurrent = getattr(layers, CELLS[cell])
    stack.append(recurrent(hidden_size, name="recurrent", dtype=dtype))
    stack.append(layers.Dense(num_classes, name="head", dtype=dtype))
    return load().keras.Sequential(stack)


def gpt_twin(config: TransformerConfig, *, dtype: str = "float32") -> keras.Model:
    """GPT: ids (n, T) to logits (n, T, vocab_size).

    Args:
        config: with layer norm, exact GELU, learnt positions, biases, tied embeddings and the norm
            first: what Keras's own layers offer.

    Raises:
        ValueError: `config` asks for anything else, or TensorFlow is missing.
    """
    wanted = {"norm": "layer", "feed_forward": "gelu", "positions": "learnt", "bias": True}
    wanted |= {"tie_embeddings": True, "norm_first": True, "kv_heads": config.num_heads}
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ValueError(f"config.{name}={getattr(config, name)!r}: the twin has {value!r}")
    keras = load().keras
    layers, epsilon = keras.layers, config.norm_eps

    class Tied(layers.Layer):
        """Scores against the embedding table of another layer."""

        def call(self, stream: Any, table: Any) -> Any:
            return keras.ops.matmul(stream, keras.ops.transpose(table))

    class Twin(keras.Model):
        """Keras's layers in the order of GPT-2."""

        def __init__(self) -> None:
            super().__init__(dtype=dtype)
            size = config.embed_dim
            embedding = layers.Embedding
            self.tokens = embedding(config.vocab_size, size, name="token_embedding", dtype=dtype)
            self.places = embedding(config.context_length, size, name="positions", dtype=dtype)
            self.blocks = [self._block(f"blocks.{i}") for i in range(config.num_layers)]
            self.norm = self._norm("final_norm")
            self.tied = Tied(dtype=dtype)

        def _norm(self, name: str) -> Any:
            return layers.LayerNormalization(epsilon=epsilon, name=name, dtype=dtype)

        def _block(self, name: str) -> list[Any]:
            attention = layers.MultiHeadAttention(
                config.num_heads, config.head_dim, name=f"{name}.attention", dtype=dtype
            )
            up, down = f"{name}.feed_forward.up", f"{name}.feed_forward.down"
            return [
                self._norm(f"{name}.attention_norm"),
                attention,
                self._norm(f"{name}.feed_forward_norm"),
                layers.Dense(config.feed_forward_dim, activation=gelu, name=up, dtype=dtype),
                layers.Dense(config.embed_dim, name=down, dtype=dtype),
            ]

        def call(self, ids: Any) -> Any:
            x = self.tokens(ids) + self.places(keras.ops.arange(keras.ops.shape(ids)[1]))
            for attention_norm, attention, feed_forward_norm, up, down in self.blocks:
                y = attention_norm(x)
                x = x + attention(y, y, use_causal_mask=config.causal)
                x = x + down(up(feed_forward_norm(x)))
            return self.tied(self.norm(x), self.tokens.embeddings)

    twin = Twin()
    twin(np.zeros((1, config.context_length), "int32"))  # builds the weights
    return twin


def _leaves(model: keras.Model) -> list[Any]:
    """The layers that hold weights, each once."""
    found = model._flatten_layers(include_self=False, recursive=True)
    return [layer for layer in found if type(layer).__name__ in (*LAYOUTS, "MultiHeadAttention")]


def _partners(layer: Any) -> dict[str, tuple[Any, Layout]]:
    """PyTorch's module name -> the Keras layer and layout that hold its weights."""
    if type(layer).__name__ != "MultiHeadAttention":
        return {layer.name: (layer, LAYOUTS[type(layer).__name__])}
    heads, size = layer.num_heads, layer.key_dim
    shapes = {"kernel": (-1, heads, size), "bias": (heads, size)}
    last = {"kernel": (heads, size, -1), "bias": (-1,)}
    return {
        f"{layer.name}.{part}": (
            getattr(layer, f"{part}_dense"),
            _heads(last if part == "output" else shapes),
        )
        for part in ATTENTION
    }


def _heads(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """A matrix cut into heads: the same numbers in the same order, in another shape."""

    def to_keras(group: Group) -> Arrays:
        kernel, bias = _matrix(group)
        return [kernel.reshape(shapes["kernel"]), bias.reshape(shapes["bias"])]

    def to_torch(arrays: Arrays) -> Group:
        kernel, bias = arrays
        rows = kernel.shape[0] if len(shapes["bias"]) == 2 else kernel.shape[0] * kernel.shape[1]
        return _matrix_back([kernel.reshape(rows, -1), bias.reshape(-1)])

    return Layout(to_keras, to_torch)


def copy_weights(state_dict: Mapping[str, np.ndarray], model: keras.Model) -> keras.Model:
    """Write the weights of a PyTorch network into its twin, by name.

    Args:
        state_dict: ``{name: tensor.numpy()}`` of the network's ``state_dict()``.
        model: the twin; changed in place and returned.

    Raises:
        ValueError: a name without partner on either side, or another shape.
    """
    groups: dict[str, Group] = {}
    for name, array in state_dict.items():
        prefix, _, kind = name.rpartition(".")
        groups.setdefault(prefix, {})[kind] = np.asarray(array)
    table = groups.get("token_embedding", {}).get("weight")
    if table is not None and np.array_equal(groups.get("head", {}).get("weight", ()), table):
        del groups["head"]  # tied: the state_dict holds the table twice
    for layer in _leaves(model):
        for name, (holder, layout) in _partners(layer).items():
            if name not in groups:
                raise ValueError(f"state_dict has no {name!r}, which the twin needs")
            arrays = layout.to_keras(groups.pop(name))
            want = [tuple(weight.shape) for weight in holder.weights]
            if [array.shape for array in arrays] != want:
                have = [array.shape for array in arrays]
                raise ValueError(f"state_dict[{name!r}] gives {have}: the twin takes {want}")
            holder.set_weights(arrays)
    if groups:
        raise ValueError(f"state_dict has {', '.join(groups)}: the twin has no such layer")
    return model


def loss_and_gradients(
    model: keras.Model, x: np.ndarray, y: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """The mean cross-entropy of one batch and its gradients, under PyTorch's names and layouts.

    Dropout is off. Tied embeddings have one gradient, that of both uses together.

    Args:
        x: what the model takes; y: class indices, of the shape of the logits without the last
            dimension.

    Returns:
        the loss, and for each of ``network.named_parameters()`` its gradient.
    """
    tf = load().tf
    leaves = _leaves(model)
    criterion = loss_twin("cross_entropy", dtype=leaves[-1].compute_dtype)
    with tf.GradientTape() as tape:
        value = criterion(y, model(x, training=False))
    partners = {name: pair for layer in leaves for name, pair in _partners(layer).items()}
    weights = {name: holder.trainable_weights for name, (holder, _) in partners.items()}
    gradients = tape.gradient(value, weights)
    found = {}
    for name, (_, layout) in partners.items():
        arrays = [tf.convert_to_tensor(gradient).numpy() for gradient in gradients[name]]
        for kind, array in layout.to_torch(arrays).items():
            found[f"{name}.{kind}"] = array
    return float(value), found
