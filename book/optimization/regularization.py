# %% [markdown]
# # Regularization: fit less, know more
#
# **The question: a network can learn the wrong labels of its training set by heart. What keeps it
# from doing so, and how do you know that it did anything?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# Here are 256 digits. The labels of 30 % of them have been replaced by another class. The
# validation set (144 other digits) has its right labels. A small network is trained for 60 epochs.

# %% tags=["nbval-ignore-output"]
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style
from companion.optimization.averaging import ExponentialMovingAverage, StochasticWeightAverage
from companion.optimization.regularization_recipes import few_noisy_digits
from companion.training import Classifier, evaluate, fit

use_course_style()
torch.set_num_threads(1)  # the tensors of this page are small


def network(*extra, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *extra, nn.Linear(64, 10))


def adam(parameters):
    return torch.optim.Adam(parameters, lr=5e-3)


data = few_noisy_digits()
plain = fit(Classifier(network(), optimizer=adam), data, epochs=60, precision="32-true")
accuracy = [epoch["val_accuracy"] for epoch in plain.history]
with torch.no_grad():
    learnt = (plain.module(data.train[0]).argmax(1) == data.train[1]).double().mean().item()
print(f"training labels reproduced, right or wrong: {learnt:.0%}")
print(f"validation accuracy: best {max(accuracy):.0%}, at the end {accuracy[-1]:.0%}")
assert learnt > 0.95
assert max(accuracy) > accuracy[-1] + 0.05

# %% tags=["hide-input", "nbval-ignore-output"]
plt.plot(range(1, 61), accuracy, color=COLORS[1], label="validation: right labels")
plt.axhline(learnt, color=COLORS[0], linestyle=":", label="training at the end: 30 % wrong labels")
plt.title("First it learns the digits, then the mistakes")
plt.xlabel("epoch (4 steps each)")
plt.ylabel("accuracy")
plt.legend()
plt.show()

# %% [markdown]
# The training loss never stopped falling. **Regularization** is whatever keeps the solution from
# fitting the training set that well, in the hope that it fits new data better. Six ways follow, and
# at the end a comparison on these digits that is as fair as 144 validation images allow.

# %% [markdown]
# ## Weight decay, twice
#
# The **L2 penalty** adds $\tfrac\lambda2\lVert\theta\rVert^2$ to the loss, so $\lambda\theta$ to
# the gradient. **Weight decay** {cite:p}`krogh1991weight` shrinks the weights beside the step:
#
# $$\text{penalty: } \theta \leftarrow \theta - \eta\, u(g + \lambda\theta), \qquad
# \text{decay: } \theta \leftarrow (1 - \eta\lambda)\,\theta - \eta\, u(g),$$
#
# where $u$ is what the optimizer makes of a gradient. For plain SGD $u(g) = g$, and the two lines
# are the same. Adam divides by $\sqrt{\hat v}$, the root of a running mean of the *squared*
# gradient ({doc}`Adam <adam>`), and then the penalty is divided as well
# {cite:p}`loshchilov2019decoupled`.
#
# :::{admonition} Predict first
# :class: predict
# Two weights start at 1. Under Adam with the penalty, one gets noisy gradients of size 0.01, the
# other of size 100, both zero on average. Which one shrinks more? And under AdamW, which decays?
# :::

# %%
from companion.optimization.adam import Adam, AdamW
from companion.optimization.sgd import SGD

scales = torch.logspace(-3, 3, 13).double()
lr, decay, steps = 1e-3, 0.5, 1000


