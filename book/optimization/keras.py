# %% [markdown]
# # Keras: the same optimizers, spelt differently
#
# **The question: which options make a Keras optimizer take exactly PyTorch's steps, and which
# differences appear only later?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion[tensorflow] @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# SGD with momentum has two numbers, and both frameworks call them the same. Here a small network
# learns the digits twice, from equal weights on equal batches. After 50 of 100 steps the learning
# rate drops to a 32nd.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from companion.backprop.keras_twin import copy_weights, load, mlp_twin
from companion.data.digits import Digits
from companion.figures import COLORS, LINESTYLES, use_course_style
from companion.optimization import keras_twin, schedules
from companion.optimization.adam import Adam, AdamW
from companion.optimization.adaptive import Adagrad, RMSprop
from companion.optimization.lion import Lion
from companion.optimization.sgd import SGD

use_course_style()
torch.set_num_threads(1)
tf, keras = load()  # TensorFlow and Keras, without their start-up messages

digits = Digits()
digits.setup()
x, y = digits.train
torch.manual_seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
first = {name: tensor.clone() for name, tensor in network.state_dict().items()}
batches = torch.randint(len(x), (100, 64), generator=torch.Generator().manual_seed(0))


def train_in_torch(optimizer_class, rate_of, **options):
    """The losses of the batches; `rate_of(step)` is the learning rate."""
    network.load_state_dict(first)
    optimizer = optimizer_class(network.parameters(), lr=rate_of(0), **options)
    losses = []
    for step, rows in enumerate(batches):
        optimizer.param_groups[0]["lr"] = rate_of(step)
        loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def train_in_keras(optimizer, after_step=None):
    """The same weights, the same batches."""
    model = copy_weights({k: v.numpy() for k, v in first.items()}, mlp_twin(64, 32, 10))
    pairs = [(x[rows].flatten(1).numpy(), y[rows].numpy()) for rows in batches]
    return np.array(keras_twin.train_twin(model, pairs, optimizer, after_step=after_step))


def rate_of(step):
    return 1 / 8 if step < 50 else 1 / 256


losses = {"PyTorch": train_in_torch(SGD, rate_of, momentum=15 / 16)}
optimizer = keras.optimizers.SGD(1 / 8, momentum=15 / 16)


def drop(step):
    if step == 50:
        optimizer.learning_rate = 1 / 256


losses["Keras"] = train_in_keras(optimizer, drop)

# %% tags=["hide-input"]
for (name, curve), color, style in zip(losses.items(), COLORS[1:], LINESTYLES, strict=False):
    plt.plot(np.maximum(curve, 1e-3), color=color, linestyle=style, label=name)
plt.axvline(50, color="grey", linewidth=1, linestyle=":")
plt.yscale("log")
plt.xlabel("step of SGD with momentum (the rate drops at 50)")
plt.ylabel("loss of the batch (nats)")
plt.title("One change of the rate, and the runs part")
plt.legend()
plt.show()
apart = np.abs(losses["Keras"] / losses["PyTorch"] - 1)
assert apart[:51].max() < 1e-3
assert apart[51:].max() > 0.5
print("The largest relative difference of the losses")
print("up to the change: below 0.1 %; after it: above 50 %")

# %% [markdown]
# Neither framework has an error. They store different things. PyTorch keeps a velocity of
# gradients, $b \leftarrow \mu b + g$, and steps by $-\eta b$. Keras keeps a velocity of steps,
# $v \leftarrow \mu v - \eta g$, and steps by $v$. While η is constant, $v = -\eta b$. When η drops,
# Keras's old velocity still has the old length, and takes about $1/(1-\mu)$ steps to fade.
#
# `companion.optimization.keras_twin.change_rate` shrinks the velocity with the rate:

# %%
optimizer = keras_twin.optimizer_twin("sgd", lr=1 / 8, momentum=15 / 16)
losses["Keras, change_rate"] = train_in_keras(
    optimizer, lambda step: keras_twin.change_rate(optimizer, 1 / 256) if step == 50 else None
)
apart = np.abs(losses["Keras, change_rate"] / losses["PyTorch"] - 1)
assert apart.max() < 1e-3
print("with change_rate, all 100 losses agree to 0.1 %")

