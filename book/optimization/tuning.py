# %% [markdown]
# # Hyper-parameters, honestly
#
# **The question: you tried many settings and one came out best. How much of that is the setting,
# and how much is luck?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion[tuning] @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# Here are 400 networks with one and the same learning rate. They differ in nothing but their random
# seed. Take 50 of them, keep the one that does best on the test set, and then show it pictures that
# nobody has looked at yet. Do that eight times.

# %% tags=["nbval-ignore-output"]
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from companion.data.digits import Digits
from companion.figures import COLORS, MARKERS, use_course_style
from companion.optimization.fleet import Fleet

use_course_style()
torch.set_num_threads(1)  # the tensors of this page are small

digits = Digits(flatten=True, validation_fraction=0.5, limit=512)
digits.setup()
train, test = digits.train, digits.test
validation = tuple(part[:359] for part in digits.validation)
fresh = tuple(part[359:] for part in digits.validation)  # tomorrow's pictures
parts = {"training": train, "validation": validation, "test": test, "fresh": fresh}
print({name: len(labels) for name, (_, labels) in parts.items()})

SETTING = {"lr": 0.05, "momentum": 0.9, "epochs": 6}
seeds = range(400)
same = Fleet(seeds).train(*train, order_seeds=seeds, **SETTING)
on_test, on_fresh = (same.accuracy(*part).numpy().reshape(8, 50) for part in (test, fresh))

chosen = on_test.argmax(1)  # of each 50, the best on the test set
gain_test = (on_test.max(1) - on_test.mean()).mean()
gain_fresh = (on_fresh[range(8), chosen] - on_fresh.mean()).mean()
print(f"the chosen ones beat the average on the test set by {100 * gain_test:.1f} points")
print(f"and on fresh pictures by {100 * gain_fresh:.1f} points")
assert gain_test > 0.008
assert gain_fresh < gain_test / 2

# %% tags=["hide-input", "nbval-ignore-output"]
jitter = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 400))
plt.plot(
    100 * on_test.ravel() + jitter[0],
    100 * on_fresh.ravel() + jitter[1],
    ".",
    color="#aaaaaa",
    markersize=4,
    label="400 networks, one setting",
)
plt.plot(
    100 * on_test.max(1),
    100 * on_fresh[range(8), chosen],
    MARKERS[1],
    color=COLORS[2],
    markersize=9,
    linestyle="none",
    label="the best of each 50 on the test set",
)
plt.axhline(100 * on_fresh.mean(), color=COLORS[0], linewidth=1, linestyle="--")
plt.title("The winners of the test set keep only a part of their lead")
plt.xlabel("accuracy on the test set (%)")
plt.ylabel("accuracy on fresh pictures (%)")
plt.legend(loc="upper left", fontsize=9)
plt.show()

# %% [markdown]
# Nobody cheated, and no test image was trained on. The *choice* used the test set, and that was
# enough to make most of the lead an illusion. This page is about choosing without fooling yourself.
#
# ## Three parts, three jobs
#
# A **hyper-parameter** is a number that training does not set: learning rate, batch size, number of
# epochs, width. Somebody has to choose it, and to choose is to learn. So there are three parts:
#
# - the **training** set teaches the weights;
# - the **validation** set chooses between configurations, as often as you like;
# - the **test** set is looked at once, after the last choice, for the report.
#
# ### How large is the luck?
#
# The best of $n$ scores is high because somebody has to be first. If the scores are independent and
# normal, with standard deviation $\sigma$, then the largest lies on average $\sigma\,m_n$ above the
# mean, where
#
# $$m_n = \int x\; n\,\varphi(x)\,\Phi(x)^{n-1}\,dx ,$$
#
# with the normal density $\varphi$ and its cumulative $\Phi$: all but one of the $n$ must lie below
# $x$, and any of the $n$ may be the largest.
#
# :::{admonition} Predict first
# :class: predict
# $m_2 = 0.56$. What is $m_{50}$: about 2, about 5, or about 14? And what would a thousand tries
# give?
# :::

# %% tags=["nbval-ignore-output"]
from companion.optimization.comparing import expected_maximum

for n in (2, 10, 50, 1000):
    print(f"best of {n:5,d}: {expected_maximum(n):.2f} standard deviations above the mean")