def what_remains(kind):
    """Mean over 400 copies of a weight that starts at 1, for each size of the noise."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.ones(400, len(scales)).double())
    optimizer = kind([weight], lr=lr, weight_decay=decay)
    for _ in range(steps):
        weight.grad = scales * torch.randn(weight.shape, generator=generator).double()
        optimizer.step()
    return weight.detach().mean(0)


left = {kind.__name__: what_remains(kind) for kind in (Adam, AdamW)}
expected = (1 - lr * decay) ** steps
print("size of gradients   Adam + penalty   AdamW")
for index in (0, 4, 6, 8, 12):
    print(f"{scales[index]:17g} {left['Adam'][index]:16.2f} {left['AdamW'][index]:7.2f}")
print(f"(1 - lr * decay) ** steps = {expected:.2f}")
assert (left["AdamW"] - expected).abs().max() < 0.01
assert left["Adam"][0] < 0.4
assert left["Adam"][-1] > 0.95

# %% tags=["hide-input"]
for (name, values), color, marker in zip(left.items(), COLORS[1:], MARKERS, strict=False):
    label = f"{name} with the penalty" if name == "Adam" else f"{name}: decay"
    plt.plot(scales, values, color=color, marker=marker, label=label)
plt.axhline(expected, color=COLORS[0], linestyle=":", label="$(1 - \\eta\\lambda)^t$")
plt.xscale("log")
plt.title("Under Adam the penalty spares the weights with large gradients")
plt.xlabel("size of the weight's gradients")
plt.ylabel("what remains of a weight of 1")
plt.legend()
plt.show()

# %% [markdown]
# With the penalty, the larger the gradients, the less a weight is shrunk: that is the division by
# $\sqrt{\hat v}$. One with tiny gradients moves towards zero nearly at Adam's full speed, $\eta$ a
# step. AdamW shrinks all alike. So $\lambda = 0.01$ means different things in the two, and in
# `torch.optim.Adam` the argument called `weight_decay` is the penalty.
#
# For SGD they agree to the last digit. What decays is a choice as well: usually matrices and
# kernels, but not biases or the scales of a normalization, which `decay_groups` sorts apart.

# %%
from companion.optimization.regularization import decay_groups, l2_penalty


def twenty_steps(penalty):
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(6, generator=generator).double())
    optimizer = SGD([weight], lr=0.1, weight_decay=0 if penalty else decay)
    for _ in range(20):
        loss = (weight * torch.randn(6, generator=generator)).sum()
        loss = loss + l2_penalty([weight], decay) if penalty else loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight.detach()


torch.testing.assert_close(twenty_steps(True), twenty_steps(False), rtol=1e-10, atol=1e-12)
print("SGD: penalty and decay are equal")
for group in decay_groups(network().parameters(), 0.1):
    print(group["weight_decay"], [tuple(p.shape) for p in group["params"]])

# %% [markdown]
# ## Dropout
#
# In training each hidden number is switched off with probability $p$, at random and anew for each
# sample {cite:p}`srivastava2014dropout`:
#
# $$x'_i = \frac{k_i\, x_i}{1 - p}, \qquad k_i = 0 \text{ with probability } p, \text{ else } 1 .$$
#
# Since $\mathrm E\, k_i = 1 - p$, the mean is kept, $\mathrm E\, x'_i = x_i$, and in evaluation
# nothing needs to be done (**inverted** dropout). Its variance, $x_i^2\, p/(1 - p)$, is the noise
# that training has to live with.

# %%
from companion.optimization.regularization import Dropout, predict_with_dropout

torch.manual_seed(0)
layer, ones = Dropout(0.4), torch.ones(100_000).double()
out = layer(ones)
print(f"training  : off {(out == 0).double().mean():.3f}, mean {out.mean():.3f}, ", end="")
print(f"variance {out.var():.3f}, p / (1 - p) = {0.4 / 0.6:.3f}")
print(f"evaluation: unchanged: {bool((layer.eval()(ones) == ones).all())}")
assert abs(out.var().item() - 0.4 / 0.6) < 0.01

# %% [markdown]
# Forgetting `network.eval()` leaves the noise in the predictions. Left in *on purpose*, and
# averaged over many draws, it says how much the thinned networks disagree
# {cite:p}`gal2016dropout`. On digits, and on pure noise that is no digit:

# %% tags=["nbval-ignore-output"]
dropped = fit(
    Classifier(network(Dropout(0.5)), optimizer=adam), data, epochs=30, precision="32-true"
).module.network.eval()
digits_seen, no_digits = data.test[0], torch.randn(360, 64)
for name, x in (("digits", digits_seen), ("noise", no_digits)):
    mean, spread = predict_with_dropout(dropped, x, draws=50)
    sure = mean.amax(1)
    share = spread.gather(1, mean.argmax(1, keepdim=True)).mean()
    print(f"{name:7s} mean probability of the answer {sure.mean():.2f}, spread {share:.2f}")

# %% [markdown]
# The spread is a hint and no guarantee: noise gets probabilities far above a tenth as well.
#
# ## Label smoothing
#
# Cross-entropy with a label of probability 1 is never satisfied: its logits grow for ever. So ask
# for less {cite:p}`szegedy2016rethinking`. With $C$ classes and smoothing $s$ the target is
#
# $$q_c = (1 - s)\,[c = y] + \frac sC, \qquad L = -\sum_c q_c \log p_c ,$$
#
# where $p$ is the softmax of the logits $z$, of shape $(C)$. Because $\sum_c q_c = 1$, the
# derivative keeps the simple form
#
# $$\frac{\partial L}{\partial z_c} = p_c \sum_j q_j - q_c = p_c - q_c .$$
#
# It is zero at $p = q$: at a *finite* gap between the right logit and the others.

# %%
from companion.optimization.regularization import smoothed_cross_entropy, smoothed_gradient

torch.manual_seed(0)
logits = torch.randn(6, 10).double().requires_grad_()
labels, smoothing = torch.arange(6), 0.1
loss = smoothed_cross_entropy(logits, labels, smoothing)
reference = F.cross_entropy(logits, labels, label_smoothing=smoothing)
(gradient,) = torch.autograd.grad(reference, logits)
torch.testing.assert_close(loss, reference, rtol=1e-10, atol=0)
torch.testing.assert_close(smoothed_gradient(logits, labels, smoothing), gradient)
right, other = 1 - smoothing + smoothing / 10, smoothing / 10
print(f"loss {loss:.4f}, torch {reference:.4f}; the gradients agree")
print(f"asked for: {right:.2f} for the label, a gap of {torch.tensor(right / other).log():.2f}")

# %% [markdown]
# ## Early stopping
#
# The first figure suggests the simplest cure: stop at the top. Nobody knows the top while climbing,
# so one waits `patience` epochs without a better validation loss, *and then goes back to the best
# weights* {cite:p}`prechelt1998automatic`. The callback below does both. It accepts only `val_…`
# metrics: whoever stops by the test set has trained on it.

# %% tags=["nbval-ignore-output"]
from companion.optimization.stopping import EarlyStopping

stop = EarlyStopping("val_loss", patience=5)
stopped = fit(
    Classifier(network(), optimizer=adam), data, epochs=60, precision="32-true", callbacks=[stop]
)
back = evaluate(stopped.module, data, split="validation", precision="32-true")
print(f"stopped after {len(stopped.history)} epochs, best: epoch {stop.best_epoch + 1}")
print(f"validation loss: last epoch {stopped.history[-1]['val_loss']:.2f}, ", end="")
print(f"of the weights that came back {back['val_loss']:.2f}")
assert abs(back["val_loss"] - stop.best) < 1e-4

# %% [markdown]
# ## Clipping the gradient
#
# One broken batch can undo a thousand good steps. Clipping limits what a single step may do. **By
# norm** {cite:p}`pascanu2013difficulty`, the whole gradient, over all parameters, is shortened to a
# length $c$; **by value**, every number is pushed into $[-c, c]$ on its own:
#
# $$g \leftarrow g \cdot \min\Bigl(1, \frac{c}{\lVert g\rVert}\Bigr)
# \qquad\text{or}\qquad g_i \leftarrow \min(\max(g_i, -c), c) .$$
#
# :::{admonition} Predict first
# :class: predict
# The gradient is $(100, 1)$ and $c = 1$. Which gradient comes out in each case, and in which
# direction does it point?
# :::

# %%
from companion.architectures.clipping import clip_grad_norm_
from companion.optimization.regularization import clip_grad_value_

for name, clip in (("by norm", clip_grad_norm_), ("by value", clip_grad_value_)):
    weight = nn.Parameter(torch.zeros(2).double())
    weight.grad = torch.tensor([100.0, 1.0]).double()
    clip([weight], 1.0)
    angle = torch.atan2(weight.grad[1], weight.grad[0]).rad2deg()
    print(f"{name:8s} ({weight.grad[0]:.2f}, {weight.grad[1]:.2f}), {angle:4.1f} degrees")

# %% [markdown]
# By norm keeps the direction; by value turns the gradient towards a diagonal, 45 degrees here. Now
# plant an accident: five images of the training set are multiplied by 1,000, as if their files were
# broken. Lightning clips for you with `gradient_clip_val` (by norm, or by value with
# `gradient_clip_algorithm="value"`):

# %% tags=["nbval-ignore-output"]
from companion.data.arrays import Arrays
from companion.data.digits import Digits

clean = Digits(flatten=True)
clean.setup()
x, labels = clean.train
x = x.clone()
x[::258][:5] *= 1000  # five images
broken = Arrays((x, labels), clean.validation, clean.test)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


accidents = {}
for name, options in (
    ("no clipping", {}),
    ("by norm 1", {"gradient_clip_val": 1.0}),
    ("by value 0.1", {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}),
):
    accidents[name] = fit(
        Classifier(network(), optimizer=sgd), broken, epochs=4, precision="32-true", **options
    ).metrics["val_accuracy"]
    print(f"{name:13s} validation accuracy {accidents[name]:.0%}")
assert accidents["no clipping"] < 0.5 < 0.8 < accidents["by norm 1"]

# %% [markdown]
# Clipping does not make the images right. It bounds what one gradient can do. A limit so low that
# it acts in every step is another thing: a different learning rate.
#
# ## Averaging the weights
#
# Late in training SGD circles around a place that it never reaches ({doc}`SGD <sgd>`, exercise 3).
# The mean of the circle is closer to it. The **exponential moving average** (EMA) keeps, beside the
# weights $w_t$,
#
# $$a_t = \beta\, a_{t-1} + (1 - \beta)\, w_t .$$
#
# Started at $a_0 = 0$ it is too small, by the factor $1 - \beta^t$, as Adam's moments are. Divide,
# and it becomes a mean of $w_1 \dots w_t$ with weights that add up to 1. Started at the first
# weights instead, those keep the weight $\beta^{t-1}$, which for $\beta = 0.999$ is more than a
# third after 1,000 steps. (A third way lets $\beta$ grow, a *warm-up*.) In one dimension, with
# weights that have settled at 1 and only jitter:

# %%
from companion.optimization.averaging import ema_share

generator = torch.Generator().manual_seed(0)
jitter = 1 + 0.5 * torch.randn(300, generator=generator).double()
tracks = {"the weights": jitter}
for start in ("corrected", "first", "warmup"):
    average, track = torch.zeros(()).double(), []
    for step, value in enumerate(torch.cat([torch.zeros(3).double(), jitter]), start=1):
        average = average + ema_share(step, 0.99, start) * (value - average)
        track.append(average)
    tracks[start] = torch.stack(track)[3:]
print("average after    20    100    300 steps (three early weights were 0)")
for start in ("corrected", "first", "warmup"):
    print(f"{start:10s}", *(f"{tracks[start][step - 1]:7.2f}" for step in (20, 100, 300)))

# %% tags=["hide-input"]
plt.plot(jitter, ".", color="#bbbbbb", markersize=3, label="weights")
for name, color, style in zip(
    ("corrected", "first", "warmup"), COLORS[1:], LINESTYLES, strict=False
):
    plt.plot(tracks[name], color=color, linestyle=style, label=name)
plt.ylim(0, 2)
plt.title("Begun at the first weights, the average drags them along")
plt.xlabel("step")
plt.ylabel("weight, and its average (β = 0.99)")
plt.legend()
plt.show()

# %% [markdown]
# **Stochastic weight averaging** (SWA) {cite:p}`izmailov2018averaging` is the plain mean of the
# weights at the ends of the last epochs, with a learning rate that stays high. Both are callbacks:
# validation sees the average, training goes on with the raw weights, and at the end the module
# keeps the average.
#
# One trap: batch normalization's running statistics belong to weights that the average has not got.
# The callbacks run the training set once more and estimate them anew. Here is SWA on all digits, at
# a high learning rate, against the library's `AveragedModel`:

# %% tags=["nbval-ignore-output"]
from pytorch_lightning.callbacks import Callback
from torch.optim.swa_utils import AveragedModel


class TorchAverage(Callback):
    """The library's average of the same weights."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch >= 4:
            if not hasattr(self, "average"):
                self.average = AveragedModel(pl_module.network)
            self.average.update_parameters(pl_module.network)