# %% [markdown]
# ## Fifty steps of each
#
# `optimizer_twin` takes PyTorch's options and gives the Keras optimizer with the same steps. Both
# start from one point of a least-squares problem, in float64. All rates are fractions with a power
# of two below: Keras keeps rates in float32, and these are exact there.
#
# ::::{tab-set}
# :::{tab-item} PyTorch
# ```python
# torch.optim.RMSprop(parameters, lr=1 / 64, alpha=15 / 16, eps=1e-8)
# torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
# ```
# :::
# :::{tab-item} Keras
# ```python
# optimizer_twin("rmsprop", lr=1 / 64, alpha=15 / 16, eps=1e-8)   # rho, epsilon
# optimizer_twin("adamw", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
# ```
# :::
# ::::

# %%
rng = np.random.default_rng(0)
matrix, target, start = rng.normal(size=(8, 6)), rng.normal(size=8), rng.normal(size=6)


def gradient(w):
    """Of half the mean squared residual."""
    return matrix.T @ (matrix @ w - target) / 8


def path_in_torch(optimizer_class, slope, steps=50, **options):
    weights = nn.Parameter(torch.tensor(start))
    optimizer = optimizer_class([weights], **options)
    path = [start]
    for _ in range(steps):
        weights.grad = torch.tensor(slope(path[-1]))
        optimizer.step()
        path.append(weights.detach().numpy().copy())
    return np.stack(path)


betas = {"betas": (7 / 8, 63 / 64)}
cases = [
    ("sgd", SGD, {}),
    ("sgd", SGD, {"weight_decay": 1 / 8}),
    ("sgd", SGD, {"momentum": 7 / 8}),
    ("sgd", SGD, {"momentum": 7 / 8, "nesterov": True}),
    ("adagrad", Adagrad, {"eps": 1 / 16}),
    ("rmsprop", RMSprop, {"alpha": 15 / 16, "eps": 1 / 16}),
    ("adam", Adam, betas | {"eps": 1 / 16}),
    ("adamw", AdamW, betas | {"eps": 1 / 16, "weight_decay": 1 / 8}),
    ("lion", Lion, betas | {"weight_decay": 1 / 8}),
]
for name, optimizer_class, options in cases:
    ours = path_in_torch(optimizer_class, gradient, lr=1 / 64, **options)
    twin = keras_twin.optimizer_twin(name, lr=1 / 64, **options)
    theirs = keras_twin.trajectory(twin, start, gradient, 50)
    np.testing.assert_allclose(theirs, ours, rtol=1e-10, atol=1e-12)
    print(f"{name:8s} 50 steps equal to 1e-10   {', '.join(options)}")

# %% [markdown]
# :::{admonition} Predict first
# :class: predict
# The same Adam with the rate 0.01 and the betas 0.9 and 0.999, in float64 on both sides. Will the
# paths still agree to ten digits?
# :::

# %%
options = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8}
ours = path_in_torch(Adam, gradient, **options)
theirs = keras_twin.trajectory(keras_twin.optimizer_twin("adam", **options), start, gradient, 50)
distance = np.abs(ours - theirs).max()
assert 1e-7 < distance < 1e-5
print(f"largest difference of a weight: about {distance:.0e}")

# %% [markdown]
# :::{dropdown} Answer
# No. 0.999 becomes its nearest float32 neighbour, and $1 - \beta_2^t$ is small in the first steps,
# so the neighbour's tiny error weighs a thousand times more. It is harmless in training; in a test
# with tight bounds it is not.
# :::
#
# ## Where ε stands
#
# Epsilon keeps a division from failing. RMSprop and Adagrad add it after the root in PyTorch, and
# under the root in Keras. Adam has a subtler difference: PyTorch corrects the second moment,
# $\hat v = v / (1 - \beta_2^t)$, and adds ε to $\sqrt{\hat v}$; Keras moves the correction into the
# rate and adds ε to the raw $\sqrt v$. The two agree if Keras's is
#
# $$\varepsilon' = \varepsilon \sqrt{1 - \beta_2^t} .$$
#
# :::{admonition} Predict first
# :class: predict
# Adam's step does not depend on the gradient's scale, says the page {doc}`adam`. All gradients are
# now multiplied by $10^{-6}$. How long is the first step of `keras.optimizers.Adam(0.01)`, with its
# default ε of $10^{-7}$: 0.01, a little less, or far less?
# :::

