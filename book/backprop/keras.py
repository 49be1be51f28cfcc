# %% [markdown]
# # Keras: the same networks in TensorFlow
#
# **The question: what must be equal when two frameworks train the same network, and what differs
# without a word?**
#
# Much of the code that you will read is written for the other framework. A port runs at the first
# try, and is often wrong. This page builds the chapter's networks in Keras 3 on TensorFlow
# {cite:p}`abadi2016tensorflow`, gives them the same weights, and holds every number against the
# hand-written gradients of the pages before.

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion[tensorflow] @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# The same small network, the same weights to start from, the same digits, the same optimizer. The
# second run has its loss spelt as in countless tutorials:

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from companion.backprop import keras_twin
from companion.data.digits import Digits
from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style

use_course_style()
torch.set_num_threads(1)
tf, keras = keras_twin.load()  # TensorFlow and Keras, without their start-up messages
keras.utils.set_random_seed(0)

digits = Digits(flatten=True)
digits.setup()
x, y = (part.numpy() for part in digits.train)
x_test, y_test = (part.numpy() for part in digits.test)


def as_numpy(network):
    """Copy a PyTorch network's weights out, under their names."""
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
first_weights = as_numpy(network)

runs = {
    "SparseCategoricalCrossentropy(from_logits=True)": (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ),
    '"sparse_categorical_crossentropy"': "sparse_categorical_crossentropy",
}
for name, loss in runs.items():
    model = keras_twin.copy_weights(first_weights, keras_twin.mlp_twin(64, 32, 10))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    seen = model.fit(x, y, epochs=12, batch_size=64, verbose=0).history["accuracy"]
    runs[name] = seen, model.evaluate(x_test, y_test, verbose=0)[1]

# %% tags=["hide-input"]
for (name, (seen, _)), color, style, marker in zip(
    runs.items(), COLORS[1:], LINESTYLES, MARKERS, strict=False
):
    epochs = range(1, len(seen) + 1)
    plt.plot(epochs, seen, color=color, linestyle=style, marker=marker, label=f"loss={name}")
right, wrong = (accuracy for _, accuracy in runs.values())
plt.title(f"One argument: {right:.0%} of the test digits right, or {wrong:.0%}, and no error")
plt.xlabel("epoch")
plt.ylabel("training accuracy (share)")
plt.ylim(0, 1.02)
plt.legend(loc="center right", fontsize=9)
plt.show()
assert right > 0.9 > 0.5 > wrong

# %% [markdown]
# Nothing failed, nothing warned. The string stands for the same loss with `from_logits=False`: it
# takes the network's raw outputs for probabilities. This page is about differences of that kind.

# %% [markdown]
# ## Two names for everything
#
# Keras describes; TensorFlow computes. In both frameworks a network is a list of layers, and a
# layer a matrix product. The differences are in the spelling:
#
# ::::{tab-set}
# :::{tab-item} PyTorch
# ```python
# network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
# loss = nn.functional.cross_entropy(network(x), y)   # prediction first
# loss.backward()                                     # into p.grad
# optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
# optimizer.step()
# ```
# :::
# :::{tab-item} Keras and TensorFlow
# ```python
# model = keras.Sequential([keras.layers.Input((64,)),
#                           keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)])
# with tf.GradientTape() as tape:
#     criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
#     loss = criterion(y, model(x))                            # truth first
# gradients = tape.gradient(loss, model.trainable_variables)   # returned
# optimizer = keras.optimizers.SGD(0.1)
# optimizer.apply_gradients(zip(gradients, model.trainable_variables))
# ```
# :::
# ::::
#
# And for the whole loop:
#
# ::::{tab-set}
# :::{tab-item} PyTorch with the companion
# ```python
# module = Classifier(network, optimizer=partial(torch.optim.SGD, lr=0.1))
# result = fit(module, Digits(flatten=True), epochs=12, test=True)
# ```
# :::
# :::{tab-item} Keras
# ```python
# model.compile(optimizer=keras.optimizers.SGD(0.1), metrics=["accuracy"],
#               loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
# model.fit(x, y, epochs=12, batch_size=64, validation_data=(x_val, y_val))
# model.evaluate(x_test, y_test)
# ```
# :::
# ::::
#
# A weight matrix lies the other way round. `nn.Linear` stores $W$ as (out, in) and computes
# $XW^\top + b$; `Dense` stores its *kernel* as (in, out), as the formulas of this course do, and
# computes $XW + b$. Copying weights means transposing matrices and nothing else:

