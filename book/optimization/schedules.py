# %% [markdown]
# # Schedules: a learning rate that knows what time it is
#
# **The question: why is no constant learning rate right from the first step to the last, and which
# plan is?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# The smallest training that shows it: two weights, a loss that is steep in one and flat in the
# other, $L = \tfrac12 w_1^2 + \tfrac12 \cdot 0.05\, w_2^2$, and gradients that come with noise, as
# those of a mini-batch do. Four thousand walkers take 400 steps; here is their mean loss. Three
# plans keep their rate. One does not.

# %%
import tempfile
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn

from companion.data.digits import Digits
from companion.data.fashion_mnist import FashionMNIST
from companion.figures import COLORS, LINESTYLES, use_course_style
from companion.optimization import schedules
from companion.optimization.one_cycle import one_cycle, one_cycle_momentum
from companion.optimization.range_test import LearningRateRangeTest
from companion.optimization.recording import RateRecorder
from companion.optimization.schedules import schedule
from companion.training import Classifier, fit

use_course_style()
torch.set_num_threads(1)
CURVATURES = torch.tensor([1.0, 0.05]).double()
SIGMA = 1.0  # standard deviation of the noise in each gradient


def walk(rates, curvatures=CURVATURES, walkers=4000):
    """Mean loss of many walkers before each step, and after the last."""
    generator = torch.Generator().manual_seed(0)
    w = (4.5 / curvatures).sqrt().expand(walkers, -1)  # a loss of 2.25 in each direction
    losses = []
    for rate in rates:
        losses.append((0.5 * curvatures * w.square()).sum(1).mean().item())
        noise = SIGMA * torch.randn(w.shape, generator=generator).double()
        w = w - rate * (curvatures * w + noise)
    return [*losses, (0.5 * curvatures * w.square()).sum(1).mean().item()]


plans = {
    "constant 0.5": [0.5] * 400,
    "constant 0.12": [0.12] * 400,
    "constant 0.02": [0.02] * 400,
    "from 0.5 down": [0.5 * schedules.cosine(t, total_steps=400) for t in range(400)],
}
walks = {name: walk(rates) for name, rates in plans.items()}

# %% tags=["hide-input"]
for (name, losses), color, style in zip(walks.items(), COLORS, LINESTYLES, strict=False):
    plt.plot(losses, label=name, color=color, linestyle=style)
plt.yscale("log")
plt.title("A constant rate is fast or exact; one that falls is both")
plt.xlabel("step")
plt.ylabel("mean loss")
plt.legend()
plt.show()

# %% [markdown]
# A large rate is quick and then stuck on a high floor. A small rate has a low floor and arrives
# late: it has yet to cross the flat direction. The falling rate goes as fast as the largest and
# ends below them all.

# %% [markdown]
# ## The noise floor
#
# Let the loss be $\tfrac12 h w^2$ with curvature $h$, and the noise $\xi$ have mean 0 and variance
# $\sigma^2$. One step is
#
# $$w_{t+1} = w_t - \eta_t\,(h w_t + \xi_t) = (1 - \eta_t h)\,w_t - \eta_t\,\xi_t .$$
#
# Square it and take the mean. The noise is independent of $w_t$, so the mixed term is 0:
#
# $$\mathbb E\,w_{t+1}^2 = (1 - \eta_t h)^2\; \mathbb E\,w_t^2 + \eta_t^2\sigma^2 .$$
#
# The first term forgets where you started. The second is what each step stirs up. With a constant
# $\eta$ the two balance where $\mathbb E\,w^2$ no longer changes, and the loss there is
#
# $$L_\infty = \tfrac12 h\,\frac{\eta\,\sigma^2}{h\,(2 - \eta h)}
#   = \frac{\eta\,\sigma^2}{2\,(2 - \eta h)} \approx \frac{\eta\,\sigma^2}{4}
#   \quad\text{for small } \eta .$$
#
# :::{admonition} Predict first
# :class: predict
# You halve a small learning rate. What happens to the floor, and what to the number of steps until
# you reach it? (The distance shrinks by $1 - \eta h$ a step.)
# :::