# %%
one = np.full(6, 1e-6)  # a gradient of 1e-6 in each direction
steps = {"PyTorch, eps 1e-8": path_in_torch(Adam, lambda w: one, 50, lr=0.01)}
kinds = {
    "twin, eps 1e-8": keras_twin.optimizer_twin("adam", lr=0.01),
    "Keras, epsilon 1e-8": keras.optimizers.Adam(0.01, epsilon=1e-8),
    "Keras, its default 1e-7": keras.optimizers.Adam(0.01),
}
for name, optimizer in kinds.items():
    steps[name] = keras_twin.trajectory(optimizer, start, lambda w: one, 50)
lengths = {name: -np.diff(path[:, 0]) for name, path in steps.items()}
for name, length in lengths.items():
    print(f"{name:24s} step 1: {length[0]:.4f}   step 50: {length[-1]:.4f}")
assert lengths["Keras, its default 1e-7"][0] < 0.003 < 0.0099 < lengths["PyTorch, eps 1e-8"][0]
np.testing.assert_allclose(lengths["twin, eps 1e-8"], lengths["PyTorch, eps 1e-8"], rtol=1e-4)

# %% tags=["hide-input"]
for (name, length), color, style in zip(
    lengths.items(),
    (COLORS[1], COLORS[5], COLORS[2], COLORS[0]),
    ("-", "--", "-.", ":"),
    strict=True,
):
    plt.plot(range(1, 51), length, color=color, linestyle=style, label=name)
plt.ylim(bottom=0)
plt.xlabel("step of Adam")
plt.ylabel("length of the step (rate 0.01)")
plt.title("With gradients of 10⁻⁶, Keras's ε shortens the steps")
plt.legend()
plt.show()

# %% [markdown]
# :::{dropdown} Answer
# Far less. In step 1 the root of $1 - \beta_2$ is about 0.03, so a raw $\sqrt v$ is thirty times
# smaller than the gradient, and ε is larger than it. The twin sets ε anew in each step.
# :::
#
# ## Weight decay, clipping and schedules
#
# :::{admonition} Widespread mistake: the same word, another decay
# :class: mistake
# `torch.optim.Adam(weight_decay=λ)` adds λw to the gradient, and Adam's division undoes much of
# it. `keras.optimizers.Adam(weight_decay=λ)` shrinks the weights directly: it is AdamW. Ported
# literally, the option changes its meaning without a message; `optimizer_twin("adam",
# weight_decay=…)` refuses it.
# :::

# %%
decay = {"lr": 1 / 64, "eps": 1e-8, **betas, "weight_decay": 1 / 2}
keras_adam = keras.optimizers.Adam(1 / 64, *betas["betas"], epsilon=1e-8, weight_decay=1 / 2)
in_keras = keras_twin.trajectory(keras_adam, start, gradient, 50)[-1]
for name, kind in (("Adam", Adam), ("AdamW", AdamW)):
    distance = np.abs(path_in_torch(kind, gradient, **decay)[-1] - in_keras).max()
    print(f"Keras's Adam with decay is within 0.001 of our {name:5s}: {distance < 1e-3}")
    assert (distance < 1e-3) == (name == "AdamW")

