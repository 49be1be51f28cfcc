# %% [markdown]
# # Keras: the same three networks in TensorFlow
#
# **The question: what has to be moved, turned or renamed when a convolutional network, a recurrent
# one and a GPT change framework?**
#
# Chapter 2 moved dense layers between PyTorch and Keras; a matrix was transposed, and that was all.
# The layers of this chapter have more axes, several gates and several heads. Most wrong ways to
# copy them still fit the shapes.

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion[tensorflow] @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# Here is one that fits. A GRU learns to tell nine speakers apart by two Japanese vowels. Its
# weights go into Keras's `GRU` layer twice: once transposed, as a dense layer's, and once with its
# gates put into Keras's order as well. Neither raises an error.

# %%
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from companion.architectures import keras_twin
from companion.architectures.rnn import SequenceClassifier
from companion.backprop.keras_twin import load, train_twin
from companion.data.japanese_vowels import JapaneseVowels
from companion.figures import COLORS, LINESTYLES, use_course_style
from companion.training import Classifier, fit

use_course_style()
torch.set_num_threads(1)
tf, keras = load()  # TensorFlow and Keras, without their start-up messages
keras.utils.set_random_seed(0)


def as_numpy(network):
    """Copy a PyTorch network's weights out, under their names."""
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


vowels = JapaneseVowels()
vowels.setup()
torch.manual_seed(0)
speakers = SequenceClassifier(12, 9, 48, "gru", padding_value=0.0)
learner = Classifier(speakers, optimizer=partial(torch.optim.Adam, lr=1e-2))
trained = fit(learner, vowels, epochs=20, precision="32-true", test=True)

x, y = (part.numpy() for part in vowels.test)
right = {"PyTorch": trained.metrics["test_accuracy"]}
ported = keras_twin.sequence_classifier_twin(12, 9, 48, "gru", padding_value=0.0)
keras_twin.copy_weights(as_numpy(speakers), ported)
careless = keras_twin.sequence_classifier_twin(12, 9, 48, "gru", padding_value=0.0)
careless.set_weights(ported.get_weights())
weights = as_numpy(speakers)
careless.get_layer("recurrent").set_weights(
    [
        weights["recurrent.weight_ih_l0"].T,
        weights["recurrent.weight_hh_l0"].T,
        np.stack([weights["recurrent.bias_ih_l0"], weights["recurrent.bias_hh_l0"]]),
    ]
)
for name, model in (("Keras, gates in its order", ported), ("Keras, only transposed", careless)):
    right[name] = (model.predict(x, verbose=0).argmax(1) == y).mean()

# %% tags=["hide-input"]
figure, axes = plt.subplots(figsize=(7.2, 2.4))
names = list(right)[::-1]
bars = axes.barh(names, [right[name] for name in names], color=[COLORS[5], COLORS[2], COLORS[0]])
for bar, hatch in zip(bars, ("//", "", ""), strict=True):
    bar.set_hatch(hatch)
    axes.text(bar.get_width() + 0.01, bar.get_y() + 0.4, f"{bar.get_width():.0%}", va="center")
axes.set_xlim(0, 1.12)
axes.set_xlabel("test utterances given to the right speaker (share)")
axes.set_title("Two of three gates exchanged, and still mostly right")
plt.show()
assert abs(right["Keras, gates in its order"] - right["PyTorch"]) < 1e-4
assert 0.5 < right["Keras, only transposed"] < right["PyTorch"] - 0.01

# %% [markdown]
# The careless port answers with reset and update gate exchanged, and is right almost as often.
# Nobody who looks at an accuracy alone would notice. An accuracy is no test of a port; equal
# *numbers* are, and this page compares outputs and gradients throughout.

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    logits = speakers.eval()(vowels.test[0]).numpy()
for name, model in (("gates in Keras's order", ported), ("only transposed", careless)):
    off = np.abs(model.predict(x, verbose=0) - logits).max()
    verdict = "rounding" if off < 1e-3 else f"up to {off:.0f}"
    print(f"{name:24s} logits differ from PyTorch's by {verdict}")