predicted = expected_maximum(50) * on_test.std(ddof=1)
print(f"50 networks: predicted {100 * predicted:.1f} points, measured {100 * gain_test:.1f}")
assert abs(predicted / gain_test - 1) < 0.3

# %% [markdown]
# (Somewhat less than predicted: accuracies have a longer tail below the mean than above it.) The
# luck grows slowly, like $\sqrt{2\ln n}$, but it starts at once. With a validation set the
# winner's *validation* score is flattered in the same way. That does no harm as long as you do not
# report it.

# %% [markdown]
# ## The error bar of one accuracy
#
# A test set is a sample. If the true accuracy is $p$, each of $n$ images is right with probability
# $p$, and the measured share has the **standard error**
#
# $$\sqrt{\frac{p\,(1-p)}{n}} .$$
#
# Two of these to either side should cover the truth in 95 % of all test sets. Simulated test sets
# tell whether they do. *Wilson's interval* {cite:p}`wilson1927probable` solves the same equation
# with the unknown $p$, not the measured one, under the root:

# %%
from companion.optimization.comparing import accuracy_error, accuracy_interval

print(f"93 % on 360 images: plus or minus {196 * accuracy_error(0.93, 360):.1f} points")
rng = np.random.default_rng(0)
for p, images in ((0.93, 360), (0.99, 100)):
    shares = rng.binomial(images, p, 4000) / images
    for wilson in (False, True):
        limits = {s: accuracy_interval(s, images, wilson=wilson) for s in set(shares.tolist())}
        covered = np.mean([limits[s][0] <= p <= limits[s][1] for s in shares.tolist()])
        name = "Wilson" if wilson else "plain"
        print(f"p = {p}, n = {images}: {name:6s} interval covers {covered:.1%}")
assert abs(covered - 0.95) < 0.04

# %% [markdown]
# Close to 1 the plain formula fails: with no error among 100 images it claims an error bar of zero.
#
# ## Seeds
#
# The second source of noise is training itself. A seed decides the first weights, and the order of
# the batches. Fix one of the two, and vary the other:

# %% tags=["nbval-ignore-output"]
from companion.optimization.comparing import standard_error

seeds = list(range(20))
fixed = [0] * 20
varied = {
    "only the first weights": (seeds, fixed),
    "only the batch order": (fixed, seeds),
    "both": (seeds, seeds),
}
spread = {}
for name, (init, order) in varied.items():
    scores = Fleet(init).train(*train, order_seeds=order, **SETTING).accuracy(*validation).numpy()
    spread[name] = scores
    print(
        f"{name:23s} mean {scores.mean():.1%}, from {scores.min():.1%} to {scores.max():.1%}, "
        f"standard deviation {100 * scores.std(ddof=1):.2f} points"
    )
both = spread["both"]
print(f"standard error of the mean of 20 seeds: {100 * standard_error(both):.2f} points")
assert min(scores.std() for scores in spread.values()) > 0.001

# %% tags=["hide-input", "nbval-ignore-output"]
for row, scores in enumerate(spread.values()):
    height = row + np.random.default_rng(row).uniform(-0.15, 0.15, 20)
    plt.plot(100 * scores, height, MARKERS[row], color=COLORS[row], markersize=6, linestyle="none")
    plt.plot([100 * scores.mean()] * 2, [row - 0.3, row + 0.3], color=COLORS[row], linestyle="-")
plt.yticks(range(3), list(spread))
plt.title("Either half of the seed alone moves the result")
plt.xlabel("validation accuracy (%), 20 networks each; bar: mean")
plt.show()

# %% [markdown]
# The **standard deviation** $s$ says how far a single run lies from the mean; more seeds do not
# shrink it. The **standard error** $s/\sqrt{n}$ says how far the *mean* of $n$ runs lies from the
# truth. Write which one stands behind your ±.

# %% [markdown]
# ## Searching
#
# ### Ranges have a scale
#
# Between 0.0001 and 10, where do you look for a learning rate? Drawn uniformly, nearly all draws
# are above 0.1. Drawn **log-uniformly**, $\eta = \eta_\text{low}\,(\eta_\text{high} /
# \eta_\text{low})^u$ with $u$ uniform in $[0, 1)$, each power of ten gets its equal share.
#
# :::{admonition} Predict first
# :class: predict
# Of 40 uniform draws between 0.0001 and 10, how many do you expect below 0.1?
# :::