def hot_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5, momentum=0.9)


theirs, scores = TorchAverage(), {}
for name, callbacks in (
    ("raw", []),
    ("EMA", [ExponentialMovingAverage(0.98)]),
    ("SWA", [StochasticWeightAverage(start_epoch=4), theirs]),
):
    run = fit(
        Classifier(network(nn.BatchNorm1d(64)).double(), optimizer=hot_sgd),
        Digits(flatten=True, dtype=torch.float64),
        epochs=12,
        callbacks=callbacks,
    )
    scores[name] = run.metrics["val_loss"]
    print(f"{name}: validation loss {run.metrics['val_loss']:.3f}", end=", ")
    print(f"accuracy {run.metrics['val_accuracy']:.1%}")
for mine, other in zip(
    run.module.network.parameters(), theirs.average.module.parameters(), strict=True
):
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
print("SWA's weights are those of torch.optim.swa_utils")

# %% [markdown]
# ## A widespread mistake
#
# (mistake-e25)=
# :::{admonition} Widespread mistake E25: the drawback of a large model is over-fitting
# :class: mistake
# "Large models over-fit and take long to train." It sounds like a law: more parameters, more
# over-fitting.
# :::
#
# Test it in closed form. Take $n = 100$ digits with 20 % wrong labels. Draw $k$ random features,
# $\varphi(x) = \operatorname{relu}(xW)/\sqrt k$ with $W$ of shape $(64, k)$, and fit the one-hot
# labels by least squares. Where $k > n$ there are many exact fits: take the one of least norm.
#
# :::{admonition} Predict first
# :class: predict
# From $k = 5$ to $k = 2000$ features: where is the test error worst? And which is better, 20
# features, which cannot fit the noise, or 2,000, which fit every wrong label exactly?
# :::