# %%
twin = keras_twin.copy_weights(first_weights, keras_twin.mlp_twin(64, 32, 10))
for (name, array), variable in zip(first_weights.items(), twin.weights, strict=True):
    equal = np.array_equal(array.T, variable.numpy())
    print(f"{name:9s} {str(array.shape):9s} -> {variable.path.split('/')[-1]:7s} ", end="")
    print(f"{str(tuple(variable.shape)):9s} transposed and equal: {equal}")

# %% [markdown]
# Two frameworks in one process: does that fit the 1.5 GB that a page may use?

# %% tags=["nbval-ignore-output"]
import psutil

megabytes = psutil.Process().memory_info().rss / 1e6
assert megabytes < 1200
print(f"PyTorch, Lightning and TensorFlow together: {megabytes:.0f} MB")

# %% [markdown]
# ## Linear regression: gradients on a tape
#
# `tf.GradientTape` records what is computed inside its `with` block and walks back, like the tape
# that you built on the page {doc}`autograd`. On the {doc}`linear regression <linear_regression>`
# page the gradient was $\frac2n X^\top r$ for the weights and $\frac2n \sum_i r_i$ for the
# intercept, with the residual $r$. The same twice over, by hand and by tape:

# %%
random = np.random.default_rng(0)
features = random.normal(size=(50, 3)).astype("float32")
target = features @ np.array([[2], [-3], [1]], "float32") + 1 + 0.1 * random.normal(size=(50, 1))
target = target.astype("float32")

line = keras_twin.linear_regression_twin(3)
with tf.GradientTape() as tape:
    loss = tf.reduce_mean((line(features) - target) ** 2)
by_tape = [gradient.numpy() for gradient in tape.gradient(loss, line.trainable_variables)]

kernel, bias = line.get_weights()
residual = features @ kernel + bias - target
by_hand = [2 / 50 * features.T @ residual, 2 / 50 * residual.sum(axis=0)]
for ours, theirs in zip(by_hand, by_tape, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
np.testing.assert_allclose(loss, (residual**2).mean(), rtol=1e-5)
print("loss and gradients of the tape = by hand, to 1e-5 in float32")

# %% [markdown]
# ## The two-layer network, three ways
#
# Now the classifiers, against gradients that share no code with TensorFlow: the hand-written
# backward passes of the page {doc}`layers` and PyTorch's autograd. In float32 two correct programs
# differ by rounding, a few units in the seventh digit. In float64 a mistake of any size has nowhere
# to hide.
#
# :::{admonition} Predict first
# :class: predict
# In float64 there are 16 digits. The Keras model below is built with `dtype="float64"` and fed
# float64 arrays. To how many digits will `keras.losses.SparseCategoricalCrossentropy(
# from_logits=True)` agree with the hand-written loss?
# :::

# %%
from companion.backprop import layers, losses

sizes = {"softmax regression": (64, (), 10), "two-layer network": (64, (32,), 10)}
checked = {}
for name, (inputs, hidden, classes) in sizes.items():
    for dtype in ("float32", "float64"):
        torch.manual_seed(1)
        widths = [inputs, *hidden, classes]
        stack = []
        for width_in, width_out in zip(widths[:-1], widths[1:], strict=True):
            stack += [layers.Linear(width_in, width_out), layers.Tanh()]
        ours = layers.Sequential(*stack[:-1]).to(getattr(torch, dtype))
        model = keras_twin.mlp_twin(inputs, hidden, classes, activation="tanh", dtype=dtype)
        keras_twin.copy_weights(as_numpy(ours), model)

        batch, labels = torch.from_numpy(x[:64].astype(dtype)), torch.from_numpy(y[:64])
        with torch.no_grad():
            logits = ours(batch)
            ours.backward(losses.cross_entropy_backward(logits, labels))
            value = losses.cross_entropy(logits, labels).item()
        loss, gradients = keras_twin.loss_and_gradients(
            model, "cross_entropy", batch.numpy(), y[:64]
        )
        off = max(
            np.abs(theirs - parameter.grad.numpy()).max() / np.abs(theirs).max()
            for theirs, parameter in zip(gradients, ours.parameters(), strict=True)
        )
        checked[name, dtype] = max(off, abs(loss - value) / value)
        bound = 1e-5 if dtype == "float32" else 1e-10
        assert checked[name, dtype] < bound
        print(f"{name:19s} {dtype}: Keras = hand-written, to {bound:.0e}")

default = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y[:64], model(batch.numpy()))
assert abs(float(default) - value) / value < 1e-5
print(f"\nKeras's own loss object on the float64 model: a {default.dtype.name}, digits and all")