# %% tags=["nbval-ignore-output"]
from companion.optimization.tuning import LogUniform, Uniform, configurations

draws = np.random.default_rng(0).random((40, 1))
for dimension in (Uniform(1e-4, 10.0), LogUniform(1e-4, 10.0)):
    rates = [c["lr"] for c in configurations({"lr": dimension}, draws)]
    scores = Fleet([0] * 40).train(*train, lr=rates, momentum=0.9, epochs=6).accuracy(*validation)
    print(
        f"{type(dimension).__name__:10s} below 0.1: {sum(rate < 0.1 for rate in rates):2d} of 40, "
        f"best {scores.max():.1%}, above 85 %: {(scores > 0.85).sum():2d}"
    )

# %% [markdown]
# The best of forty is about as good either way: forty tries are many for one parameter, and this
# small network likes rates around 0.1. But of the uniform draws hardly any were of use, and of
# rates below 0.01 there is one in a thousand.
#
# ### Random against grid
#
# A grid of $k \times k$ points tries only $k$ values of each parameter. $k^2$ random points try
# $k^2$ values of each. If only one of the two matters, and you do not know which, the grid has
# spent most of its budget on repetitions {cite:p}`bergstra2012random`.

# %%
from companion.optimization.tuning import grid, hit_probability

square = {"a": Uniform(0.0, 1.0), "b": Uniform(0.0, 1.0)}
points = {
    "grid": grid(square, 3),
    "random": configurations(square, np.random.default_rng(2).random((9, 2))),
}
for name, tried in points.items():
    print(f"{name:6s} {len(tried)} trials, {len({c['a'] for c in tried})} different values of a")

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.6), sharey=True)
for axes, (name, tried), color in zip(panels, points.items(), COLORS[1:], strict=False):
    a, b = ([c[key] for c in tried] for key in "ab")
    axes.axvspan(0.56, 0.66, color="#dddddd", linewidth=0)
    axes.plot(a, b, "o", color=color, markersize=8)
    axes.plot(a, [-0.06] * 9, "|", color=color, markersize=14, markeredgewidth=2)
    axes.set_title(f"{name}: {len(set(a))} values of a")
    axes.set_xlabel("a, which matters (grey: good)")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.12, 1)
    axes.grid(False)
panels[0].set_ylabel("b, which does not")
plt.show()

# %% [markdown]
# If a share $w$ of the range of *a* is good, $n$ random trials find it with probability $1 -
# (1-w)^n$. A grid whose $k$ values are placed without knowledge of it finds it with probability
# $k\,w$ (for $w < 1/k$). Simulated, with 16 trials and $w = 0.06$:

# %%
rng = np.random.default_rng(0)
left = rng.uniform(0, 0.94, 20_000)  # where the good part begins
offset = rng.random((20_000, 1)) / 4
columns = (offset + np.arange(4) / 4) % 1
for name, values, theory in (
    ("grid 4 x 4", columns, 4 * 0.06),
    ("16 random", rng.random((20_000, 16)), hit_probability(0.06, 16)),
):
    inside = (values >= left[:, None]) & (values < left[:, None] + 0.06)
    found = inside.any(1).mean()
    print(f"{name:10s} finds it in {found:.1%} of the cases, theory {theory:.1%}")
    assert abs(found - theory) < 0.015
print(f"60 random trials hit the best 5 % of any space with {hit_probability(0.05, 60):.0%}")

# %% [markdown]
# The last line holds for any number of parameters.
#
# ### The same search with a library
#
# `random_search` is short. Optuna {cite:p}`akiba2019optuna` does the same and keeps the books.
# From the same seed both draw the same trials:

# %% tags=["nbval-ignore-output"]
import inspect

import optuna

from companion.optimization.tuning import best, random_search

print(inspect.getsource(random_search).split('"""')[2])
optuna.logging.set_verbosity(optuna.logging.WARNING)
space = {"lr": LogUniform(1e-4, 10.0), "weight_decay": LogUniform(1e-7, 1e-2)}