# %% [markdown]
# ## How each framework lays the numbers down
#
# The formulas are the same. What differs is the order of axes, gates and heads in memory. $C$
# stands for channels, $k$ for the kernel size, $H$ for the hidden size, $D = C / \text{heads}$.
#
# | layer | PyTorch | Keras |
# |---|---|---|
# | images | (batch, $C$, height, width) | (batch, height, width, $C$) |
# | convolution | (out, in, $k$, $k$) | ($k$, $k$, in, out) |
# | LSTM | rows: gates $i, f, g, o$; two biases | columns: gates $i, f, c, o$; one bias |
# | GRU | gates $r, z, n$; two biases | gates $z, r, h$; one bias of shape $(2, 3H)$ |
# | attention | four matrices ($C$, $C$) | three of ($C$, heads, $D$), one (heads, $D$, $C$) |
# | layer norm | `weight`, `bias` | `gamma`, `beta` |
#
# ($i$ is the input gate, $f$ the forget gate, $o$ the output gate; $g$ or $c$ the candidate for the
# cell. $r$ is the reset gate, $z$ the update gate, which in both frameworks is the share of the old
# state that stays; $n$ or $h$ is the candidate.)
#
# `companion.architectures.keras_twin.LAYOUTS` holds these rules, forwards for weights and backwards
# for gradients. Every twin names its layers as PyTorch names its modules, so partners are found by
# name, and a name without a partner is an error.

# %% [markdown]
# ## The convolutional network
#
# A kernel moves its axes, and that is seen at once if you forget it. The trap comes later, where
# the feature maps are flattened. PyTorch flattens (channel, row, column); Keras has the channels
# last and flattens (row, column, channel). The dense layer has the same number of inputs either
# way.
#
# ::::{tab-set}
# :::{tab-item} PyTorch
# ```python
# nn.Sequential(
#     nn.Conv2d(1, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(),
#     nn.Conv2d(32, 64, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(),
#     nn.Flatten(), nn.Dropout(0.25), nn.Linear(64 * 7 * 7, 10),
# )
# ```
# :::
# :::{tab-item} Keras
# ```python
# keras.Sequential([
#     layers.Input((28, 28, 1)),
#     layers.Conv2D(32, 3, padding="same"), layers.MaxPooling2D(2), layers.ReLU(),
#     layers.Conv2D(64, 3, padding="same"), layers.MaxPooling2D(2), layers.ReLU(),
#     layers.Permute((3, 1, 2)),       # only to receive PyTorch's weights
#     layers.Flatten(), layers.Dropout(0.25), layers.Dense(10),
# ])
# ```
# :::
# ::::
#
# :::{admonition} Predict first
# :class: predict
# In the twin `Permute` moves the channels to the front again before flattening. Leave it out and
# keep the weights. Which accuracy do you expect of a trained network: a little less, or that of
# guessing?
# :::

# %% tags=["nbval-ignore-output"]
from companion.architectures.cnn import SmallCNN
from companion.data.fashion_mnist import FashionMNIST

clothes = FashionMNIST(128, limit=5_000, validation_fraction=0.0)
clothes.setup()
torch.manual_seed(0)
network = SmallCNN(width=16)
adam = partial(torch.optim.Adam, lr=3e-3)
fit(Classifier(network, optimizer=adam), clothes, epochs=3, precision="32-true")
network.eval()

images, labels = (part[:1000] for part in clothes.test)
channels_last = images.numpy().transpose(0, 2, 3, 1)
twin = keras_twin.copy_weights(as_numpy(network), keras_twin.small_cnn_twin(width=16))
with torch.no_grad():
    expected = network(images).numpy()