# %%
from companion.optimization.double_descent import double_descent, noisy_labels

digits = Digits(flatten=True, dtype=torch.float64)
digits.setup()
x, y = (part[:100] for part in digits.train)
y = noisy_labels(y, 0.2, 10, torch.Generator().manual_seed(0))
train = (x, F.one_hot(y, 10).double())
test = (digits.test[0], F.one_hot(digits.test[1], 10).double())
counts = (5, 10, 20, 40, 60, 80, 90, 100, 110, 120, 150, 200, 300, 500, 1000, 2000)
curves = {ridge: double_descent(train, test, counts, draws=5, ridge=ridge) for ridge in (0.0, 0.1)}
errors = {ridge: curve.test.mean(0) for ridge, curve in curves.items()}
print("features   train     test   test with ridge")
for index in (0, 2, 4, 7, 9, 12, 15):
    fitted = curves[0.0].train.mean(0)[index]
    print(f"{counts[index]:8d} {max(fitted, 0):7.3f} {errors[0.0][index]:8.3f}", end=" ")
    print(f"{errors[0.1][index]:10.3f}")
best_small = errors[0.0][:7].min()
assert counts[errors[0.0].argmax()] == 100
assert errors[0.0][-1] < best_small
assert errors[0.1].max() < 0.1

