"""The chapter's optimizers in Keras, with PyTorch's options and PyTorch's arithmetic.

    SGD, Adagrad, RMSprop, Adam, AdamW, Lion        optimizer_twin(name, lr=..., ...)

Keras has the same optimizers, yet not the same numbers. With η the learning rate, g the gradient:

    momentum     v ← μv − ηg, w ← w + v     PyTorch keeps b ← μb + g, w ← w − ηb: the same while η
                                            is constant; :func:`change_rate` when it changes
    RMSprop,     g / √(v + ε)               PyTorch: g / (√v + ε)
    Adagrad
    Adam         ε beside the raw √v        PyTorch: ε beside √v̂ = √v / √(1 − β₂ᵗ)
    decay        w ← w − ηλw in all         PyTorch: so in AdamW and Lion; else λw joins g

A twin changes ε so that the sums agree. Keras stores rates, and turns β and μ, into float32, also
for weights in float64. TensorFlow is imported on first use.

Sources: the Keras 3 reference of the optimizers; Sutskever et al., "On the importance of
initialization and momentum" (2013), for v ← μv − ηg; Kingma and Ba, "Adam" (2015), section 2,
for the order of operations that moves ε.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from companion.arguments import check_fraction, check_integer, check_rule
from companion.backprop.keras_twin import load, loss_twin
from companion.optimization.base import is_not_negative, is_positive

if TYPE_CHECKING:
    import keras

#: Name -> the options, with PyTorch's names and defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
    "adagrad": {"initial_accumulator_value": 0.0, "eps": 1e-10},
    "rmsprop": {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0},
    "adam": {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False},
    "adamw": {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "weight_decay": 1e-2},
    "lion": {"betas": (0.9, 0.99), "weight_decay": 0.0},
}

Gradient = Callable[[np.ndarray], np.ndarray]


def optimizer_twin(name: str, *, lr: float = 1e-3, **options: Any) -> keras.Optimizer:
    """Give the Keras optimizer that takes the steps of PyTorch's optimizer of that name.

    Args:
        name: a key of :data:`OPTIONS`.
        lr: η, above 0.
        options: as PyTorch spells them, see :data:`OPTIONS`.

    Raises:
        ValueError: an unknown name or option, a number out of range, a decay with momentum in
            "sgd" (Keras does not pass it through the velocity), or TensorFlow is missing.
    """
    if name not in OPTIONS:
        raise ValueError(f"name={name!r}: one of {', '.join(map(repr, OPTIONS))} is needed")
    check_rule("lr", lr, is_positive, "a finite number above 0")
    for option in options:
        if option not in OPTIONS[name]:
            known = ", ".join(OPTIONS[name])
            raise ValueError(f"{option}={options[option]!r}: the twin of {name!r} takes {known}")
    chosen = {**OPTIONS[name], **options}
    _check_options(chosen)
    return _classes()[name](learning_rate=lr, **_in_keras(chosen))


def _check_options(chosen: dict[str, Any]) -> None:
    for option in ("eps", "weight_decay", "initial_accumulator_value"):
        if option in chosen:
            check_rule(option, chosen[option], is_not_negative, "a finite number of at least 0")
    shares = {key: chosen[key] for key in ("momentum", "alpha") if key in chosen}
    shares |= {f"betas[{i}]": beta for i, beta in enumerate(chosen.get("betas", ()))}
    for option, share in shares.items():
        check_fraction(option, share)
    if chosen.get("nesterov") and not chosen["momentum"]:
        raise ValueError("nesterov=True: a momentum above 0 is needed")
    if "nesterov" in chosen and chosen["momentum"] and chosen["weight_decay"]:
        raise ValueError(
            f"weight_decay={chosen['weight_decay']}: with momentum, PyTorch's decay runs through "
            "the velocity and Keras's does not; add it to the loss"
        )


def _in_keras(chosen: dict[str, Any]) -> dict[str, Any]:
    """The same options under Keras's names."""
    names = {"eps": "epsilon", "alpha": "rho"}
    spelt = {names.get(key, key): value for key, value in chosen.items() if key != "betas"}
    if "betas" in chosen:
        spelt["beta_1"], spelt["beta_2"] = chosen["betas"]
    if "weight_decay" in spelt:
        spelt["weight_decay"] = spelt["weight_decay"] or None
    return spelt