# %%
def expected_losses(rates, curvatures=CURVATURES):
    """The recursion for the mean squares, exactly: no walkers, no noise."""
    square, losses = 4.5 / curvatures, []
    for rate in rates:
        losses.append((0.5 * curvatures * square).sum().item())
        square = (1 - rate * curvatures) ** 2 * square + rate**2 * SIGMA**2
    return [*losses, (0.5 * curvatures * square).sum().item()]


ONE = CURVATURES[:1]  # the steep direction alone, h = 1
print("rate   floor by formula   measured")
for rate in (0.5, 0.25, 0.125):
    floor = rate * SIGMA**2 / (2 * (2 - rate))
    measured = sum(walk([rate] * 400, ONE)[200:]) / 201
    assert abs(measured / floor - 1) < 0.02
    print(f"{rate:5.3f}  {floor:16.4f}   {measured:8.3f}")
for name, losses in walks.items():
    theory = expected_losses(plans[name])
    assert all(abs(a / b - 1) < 0.15 for a, b in zip(losses, theory, strict=True))

constants = {rate / 100: expected_losses([rate / 100] * 400)[-1] for rate in range(1, 100)}
best = min(constants, key=constants.get)
falling = expected_losses(plans["from 0.5 down"])[-1]
print(f"best of 99 constant rates: {best}, which ends at {constants[best]:.4f}")
print(f"from 0.5 down:             ends at {falling:.4f}")
assert falling < 0.6 * constants[best]

# %% [markdown]
# Half the rate is about half the floor and twice the wait. That is the whole case for a schedule:
# start with steps that cover ground, end with steps that stir little. Not even the best constant,
# chosen with hindsight, keeps up. The recursion predicts the loss of *any* schedule, so the
# exercises can compare them without a single random number.

# %% [markdown]
# ## The plans, one by one
#
# Write each as a **factor** $f(t)$ on the rate that the optimizer was given, $\eta_t = \eta\,f(t)$,
# where $t$ counts steps from 0. $T$ is the length of the run, $w$ that of a warm-up.
#
# | name | factor of step $t$ | for |
# |---|---|---|
# | `step_decay` | $\gamma^{\lfloor t/s \rfloor}$ | the classic: drop when progress stalls |
# | `exponential` | $\gamma^t$ | smooth, has no end |
# | `cosine` | $\tfrac12\bigl(1 + \cos(\pi t/T)\bigr)$ | one choice: $T$ |
# | `cosine_restarts` | the same, begun anew | usable at each restart |
# | `linear_warmup` | $\min\bigl(1, \frac{t + 1}{w}\bigr)$ | the first steps |
# | `inverse_square_root` | $\min\bigl(\frac{t+1}{w}, \sqrt{\frac{w}{t+1}}\bigr)$ | no $T$ needed |
# | `one_cycle` | half a cosine up, half a cosine down | short runs, high peaks |
# | `warmup_stable_decay` | up, 1, down | $T$ may be decided late |
# | `plateau` | $\gamma^{\text{times that the metric stalled}}$ | driven by the validation loss |
#
# The cosines are from {cite:t}`loshchilov2017sgdr`, the warm-up from {cite:t}`goyal2017accurate`,
# the inverse square root from {cite:t}`vaswani2017attention`, one-cycle from
# {cite:t}`smith2019super` (with straight lines; the cosines came later), the last but one from
# {cite:t}`hu2024minicpm`. Each is a plain function
# in `companion.optimization.schedules` (`one_cycle` has a module of its own).

# %%
T = 100
shapes = {
    "step_decay": [schedules.step_decay(t, step_size=25, gamma=0.5) for t in range(T)],
    "exponential": [schedules.exponential(t, gamma=0.96) for t in range(T)],
    "cosine": [schedules.cosine(t, total_steps=T) for t in range(T)],
    "cosine_restarts": [schedules.cosine_restarts(t, period=14, growth=2) for t in range(T)],
    "linear_warmup": [schedules.linear_warmup(t, warmup_steps=20) for t in range(T)],
    "inverse_square_root": [schedules.inverse_square_root(t, warmup_steps=20) for t in range(T)],
    "one_cycle": [one_cycle(t, total_steps=T) for t in range(T)],
    "warmup_stable_decay": [
        schedules.warmup_stable_decay(t, total_steps=T, warmup_steps=10, decay_steps=30)
        for t in range(T)
    ],
}