# %% tags=["hide-input"]
for ridge, color, marker in ((0.0, COLORS[1], "o"), (0.1, COLORS[2], "s")):
    curve = curves[ridge].test
    low, high = curve.amin(0), curve.amax(0)
    label = "least norm" if ridge == 0 else "ridge 0.1"
    plt.plot(counts, curve.mean(0), color=color, marker=marker, markersize=4, label=label)
    plt.fill_between(counts, low, high, color=color, alpha=0.2)
plt.axvline(100, color="#888888", linewidth=1, linestyle=":")
plt.xscale("log")
plt.yscale("log")
plt.title("Worst at 100 features for 100 samples, best beyond")
plt.xlabel("random features (band: range of 5 draws)")
plt.ylabel("test error (mean square)")
plt.legend()
plt.show()

# %% tags=["raises-exception"]
assert errors[0.0][-1] > best_small, "2,000 features must over-fit more than a few"

# %% [markdown]
# This is **double descent** {cite:p}`belkin2019reconciling`. The error does rise, up to the point
# where features and samples are equally many: there is exactly one way through all points, noise
# included, and it is wild. Beyond it there are many ways, and the one of least norm gets tamer with
# every feature. A little ridge, the L2 penalty of this chapter, removes the peak altogether.
#
# So size alone does not decide about over-fitting. Two warnings: the curve is that of *this*
# problem, with its noise and few samples, and its second valley need not always be the lower one.
# And the other half of the sentence stays true: what always grows with the model is the cost.
#
# ## The real thing
#
# Back to the 256 digits. Six ways, each with a few settings. For each way the setting with the best
# mean *validation* accuracy over three seeds is taken, and only then is the test set looked at. A
# seed redraws wrong labels, initial weights and order.