np.testing.assert_allclose(twin.predict(channels_last, verbose=0), expected, rtol=1e-3, atol=1e-4)

flattened_otherwise = keras.Sequential(
    [layer for layer in twin.layers if not isinstance(layer, keras.layers.Permute)]
)
flattened_otherwise.build((None, 28, 28, 1))
shares = {}
for name, model in (("as in PyTorch", twin), ("channels last", flattened_otherwise)):
    shares[name] = (model.predict(channels_last, verbose=0).argmax(1) == labels.numpy()).mean()
    print(f"flattened {name:14s} {shares[name]:.1%} of 1,000 test images right")
assert shares["as in PyTorch"] > 0.8 > 0.4 > shares["channels last"]

# %% [markdown]
# :::{dropdown} Answer
# Not far from guessing. Every weight of the dense layer now multiplies another feature at
# another place. A network that is *trained* in Keras needs no `Permute`: it learns the weights in
# its own order. Only a port has to know.
# :::
#
# Outputs agree. Gradients are the harder test, for they pass through every layer backwards:

# %%
batch, truth = images[:64], labels[:64]


def compare_gradients(network, twin, ours, theirs, truth, bound):
    """The largest difference of any gradient, relative to the largest entry of that gradient.

    A gradient that is zero but for rounding is measured against a thousandth of the largest one.
    """
    network.zero_grad()
    logits = network(ours)
    nn.functional.cross_entropy(logits.flatten(0, -2), truth.flatten()).backward()
    _, gradients = keras_twin.loss_and_gradients(twin, theirs, truth.numpy())
    worst, floor = 0.0, 1e-3 * max(p.grad.abs().max().item() for p in network.parameters())
    for name, parameter in network.named_parameters():
        grad = parameter.grad.numpy()
        scale = max(np.abs(grad).max(), floor)
        worst = max(worst, np.abs(gradients[name] - grad).max() / scale)
    assert worst < bound, worst
    print(f"{len(gradients)} gradients equal to {bound:.0e} of their largest entry")


compare_gradients(network, twin, batch, batch.numpy().transpose(0, 2, 3, 1), truth, 1e-4)

# %% [markdown]
# ## Fifty steps, and what a step costs
#
# Equal gradients and equal updates must stay equal. Fifty steps of SGD on the same batches, each
# framework with its own optimizer (dropout is off: the two draw other numbers).

# %% tags=["nbval-ignore-output"]
torch.manual_seed(1)
network = SmallCNN(width=16, dropout=0.0)
twin = keras_twin.small_cnn_twin(width=16, dropout=0.0)
keras_twin.copy_weights(as_numpy(network), twin)
train_images, train_labels = clothes.train
order = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(0))
batches = order[: 50 * 64].split(64)

optimizer = torch.optim.SGD(network.parameters(), lr=1 / 16)  # exact in float32, see chapter 2
in_torch = []
for rows in batches:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(network(train_images[rows]), train_labels[rows])
    loss.backward()
    optimizer.step()
    in_torch.append(loss.item())
pairs = [
    (train_images[rows].numpy().transpose(0, 2, 3, 1), train_labels[rows].numpy())
    for rows in batches
]
in_keras = train_twin(twin, pairs, learning_rate=1 / 16)
apart = np.abs(np.array(in_torch) - in_keras) / np.array(in_keras)
assert apart.max() < 1e-2
print(f"first loss {in_torch[0]:.2f}, last {in_torch[-1]:.2f}")

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.2))
panels[0].plot(in_torch, color=COLORS[1], linewidth=4, label="PyTorch")
panels[0].plot(in_keras, color=COLORS[5], linestyle="--", linewidth=1.6, label="Keras")
panels[0].set_xlabel("step of SGD")
panels[0].set_ylabel("loss of the batch (nats)")
panels[0].legend()
panels[1].semilogy(np.maximum(apart, 1e-9), color=COLORS[0], linestyle="none", marker="o", ms=4)
panels[1].set_ylim(1e-9, 1e-2)
panels[1].set_xlabel("step of SGD")
panels[1].set_ylabel("relative difference\nof the losses (0 as 10⁻⁹)")
figure.suptitle(
    "The two CNNs part by rounding alone", x=0.02, ha="left", fontweight="bold", fontsize=12
)
plt.show()