def validation_accuracy(configuration):
    network = Fleet([0]).train(*train, momentum=0.9, epochs=4, **configuration)
    return network.accuracy(*validation).item()


def objective(trial):
    lr = trial.suggest_float("lr", 1e-4, 10.0, log=True)
    weight_decay = trial.suggest_float("weight_decay", 1e-7, 1e-2, log=True)
    return validation_accuracy({"lr": lr, "weight_decay": weight_decay})


trials = random_search(validation_accuracy, space, trials=30, seed=1)
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
study.optimize(objective, n_trials=30)
for ours, theirs in zip(trials, study.trials, strict=True):
    for name in space:
        assert math.isclose(ours.configuration[name], theirs.params[name], rel_tol=1e-9)
print("30 trials, all equal to optuna's RandomSampler")

# %% [markdown]
# A random search forgets what it has seen. **TPE**, the *tree-structured Parzen estimator*
# {cite:p}`bergstra2011algorithms`, splits the trials so far into good and bad ones, fits a density
# to each, and tries next where the good density is large compared with the bad one. It is one
# argument:

# %% tags=["nbval-ignore-output"]
guided = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
guided.optimize(objective, n_trials=30)
for name, one in (("random", study), ("TPE", guided)):
    late = np.mean([trial.value for trial in one.trials[15:]])
    print(f"{name:6s} best {one.best_value:.1%}, mean of the last 15 trials {late:.1%}")

# %% [markdown]
# TPE spends its later trials in good places. On a space as small as this one the *best* value is
# nearly the same, and the luck of the last section is in both.
#
# ### Stop the losers early
#
# **Successive halving** {cite:p}`jamieson2016non` trains all configurations a little, keeps the
# better half, trains it twice as long, and so on. Nothing is trained twice.

# %% tags=["nbval-ignore-output"]
from companion.optimization.tuning import successive_halving

tried = configurations(space, np.random.default_rng(3).random((32, 2)))


def settings(indices):
    return {name: [tried[index][name] for index in indices] for name in space}


alive, fleet = list(range(32)), Fleet([0] * 32)


def advance(indices, epochs):
    global alive, fleet
    fleet = fleet.select([alive.index(index) for index in indices])
    alive = list(indices)
    fleet.train(*train, momentum=0.9, epochs=epochs, **settings(alive))
    return fleet.accuracy(*validation).tolist()


halving = successive_halving(advance, 32)
for rung in halving.rungs:
    print(f"{len(rung.alive):2d} alive after {rung.budget:2d} epochs, best {max(rung.scores):.1%}")

last = halving.rungs[-1].budget
every = Fleet([0] * 32).train(*train, momentum=0.9, epochs=last, **settings(range(32)))
full = every.accuracy(*validation)
print(f"halving: {halving.spent} epochs in all, validation {halving.rungs[-1].scores[0]:.1%}")
print(f"all 32 to the end: {32 * last} epochs, validation {full.max():.1%}")
assert halving.spent * 6 < 32 * last
assert halving.rungs[-1].scores[0] > full.max() - 0.03

# %% [markdown]
# A small part of the budget, for nearly the same result. The price: a configuration that starts
# slowly and ends well is thrown out in the first round.

# %% [markdown]
# ### Learning rate and batch size belong together
#
# Here are both at once, with plain SGD and a fixed number of epochs. Each cell is the mean of three
# seeds.

# %% tags=["nbval-ignore-output"]
rates, sizes = [0.01, 0.03, 0.1, 0.3, 1.0], [4, 16, 64, 256]
table = np.zeros((len(sizes), len(rates)))
for row, batch_size in enumerate(sizes):
    many = Fleet([0, 1, 2] * len(rates))
    each = [rate for rate in rates for _ in range(3)]
    many.train(*train, lr=each, batch_size=batch_size, epochs=8)
    table[row] = many.accuracy(*validation).reshape(-1, 3).mean(1)
    good = [rate for rate, score in zip(rates, table[row], strict=True) if score > 0.85]
    print(f"batches of {batch_size:3d}: above 85 % with rates {good}")
assert table[0, 0] > 0.8 > table[2, 0]
assert table[0, -1] < 0.5 < table[2, -1]