@functools.cache
def _classes() -> dict[str, type]:
    """Keras's optimizers, those with an ε in versions that put it where PyTorch does."""
    keras = load().keras
    ops, kinds = keras.ops, keras.optimizers

    def moved(base: type, corrected: Callable[[Any, Any, Any], Any]) -> type:
        class Twin(base):  # type: ignore[misc]
            def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
                kept = self.epsilon
                self.epsilon = corrected(self, ops.cast(gradient, variable.dtype), variable)
                super().update_step(gradient, variable, learning_rate)
                self.epsilon = kept

        Twin.__name__ = base.__name__
        return Twin

    def under_root(epsilon: float, square: Any) -> Any:
        return epsilon * (2 * ops.sqrt(square) + epsilon)  # √(v + this) = √v + ε

    def of_adam(self: Any, gradient: Any, variable: Any) -> Any:
        step = ops.cast(self.iterations + 1, variable.dtype)
        return self.epsilon * ops.sqrt(1 - ops.power(ops.cast(self.beta_2, step.dtype), step))

    def of_rmsprop(self: Any, gradient: Any, variable: Any) -> Any:
        old = self._velocities[self._get_variable_index(variable)]
        return under_root(self.epsilon, self.rho * old + (1 - self.rho) * gradient * gradient)

    def of_adagrad(self: Any, gradient: Any, variable: Any) -> Any:
        old = self._accumulators[self._get_variable_index(variable)]
        return under_root(self.epsilon, old + gradient * gradient)

    return {
        "sgd": kinds.SGD,
        "adagrad": moved(kinds.Adagrad, of_adagrad),
        "rmsprop": moved(kinds.RMSprop, of_rmsprop),
        "adam": moved(kinds.Adam, of_adam),
        "adamw": moved(kinds.AdamW, of_adam),
        "lion": kinds.Lion,
    }


def change_rate(optimizer: keras.Optimizer, lr: float) -> None:
    """Set the learning rate of SGD with momentum as PyTorch would: the velocity shrinks with it.

    Raises:
        ValueError: `lr` is not above 0.
    """
    check_rule("lr", lr, is_positive, "a finite number above 0")
    ratio = lr / float(optimizer.learning_rate)
    for velocity in getattr(optimizer, "momentums", []):
        velocity.assign(velocity * ratio)
    optimizer.learning_rate = lr


def trajectory(
    optimizer: keras.Optimizer,
    start: np.ndarray,
    gradient: Gradient,
    steps: int,
    after_step: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Give the weights (steps + 1, *start.shape) of an optimizer that starts at `start`.

    Args:
        gradient: of the loss at the weights, in their shape.
        after_step: called with the number of steps done, to change the rate, say.

    Raises:
        ValueError: `steps` is not a positive integer.
    """
    check_integer("steps", steps, minimum=1)
    weights = load().keras.Variable(start, dtype=str(start.dtype))
    path = [start]
    for step in range(steps):
        slope = load().tf.constant(gradient(path[-1]), start.dtype)
        optimizer.apply([slope], [weights])
        path.append(weights.numpy().copy())
        if after_step is not None:
            after_step(step + 1)
    return np.stack(path)


def train_twin(
    model: keras.Model,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    optimizer: keras.Optimizer,
    *,
    loss: str = "cross_entropy",
    after_step: Callable[[int], None] | None = None,
) -> list[float]:
    """One step of `optimizer` a batch; the loss of each batch before its step."""
    tf = load().tf
    criterion = loss_twin(loss, dtype=model.layers[-1].compute_dtype)
    weights: Sequence[Any] = model.trainable_variables
    optimizer.build(weights)

    @tf.function
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value = criterion(y, model(x, training=True))
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
        return value

    losses = []
    for x, y in batches:
        losses.append(float(step(x, y)))
        if after_step is not None:
            after_step(len(losses))
    return losses