# %% tags=["nbval-ignore-output"]
from functools import partial

SEEDS, EPOCHS = (0, 1, 2), 40
many = {seed: few_noisy_digits(seed=seed) for seed in SEEDS}


def adamw(decay):
    return lambda parameters: AdamW(decay_groups(parameters, decay), lr=5e-3)


WAYS = {
    "none": {"-": {}},
    "weight decay": {d: {"optimizer": adamw(d)} for d in (0.3, 0.9)},
    "dropout": {p: {"extra": [Dropout(p)]} for p in (0.3, 0.6)},
    "label smoothing": {
        s: {"loss": partial(smoothed_cross_entropy, smoothing=s)} for s in (0.1, 0.4)
    },
    "early stopping": {k: {"callback": partial(EarlyStopping, patience=k)} for k in (2, 5)},
    "EMA": {b: {"callback": partial(ExponentialMovingAverage, b)} for b in (0.95, 0.99)},
}


def one_run(seed, extra=(), callback=None, **options):
    module = Classifier(network(*extra, seed=seed), **({"optimizer": adam} | options))
    callbacks = [callback()] if callback else []
    fit(module, many[seed], epochs=EPOCHS, seed=seed, precision="32-true", callbacks=callbacks)
    return module


def score(modules, split):
    values = [
        evaluate(module, many[seed], split=split, precision="32-true")
        for seed, module in zip(SEEDS, modules, strict=True)
    ]
    name = "val_accuracy" if split == "validation" else "test_accuracy"
    return torch.tensor([value[name] for value in values])


results = {}
print("way              setting   validation   test: mean, three seeds")
for way, settings in WAYS.items():
    trained = {key: [one_run(seed, **o) for seed in SEEDS] for key, o in settings.items()}
    checked = {key: score(modules, "validation").mean() for key, modules in trained.items()}
    chosen = max(checked, key=checked.get)
    results[way] = score(trained[chosen], "test")
    seeds = " ".join(f"{value:.1%}" for value in results[way])
    print(f"{way:16s} {chosen!s:>7s} {checked[chosen]:12.1%} {results[way].mean():9.1%}   {seeds}")

# %% [markdown]
# How large is chance here? One test accuracy near 75 % on 360 images has a standard error of
# $\sqrt{0.75 \cdot 0.25/360}$, and three seeds have a spread of their own:

# %% tags=["nbval-ignore-output"]
base = results["none"]
chance = (0.75 * 0.25 / 360) ** 0.5
print(f"standard error of one test accuracy: {chance:.1%}")
for way, values in results.items():
    if way != "none":
        gains = values - base
        error = (gains.std() / len(SEEDS) ** 0.5).item()
        clear = gains.min() > 2 * chance
        verdict = "clear in every seed" if clear else "within noise, or nearly"
        print(f"{way:16s} {gains.mean():+6.1%} ± {error:.1%} over none: {verdict}")

# %% tags=["hide-input", "nbval-ignore-output"]
for row, (values, marker) in enumerate(zip(results.values(), MARKERS * 2, strict=False)):
    plt.plot(values, [row] * 3, marker, color=COLORS[1], markersize=6, linestyle="")
    plt.plot(values.mean(), row, "|", color=COLORS[0], markersize=22)
plt.yticks(range(len(results)), results)
plt.gca().invert_yaxis()
plt.title("Most ways gain more than chance; their order is less sure")
plt.xlabel("test accuracy (three seeds, bar: mean)")
plt.show()