# %% [markdown]
# For many steps the losses differ by a rounding or not at all. Then the difference jumps: a hair
# decides which of two nearly equal pixels wins a max-pooling, or whether a ReLU is open, and from
# there on each step is taken at slightly different weights.
#
# How long does the same epoch take? The figures of this cell belong to the machine that runs it;
# the benchmark on the page {doc}`cnn` compares the frameworks with all their options on.

# %% tags=["nbval-ignore-output"]
import time

start = time.perf_counter()
learner = Classifier(SmallCNN(), optimizer=adam)
fit(learner, clothes, precision="32-true")
seconds = {"companion.training.fit": time.perf_counter() - start}

model = keras_twin.small_cnn_twin()
model.compile(
    optimizer=keras.optimizers.Adam(3e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
arrays = (train_images.numpy().transpose(0, 2, 3, 1), train_labels.numpy())
for name in ("Keras fit, first epoch", "Keras fit, second epoch"):
    start = time.perf_counter()
    model.fit(*arrays, batch_size=128, verbose=0)
    seconds[name] = time.perf_counter() - start
for name, spent in seconds.items():
    print(f"{name:24s} {spent:5.1f} s for {len(train_images):,} images, in float32")

# %% [markdown]
# Keras's first epoch includes the tracing of its graph; only the second compares.
#
# ## Recurrent networks: gates and masks
#
# The GRU's gates came first on this page. The LSTM's order is the same in both frameworks, by luck;
# what differs is the bias. PyTorch keeps two, for historical reasons of cuDNN, and adds them. Keras
# keeps their sum. So a port adds the two, and both of PyTorch's biases have the gradient of the
# one.
#
# Padding is the second difference. In PyTorch you pass lengths, pack, or pick the last real step.
# In Keras a `Masking` layer in front marks the steps whose features all equal one given value (here
# 0), and the recurrent layer carries its state past them unchanged.

# %%
for cell in ("rnn", "lstm", "gru"):
    torch.manual_seed(0)
    ours = SequenceClassifier(12, 9, 16, cell, padding_value=0.0)
    theirs = keras_twin.sequence_classifier_twin(12, 9, 16, cell, padding_value=0.0)
    keras_twin.copy_weights(as_numpy(ours), theirs)
    print(f"{cell:4s} ", end="")
    sounds, who = (part[:30] for part in vowels.test)
    compare_gradients(ours, theirs, sounds, sounds.numpy(), who, 1e-4)

# %% [markdown]
# :::{admonition} Predict first
# :class: predict
# Take the `Masking` layer away from the trained port above. The utterances have 7 to 29 steps, and
# all are padded to 29. What happens to the accuracy?
# :::

# %% tags=["nbval-ignore-output"]
unmasked = keras_twin.sequence_classifier_twin(12, 9, 48, "gru")
keras_twin.copy_weights(as_numpy(speakers), unmasked)
without = (unmasked.predict(x, verbose=0).argmax(1) == y).mean()
print(f"with the mask {right['Keras, gates in its order']:.0%}, without {without:.0%}")
assert without < right["PyTorch"]

# %% [markdown]
# :::{dropdown} Answer
# It falls. The network reads on through the padding, and its state drifts away from what it had
# recognised. A network *trained* without a mask can learn to live with that, but its answer then
# depends on the amount of padding: pad the same utterance further, and the scores change.
# :::
#
# ## The GPT: heads and the mask
#
# `keras.layers.MultiHeadAttention` cuts its matrices into heads before it stores them. The numbers
# stay in the same order, so the port is a transposition and a change of shape. The rest is the
# block that you know from the page {doc}`transformer`.

# %%
from companion.architectures.transformer import GPT, TransformerConfig

config = TransformerConfig(
    vocab_size=65, context_length=32, num_layers=2, num_heads=4, embed_dim=64
)
torch.manual_seed(0)
gpt = GPT(config).eval()
gpt_twin = keras_twin.copy_weights(as_numpy(gpt), keras_twin.gpt_twin(config))
ids = torch.randint(65, (8, 32))
following = torch.randint(65, (8, 32))
with torch.no_grad():
    np.testing.assert_allclose(gpt_twin(ids.numpy()), gpt(ids), rtol=1e-4, atol=1e-5)
compare_gradients(gpt, gpt_twin, ids, ids.numpy(), following, 1e-4)

# %% [markdown]
# :::{admonition} Widespread mistake: the mask that is off by default
# :class: mistake
# Keras's attention sees the whole sequence unless it is told `use_causal_mask=True`. A language
# model without it reads the answer: its training loss falls to nearly nothing, and it cannot write
# a word. The next cell trains both on the same text. Then it changes the *last* character of a line
# and looks whether any earlier score moves.
# :::

# %% tags=["nbval-ignore-output"]
from dataclasses import replace

from companion.data.shakespeare import Shakespeare

plays = Shakespeare(batch_size=64, context_length=32, limit=64 * 33 * 100)
plays.setup()
config = replace(config, vocab_size=plays.vocab_size)
text = [tuple(part.numpy() for part in batch) for batch in plays.train_dataloader()][:100]
curves = {}
for name, causal in (("causal mask", True), ("no mask", False)):
    keras.utils.set_random_seed(0)
    model = keras_twin.gpt_twin(replace(config, causal=causal))
    model.compile(
        optimizer=keras.optimizers.Adam(5e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    curves[name] = []
    for batch in text:
        curves[name].append(float(model.train_on_batch(*batch)))
        model.reset_metrics()  # or Keras returns the mean over all batches so far
    line = text[0][0][:1].copy()
    before = model(line).numpy()
    line[0, -1] = (line[0, -1] + 1) % plays.vocab_size
    moved = np.abs(model(line).numpy() - before)[0, :-1].max()
    print(f"{name:12s} last loss {curves[name][-1]:.1f}; earlier scores move: {moved > 1e-4}")

# %% tags=["hide-input"]
for (name, curve), color, style in zip(curves.items(), COLORS[1:], LINESTYLES, strict=False):
    plt.plot(curve, color=color, linestyle=style, label=name)
plt.title("Too good: without a causal mask the model reads the answer")
plt.xlabel("step of Adam")
plt.ylabel("training loss (nats a character)")
plt.ylim(bottom=0)
plt.legend()
plt.show()
assert curves["no mask"][-1] < curves["causal mask"][-1]

# %% [markdown]
# ## Other hardware
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# model = keras_twin.small_cnn_twin()                                # Keras
# fit(Classifier(SmallCNN()), FashionMNIST(), accelerator="cpu")     # PyTorch
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# model = keras_twin.small_cnn_twin()     # pip install "tensorflow[and-cuda]"
# fit(Classifier(SmallCNN()), FashionMNIST(), accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# with tf.distribute.TPUStrategy(resolver).scope():
#     model = keras_twin.small_cnn_twin()
# fit(Classifier(SmallCNN()), FashionMNIST(), accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} keras-network-twins
# :::

# %% [markdown]
# ## Exercises
#
# :::{exercise} The other order
# :label: ex-architectures-keras-1
# Write the permutation of the dense layer's *weights* that makes `Permute` superfluous: a Keras
# network that flattens channels last and still gives PyTorch's outputs.
# :::
#
# :::{solution} ex-architectures-keras-1
# :class: dropdown
# View the columns of the weight as (channel, row, column), move the channel to the end, flatten.
# :::

# %% tags=["hide-cell"]
# Solution
torch.manual_seed(0)
plain = SmallCNN(width=4).eval()
moved = as_numpy(plain)
columns = moved["classifier.weight"].reshape(10, 8, 7, 7).transpose(0, 2, 3, 1)
moved["classifier.weight"] = columns.reshape(10, -1)
model = keras.Sequential(
    [
        layer
        for layer in keras_twin.small_cnn_twin(width=4).layers
        if not isinstance(layer, keras.layers.Permute)
    ]
)
model.build((None, 28, 28, 1))
keras_twin.copy_weights(moved, model)
with torch.no_grad():
    expected = plain(images[:16]).numpy()
np.testing.assert_allclose(model(channels_last[:16]), expected, rtol=1e-3, atol=1e-5)

# %% [markdown]
# :::{exercise} The older GRU
# :label: ex-architectures-keras-2
# `keras.layers.GRU(reset_after=False)` computes the GRU of Cho et al.: the reset gate multiplies
# the state *before* the matrix product. Can PyTorch's weights be converted to it?
# :::
#
# :::{solution} ex-architectures-keras-2
# :class: dropdown
# No. $W(r \odot h)$ and $r \odot (Wh)$ are different functions for every $r$ that is not constant,
# and the second has one more bias. The bias of the older layer has the shape $(3H,)$ instead of
# $(2, 3H)$, so this one at least shows.
# :::

# %% tags=["hide-cell"]
# Solution
shapes = {}
for reset_after in (True, False):
    layer = keras.layers.GRU(4, reset_after=reset_after)
    layer.build((None, None, 3))
    shapes[reset_after] = tuple(layer.weights[-1].shape)
assert shapes == {True: (2, 12), False: (12,)}

# %% [markdown]
# :::{exercise} A test that finds every slip
# :label: ex-architectures-keras-3
# Freshly built layers have biases of zero and norms with scale one. Why is a comparison of outputs
# right after building blind to several mistakes on this page, and what do you do about it?
# :::
#
# :::{solution} ex-architectures-keras-3
# :class: dropdown
# Two biases that are added, or one that was forgotten, make no difference while all are zero; an
# exchanged scale and shift do show, but exchanged scales of two norms do not. Fill *every*
# parameter with random numbers first, then compare outputs and all gradients.
# :::

# %% tags=["hide-cell"]
# Solution
torch.manual_seed(0)
lstm = SequenceClassifier(3, 2, 4, "lstm")
with torch.no_grad():
    for parameter in lstm.parameters():
        parameter.zero_() if parameter.dim() == 1 else parameter.normal_()
half = as_numpy(lstm)
half["recurrent.bias_hh_l0"] = np.ones_like(half["recurrent.bias_hh_l0"])
noise = np.random.default_rng(0).normal(size=(5, 6, 3)).astype("float32")
model = keras_twin.sequence_classifier_twin(3, 2, 4)
same = keras_twin.copy_weights(as_numpy(lstm), model)(noise).numpy()
other = keras_twin.copy_weights(half, model)(noise).numpy()
assert np.abs(same - other).max() > 1e-2  # with a bias that is not zero, the slip would show

# %% [markdown]
# ## Summary
#
# - A port moves axes (kernels, images), reorders gates (GRU), adds biases (LSTM) and reshapes
#   heads; most wrong ways fit the shapes.
# - Test it by outputs *and* gradients of one batch, with every parameter random.
# - Flattening, masking and the causal mask have other defaults; only numbers show it.
# - From equal weights the frameworks stay together step by step, up to rounding.
#
# Sources: TensorFlow {cite:p}`abadi2016tensorflow`; the GRU {cite:p}`cho2014learning`; the LSTM
# {cite:p}`hochreiter1997long`; attention {cite:p}`vaswani2017attention`.