# %% tags=["hide-input", "nbval-ignore-output"]
plt.imshow(100 * table, vmin=20, vmax=100, aspect="auto")
for (row, column), value in np.ndenumerate(table):
    plt.text(
        column,
        row,
        f"{100 * value:.0f}",
        ha="center",
        va="center",
        color="black" if value > 0.6 else "white",
    )
plt.xticks(range(len(rates)), rates)
plt.yticks(range(len(sizes)), sizes)
plt.grid(False)
plt.title("The range of good learning rates moves with the batch size")
plt.xlabel("learning rate")
plt.ylabel("batch size (images)")
plt.colorbar(label="validation accuracy (%)")
plt.show()

# %% [markdown]
# The range of rates that work moves to the right with the batch size. The largest batch at its best
# stays behind: it takes only 16 steps in its eight epochs. If you search one of the two with the
# other fixed, you see one row. {doc}`Gradient descent <sgd>` explains why the range moves.

# %% [markdown]
# ## Is the difference real?
#
# Two methods: learning rate 0.04 against 0.05. Each is run with the same 20 seeds,
# that is the same first weights and the same batches. The runs are **paired**: what a lucky seed
# does to one method it also does, in part, to the other, and the differences $d_i = a_i - b_i$
# are free of it. For their mean,
#
# $$\bar d \pm t_{n-1}\,\frac{s_d}{\sqrt n}, \qquad s_d^2 = \frac{1}{n-1}\sum_i (d_i - \bar d)^2 .$$

# %% tags=["nbval-ignore-output"]
from companion.optimization.comparing import paired_comparison, unpaired_comparison

seeds = range(20)
a, b = (
    Fleet(seeds)
    .train(*train, order_seeds=seeds, **(SETTING | {"lr": lr}))
    .accuracy(*validation)
    .numpy()
    for lr in (0.04, 0.05)
)
for name, compare in (("unpaired", unpaired_comparison), ("paired", paired_comparison)):
    result = compare(a, b)
    low, high = (100 * end for end in result.interval)
    print(f"{name:8s} {100 * result.difference:+.2f} points, from {low:+.2f} to {high:+.2f}")
paired, unpaired = paired_comparison(a, b), unpaired_comparison(a, b)
print(f"standard error paired / unpaired: {paired.error / unpaired.error:.2f}")
assert paired.error < 0.7 * unpaired.error
assert paired.interval[1] < 0 < unpaired.interval[1]

# %% [markdown]
# The same forty runs. An interval that contains 0 means: *these runs, looked at in this way,* do
# not show a difference. It does not mean that there is none; the paired interval excludes 0.
#
# ### Two ways without a formula
#
# The **bootstrap** {cite:p}`efron1979bootstrap` draws 20 of the 20 differences with replacement,
# again and again, and looks how far the mean moves. The **sign-flip test** asks: if the methods
# were the same, each difference could as well have had the other sign. How many of the $2^n$ sign
# patterns give a mean at least as far from 0? The pattern of the data itself is one of them, so
# that $p$ is never 0 {cite:p}`phipson2010permutation`.

# %% tags=["nbval-ignore-output"]
import scipy.stats

from companion.optimization.comparing import bootstrap_interval, sign_flip_test

differences = a - b
low, high = (100 * end for end in bootstrap_interval(differences))
print(f"bootstrap: from {low:+.2f} to {high:+.2f} points")
ten = differences[:10]
reference = scipy.stats.permutation_test(
    (ten,), np.mean, permutation_type="samples", n_resamples=np.inf
).pvalue
assert math.isclose(sign_flip_test(ten), reference, rel_tol=1e-10)
print(f"10 seeds, all {2**10:,} sign patterns: p = {sign_flip_test(ten):.3f}, as scipy says")
print(f"20 seeds: sign flips p = {sign_flip_test(differences):.3f}, t test p = {paired.p:.3f}")

# %% [markdown]
# ### How many seeds?
#
# **Power** is the chance to see a difference that is really there. The usual demand is 80 %, at a
# false alarm rate of 5 %.
#
# :::{admonition} Predict first
# :class: predict
# The differences from seed to seed have the standard deviation that the next cell prints. How many
# seeds does it take to see a true difference of half a point: 5, 20 or more? And of a quarter of a
# point: twice as many?
# :::

# %% tags=["nbval-ignore-output"]
from companion.optimization.comparing import seeds_needed