# %% [markdown]
# Read the seeds before the means. A gain that exceeds twice the standard error in every seed is
# worth believing; a smaller one is not yet. The same holds between two ways: where the points of
# two rows overlap in the figure, as those of dropout and early stopping do, three seeds cannot rank
# them. And it is a table about *this* problem: a third of the labels wrong, few samples, a long
# training. On clean data there is less to gain. {doc}`Tuning <tuning>` takes the question up.
#
# All of it runs wherever `fit` runs:
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(Classifier(network), data, callbacks=[ExponentialMovingAverage(0.99)], accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(Classifier(network), data, callbacks=[ExponentialMovingAverage(0.99)], accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(Classifier(network), data, callbacks=[ExponentialMovingAverage(0.99)], accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} exponential-moving-average
# :::

# %% [markdown]
# ## Exercises
#
# :::{exercise} How sure may it get?
# :label: ex-regularization-1
# With smoothing $s$ and $C$ classes, which gap between the right logit and the others does label
# smoothing ask for? Find it by gradient descent for $s = 0.2$, $C = 4$, and by formula.
# :::
#
# :::{solution} ex-regularization-1
# :class: dropdown
# At $p = q$ the gap is $\log\frac{1 - s + s/C}{s/C} = \log\bigl(1 + C\,\frac{1 - s}{s}\bigr)$.
# :::

# %% tags=["hide-cell"]
# Solution
z, label = torch.zeros(1, 4).double(), torch.tensor([2])
for _ in range(2000):
    z = z - smoothed_gradient(z, label, 0.2)
gap, formula = (z[0, 2] - z[0, 0]).item(), torch.tensor(1 + 4 * 0.8 / 0.2).log().item()
print(f"gap found {gap:.4f}, formula {formula:.4f}")
assert abs(gap - formula) < 1e-4

# %% [markdown]
# :::{exercise} How much of the past is in it?
# :label: ex-regularization-2
# In a corrected EMA with $\beta = 0.99$, which share of the total weight lies on the last 100 of
# very many steps? And which $\beta$ gives the same share to the last 1,000?
# :::
#
# :::{solution} ex-regularization-2
# :class: dropdown
# $1 - \beta^{100} = 1 - 0.99^{100}$, about $1 - 1/e$. For 1,000 steps take $\beta^{1000} =
# 0.99^{100}$, so $\beta = 0.99^{0.1}$: the memory is about $1/(1 - \beta)$ steps long.
# :::

# %% tags=["hide-cell"]
# Solution
longer = 0.99**0.1
print(f"share of the last 100: {1 - 0.99**100:.1%}; beta for 1,000: {longer:.4f}")
assert abs((1 - longer**1000) - (1 - 0.99**100)) < 1e-12

# %% [markdown]
# :::{exercise} Does the peak move?
# :label: ex-regularization-3
# Repeat the double descent with 50 samples. Where is the peak now? What does that say about "more
# data always helps" at a fixed number of 100 features?
# :::
#
# :::{solution} ex-regularization-3
# :class: dropdown
# At 50. So with 100 features, going from 50 samples to 100 moves you *onto* the peak: without ridge
# more data can hurt.
# :::

# %% tags=["hide-cell"]
# Solution
half = tuple(part[:50] for part in train)
fewer = double_descent(half, test, (20, 40, 50, 60, 100, 400), draws=5)
found = fewer.test.mean(0)
print(f"peak at {fewer.counts[found.argmax()]} features")
print(f"100 features: error {found[4]:.2f} with 50 samples, {errors[0.0][7]:.2f} with 100")
assert fewer.counts[found.argmax()] == 50
assert errors[0.0][7] > found[4]

# %% [markdown]
# ## Summary
#
# - Penalty and decay are one under SGD and two under Adam: there the penalty spares weights with
#   large gradients.
# - Dropout keeps the mean in training and is off in evaluation; smoothing asks for $p = q$, so its
#   gradient is $p - q$.
# - Stop by the validation set and take the best weights back. Clipping by norm keeps the direction.
# - An average of weights needs a corrected start, and batch norm's statistics anew.
# - Over-fitting peaks where parameters and samples are equally many; ridge removes the peak.
#
# Sources: weight decay {cite:p}`krogh1991weight,loshchilov2019decoupled`; dropout
# {cite:p}`srivastava2014dropout,gal2016dropout`; label smoothing {cite:p}`szegedy2016rethinking`
# (section 7); early stopping {cite:p}`prechelt1998automatic`; clipping
# {cite:p}`pascanu2013difficulty` (section 3.2); averages {cite:p}`izmailov2018averaging`; double
# descent {cite:p}`belkin2019reconciling`.