# %% tags=["hide-input"]
figure, panels = plt.subplots(4, 2, figsize=(7.2, 7.6), sharex=True, sharey=True)
for axes, (name, factors) in zip(panels.flat, shapes.items(), strict=True):
    axes.plot(factors, color=COLORS[1], linestyle="-")
    axes.set_title(name, fontsize=11)
momenta = [one_cycle_momentum(t, total_steps=T) for t in range(T)]
panels[3, 0].plot(momenta, color=COLORS[2], linestyle="--")
panels[3, 0].text(60, 0.7, "momentum", color=COLORS[2], fontsize=10)
for axes in panels[3]:
    axes.set_xlabel("step")
for axes in panels[:, 0]:
    axes.set_ylabel("factor")
figure.suptitle("Eight plans for a hundred steps", fontweight="bold")
plt.show()

# %% [markdown]
# One-cycle moves the momentum $\mu$ the other way. On a steady gradient $g$ momentum adds up to
# steps of $\eta g/(1 - \mu)$; lowering $\mu$ at the top keeps them from growing twice.
#
# Now the check. The library has its own implementations, most of them as recursions: each new rate
# is computed from the last one. Ours are closed forms. Over all steps, in float64:


# %%
def rates_of(build, steps=T, peak=0.3):
    """The rates with which an optimizer takes its steps under a scheduler."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=peak, momentum=0.9)
    scheduler, rates = build(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()  # first the optimizer
        scheduler.step()  # then the scheduler
    return torch.tensor(rates, dtype=torch.float64)


theirs = torch.optim.lr_scheduler
references = {
    "step_decay": partial(theirs.StepLR, step_size=25, gamma=0.5),
    "exponential": partial(theirs.ExponentialLR, gamma=0.96),
    "cosine": partial(theirs.CosineAnnealingLR, T_max=T),
    "cosine_restarts": partial(theirs.CosineAnnealingWarmRestarts, T_0=14, T_mult=2),
    "linear_warmup": partial(theirs.LinearLR, start_factor=1 / 20, total_iters=19),
    "one_cycle": partial(theirs.OneCycleLR, max_lr=0.3, total_steps=T),
}
for name, build in references.items():
    ours = 0.3 * torch.tensor(shapes[name], dtype=torch.float64)
    torch.testing.assert_close(ours, rates_of(build), rtol=1e-10, atol=1e-12)
    print(f"{name:16s} equals {build.func.__name__} at all {T} steps")

width, w = 512, 20  # the Transformer's formula, as printed: its steps count from 1
printed = [width**-0.5 * min(n**-0.5, n * w**-1.5) for n in range(1, T + 1)]
scaled = torch.tensor(printed, dtype=torch.float64) / max(printed)
torch.testing.assert_close(torch.tensor(shapes["inverse_square_root"], dtype=torch.float64), scaled)
print("inverse_square_root equals the printed formula over its peak")

# %% [markdown]
# ## Into the training
#
# `schedule(name, …)` gives what `Classifier(scheduler=…)` takes: a function that builds the
# scheduler once the optimizer exists. The optimizer's own rate is the peak. Say with
# `scheduler_interval` what $t$ counts. A misspelt name or an impossible plan is refused before any
# training starts:

# %%
try:
    schedule("cosin", total_steps=100)
except ValueError as error:
    print(error)
try:
    schedule("cosine", total_steps=100, warmup_steps=200)
except ValueError as error:
    print(error)


# %%
def small_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def learn_digits(peak=0.1, epochs=5, data_options=None, **options):
    recorder = RateRecorder()
    options = {"scheduler": None, "scheduler_interval": "step"} | options
    module = Classifier(
        small_network(), optimizer=partial(torch.optim.SGD, lr=peak, momentum=0.9), **options
    )
    fit_options = {"precision": "32-true", "epochs": epochs} | (data_options or {})
    callbacks = [recorder, *fit_options.pop("callbacks", [])]
    data = Digits(64, flatten=True, drop_last=True)  # 20 steps an epoch
    return fit(module, data, callbacks=callbacks, **fit_options), recorder


result, recorder = learn_digits(scheduler=schedule("cosine", total_steps=100, warmup_steps=10))
wanted = [0.1 * schedules.cosine(t, total_steps=100, warmup_steps=10) for t in range(100)]
assert recorder.rates == wanted
print("100 steps, each taken with the rate of its number")
print("first:", [round(rate, 4) for rate in recorder.rates[:3]])
print("last: ", [round(rate, 6) for rate in recorder.rates[-3:]])

# %% [markdown]
# Three decisions hide at the ends of a schedule, one step wide each:
#
# - *The first step.* A warm-up $t/w$ has rate 0 at $t = 0$ and throws a batch away. Ours is
#   $(t + 1)/w$.
# - *The last step.* The cosine reaches 0 at $t = T$; the last step is $t = T - 1$ and still learns.
#   A rate of 0 there would throw a batch away as well.
# - *After the last step.* A trainer often asks for one more rate than it uses. The bare cosine
#   would rise again after $T$; ours stays.

# %% [markdown]
# ## Why warm up?
#
# At the start the weights are random, gradients are large and point here and there, and Adam knows
# one gradient. Its step is $\eta\,\hat m/\sqrt{\hat v}$, and after one gradient the fraction is
# $\pm 1$: *every* weight moves by the full $\eta$, sure or not ({doc}`adam`). Most sensitive are
# deep networks that normalise *after* each residual sum (post-norm): the gradients near their
# output are large at the beginning {cite:p}`xiong2020layer`. Here is one with six attention blocks
# on the rows of the digits. You need not know the blocks yet; {doc}`../architectures/transformer`
# builds them.
#
# :::{admonition} Predict first
# :class: predict
# The peak rate is 0.01, high for Adam. One run starts with it, one climbs to it in 40 steps. How
# far does the first run's loss get below $\ln 10 \approx 2.3$, the loss of guessing?
# :::


# %%
class PostNorm(nn.Module):
    def __init__(self, depth=6, width=32):
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        options = {"dropout": 0.0, "batch_first": True, "norm_first": False}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 4 * width, **options) for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x):  # (batch, 64): eight rows of eight pixels
        h = self.embed(x.reshape(-1, 8, 8)) + self.position
        for block in self.blocks:
            h = block(h)
        return self.head(h.mean(1))


def train_deep(warmup_steps, seed):
    torch.manual_seed(seed)
    module = Classifier(
        PostNorm(),
        optimizer=partial(torch.optim.Adam, lr=0.01),
        scheduler=schedule("linear_warmup", warmup_steps=warmup_steps),
        scheduler_interval="step",
    )
    data = Digits(64, flatten=True, drop_last=True)
    return fit(module, data, epochs=6, precision="32-true").step_losses


# %% tags=["nbval-ignore-output"]
deep = {warm: [train_deep(warm, seed) for seed in (0, 1)] for warm in (1, 40)}
ends = {warm: [sum(losses[-20:]) / 20 for losses in runs] for warm, runs in deep.items()}
for warm, losses in ends.items():
    name = "no warm-up" if warm == 1 else f"warm-up of {warm} steps"
    print(f"{name:19s} loss over the last 20 steps, two seeds: {losses[0]:.2f} {losses[1]:.2f}")
assert sum(ends[40]) < sum(ends[1])


# %% tags=["hide-input", "nbval-ignore-output"]
def smoothed(losses, width=10):
    return [sum(losses[i : i + width]) / width for i in range(len(losses) - width)]


for (warm, runs), color, style in zip(deep.items(), COLORS[1:], LINESTYLES, strict=False):
    for losses in runs:
        label = f"{'no warm-up' if warm == 1 else f'warm-up of {warm} steps'}"
        plt.plot(
            smoothed(losses),
            color=color,
            linestyle=style,
            label=label if losses is runs[0] else None,
        )
plt.axhline(2.3026, color="#888888", linewidth=0.8, linestyle="-")
plt.title("The same peak rate: far lower losses after a warm-up")
plt.xlabel("step")
plt.ylabel("training loss, mean of 10 steps (nats)")
plt.legend()
plt.show()

# %% [markdown]
# Same weights, same batches, same peak; only the first forty steps differ. A warm-up is no law:
# with a low enough peak such networks learn without it. It widens the range of rates that work.

# %% [markdown]
# ## One run, several budgets
#
# A cosine must know $T$ from the start: at half time its rate is still half, and stopping there
# leaves you on the noise floor. Warm-up–stable–decay postpones the decision. Keep the rate
# constant, save checkpoints, and whenever you want a finished model, branch off a short decay.
# `fit` restores weights, momentum, and the position in the schedule; the new plan decides what
# comes next.

# %%
long = {"total_steps": 10_000, "warmup_steps": 10, "decay_steps": 20}
short = long | {"total_steps": 60}
with tempfile.TemporaryDirectory() as folder:
    save = {"checkpoint_dir": folder}
    learn_digits(epochs=2, data_options=save, scheduler=schedule("warmup_stable_decay", **long))
    go_on = {"resume_from": folder}
    branch, recorder = learn_digits(
        epochs=3, data_options=go_on, scheduler=schedule("warmup_stable_decay", **short)
    )
planned, _ = learn_digits(epochs=3, scheduler=schedule("warmup_stable_decay", **short))
assert branch.step_losses == planned.step_losses
print("steps 40 to 59 of the branch:", [round(rate, 3) for rate in recorder.rates[::5]], "...")
print("the branch equals the run that was planned for 60 steps, bit for bit: True")

# %% [markdown]
# So $k$ budgets cost one long stable run and $k$ short decays, not $k$ whole runs.

# %% [markdown]
# ## A schedule that listens
#
# `plateau` has no plan. After more than `patience` epochs without an improvement of the validation
# loss it multiplies the rate by $\gamma$. It must be told about a loss that exists only at the end
# of an epoch, hence `scheduler_interval="epoch"`.

# %%
history = [1.0, 0.8, 0.7, 0.71, 0.72, 0.69, 0.70, 0.70, 0.70]
factors = [schedules.plateau(history[:n], gamma=0.5, patience=1) for n in range(1, 10)]
print("validation loss:", history)
print("factor after it:", factors)
reference = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
listener = theirs.ReduceLROnPlateau(reference, factor=0.5, patience=1)
for loss, factor in zip(history, factors, strict=True):
    listener.step(loss)
    assert reference.param_groups[0]["lr"] == factor

# %% [markdown]
# ## Which peak? The range test
#
# Every schedule scales a peak that you must choose. Smith's test {cite:p}`smith2017cyclical` finds
# its order of magnitude in one short sweep: let the rate grow by a constant factor each step, from
# far too small to far too large, and watch the loss. `LearningRateRangeTest` does so at the start
# of a `fit`, stops when the loss explodes, and then puts everything back: weights, running
# statistics, the optimizer's state, random numbers. The training that follows is, bit for bit, the
# one without it.

# %% tags=["nbval-ignore-output"]
test = LearningRateRangeTest(1e-4, 10.0, steps=100)
with_test, _ = learn_digits(epochs=2, data_options={"callbacks": [test]})
without, _ = learn_digits(epochs=2)
assert with_test.step_losses == without.step_losses
print(f"{len(test.rates)} rates tried, and the training after it is the same: True")

# %% [markdown]
# Where to read the curve? The loss is lowest just before it explodes; that rate is too high to live
# with. `"steepest"` takes the rate at which the loss falls fastest, `"valley"` a point two thirds
# down the longest descent. Then the test of the test: real training at a tenth of the suggestion,
# at it, and at ten times.

# %% tags=["nbval-ignore-output"]
suggested = test.suggestion()
print(f"valley {suggested:.3f}, steepest {test.suggestion('steepest'):.3f}")
trained = {}
for times in (0.1, 1, 10):
    run, _ = learn_digits(peak=times * suggested, epochs=5)
    trained[times] = run
    print(f"{times:4} x: validation accuracy {run.metrics['val_accuracy']:.3f}")
assert trained[1].metrics["val_accuracy"] > trained[10].metrics["val_accuracy"]
assert trained[1].metrics["val_loss"] < trained[0.1].metrics["val_loss"]

# %% tags=["hide-input", "nbval-ignore-output"]
figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4))
left.plot(test.rates, test.losses, color="#bbbbbb", linewidth=1, linestyle="-", label="each step")
left.plot(test.rates, test.smoothed, color=COLORS[1], linestyle="-", label="smoothed")
left.axvline(suggested, color=COLORS[2], linestyle="--", label="suggestion")
left.set_xscale("log")
left.set_ylim(0, 4)
left.set_title("The loss falls, then explodes", fontsize=11)
left.set_xlabel("learning rate")
left.set_ylabel("training loss (nats)")
left.legend(fontsize=9)
for (times, run), color, style in zip(trained.items(), COLORS, LINESTYLES, strict=False):
    label = f"{times} × suggestion"
    right.plot(smoothed(run.step_losses), color=color, linestyle=style, label=label)
right.set_ylim(0, 4)
right.set_title("Ten times more does not settle", fontsize=11)
right.set_xlabel("step")
right.legend(fontsize=9)
plt.show()

# %% [markdown]
# The suggestion is an order of magnitude, not a result. It depends on the batch size, on the
# momentum, and on how much of the sweep the average remembers; the best peak *under a schedule* is
# usually somewhat higher. Lightning has the same test as `LearningRateFinder`; on the same batches
# its curve is ours (`tests/optimization/test_range_test.py`), once its running average is corrected
# for the right number of losses.

# %% [markdown]
# ## The real thing: four plans on Fashion-MNIST
#
# 8,000 images, 4 epochs, a network with one hidden layer, SGD with momentum. Each schedule gets its
# own best peak of five, chosen on the *validation* loss. Then each is trained from three new seeds.

# %% tags=["nbval-ignore-output"]
clothes = FashionMNIST(128, limit=8_000, flatten=True, drop_last=True)
clothes.setup()
EPOCHS = 4
steps = EPOCHS * len(clothes.train_dataloader())
contenders = {
    "constant": schedule("constant"),
    "cosine": schedule("cosine", total_steps=steps, warmup_steps=20),
    "one_cycle": schedule("one_cycle", total_steps=steps),
    "warmup_stable_decay": schedule(
        "warmup_stable_decay", total_steps=steps, warmup_steps=20, decay_steps=steps // 3
    ),
}


def learn_clothes(name, peak, seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    module = Classifier(
        network,
        optimizer=partial(torch.optim.SGD, lr=peak, momentum=0.9),
        scheduler=contenders[name],
        scheduler_interval="step",
    )
    run = fit(module, clothes, epochs=EPOCHS, seed=seed, precision="32-true")
    return run.metrics["val_loss"]


grid, table = (0.0125, 0.025, 0.05, 0.1, 0.2), {}
for name in contenders:
    first = {peak: learn_clothes(name, peak, seed=0) for peak in grid}
    best = min(grid, key=lambda peak: first[peak])
    table[name] = (best, [learn_clothes(name, best, seed) for seed in (1, 2, 3)])
    losses = " ".join(f"{loss:.3f}" for loss in table[name][1])
    print(f"{name:20s} peak {best:<6}  validation loss of three seeds: {losses}")
at_the_end = [name for name, (best, _) in table.items() if best in (grid[0], grid[-1])]
print("best peak at an end of the grid, so perhaps beyond it:", at_the_end or "none")

# %% tags=["hide-input", "nbval-ignore-output"]
for row, (peak, losses) in enumerate(table.values()):
    plt.scatter(losses, [row] * 3, color=COLORS[1], s=45, zorder=3)
    plt.scatter([sum(losses) / 3], [row], marker="|", s=500, color=COLORS[2], zorder=4)
    plt.text(max(losses) + 0.002, row, f"peak {peak}", va="center", fontsize=10)
low, high = plt.xlim()
plt.xlim(low, high + 0.15 * (high - low))
plt.yticks(range(len(table)), list(table))
plt.gca().invert_yaxis()
plt.title("Any decay beats no decay")
plt.xlabel("validation loss (nats); a dot is a seed, the bar their mean")
plt.show()

# %% tags=["nbval-ignore-output"]
means = {name: sum(losses) / 3 for name, (_, losses) in table.items()}
decays = {name: mean for name, mean in means.items() if name != "constant"}
spread = max(max(losses) - min(losses) for name, (_, losses) in table.items() if name in decays)
print(f"constant against the worst decay: {means['constant'] - max(decays.values()):+.3f}")
print(f"best against worst decay:         {max(decays.values()) - min(decays.values()):.3f}")
print(f"largest spread of a decay's seeds: {spread:.3f}")
assert means["constant"] > min(decays.values())

# %% [markdown]
# The first line is the price of no schedule. Compare the other two before you call one decay
# better than another: a difference of the size of the seeds' spread decides nothing, and three
# seeds show that spread only roughly. {doc}`tuning` makes this precise.
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# module = Classifier(network, scheduler=schedule("one_cycle", total_steps=steps),
#                     scheduler_interval="step")
# fit(module, clothes, epochs=4, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(module, clothes, epochs=4, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(module, clothes, epochs=4, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} one-cycle
# :::

# %% [markdown]
# ## Widespread mistakes
#
# :::{admonition} Widespread mistake: a plan in steps, advanced once an epoch
# :class: mistake
# `OneCycleLR(total_steps=100)` or a cosine over 100 *steps*, but the trainer calls
# `scheduler.step()` after each of the 5 *epochs*. Nothing complains. The rate never leaves the
# first few values of its plan.
# :::

# %%
wrong, wrong_rates = learn_digits(
    peak=0.2, scheduler=schedule("one_cycle", total_steps=100), scheduler_interval="epoch"
)
right_run, right_rates = learn_digits(peak=0.2, scheduler=schedule("one_cycle", total_steps=100))
print(f"per epoch: largest rate {max(wrong_rates.rates):.3f}, last {wrong_rates.rates[-1]:.3f}")
print(f"per step:  largest rate {max(right_rates.rates):.3f}, last {right_rates.rates[-1]:.6f}")

# %% tags=["raises-exception"]
assert wrong_rates.rates[-1] < 0.01 * 0.2, "the run ended, and its rate had not come down"

# %% [markdown]
# The cure: say what $t$ counts, and look at the rates that were used. `RateRecorder` writes them
# down.
#
# :::{admonition} Widespread mistake: the scheduler before the optimizer
# :class: mistake
# `scheduler.step(); optimizer.step()` skips the first rate of the plan: step $t$ gets $f(t + 1)$.
# Under a decay of one drop an epoch, the first epoch is lost.
# :::


# %%
def wrong_order(build, steps, peak=1.0):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=peak)
    scheduler, rates = build(optimizer), []
    optimizer.step()  # keeps the library's warning silent, as many loops do by accident
    for _ in range(steps):
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return rates


plan = schedule("exponential", gamma=0.5)
print("wanted:", rates_of(plan, steps=4, peak=1.0).tolist())
print("got:   ", wrong_order(plan, steps=4))

# %% [markdown]
# :::{admonition} Widespread mistake: the factor on the rate that has already decayed
# :class: mistake
# `lr = lr * gamma ** (t // s)` inside the loop. The right-hand `lr` is yesterday's rate, which has
# been multiplied before. From the step after the first drop on, the powers pile up.
# :::

# %%
rate, compounded = 1.0, []
for t in range(8):
    rate = rate * 0.5 ** (t // 2)
    compounded.append(rate)
print("compounded:", compounded)
print("wanted:    ", [schedules.step_decay(t, step_size=2, gamma=0.5) for t in range(8)])

# %% [markdown]
# Compute each rate from the *initial* one. A closed form cannot drift, and it can be resumed
# anywhere.

# %% [markdown]
# ## Exercises
#
# :::{exercise} The best plan for the noisy quadratic
# :label: ex-schedules-1
# Take the steep direction alone. Minimise $(1 - \eta h)^2 v + \eta^2\sigma^2$ over $\eta$ for a
# given mean square $v$, and let each step take that rate. How does $v_t$ fall for large $t$, and
# at what loss does it end after 400 steps from this page's start, $v_0 = 4.5$, against the cosine
# above?
# :::
#
# :::{solution} ex-schedules-1
# :class: dropdown
# The derivative is 0 at $\eta = hv/(h^2 v + \sigma^2)$. Put in, $1/v_{t+1} = 1/v_t + h^2/\sigma^2$:
# for large $t$ the mean square falls as $\sigma^2/(h^2 t)$, and the rate as $1/(ht)$. No schedule
# does better in this direction. But in one that is twenty times as flat, the same rates are far
# too small: the cosine knows neither curvature, and serves both.
# :::

# %% tags=["hide-cell"]
# Solution
square, greedy = 4.5, []
for _ in range(400):
    greedy.append(square / (square + SIGMA**2))
    square = (1 - greedy[-1]) ** 2 * square + greedy[-1] ** 2 * SIGMA**2
assert abs(1 / square - (1 / 4.5 + 400)) < 1e-9
down = plans["from 0.5 down"]
for name, curvatures in (("steep direction", ONE), ("both", CURVATURES)):
    ends = [expected_losses(rates, curvatures)[-1] for rates in (greedy, down)]
    print(f"{name:16s} greedy rates: {ends[0]:.4f}, cosine: {ends[1]:.4f}")

# %% [markdown]
# :::{exercise} A cosine stopped half way
# :label: ex-schedules-2
# On the noisy quadratic, plan a cosine for 400 steps and stop at 200. Compare with a cosine planned
# for 200, and with warm-up–stable–decay cut to 200 (decay 60). Use `expected_losses`.
# :::
#
# :::{solution} ex-schedules-2
# :class: dropdown
# The stopped cosine sits on the floor of its rate at half time. The other two end clearly lower.
# :::

# %% tags=["hide-cell"]
# Solution
stopped = [0.5 * schedules.cosine(t, total_steps=400) for t in range(200)]
whole = [0.5 * schedules.cosine(t, total_steps=200) for t in range(200)]
options = {"total_steps": 200, "decay_steps": 60}
branched = [0.5 * schedules.warmup_stable_decay(t, **options) for t in range(200)]
ends = [expected_losses(rates)[-1] for rates in (stopped, whole, branched)]
print("stopped, planned, stable-decay:", [round(end, 4) for end in ends])
assert ends[0] > 1.3 * max(ends[1:])

# %% [markdown]
# :::{exercise} Linear decay
# :label: ex-schedules-3
# Write `linear(step, total_steps)` that falls on a straight line from 1 to 0 at
# $t = T$, as a scheduler, and compare it with the library's `LinearLR`. Which other function of
# this page contains it?
# :::
#
# :::{solution} ex-schedules-3
# :class: dropdown
# $1 - t/T$. It is `warmup_stable_decay` with `decay_steps` equal to `total_steps`.
# :::


# %% tags=["hide-cell"]
# Solution
def linear(step, total_steps):
    return max(0.0, 1 - step / total_steps)


mine = rates_of(lambda opt: theirs.LambdaLR(opt, partial(linear, total_steps=50)), steps=50)
library = partial(theirs.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=50)
torch.testing.assert_close(mine, rates_of(library, steps=50), rtol=1e-10, atol=1e-12)
same = schedule("warmup_stable_decay", total_steps=50, decay_steps=50)
torch.testing.assert_close(mine, rates_of(same, steps=50), rtol=1e-10, atol=1e-12)
print("three ways, one line")

# %% [markdown]
# ## Summary
#
# - A constant rate ends on a noise floor proportional to it; a rate that decays leaves the floor.
# - A schedule is a function step → factor; check its first and last step, and what $t$ counts.
# - A warm-up raises the highest rate that works; it matters most for deep networks under Adam.
# - Warm-up–stable–decay puts off the choice of the budget: one run, several finished models.
# - The range test gives the order of magnitude of the peak; the validation set gives the peak.
#
# Sources: cosine and restarts {cite:p}`loshchilov2017sgdr`; warm-up {cite:p}`goyal2017accurate` and
# why post-norm networks need it {cite:p}`xiong2020layer`; inverse square root
# {cite:p}`vaswani2017attention` (section 5.3); one-cycle {cite:p}`smith2019super`;
# warm-up–stable–decay {cite:p}`hu2024minicpm` (section 4); the range test
# {cite:p}`smith2017cyclical` (section 3.3); the data {cite:p}`xiao2017fashion`.