s = differences.std(ddof=1)
print(f"standard deviation of the differences: {100 * s:.2f} points")
for points_ in (1.0, 0.5, 0.25):
    print(f"to see {points_} points: {seeds_needed(points_ / 100, s):4d} seeds of each method")
assert seeds_needed(0.0025, s) > seeds_needed(0.005, s)

# %% [markdown]
# Half the difference needs four times the seeds, but for the small numbers where $t$ is wide.
#
# ### Many comparisons
#
# At 5 %, one in twenty comparisons of a method with *itself* is an alarm. The 400 equal networks of
# the beginning make twenty such comparisons, of ten seeds against ten. **Holm**'s rule
# {cite:p}`holm1979simple` multiplies the smallest of $m$ p-values by $m$, the next by $m - 1$, and
# so on; then the chance of even one false alarm stays below 5 %.

# %% tags=["nbval-ignore-output"]
from companion.optimization.comparing import holm

groups = on_test.reshape(20, 2, 10)
p_values = [unpaired_comparison(*pair).p for pair in groups]
print(f"smallest of 20 p-values: {min(p_values):.3f}, after Holm {min(holm(p_values)):.2f}")
print(f"chance of at least one alarm in 20: {1 - 0.95**20:.0%}")

# %% [markdown]
# ### Two networks, one test set
#
# If there is only one run of each (large models, for example), the images are the sample. Only
# those count on which the two differ: under equality each of them is a coin toss. That is
# **McNemar**'s test {cite:p}`mcnemar1947note`, here with exact binomial probabilities.

# %% tags=["nbval-ignore-output"]
from companion.optimization.comparing import mcnemar_test

short, long = (
    (Fleet([0]).train(*train, lr=0.05, momentum=0.9, epochs=epochs).answers(test[0])[0] == test[1])
    for epochs in (3, 12)
)
only_short, only_long = int((short & ~long).sum()), int((~short & long).sum())
print(f"only 3 epochs right: {only_short} images, only 12 epochs right: {only_long}")
p = mcnemar_test(short.numpy(), long.numpy())
assert math.isclose(p, scipy.stats.binomtest(only_short, only_short + only_long).pvalue)
print(f"p = {p:.3f}")

# %% [markdown]
# ## The real thing
#
# The configuration that the validation set chose, trained through `fit`. The test set is opened
# once, here:

# %% tags=["nbval-ignore-output"]
from functools import partial

from torch import nn

from companion.optimization.sgd import SGD
from companion.training import Classifier, fit

configuration = best(trials).configuration
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
module = Classifier(network, optimizer=partial(SGD, momentum=0.9, **configuration))
result = fit(module, digits, epochs=8, precision="32-true", test=True)
accuracy = result.metrics["test_accuracy"]
low, high = accuracy_interval(accuracy, len(test[1]))
median = float(np.median([trial.score for trial in trials]))
print({name: float(f"{value:.2g}") for name, value in configuration.items()})
print(f"test accuracy {accuracy:.1%}, 95 % interval from {low:.1%} to {high:.1%}")
print(f"the median configuration of the search had {median:.1%} on the validation set")
assert accuracy > median