# Clipping: clipnorm for each variable by itself, global_clipnorm for all together.
slopes = [np.array([3.0, 4.0]), np.array([0.3, 0.4])]  # norms 5 and 0.5
for option in ("clipnorm", "global_clipnorm"):
    optimizer = keras.optimizers.SGD(1.0, **{option: 1.0})
    weights = [keras.Variable(np.zeros(2)) for _ in slopes]
    optimizer.apply([tf.constant(slope, "float32") for slope in slopes], weights)
    norms = [float(np.linalg.norm(weight.numpy())) for weight in weights]
    print(f"{option:16s} norms 5.00 and 0.50 become {norms[0]:.2f} and {norms[1]:.2f}")
parameters = [nn.Parameter(torch.zeros(2)) for _ in slopes]
for parameter, slope in zip(parameters, slopes, strict=True):
    parameter.grad = torch.tensor(slope, dtype=torch.float32)
nn.utils.clip_grad_norm_(parameters, 1.0)
np.testing.assert_allclose([p.grad.norm() for p in parameters], norms, rtol=1e-5)  # the global one

# %% [markdown]
# `clip_grad_norm_` is `global_clipnorm`. The other option changes the direction of the whole
# gradient, too.
#
# Keras's schedules count steps from 0, as ours do. Without warm-up they agree. With warm-up the
# first step differs: Keras begins at its `initial_learning_rate`, and a 0 there wastes a step.

# %%
kinds = keras.optimizers.schedules
cosine, exponential = kinds.CosineDecay(1.0, 50), kinds.ExponentialDecay(1.0, 1, 0.9)
for step in range(60):
    np.testing.assert_allclose(cosine(step), schedules.cosine(step, total_steps=50), atol=1e-6)
    np.testing.assert_allclose(exponential(step), schedules.exponential(step, gamma=0.9), atol=1e-6)
warm = kinds.CosineDecay(0.0, 40, warmup_target=1.0, warmup_steps=10)
for step in (0, 1, 9, 10, 30):
    ours = schedules.cosine(step, total_steps=50, warmup_steps=10)
    print(f"step {step:2d}: ours {ours:.2f}, Keras {float(warm(step)):.2f}")

# %% [markdown]
# ## Averages and early stopping
#
# `use_ema=True` averages the weights and begins with those after the first step, as `start="first"`
# of our `ExponentialMovingAverage`. During `fit`, Keras validates the raw weights; ours validates
# the average. `EarlyStopping` in Keras has patience 0 and keeps the *last* weights unless told
# `restore_best_weights=True`; ours puts the best back.

# %%
from companion.optimization.averaging import ema_share

optimizer = keras.optimizers.SGD(1 / 16, use_ema=True, ema_momentum=7 / 8)
path = keras_twin.trajectory(optimizer, start, gradient, 20)
average = np.zeros_like(start)
for step, weights in enumerate(path[1:], start=1):
    average += ema_share(step, 7 / 8, "first") * (weights - average)
stored = optimizer._model_variables_moving_average[0].numpy()
np.testing.assert_allclose(stored, average, rtol=1e-6)
print("the averages agree")

for restore in (False, True):
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    stopping = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=restore)
    stopping.set_model(model)
    stopping.on_train_begin()
    for epoch, value in enumerate((0.9, 0.5, 0.6, 0.7)):
        model.set_weights([np.array([[float(epoch)]])])  # the weight says the epoch
        stopping.on_epoch_end(epoch, {"val_loss": value})
    stopping.on_train_end()
    kept = int(model.get_weights()[0].item())
    assert kept == (1 if restore else 3)
    print(f"restore_best_weights={restore!s:5s}: the weights of epoch {kept}; the best was 1")

# %% [markdown]
# ## A training side by side
#
# AdamW with a cosine schedule on the digits, 100 steps from the same weights:

# %%
ours = train_in_torch(
    AdamW, lambda step: 0.01 * schedules.cosine(step, total_steps=100), weight_decay=0.1
)
optimizer = keras_twin.optimizer_twin("adamw", lr=0.01, weight_decay=0.1)


def follow(step):
    optimizer.learning_rate = 0.01 * schedules.cosine(step, total_steps=100)


theirs = train_in_keras(optimizer, follow)
np.testing.assert_allclose(theirs, ours, rtol=1e-2)
print(f"first loss {ours[0]:.2f}, last {ours[-1]:.2f}; all 100 agree to 1 %")