# %% [markdown]
# A Keras loss computes in Keras's *global* float type, float32, whatever the model's. Half of the
# digits are gone, and nothing says so. `loss_and_gradients` passes `dtype=` to the loss.
#
# ## Fifty steps, the same batches
#
# Equal gradients and equal updates must give equal losses, step for step. Batches are drawn once
# and handed to both; each framework takes fifty steps of SGD with its own optimizer.

# %%
order = np.random.default_rng(2).permutation(len(x))
batches = [np.take(order, range(64 * k, 64 * (k + 1)), mode="wrap") for k in range(50)]


def fifty_steps(dtype, learning_rate):
    """The losses of the same training in PyTorch and in Keras."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    network.to(getattr(torch, dtype))
    model = keras_twin.mlp_twin(64, 32, 10, dtype=dtype)
    keras_twin.copy_weights(as_numpy(network), model)
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate)
    in_torch = []
    for rows in batches:
        inputs, labels = torch.from_numpy(x[rows].astype(dtype)), torch.from_numpy(y[rows])
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(inputs), labels)
        loss.backward()
        optimizer.step()
        in_torch.append(loss.item())
    pairs = [(x[rows].astype(dtype), y[rows]) for rows in batches]
    return np.array(in_torch), np.array(
        keras_twin.train_twin(model, pairs, learning_rate=learning_rate)
    )


histories = {dtype: fifty_steps(dtype, 1 / 8) for dtype in ("float32", "float64")}
np.testing.assert_allclose(*histories["float32"], rtol=1e-5)
np.testing.assert_allclose(*histories["float64"], rtol=1e-10)
print("50 losses equal: to 1e-5 in float32, to 1e-10 in float64")

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.4))
in_torch, in_keras = histories["float32"]
panels[0].plot(in_torch, color=COLORS[1], linestyle="-", linewidth=4, label="PyTorch")
panels[0].plot(in_keras, color=COLORS[5], linestyle="--", linewidth=1.6, label="Keras")
panels[0].set_xlabel("step of SGD")
panels[0].set_ylabel("loss of the batch (nats)")
panels[0].legend()
for (dtype, (ours, theirs)), color, marker in zip(
    histories.items(), (COLORS[2], COLORS[0]), MARKERS, strict=False
):
    apart = np.maximum(np.abs(ours - theirs) / theirs, 1e-17)
    panels[1].semilogy(apart, color=color, linestyle="none", marker=marker, ms=4, label=dtype)
panels[1].axhline(1e-17, color=COLORS[0], linestyle=":", linewidth=1)
panels[1].text(0, 1.6e-18, "equal to the last bit", fontsize=9)
panels[1].set_ylim(3e-19, 1e-3)
panels[1].set_xlabel("step of SGD")
panels[1].set_ylabel("relative difference of the losses")
panels[1].legend()
figure.suptitle(
    "One curve: the frameworks differ by rounding and by nothing else",
    x=0.02,
    ha="left",
    fontweight="bold",
    fontsize=12,
)
plt.show()

# %% [markdown]
# The learning rate is 1/8 for a reason. Keras stores it in float32, which holds 1/8 exactly and 0.1
# not:

# %%
ours, theirs = fifty_steps("float64", 0.1)
apart = np.abs(ours / theirs - 1).max()
assert 1e-10 < apart < 1e-6
print(f"0.1 in float32 is {np.float32(0.1):.11f}; the float64 losses are then ", end="")
print(f"up to {apart:.0e} apart")

# %% [markdown]
# ## What differs in silence
#
# Each of the following runs, trains, and gives other numbers than the PyTorch line of the same
# name. First the loss from the top of the page.
#
# ### Logits or probabilities
#
# `from_logits=False` clips the outputs to $[10^{-7}, 1 - 10^{-7}]$, takes the logarithm, and scales
# the result so that the probabilities sum to 1. For probabilities that is right, up to the clip.
# For logits it is nonsense: every output below 0 or above 1 is clipped, and a clipped output has
# the gradient zero. It hears nothing.

# %%
logits = keras_twin.copy_weights(first_weights, keras_twin.mlp_twin(64, 32, 10))(x).numpy()
deaf = ((logits < 1e-7) | (logits > 1 - 1e-7)).mean()
print(f"outputs that hear nothing, before the first step: {deaf:.0%}")

# %% [markdown]
# :::{admonition} Predict first
# :class: predict
# Even with real probabilities the clip shows. A network is sure and wrong: its logits are (0, 50),
# the truth is class 0. What is the loss from the logits, and what from the probabilities? And the
# two gradients?
# :::

# %%
sure_and_wrong, truth = tf.constant([[0.0, 50.0]]), np.array([0])
for name, last_layer, from_logits in (
    ("logits", tf.identity, True),
    ("tf.nn.softmax", tf.nn.softmax, False),
    ("a Keras softmax", keras.activations.softmax, False),
):
    criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    with tf.GradientTape() as tape:
        tape.watch(sure_and_wrong)
        loss = criterion(truth, last_layer(sure_and_wrong))
    gradient = tape.gradient(loss, sure_and_wrong).numpy()[0]
    print(f"from {name:15s} loss {loss:6.3f}   gradient {gradient.tolist()}")
print(f"the clip: -log(1e-7) = {-np.log(1e-7):.3f}")

# %% [markdown]
# The worst possible mistake, and no gradient at all. A softmax of Keras's own is spared, because
# Keras remembers the logits behind it and quietly uses those. Let the network end in logits, in
# both frameworks, and you need not know; {doc}`losses` shows why.
#
# ### Constants of the normalising layers
#
# | | PyTorch | Keras |
# |---|---|---|
# | `LayerNorm` / `LayerNormalization`: $\varepsilon$ | $10^{-5}$ | $10^{-3}$ |
# | `BatchNorm1d` / `BatchNormalization`: $\varepsilon$ | $10^{-5}$ | $10^{-3}$ |
# | batch norm's `momentum` | 0.1, weight of the *new* batch | 0.99, weight of the *old* value |
# | running variance | of a sample, divided by $n - 1$ | of the batch, divided by $n$ |
# | rate in `Dropout` | share that is set to 0 | the same; the random draws differ |
#
# The word "momentum" means opposite things: 0.1 there is 0.9 here, and the defaults are not even
# that. Written out, with the batch's mean $\mu$:
#
# $$\text{PyTorch: } m \leftarrow (1 - 0.1)\, m + 0.1\, \mu, \qquad
# \text{Keras: } m \leftarrow 0.99\, m + (1 - 0.99)\, \mu .$$

# %%
narrow = 0.03 * random.normal(size=(32, 4)).astype("float32") + 5  # small variance, mean 5
in_torch, in_keras = nn.BatchNorm1d(4), keras.layers.BatchNormalization()
as_torch = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
for _ in range(20):
    ours = in_torch(torch.from_numpy(narrow)).detach().numpy()
    defaults = in_keras(narrow, training=True).numpy()
    matched = as_torch(narrow, training=True).numpy()
np.testing.assert_allclose(ours, matched, rtol=1e-4, atol=1e-3)
print("spread of the training output")
print(f"  PyTorch {ours.std():.2f}, Keras {defaults.std():.2f}, ", end="")
print(f"Keras with PyTorch's constants {matched.std():.2f}")
print("running mean after 20 batches of mean 5")
print(f"  PyTorch {in_torch.running_mean.mean():.2f}, ", end="")
print(f"Keras {in_keras.moving_mean.numpy().mean():.2f}")
in_torch.eval()
ours, theirs = in_torch(torch.from_numpy(narrow)), in_keras(narrow, training=False)
print("mean output of the same input in evaluation")
print(f"  PyTorch {ours.mean():.2f}, Keras {theirs.numpy().mean():.2f}")

# %% [markdown]
# The variance of these inputs is about $\varepsilon$, so Keras's larger $\varepsilon$ shrinks the
# output; and after twenty batches its running mean has hardly left 0. Wide inputs and thousands of
# batches hide both. The remaining difference, $n$ against $n - 1$, stays even when all constants
# agree:

# %%
after_one = nn.BatchNorm1d(4)
after_one(torch.from_numpy(narrow))
matched = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
matched(narrow, training=True)
ratio = (after_one.running_var.numpy() - 0.9) / (matched.moving_variance.numpy() - 0.9)
print(f"new parts of the running variance, PyTorch / Keras: {ratio.mean():.3f}, ", end="")
print(f"32/31 = {32 / 31:.3f}")

# %% [markdown]
# ### Where the weights start
#
# You cannot see this one in any argument. `Dense` draws its kernel from the uniform distribution of
# Glorot and Bengio, $\pm\sqrt{6 / (\text{in} + \text{out})}$ {cite:p}`glorot2010understanding`, and
# starts its bias at 0; `nn.Linear` draws both from $\pm\sqrt{1/\text{in}}$.

# %%
dense = keras.layers.Dense(10)
dense.build((None, 784))
linear = nn.Linear(784, 10)
spreads = {
    "Keras Dense": (dense.kernel.numpy(), (6 / 794) ** 0.5),
    "torch nn.Linear": (linear.weight.detach().numpy(), (1 / 784) ** 0.5),
}
for name, (weights, bound) in spreads.items():
    print(f"{name:16s} largest weight {np.abs(weights).max():.3f}, bound {bound:.3f}")
print(f"biases: Keras all {dense.bias.numpy().max():.0f}, PyTorch random")

# %% tags=["hide-input"]
bins = np.linspace(-0.1, 0.1, 41)
for (name, (weights, _)), color, style in zip(
    spreads.items(), COLORS[1:], ("-", "--"), strict=False
):
    plt.hist(
        weights.ravel(), bins=bins, histtype="step", color=color, linestyle=style, linewidth=2,
        label=name,
    )  # fmt: skip
plt.title(f"784 to 10: Keras starts with weights {(6 / 794) ** 0.5 * 28:.1f} times as large")
plt.xlabel("initial weight")
plt.ylabel("number of weights")
plt.legend()
plt.show()

# %% [markdown]
# ### Smaller ones
#
# - **Adam's** $\varepsilon$ is $10^{-8}$ in PyTorch and $10^{-7}$ in Keras. Chapter 4 shows when
#   that is visible.
# - **A target of shape $(n,)$** against a prediction of shape $(n, 1)$: Keras's
#   `MeanSquaredError` matches them up. Written as a formula it broadcasts to $(n, n)$, the trap of
#   the last page's exercise.
# - **The `loss` that `fit` prints** is the mean over the epoch *while* the weights change, not
#   the loss at its end. It can lie above the validation loss for that reason alone.
# - **GELU in float64** goes through a $\sqrt2$ in float32 in TensorFlow 2.21, and half of the
#   digits are lost.

# %%
prediction, flat_target = np.zeros((4, 1), "float32"), np.array([1.0, 2, 3, 4], "float32")
keras_value = keras.losses.MeanSquaredError()(flat_target, prediction + 1)
broadcast = ((prediction + 1 - flat_target) ** 2).shape
print(
    f"Keras: {keras_value:.2f} = mean of 0, 1, 4, 9; in NumPy or PyTorch the shape is {broadcast}"
)

point = torch.tensor(1.3, dtype=torch.float64)
off = abs(float(keras.activations.gelu(point.numpy())) / nn.functional.gelu(point).item() - 1)
assert 1e-12 < off < 1e-7
print(f"GELU in float64: {-np.log10(off):.0f} digits of 16 agree")

# %% [markdown]
# ## The tutorial's line, done right
#
# The Keras program that so many articles print fits $y = 2x + 1 + \text{noise}$ and evaluates on
# the data it has seen ([mistake E17](#mistake-e17)). Here is the same program with noise of mean
# zero and rows that are kept away from the training. The closed form says what it must find.

# %%
from companion.backprop.linear_regression import least_squares

points = random.random((200, 1))
values = 2 * points + 1 + random.random((200, 1)) - 0.5  # the noise has mean 0
model = keras_twin.linear_regression_twin(1)
model.compile(optimizer=keras.optimizers.SGD(0.7), loss="mse")
model.fit(points[:100], values[:100], epochs=70, batch_size=100, verbose=0)
kernel, bias = model.get_weights()
solved = least_squares(torch.from_numpy(points[:100]), torch.from_numpy(values[:100]))
print(f"Keras: weight {kernel.item():.3f}, intercept {bias.item():.3f}")
print(f"closed form: {solved.weight.item():.3f} and {solved.bias.item():.3f}")
assert abs(kernel.item() - solved.weight.item()) < 1e-2
held_out = model.evaluate(points[100:], values[100:], verbose=0)
print(f"loss on held-out points {held_out:.3f}, variance of the noise {1 / 12:.3f}")

# %% [markdown]
# ## The real thing: Fashion-MNIST with `fit`
#
# 10,000 pictures of clothing, a hidden layer of 128, Keras's own loop on the one side and
# Lightning's on the other. Weights and batches are drawn independently, so the curves need not
# coincide: the results should.

# %% tags=["nbval-ignore-output"]
from functools import partial

from companion.data.fashion_mnist import FashionMNIST
from companion.training import Classifier, fit

clothes = FashionMNIST(128, limit=10_000, validation_fraction=0.05, flatten=True)
clothes.setup()
train, validation, test = (
    tuple(part.numpy() for part in pair)
    for pair in (clothes.train, clothes.validation, clothes.test)
)
model = keras_twin.mlp_twin(784, 128, 10, dropout=0.2)
model.compile(
    optimizer=keras.optimizers.Adam(2e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
kept = model.fit(*train, epochs=5, batch_size=128, validation_data=validation, verbose=0).history
in_keras = model.evaluate(*test, verbose=0)[1]

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
learner = Classifier(network, optimizer=partial(torch.optim.Adam, lr=2e-3))
result = fit(learner, clothes, epochs=5, precision="32-true", test=True)
in_torch = result.metrics["test_accuracy"]
print(f"test accuracy: Keras {in_keras:.1%}, Lightning {in_torch:.1%}")
assert min(in_keras, in_torch) > 0.8
assert abs(in_keras - in_torch) < 0.03

# %% tags=["hide-input"]
epochs = range(1, 6)
curves = {
    "Keras, validation": kept["val_loss"],
    "Lightning, validation": [row["val_loss"] for row in result.history],
    "Keras, what fit prints": kept["loss"],
    "Lightning, mean over the epoch": [row["train_loss"] for row in result.history],
}
for (name, curve), color, style, marker in zip(
    curves.items(), COLORS, LINESTYLES, MARKERS, strict=False
):
    plt.plot(epochs, curve, color=color, linestyle=style, marker=marker, label=name)
plt.title(f"Different draws, one result: {in_keras:.0%} and {in_torch:.0%} of the test set right")
plt.xlabel("epoch")
plt.xticks(epochs)
plt.ylabel("loss (nats)")
plt.legend()
plt.show()

# %% [markdown]
# In both frameworks the training loss starts *above* the validation loss. It was averaged over an
# epoch that began with a worse network, and with dropout switched on.
#
# ## Other hardware
#
# TensorFlow picks a GPU by itself if it sees one; a TPU wants a strategy around the construction of
# the model. In PyTorch the place is an argument of `fit`.
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# model = keras_twin.mlp_twin(64, 32, 10)                               # Keras
# fit(Classifier(network), Digits(flatten=True), accelerator="cpu")     # PyTorch
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# model = keras_twin.mlp_twin(64, 32, 10)     # pip install "tensorflow[and-cuda]"
# fit(Classifier(network), Digits(flatten=True), accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# with tf.distribute.TPUStrategy(resolver).scope():
#     model = keras_twin.mlp_twin(64, 32, 10)
# fit(Classifier(network), Digits(flatten=True), accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} keras-twin
# :::
#
# The recipe behind this table trains the PyTorch network, lets the twin train beside it, and
# compares every loss. It compares *frameworks*, so it is run on one processor, the CPU.

# %% [markdown]
# ## Exercises
#
# :::{exercise} Weight decay in two spellings
# :label: ex-keras-1
# `torch.optim.SGD(weight_decay=λ)` adds $\lambda w$ to every gradient. Keras has
# `kernel_regularizer=keras.regularizers.L2(c)`, which adds $c \sum w^2$ to the loss. Which $c$
# gives the same training, and for which parameters? Check one step.
# :::
#
# :::{solution} ex-keras-1
# :class: dropdown
# The gradient of $c \sum w^2$ is $2cw$, so $c = \lambda/2$: Keras leaves out the $\tfrac12$ of the
# course's formula. The regulariser belongs to the kernel alone, PyTorch's argument to every
# parameter of its group, biases included, unless you give them a group of their own.
# :::

# %% tags=["hide-cell"]
# Solution
weight_decay = 0.25
model = keras.Sequential(
    [
        keras.layers.Input((64,)),
        keras.layers.Dense(10, kernel_regularizer=keras.regularizers.L2(weight_decay / 2)),
    ]
)
linear = nn.Linear(64, 10)
keras_twin.copy_weights(as_numpy(nn.Sequential(linear)), model)
model.compile(
    optimizer=keras.optimizers.SGD(0.125),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.train_on_batch(x[:64], y[:64])

optimizer = torch.optim.SGD(
    [{"params": [linear.weight], "weight_decay": weight_decay}, {"params": [linear.bias]}], lr=0.125
)
nn.functional.cross_entropy(linear(torch.from_numpy(x[:64])), torch.from_numpy(y[:64])).backward()
optimizer.step()
np.testing.assert_allclose(linear.weight.detach().numpy().T, model.get_weights()[0], atol=1e-6)
np.testing.assert_allclose(linear.bias.detach().numpy(), model.get_weights()[1], atol=1e-6)

# %% [markdown]
# :::{exercise} The square matrix
# :label: ex-keras-2
# Somebody copies weights without transposing, and it works for months: every layer was square.
# Write a check that catches it, whatever the shapes, and without looking at the weights.
# :::
#
# :::{solution} ex-keras-2
# :class: dropdown
# Compare *outputs*: push a random batch through both models and ask for equality. A comparison of
# shapes proves nothing, and a comparison of sorted weights passes too.
# :::

# %% tags=["hide-cell"]
# Solution
square = nn.Sequential(nn.Linear(8, 8))
copied = keras_twin.copy_weights(as_numpy(square), keras_twin.linear_regression_twin(8, 8))
careless = keras_twin.linear_regression_twin(8, 8)
careless.set_weights([square[0].weight.detach().numpy(), square[0].bias.detach().numpy()])
batch = random.normal(size=(5, 8)).astype("float32")
expected = square(torch.from_numpy(batch)).detach().numpy()
np.testing.assert_allclose(copied(batch), expected, rtol=1e-4, atol=1e-6)
assert np.abs(careless(batch) - expected).max() > 0.1

# %% [markdown]
# :::{exercise} Back to PyTorch
# :label: ex-keras-3
# A colleague sends you a trained Keras model with batch norm, made with Keras's defaults. Which
# arguments must the PyTorch layers have so that evaluation gives the same outputs? And so that
# *training on* behaves the same?
# :::
#
# :::{solution} ex-keras-3
# :class: dropdown
# Evaluation uses $\varepsilon$ and the stored statistics: `nn.BatchNorm1d(width, eps=1e-3)`. For
# training on, also `momentum=0.01`, which is $1 - 0.99$. The running variance will still grow by
# $n/(n-1)$ in every update; for batches of 128 that is less than one per cent.
# :::

# %% tags=["hide-cell"]
# Solution
theirs = keras.Sequential([keras.layers.Input((4,)), keras.layers.BatchNormalization()])
for _ in range(5):
    theirs(narrow, training=True)
gamma, beta, mean, variance = (torch.from_numpy(array) for array in theirs.get_weights())
ours = nn.BatchNorm1d(4, eps=1e-3, momentum=0.01)
ours.load_state_dict(
    {
        "weight": gamma,
        "bias": beta,
        "running_mean": mean,
        "running_var": variance,
        "num_batches_tracked": torch.tensor(5),
    }
)
ours.eval()
expected = theirs(narrow, training=False).numpy()
np.testing.assert_allclose(ours(torch.from_numpy(narrow)).detach(), expected, rtol=1e-5)
ours.train()
ours(torch.from_numpy(narrow))
theirs(narrow, training=True)
np.testing.assert_allclose(ours.running_mean, theirs.get_weights()[2], rtol=1e-5)

# %% [markdown]
# ## Summary
#
# - Same weights (transposed), same batch: the losses and gradients of two frameworks agree to
#   rounding, 1e-5 in float32 and 1e-10 in float64, and stay together over fifty steps.
# - Losses: truth first in Keras, and `from_logits=True`, or the training is silently another one.
# - Layer and batch norm have other $\varepsilon$, batch norm's momentum means the opposite, and its
#   running variance divides by $n$.
# - Keras's losses, learning rates and GELU compute in float32 even in a float64 model.
# - Test a port by equal *numbers* from equal weights. Equal shapes and a falling loss prove
#   nothing.
#
# Sources: TensorFlow {cite:p}`abadi2016tensorflow`; initial weights
# {cite:p}`glorot2010understanding`; batch norm and its running statistics {cite:p}`ioffe2015batch`;
# layer norm {cite:p}`ba2016layer`.