# %% [markdown]
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(Classifier(network, optimizer=partial(SGD, **configuration)), digits, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(Classifier(network, optimizer=partial(SGD, **configuration)), digits, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(Classifier(network, optimizer=partial(SGD, **configuration)), digits, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} random-search
# :::
#
# ### What to write
#
# A comparison of two methods can be checked if it says:
#
# > Both methods were tuned with *N* random trials each, from *these ranges*, by the accuracy on
# > *n* validation images. The chosen configurations were then run with *k* new seeds, the same for
# > both. Mean test accuracy *a* and *b* on *m* images; paired difference *d*, 95 % interval from
# > *l* to *h* (*t*, over seeds). *C* comparisons were made; p-values are Holm's.
#
# Equal budgets for both methods, the ranges, the number of comparisons: what is most often missing
# {cite:p}`bouthillier2021accounting`.

# %% [markdown]
# ## A widespread mistake
#
# :::{admonition} Widespread mistake: the best of five seeds
# :class: mistake
# "We ran our method with five seeds and report the best; the baseline's number is from one run."
# :::
#
# Let both be the *same* method. Each group of five networks from the beginning plays "ours", and
# one network the "baseline":

# %% tags=["nbval-ignore-output"]
ours = on_test.reshape(80, 5).max(1)
baseline = on_test.reshape(80, 5)[:, 0]
progress = (ours - baseline).mean()
print(f"progress over itself: {100 * progress:+.2f} points, on average over 80 papers")

# %% tags=["raises-exception"]
assert progress < 0.002, "a method does not beat itself"

# %% [markdown]
# The cure is to report the mean over seeds, with its standard error, for both.

# %% [markdown]
# ## Exercises
#
# :::{exercise} Fifty configurations
# :label: ex-tuning-1
# The beginning chose among equal networks. Choose the best of 50 *random* learning rates between
# 0.01 and 0.3 by the test set. By how much does its test accuracy exceed its accuracy on fresh
# pictures, compared with the average network?
# :::
#
# :::{solution} ex-tuning-1
# :class: dropdown
# Now part of the winner's lead is real, because some learning rates are better. The rest is luck,
# and the single number does not say which is which. Only fresh pictures do.
# :::

# %% tags=["hide-cell", "nbval-ignore-output"]
# Solution
lrs = [LogUniform(0.01, 0.3).at(u) for u in np.random.default_rng(5).random(50)]
fifty = Fleet(range(50)).train(*train, lr=lrs, momentum=0.9, epochs=6, order_seeds=range(50))
scores = {name: fifty.accuracy(*parts[name]).numpy() for name in ("test", "fresh")}
winner = scores["test"].argmax()
for name, values in scores.items():
    print(f"{name:5s} lead of the winner: {100 * (values[winner] - values.mean()):+.1f} points")
assert scores["test"][winner] > scores["test"].mean()

# %% [markdown]
# :::{exercise} Standard deviation or standard error
# :label: ex-tuning-2
# From the 400 equal networks take groups of 5 and form their means. Predict the standard deviation
# of these means from that of single networks, and check it.
# :::
#
# :::{solution} ex-tuning-2
# :class: dropdown
# It is $s/\sqrt 5$: that is what the standard error of a mean of five says.
# :::

# %% tags=["hide-cell", "nbval-ignore-output"]
# Solution
single = on_test.std(ddof=1)
means = on_test.reshape(80, 5).mean(1).std(ddof=1)
print(f"predicted {100 * single / 5**0.5:.2f} points, measured {100 * means:.2f}")
assert abs(means / (single / 5**0.5) - 1) < 0.3

# %% [markdown]
# :::{exercise} How many test images?
# :label: ex-tuning-3
# A leaderboard's best two have 93.0 % and 93.5 %. How many test images does it take until the
# standard error of *one* of them is a quarter of the difference?
# :::
#
# :::{solution} ex-tuning-3
# :class: dropdown
# $\sqrt{0.93 \cdot 0.07 / n} = 0.00125$ gives $n = 0.0651 / 0.00125^2$, more than 40,000. On the
# same images a paired test (McNemar's) needs far fewer.
# :::

# %% tags=["hide-cell"]
# Solution
n = math.ceil(0.93 * 0.07 / 0.00125**2)
print(f"{n:,} images")
assert accuracy_error(0.93, n) <= 0.00125 < accuracy_error(0.93, n - 1)

# %% [markdown]
# ## Summary
#
# - Choose on the validation set; open the test set once. The best of $n$ flatters by $\sigma\,m_n$.
# - An accuracy has an error bar $\sqrt{p(1-p)/n}$, a mean over seeds $s/\sqrt n$.
# - Search at random, learning rates log-uniformly; stop the losers early.
# - Compare on the same seeds, by the differences, with an interval.
# - Say how many comparisons there were, and give both methods the same budget.
#
# Sources: random search {cite:p}`bergstra2012random` (sections 1 and 2); TPE
# {cite:p}`bergstra2011algorithms`; successive halving {cite:p}`jamieson2016non`; Optuna
# {cite:p}`akiba2019optuna`; intervals and tests
# {cite:p}`wilson1927probable,mcnemar1947note,efron1979bootstrap,holm1979simple`; permutation counts
# {cite:p}`phipson2010permutation`; noise in benchmarks {cite:p}`bouthillier2021accounting`.