# %% [markdown]
# ## Other hardware
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# model.compile(optimizer=optimizer_twin("adamw", lr=1e-3), loss=loss)
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# model.compile(optimizer=optimizer_twin("adamw", lr=1e-3), loss=loss)  # tensorflow[and-cuda]
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# with tf.distribute.TPUStrategy(resolver).scope():
#     model.compile(optimizer=optimizer_twin("adamw", lr=1e-3), loss=loss)
# ```
# :::
# ::::
#
# :::{evidence} keras-optimizer-twins
# :::

# %% [markdown]
# ## Exercises
#
# :::{exercise} How long the old velocity lives
# :label: ex-optimization-keras-1
# The momentum is 15/16 and the rate drops to a 32nd. After how many steps is Keras's old velocity
# shorter than one that had shrunk with the rate?
# :::
#
# :::{solution} ex-optimization-keras-1
# :class: dropdown
# It fades as $\mu^k$, so it takes the first $k$ with $(15/16)^k < 1/32$.
# :::

# %% tags=["hide-cell"]
# Solution
k = int(np.ceil(np.log(1 / 32) / np.log(15 / 16)))
assert (15 / 16) ** k < 1 / 32 <= (15 / 16) ** (k - 1)
print(k, "steps")

# %% [markdown]
# :::{exercise} RMSprop's epsilon
# :label: ex-optimization-keras-2
# Which ε′ makes $\sqrt{v + \varepsilon'}$ equal to $\sqrt v + \varepsilon$? Why is no constant
# right?
# :::
#
# :::{solution} ex-optimization-keras-2
# :class: dropdown
# Square both: $\varepsilon' = \varepsilon (2 \sqrt v + \varepsilon)$. It depends on v, which
# differs from weight to weight and from step to step.
# :::

# %% tags=["hide-cell"]
# Solution
v, epsilon = np.array([0.0, 1e-12, 1.0]), 1e-3
shifted = epsilon * (2 * np.sqrt(v) + epsilon)
np.testing.assert_allclose(np.sqrt(v + shifted), np.sqrt(v) + epsilon, rtol=1e-12)

# %% [markdown]
# :::{exercise} Another start of Adagrad
# :label: ex-optimization-keras-3
# Keras's Adagrad starts its sum of squares at 0.1, PyTorch's at 0. How long is the first step of
# each for a gradient of 0.1 and a rate of 1?
# :::
#
# :::{solution} ex-optimization-keras-3
# :class: dropdown
# PyTorch divides by $\sqrt{0.01}$: the step is 1. Keras divides by $\sqrt{0.11}$: about 0.3.
# :::

# %% tags=["hide-cell"]
# Solution
adagrads = keras.optimizers.Adagrad(1.0), keras_twin.optimizer_twin("adagrad", lr=1.0)
for optimizer, expected in zip(adagrads, (0.1 / np.sqrt(0.11), 1.0), strict=True):
    path = keras_twin.trajectory(optimizer, np.zeros(1), lambda w: np.full(1, 0.1), 1)
    np.testing.assert_allclose(-path[1], expected, rtol=1e-4)

# %% [markdown]
# ## Summary
#
# - Keras's momentum holds the rate; after a change of the rate it needs `change_rate`.
# - ε stands elsewhere in RMSprop, Adagrad and Adam; it counts where gradients are tiny.
# - Every `weight_decay` in Keras is decoupled; `clip_grad_norm_` is `global_clipnorm`.
# - Schedules count from 0 in both; warm-up, EMA and early stopping have other defaults.
#
# Sources: momentum {cite:p}`sutskever2013importance`; Adam {cite:p}`kingma2015adam`; AdamW
# {cite:p}`loshchilov2019decoupled`; RMSProp {cite:p}`tieleman2012rmsprop`; AdaGrad
# {cite:p}`duchi2011adaptive`; Lion {cite:p}`chen2023symbolic`; schedules
# {cite:p}`loshchilov2017sgdr`.
