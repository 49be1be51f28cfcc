# %% [markdown]
# # Adam and its relatives: a step for every weight
#
# **The question: gradients of different weights differ by factors of a thousand. How can one
# learning rate fit them all, and what does it cost?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# Someone changes the loss of your network from the mean over 1000 samples to their sum. Every
# gradient is now a thousand times as large. The best weights are still the same ones. Here four
# optimizers train one small network on the digits, each with the loss as it is and with the loss
# times 1000. Nothing else changes.

# %%
import math
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from torch import nn

from companion.data.digits import Digits
from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style
from companion.optimization.adam import Adam, AdamW, adam_step
from companion.optimization.adaptive import Adagrad, RMSprop, adagrad_step, rmsprop_step
from companion.optimization.base import state_bytes
from companion.optimization.lion import Lion, lion_step
from companion.optimization.muon import (
    Muon,
    MuonWithAdamW,
    muon_step,
    orthogonalize,
    split_parameters,
)
from companion.optimization.sgd import SGD

use_course_style()
torch.set_num_threads(1)  # the tensors of this page are small
digits = Digits(flatten=True)
digits.setup()


# %%
def mlp(*sizes):
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(network, optimizer, data, steps, batch=64, scale=1.0):
    """Return the loss (not scaled) of every step; the batches are drawn anew each time."""
    x, y = data
    losses = []
    for rows in torch.randint(len(x), (steps, batch)):
        loss = F.cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        (scale * loss).backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


optimizers = {
    "SGD": lambda network: SGD(network.parameters(), lr=0.1),
    "Adam": lambda network: Adam(network.parameters(), lr=3e-3),
    "Lion": lambda network: Lion(network.parameters(), lr=5e-4),
    "Muon": lambda network: MuonWithAdamW(*split_parameters(network), lr=0.02, adamw_lr=3e-3),
}
curves = {}
for name, make in optimizers.items():
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        network = mlp(64, 64, 64, 10)
        curves[name, scale] = train(network, make(network), digits.train, 120, scale=scale)

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 4, figsize=(7.2, 2.8), sharey=True)
for name, axes in zip(optimizers, panels, strict=True):
    for scale, color, style, width in ((1.0, COLORS[6], "-", 4), (1000.0, COLORS[0], "--", 1.5)):
        axes.plot(
            curves[name, scale], color=color, linestyle=style, linewidth=width, label=f"× {scale:g}"
        )
    axes.set_ylim(0, 3.2)
    axes.set_title(name, fontsize=11)
    axes.set_xlabel("step")
panels[0].set_ylabel("loss (nats), before the factor")
panels[3].legend(title="loss")
figure.suptitle(
    "Only SGD notices that the loss was multiplied by 1000", fontsize=12, fontweight="bold"
)
plt.show()

# %% tags=["nbval-ignore-output"]
for name in optimizers:
    plain, large = (sum(curves[name, scale][-20:]) / 20 for scale in (1.0, 1000.0))
    print(f"{name:5s} mean loss of the last 20 steps: {plain:5.2f}, with factor 1000: {large:5.2f}")
    assert abs(plain - large) < 0.1 or name == "SGD"

# %% [markdown]
# SGD moves by $\eta g$. Multiply $g$ by 1000 and it needs another $\eta$. The other three divide
# the size of the gradient out, each in its own way. That is the one idea of this page, and it also
# works *within* a network: a weight whose gradients are always small gets steps as long as the
# others'.
#
# First the four methods that do it number by number, AdaGrad, RMSProp, Adam and Lion; then Muon,
# which does it for a matrix as a whole. All formulas with $\odot$, $\sqrt{\ }$ or a fraction of
# vectors mean each number alone.

# %% [markdown]
# ## AdaGrad: divide by all that was
#
# Let $\theta$ be the weights, $g_t$ the gradient of step $t$ and $\eta$ the learning rate. AdaGrad
# {cite:p}`duchi2011adaptive` keeps the sum of the squares of all gradients so far:
#
# $$G_t = G_{t-1} + g_t \odot g_t, \qquad
#   \theta_t = \theta_{t-1} - \eta\, \frac{g_t}{\sqrt{G_t} + \varepsilon}.$$
#
# $G$ has the shape of $\theta$ and begins at 0. The small $\varepsilon$ keeps $0/0$ away.
#
# Take a gradient that is 1 in every step. Then $G_t = t$, and the steps are $\eta/\sqrt1,
# \eta/\sqrt2, \eta/\sqrt3, \dots$ A gradient that is always 1000 gives the same ones.


# %%
def follow(step, gradients, start, *state, counted=False):
    """Apply "one step of the paper" for each gradient; state begins at zeros."""
    theta, state = start.clone(), [torch.zeros_like(start) for _ in state]
    for t, g in enumerate(gradients, 1):
        theta, *state = step(theta, g, *state, *([t] if counted else []))
    return theta


def follow_torch(optimizer, gradients, start):
    theta = nn.Parameter(start.clone())
    running = optimizer([theta])
    for g in gradients:
        theta.grad = g.clone()
        running.step()
    return theta.detach()


generator = torch.Generator().manual_seed(0)
start = torch.randn(4, 3, generator=generator).double()
sizes = torch.logspace(-6, 2, 12).reshape(4, 3).double()  # from a millionth to a hundred
gradients = [sizes * torch.randn(4, 3, generator=generator).double() for _ in range(50)]


# %%
def adagrad_in_three_lines(theta, g, G, eta=0.01, epsilon=1e-10):
    G = G + g * g
    theta = theta - eta * g / (G.sqrt() + epsilon)
    return theta, G


exactly = partial(torch.testing.assert_close, rtol=1e-10, atol=0)
expected = follow_torch(partial(torch.optim.Adagrad, lr=0.01), gradients, start)
exactly(follow(adagrad_in_three_lines, gradients, start, "G"), expected)
exactly(follow(adagrad_step, gradients, start, "G"), expected)  # the companion's, the same lines
exactly(follow_torch(partial(Adagrad, lr=0.01), gradients, start), expected)
print("50 steps: three lines = companion's Adagrad = torch.optim.Adagrad, to ten digits")

# %% [markdown]
# For a convex loss the shrinking steps are just right, and the paper proves it. For a network that
# has to travel far they shrink too soon.
#
# ## RMSProp: forget the distant past
#
# RMSProp {cite:p}`tieleman2012rmsprop` replaces the sum by a running mean, which forgets at the
# rate $\rho$:
#
# $$v_t = \rho\, v_{t-1} + (1 - \rho)\, g_t \odot g_t, \qquad
#   \theta_t = \theta_{t-1} - \eta\, \frac{g_t}{\sqrt{v_t} + \varepsilon}.$$
#
# With $\rho = 0.99$ about the last $1/(1-\rho) = 100$ steps count. If the gradient stays 1, then
# $v$ goes to 1 and the steps to $\eta$: they no longer fade away. Two options come from later
# uses {cite:p}`graves2013generating`: momentum on the divided gradient, and `centered`, which
# subtracts the square of the mean gradient, so that one divides by a standard deviation.


# %%
def rmsprop_in_three_lines(theta, g, v, eta=0.01, rho=0.99, epsilon=1e-8):
    v = rho * v + (1 - rho) * g * g
    theta = theta - eta * g / (v.sqrt() + epsilon)
    return theta, v


expected = follow_torch(partial(torch.optim.RMSprop, lr=0.01), gradients, start)
exactly(follow(rmsprop_in_three_lines, gradients, start, "v"), expected)
exactly(follow(rmsprop_step, gradients, start, "v"), expected)
for options in ({}, {"momentum": 0.9}, {"centered": True}):
    expected = follow_torch(partial(torch.optim.RMSprop, lr=0.01, **options), gradients, start)
    exactly(follow_torch(partial(RMSprop, lr=0.01, **options), gradients, start), expected)
print("RMSProp, with momentum and centred as well: equal to torch.optim.RMSprop")

# %% [markdown]
# ## Adam: two means, two corrections
#
# Adam {cite:p}`kingma2015adam` takes the running mean of the gradient as well. In the paper's
# symbols, with step size $\alpha$ and $t$ counting the steps *from 1* (every quantity has the shape
# of $\theta$):
#
# | line | what it is |
# |---|---|
# | $m_t = \beta_1 m_{t-1} + (1-\beta_1)\, g_t$ | mean of the gradient, first moment |
# | $v_t = \beta_2 v_{t-1} + (1-\beta_2)\, g_t^2$ | mean of its square, second moment |
# | $\hat m_t = m_t / (1 - \beta_1^t)$ | corrected for the start at 0 |
# | $\hat v_t = v_t / (1 - \beta_2^t)$ | the same, with the other $\beta$ |
# | $\theta_t = \theta_{t-1} - \alpha\, \hat m_t / (\sqrt{\hat v_t} + \varepsilon)$ | the step |
#
# Why a correction? Write $m_t$ out: $m_t = (1-\beta_1) \sum_{s=1}^t \beta_1^{t-s} g_s$. The
# weights of this sum add up to $1 - \beta_1^t$ and not to 1. At $t = 1$, with $\beta_1 = 0.9$, the
# "mean" of one gradient is a tenth of it. Dividing by $1 - \beta_1^t$ makes it a mean.
#
# ::::{admonition} Predict first
# :class: predict
# Two weights have the first gradients $+1000$ and $-0.001$. By how much does Adam's first step
# move each, with $\alpha = 0.001$?
#
# :::{admonition} Answer
# :class: dropdown
# By $-0.001$ and $+0.001$. At $t=1$ the corrections cancel the factors $1 - \beta$:
# $\hat m_1 = g$ and $\sqrt{\hat v_1} = |g|$. The first step is $\alpha$ times the *sign* of the
# gradient. The next cell shows it.
# :::
# ::::


# %%
def adam_line_by_line(theta, g, m, v, t, alpha=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g * g
    m_hat = m / (1 - beta_1**t)
    v_hat = v / (1 - beta_2**t)
    theta = theta - alpha * m_hat / (v_hat.sqrt() + epsilon)
    return theta, m, v


expected = follow_torch(torch.optim.Adam, gradients, start)
exactly(follow(adam_line_by_line, gradients, start, "m", "v", counted=True), expected)
exactly(follow(adam_step, gradients, start, "m", "v", counted=True), expected)
exactly(follow_torch(Adam, gradients, start), expected)
print("Adam, gradients from 1e-6 to 100: equal to torch.optim.Adam")

zero = torch.zeros(2).double()
first, *_ = adam_line_by_line(zero, torch.tensor([1000.0, -0.001]).double(), zero, zero, t=1)
print("the first step:", [f"{value:+.6f}" for value in first.tolist()])

# %% [markdown]
# What if you leave the corrections out? Both means begin too small, but $m$ recovers in about 10
# steps and $\sqrt v$ in about 1000. In between the quotient is too *large*. Take a gradient that
# never changes, where every step should be $\alpha$:

# %%
steps = torch.arange(1, 10_001).double()
m_short, v_short = 1 - 0.9**steps, 1 - 0.999**steps  # m and v for g = 1
uncorrected = m_short / v_short.sqrt()
peak = int(uncorrected.argmax()) + 1
display(
    Markdown(
        f"Without corrections the first step is {uncorrected[0]:.2f} α long, step {peak} even "
        f"{uncorrected.max():.2f} α, and it takes {int((uncorrected > 1.1).sum()):,} steps until "
        "they are within a tenth of α."
    )
)

# %% tags=["hide-input"]
figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4))
left.plot(steps, m_short, label="m (β₁ = 0.9)")
left.plot(steps, v_short.sqrt(), label="√v (β₂ = 0.999)")
left.set_ylabel("for a gradient that is always 1")
left.set_title("√v is late by a factor of 100", fontsize=11)
right.plot(steps, uncorrected, label="without")
right.plot(steps, torch.ones_like(steps), label="with corrections")
right.set_ylabel("length of the step (α)")
right.set_title(f"so steps are up to {uncorrected.max():.1f} α", fontsize=11)
for axes in (left, right):
    axes.set_xscale("log")
    axes.set_xlabel("step t")
    axes.legend(fontsize=10)
    axes.set_ylim(bottom=0)
plt.show()

# %% [markdown]
# A warm-up of the learning rate ({doc}`schedules`) shortens the first steps and so hides that
# mistake.

# %% [markdown]
# ## Where ε stands
#
# $\varepsilon$ is there so that $0/0$ does not occur. But it also decides what happens to *small*
# gradients, and there are four places where people put it. For the first step on a gradient of
# size $|g|$, with $b_1 = 1-\beta_1$, $b_2 = 1-\beta_2$:

# %%
epsilon, b_1, b_2 = 1e-8, 0.1, 0.001
g = torch.logspace(-12, 0, 241).double()
m, v = b_1 * g, b_2 * g * g
placements = {
    "after correction, outside (paper, PyTorch)": (m / b_1) / ((v / b_2).sqrt() + epsilon),
    "before correction, outside (Keras)": (b_2**0.5 / b_1) * m / (v.sqrt() + epsilon),
    "after correction, inside the root": (m / b_1) / (v / b_2 + epsilon).sqrt(),
    "before correction, inside": (b_2**0.5 / b_1) * m / (v + epsilon).sqrt(),
}
at = int((g - 1e-6).abs().argmin())
print("step in units of alpha, for a gradient of 1e-6:")
for name, length in placements.items():
    print(f"  {name:43s}{length[at]:.6f}")

# %% tags=["hide-input"]
for (name, length), color, style in zip(placements.items(), COLORS, LINESTYLES, strict=False):
    plt.plot(g, length, label=name, color=color, linestyle=style)
plt.axvline(1e-6, color="#888888", linewidth=0.8, linestyle="-")
plt.text(1.3e-6, 1.5e-5, "gradients of 1e-6", fontsize=9)
plt.xscale("log")
plt.yscale("log")
plt.ylim(1e-8, 3)
plt.title(
    f"ε in the wrong place: steps {placements[list(placements)[0]][at] / length[at]:,.0f} times "
    "shorter at 1e-6"
)
plt.xlabel("size of the gradient |g|")
plt.ylabel("first step (α)")
plt.legend(fontsize=9, loc="lower right")
plt.show()

# %% [markdown]
# Inside the root, $\varepsilon$ is compared with $g^2$: it takes over for $|g| < \sqrt\varepsilon
# = 10^{-4}$, and not for $|g| < 10^{-8}$. PyTorch follows algorithm 1 of the paper. Keras takes the
# variant from the end of the paper's section 2, with $\varepsilon$ before the correction and
# $10^{-7}$ as default; it says so in its documentation. A "port" that keeps the number and not the
# place is another optimizer.
#
# Are there gradients that small? Here are those of a trained network. And does a test notice? A
# loose one does not:

# %% tags=["nbval-ignore-output"]
torch.manual_seed(0)
network = mlp(64, 64, 64, 10)
train(network, Adam(network.parameters(), lr=3e-3), digits.train, 300)
network.zero_grad()
F.cross_entropy(network(digits.train[0]), digits.train[1]).backward()
sizes_of_all = torch.cat([p.grad.abs().flatten() for p in network.parameters()])
small = (sizes_of_all[sizes_of_all > 0] < 1e-4).float().mean()
print(f"gradients below 1e-4 after 300 steps on the digits: {small:.0%}")

# %%
theta, g = torch.ones(3).double(), torch.full((3,), 1e-6).double()
right_place = theta - 0.001 * g / (g.abs() + 1e-8)
wrong_place = theta - 0.001 * g / (g * g + 1e-8).sqrt()
print("equal at atol=1e-2 :", torch.allclose(right_place, wrong_place, atol=1e-2))
print("equal at rtol=1e-10:", torch.allclose(right_place, wrong_place, rtol=1e-10, atol=0))

# %% [markdown]
# ## AdamW: decay beside the moments
#
# To keep weights small, a penalty $\tfrac\lambda2\lVert\theta\rVert^2$ adds $\lambda\theta$ to the
# gradient. Under SGD this shrinks every weight by the factor $1-\eta\lambda$ a step. Under Adam it
# enters $m$ and $v$ and is divided by $\sqrt{\hat v}$ like everything else: weights with small
# gradients are decayed far more than weights with large ones. AdamW
# {cite:p}`loshchilov2019decoupled` keeps it out, $\theta \leftarrow \theta - \alpha\lambda\theta$
# beside Adam's step. Two weights with gradients that are pure noise, one loud and one quiet:

# %%
noise = torch.randn(3000, 2, generator=generator).double() * torch.tensor([1.0, 0.01])
decayed = {}
for kind in (Adam, AdamW):
    theta = nn.Parameter(torch.full((2,), 1.0).double())
    still = nn.Parameter(torch.full((2,), 1.0).double())
    with_decay, without = kind([theta], weight_decay=0.1), kind([still], weight_decay=0.0)
    for row in noise:
        theta.grad, still.grad = row.clone(), row.clone()
        with_decay.step()
        without.step()
    decayed[kind] = (still - theta).detach()  # how far the decay pulled
    loud, quiet = decayed[kind].tolist()
    print(
        f"{kind.__name__:5s} decay took {loud:.3f} off the loud weight, {quiet:.3f} off the quiet"
    )
shares = {kind: (pulled[1] / pulled[0]).item() for kind, pulled in decayed.items()}
assert shares[Adam] > 3 > 1.2 > shares[AdamW] > 0.8

# %% [markdown]
# {doc}`regularization` goes on from here.

# %% [markdown]
# ## Lion: only the sign
#
# Adam's steps are about $\pm\alpha$ anyway. Lion {cite:p}`chen2023symbolic`, found by a program
# that searched for optimizers, draws the conclusion:
#
# $$c = \beta_1 m + (1-\beta_1)\, g, \qquad
#   \theta \leftarrow \theta - \eta\,(\operatorname{sign} c + \lambda\theta), \qquad
#   m \leftarrow \beta_2 m + (1-\beta_2)\, g.$$
#
# The order matters. $c$ uses the *old* $m$, and more of the fresh gradient ($\beta_1 = 0.9$) than
# $m$ will remember ($\beta_2 = 0.99$). There is no $v$, no correction and no $\varepsilon$: one
# buffer instead of two.


# %%
def lion_in_three_lines(theta, g, m, eta=1e-4, beta_1=0.9, beta_2=0.99):
    c = beta_1 * m + (1 - beta_1) * g
    theta = theta - eta * c.sign()
    return theta, beta_2 * m + (1 - beta_2) * g


expected = follow(lion_in_three_lines, gradients, start, "m")
exactly(follow(lion_step, gradients, start, "m"), expected)
exactly(follow_torch(Lion, gradients, start), expected)
moves = (expected - start) / 1e-4
print("fifty steps moved each weight by a whole number of rates:")
print(moves.round().int().flatten().tolist())

# %% [markdown]
# Every weight moves by $\eta$ in every step, so $\eta$ must be smaller than Adam's: the authors
# advise 3 to 10 times, with $\lambda$ larger by as much (section 5 of the paper).

# %% [markdown]
# ## Rare words: gradients that are mostly 0
#
# An **embedding** is a table of weights with one row for each word; a sentence looks up the rows of
# its words. So the row of a rare word gets a gradient only when the word occurs. In all other steps
# it is 0, and 0 is also a gradient.
#
# ::::{admonition} Predict first
# :class: predict
# A row gets the gradient 1 once in 200 steps and 0 in between. Which optimizer moves it in the 199
# steps *without* the word: SGD, AdaGrad, Adam, Lion? Which moves it most?
#
# :::{admonition} Answer
# :class: dropdown
# SGD and AdaGrad stand still, since their step is a multiple of $g$. Adam and Lion go on, driven by
# $m$. Lion moves most: $m$ decays but never reaches 0, so its sign stays, and the row goes on by a
# full $\eta$ in every single step.
# :::
# ::::


# %%
def journey(make, every, occurrences=20):
    """How far the last occurrence moves a row, in units of lr: at once, and until the next."""
    theta = nn.Parameter(torch.zeros(1).double())
    optimizer, places = make([theta], lr=1.0), []
    for step in range(every * occurrences):
        theta.grad = torch.full_like(theta, 1.0 if step % every == 0 else 0.0)
        optimizer.step()
        places.append(theta.item())
    before = places[-every - 1]
    return before - places[-every], before - places[-1]


print("the 20th occurrence moves the row by (in units of the learning rate)")
print("               every step      every 20th: at once, in all   every 200th: at once, in all")
for make in (SGD, Adagrad, RMSprop, Adam, Lion):
    numbers = [part for every in (1, 20, 200) for part in journey(make, every)][1:]
    print(f"{make.__name__:10s}{numbers[0]:12.2f}", end="")
    print(f"{numbers[1]:20.2f}{numbers[2]:10.2f}{numbers[3]:19.2f}{numbers[4]:10.2f}")
assert journey(Lion, 200)[1] > 100 > journey(Adam, 200)[1] > journey(Adagrad, 200)[1]

# %% [markdown]
# AdaGrad was made for this case. A word's step depends on how often *it* occurred and on nothing
# else. Adam sees $v$ fade between two occurrences, so a rare word gets longer steps than a frequent
# one, up to $(1-\beta_1)/\sqrt{1-\beta_2} \approx 3.2\,\alpha$ at once, and $m$ carries on for
# another dozen steps. Under Lion a rare row travels as far as a frequent one, on one gradient: give
# such a table to another optimizer.

# %% [markdown]
# ## Muon: a matrix is more than its numbers
#
# Up to here a weight matrix was a bag of numbers. Muon {cite:p}`jordan2024muon` uses that it is a
# matrix. A gradient $G$ of shape $(p, q)$ has a singular value decomposition $G = U \Sigma V^\top$:
# directions $U$, $V$ and their strengths $\sigma_1 \ge \sigma_2 \ge \dots \ge 0$. A few directions
# are strong and the rest is weak, as a figure will show. Muon keeps the directions and makes all
# strengths 1:
#
# $$B \leftarrow \mu B + (1-\mu)\,G, \qquad
#   O = U V^\top \text{ of } \mu B + (1-\mu)\,G, \qquad
#   W \leftarrow W - \eta\lambda W - \eta\, s\, O ,$$
#
# with $s = \sqrt{\max(1, p/q)}$. ($\mu B + (1-\mu) G$ instead of $B$ is Nesterov's look-ahead. The
# author's code writes $B \leftarrow \mu B + G$: the same up to a factor, which $UV^\top$ forgets.)
#
# Compare with Adam's first step. Without its history Adam takes $g/|g|$, the sign of each number.
# Muon takes $U\Sigma V^\top \to UV^\top$, the "sign" of the matrix.
#
# The authors avoid the decomposition. **Newton–Schulz** needs matrix products only, which a GPU
# does best, and a few digits are enough for it. Apply an odd polynomial to the matrix:
#
# $$X \leftarrow a X + b\,(XX^\top)X + c\,(XX^\top)^2 X .$$
#
# With $X = U\Sigma V^\top$ every term keeps $U$ and $V$: $(XX^\top)X = U\Sigma^3V^\top$. So each
# singular value goes through $p(\sigma) = a\sigma + b\sigma^3 + c\sigma^5$, all at once. Jordan's
# $a, b, c = 3.4445, -4.7750, 2.0315$ lift small values by 3.4 a round and do not care whether they
# land exactly on 1.

# %%
a, b, c = 3.4445, -4.7750, 2.0315


def newton_schulz(G, steps=5):
    X = G / G.norm()  # every singular value is now at most 1
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X


G = torch.randn(30, 50, generator=generator).double()
U, sigma, Vt = torch.linalg.svd(G, full_matrices=False)
mapped = sigma / sigma.norm()
for _ in range(5):
    mapped = a * mapped + b * mapped**3 + c * mapped**5
torch.testing.assert_close(newton_schulz(G), U @ torch.diag(mapped) @ Vt, rtol=1e-9, atol=1e-9)
torch.testing.assert_close(newton_schulz(G), orthogonalize(G, dtype=torch.float64))
print("the matrix iteration is the polynomial on the singular values")

# %% [markdown]
# Without the division by the norm it explodes (last exercise). And how does it look on a real
# gradient? We take the hidden matrix of a network that has been trained for a moment on the digits.

# %% tags=["hide-input"]
torch.manual_seed(0)
network = mlp(64, 64, 64, 10)
train(network, Adam(network.parameters(), lr=3e-3), digits.train, 30)
network.zero_grad()
F.cross_entropy(network(digits.train[0]), digits.train[1]).backward()
G = network[2].weight.grad.double()
before = torch.linalg.svdvals(G / G.norm())
after = torch.linalg.svdvals(orthogonalize(G, dtype=torch.float64))
figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4))
s = torch.linspace(0, 1, 400).double()
for rounds, color, style in zip((1, 3, 5), COLORS, LINESTYLES, strict=False):
    y = s
    for _ in range(rounds):
        y = a * y + b * y**3 + c * y**5
    left.plot(s, y, color=color, linestyle=style, label=f"{rounds} round{'s' * (rounds > 1)}")
left.set_xlabel("singular value σ before")
left.set_ylabel("after")
left.set_title("The polynomial, repeated", fontsize=11)
left.legend(fontsize=10)
index = range(1, len(before) + 1)
right.plot(index, before, "o", color=COLORS[1], markersize=3, label="gradient / its norm")
right.plot(index, after, "s", color=COLORS[2], markersize=3, label="after 5 rounds")
right.set_yscale("log")
right.set_ylim(1e-7, 4)
right.set_xlabel("number of the singular value")
right.set_ylabel("singular value")
right.set_title("A real gradient, before and after", fontsize=11)
right.legend(fontsize=10, loc="lower left")
figure.suptitle(
    f"Newton–Schulz lifts weak directions, the weakest {a**5:.0f} times",
    fontsize=12,
    fontweight="bold",
)
plt.show()

# %% tags=["nbval-ignore-output"]
for name, values in (("before", before), ("after", after)):
    strong = int((values > values.max() / 2).sum())
    print(f"{name:6s}: {strong:2d} of {len(values)} directions have half the strength of the first")

# %% [markdown]
# Five rounds cannot lift a direction by more than $a^5$. Directions that were weaker than that by
# far stay weak; they carry next to nothing of the gradient.
#
# For which parameters? Muon is for the *hidden matrices*. Its authors give vectors and biases, the
# input layer (an embedding, say) and the output layer to AdamW. `split_parameters` makes these two
# lists for a network, and `MuonWithAdamW` steps both in one optimizer. Our `Muon` equals
# `torch.optim.Muon`, which does Newton–Schulz in bfloat16; so do we by default, since the last
# digits of a strength that lands between 0.7 and 1.2 do not matter.

# %% tags=["nbval-ignore-output"]
expected = follow_torch(partial(torch.optim.Muon, lr=0.02), gradients, start)
exactly(follow_torch(partial(Muon, lr=0.02), gradients, start), expected)
exact = follow(partial(muon_step, weight_decay=0.1), gradients, start, "B")  # by decomposition
print("Muon: equal to torch.optim.Muon over 50 steps")
off = (expected - exact).norm() / (exact - start).norm()
print(f"five rounds are no exact U V^T: after 50 steps they differ by {off:.0%} of the way")

matrices, rest = split_parameters(network)
print("to Muon :", [tuple(p.shape) for p in matrices])
print("to AdamW:", [tuple(p.shape) for p in rest])

# %% [markdown]
# ## What multiplying the loss does, and why
#
# You can now explain the figure at the top. Let all gradients be multiplied by $k > 0$:
#
# | method | its step becomes | because |
# |---|---|---|
# | SGD | $k$ times as long | $\eta k g$ |
# | AdaGrad, RMSProp, Adam | the same, up to $\varepsilon$ | $kg/\sqrt{k^2 G} = g/\sqrt G$ |
# | Lion | exactly the same | $\operatorname{sign}(kc) = \operatorname{sign}(c)$ |
# | Muon | the same | $kG = U(k\Sigma)V^\top$ has the same $U$ and $V$ |
#
# A power of two changes no digit of a floating-point number but the exponent, so with
# $k = 2^{10}$ Lion's weights must agree to the last bit:

# %%
weights = {}
for scale in (1.0, 1024.0):
    torch.manual_seed(0)
    network = mlp(64, 64, 64, 10)
    train(network, Lion(network.parameters(), lr=5e-4), digits.train, 50, scale=scale)
    weights[scale] = torch.cat([p.detach().flatten() for p in network.parameters()])
print("Lion, loss times 1024: same bits -", torch.equal(weights[1.0], weights[1024.0]))
assert torch.equal(weights[1.0], weights[1024.0])

# %% [markdown]
# ## What it costs: memory
#
# Each buffer is as large as the weights. Here are the bytes that really lie in the `state_dict`
# after a step, counted for float32 numbers:

# %%
methods = {
    "SGD": (partial(SGD, lr=0.1), 0),
    "SGD with momentum": (partial(SGD, lr=0.1, momentum=0.9), 1),
    "AdaGrad": (Adagrad, 1),
    "RMSProp": (RMSprop, 1),
    "Adam, AdamW": (AdamW, 2),
    "AMSGrad": (partial(Adam, amsgrad=True), 3),
    "Lion": (Lion, 1),
    "Muon (matrices)": (Muon, 1),
}
layers, width, vocabulary, context = 12, 768, 50_257, 1024  # GPT-2 small
block = 12 * width**2 + 13 * width  # attention 4, MLP 8 squares; biases and two norms
gpt2 = (vocabulary + context) * width + layers * block + 2 * width
rows = [
    "| method | buffers | bytes a parameter | state of GPT-2 | of GPT-3 |",
    "|---|---|---|---|---|",
]
for name, (make, buffers) in methods.items():
    params = [nn.Parameter(torch.ones(30, 20)), nn.Parameter(torch.ones(20, 40))]
    optimizer = make(params)
    for parameter in params:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    each = state_bytes(optimizer) / sum(p.numel() for p in params)
    assert each == 4 * buffers
    rows.append(
        f"| {name} | {buffers} | {each:.0f} | {each * gpt2 / 1e9:.2f} GB "
        f"| {each * 175e9 / 1e12:.1f} TB |"
    )
display(Markdown("\n".join(rows)))
print(f"GPT-2 small has {gpt2:,} parameters; weights and gradients take {8 * gpt2 / 1e9:.2f} GB")
print(f"Adam's state of GPT-3 fills {8 * 175e9 / 80e9:.1f} devices of 80 GB")

# %% [markdown]
# Adam doubles what weights and gradients take. For GPT-3 with its 175 billion parameters
# {cite:p}`brown2020language` the state has to be shared out over many devices, which is a subject
# of chapter 6.

# %% [markdown]
# ## Which one wins?
#
# That depends, and it must be measured fairly: same network, same batches, the learning rate of
# *each* chosen from one grid on validation data, and more than one seed. Two tasks. A classifier of
# Fashion-MNIST, and a model that predicts the next character of Shakespeare from the eight before,
# with an embedding. A hundred steps each: who is fast at the start?

# %%
from companion.data.fashion_mnist import FashionMNIST
from companion.data.shakespeare import encode_characters, load_plays, split_plays

fashion = FashionMNIST(flatten=True, limit=12_800)
fashion.setup()
texts = [torch.tensor(encode_characters(text[:300_000])) for text in split_plays(load_plays())]
plays = [(ids.unfold(0, 8, 1)[:-1], ids[8:]) for ids in texts]  # 8 characters, and the next
few = slice(0, 4000)  # enough to measure a loss


def character_model():
    return nn.Sequential(nn.Embedding(96, 16), nn.Flatten(), *mlp(128, 128, 128, 96))


tasks = {
    "Fashion-MNIST": (
        partial(mlp, 784, 64, 64, 64, 10),
        [fashion.train, *(tuple(t[few] for t in p) for p in (fashion.validation, fashion.test))],
    ),
    "Shakespeare": (
        character_model,
        [plays[0], *(tuple(t[few] for t in p) for p in plays[1:])],
    ),
}
contestants = {
    "SGD, momentum": lambda net, lr: SGD(net.parameters(), lr=lr, momentum=0.9),
    "AdaGrad": lambda net, lr: Adagrad(net.parameters(), lr=lr),
    "RMSProp": lambda net, lr: RMSprop(net.parameters(), lr=lr),
    "AdamW": lambda net, lr: AdamW(net.parameters(), lr=lr),
    "Lion": lambda net, lr: Lion(net.parameters(), lr=lr),
    "Muon + AdamW": lambda net, lr: MuonWithAdamW(*split_parameters(net), lr=lr, adamw_lr=lr / 10),
}
grid = [10 ** (-k / 2) for k in range(8)]  # 1, 0.32, 0.1, … 0.00032


@torch.no_grad()
def loss_on(network, data):
    loss = F.cross_entropy(network(data[0]), data[1]).item()
    return loss if math.isfinite(loss) else math.inf


def run(build, make, lr, train_set, test_set, seed):
    torch.manual_seed(seed)
    network = build()
    train(network, make(network, lr), train_set, 100)
    return loss_on(network, test_set)


# %% tags=["nbval-ignore-output"]
results, chosen = {}, {}
for task, (build, (train_set, validation, test)) in tasks.items():
    for name, make in contestants.items():
        search = {lr: run(build, make, lr, train_set, validation, seed=100) for lr in grid}
        chosen[task, name] = min(search, key=search.get)
        results[task, name] = torch.tensor(
            [run(build, make, chosen[task, name], train_set, test, seed) for seed in range(3)]
        )
rows = ["| task | method | learning rate | test loss (nats), mean and range of 3 seeds |"]
rows.append("|---|---|---|---|")
for (task, name), losses in results.items():
    rows.append(
        f"| {task} | {name} | {chosen[task, name]:.2g} "
        f"| {losses.mean():.3f} ({losses.min():.3f} to {losses.max():.3f}) |"
    )
display(Markdown("\n".join(rows)))
at_the_end = [key for key, rate in chosen.items() if rate in (grid[0], grid[-1])]
print("best rate at an end of the grid, so perhaps beyond it:", at_the_end or "none")

# %% tags=["hide-input", "nbval-ignore-output"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.4))
for axes, task in zip(panels, tasks, strict=True):
    for place, (name, marker) in enumerate(zip(contestants, MARKERS, strict=False)):
        losses = results[task, name]
        axes.plot(losses, [place] * 3, marker, color=COLORS[place % 4], linestyle="", markersize=7)
    axes.set_yticks(range(len(contestants)), list(contestants) if axes is panels[0] else [])
    axes.invert_yaxis()
    axes.set_xlabel("test loss after 100 steps (nats)")
    axes.set_title(task, fontsize=11)
figure.suptitle("Seeds spread as far as most methods differ", fontsize=12, fontweight="bold")
plt.show()

# %% tags=["nbval-ignore-output"]
for task in tasks:
    ranked = sorted(contestants, key=lambda name: results[task, name].mean())
    best = results[task, ranked[0]]
    noise = [name for name in ranked if results[task, name].min() <= best.max()]
    behind = [name for name in ranked if name not in noise]
    print(f"{task}: ranges overlap with the best one's: {', '.join(noise)}")
    print(f"{'':{len(task)}s}  behind that range: {', '.join(behind) or 'none'}")

# %% [markdown]
# Read it with care. Names whose ranges overlap cannot be told apart by three seeds; to rank them
# you would need more of them ({doc}`tuning`). A name behind the best one's range may still overlap
# with its neighbours'. Muon's second learning rate, AdamW's, was tied to a tenth of its first one,
# where a search over both might find better. And 100 steps are a sprint: in long runs on images,
# well-tuned SGD has generalised better than adaptive methods {cite:p}`wilson2017marginal`. What the
# table shows safely is that each method wants a learning rate of its own. A comparison at one
# common rate compares nothing.

# %% [markdown]
# ## Adam can walk away from the optimum
#
# Adam forgets large gradients. Reddi, Kale and Kumar {cite:p}`reddi2018convergence` made a problem
# from that. On the interval $[-1, 1]$ the slope is 3 in every third step and $-1$ in the other two.
# The mean slope is $+1/3$, so the best place is $\theta = -1$. But with $\beta_1 = 0$ and
# $\beta_2 = 1/(1 + 3^2)$ the rare large slope also makes $\sqrt{\hat v}$ large, just when it is
# divided by. Each of the small ones is divided by less.
#
# Their cure, **AMSGrad**, divides by the largest $v$ so far, so that the denominator can never
# shrink again.

# %%
paths = {}
for amsgrad in (False, True):
    theta = nn.Parameter(torch.zeros(1).double())
    optimizer = Adam([theta], betas=(0.0, 0.1), amsgrad=amsgrad)
    path = []
    for t in range(1, 3001):
        optimizer.param_groups[0]["lr"] = 0.1 / t**0.5
        theta.grad = torch.full_like(theta, 3.0 if t % 3 == 1 else -1.0)
        optimizer.step()
        theta.data.clamp_(-1, 1)
        path.append(theta.item())
    paths[amsgrad] = path
print(f"Adam ends at {paths[False][-1]:+.2f}, AMSGrad at {paths[True][-1]:+.2f}")

# %% tags=["hide-input"]
plt.plot(paths[False], label="Adam")
plt.plot(paths[True], label="AMSGrad")
plt.axhline(-1, color="#888888", linewidth=0.8, linestyle="-")
plt.text(2200, -0.95, "the optimum", fontsize=9)
plt.title("Adam goes to the worst point, AMSGrad to the best")
plt.xlabel("step")
plt.ylabel("θ")
plt.legend(loc="center right")
plt.show()

# %% [markdown]
# The problem is made for the purpose, and $\beta_2 = 0.1$ is far from 0.999. It does not say that
# Adam fails on networks. It says that "Adam converges" is not a theorem, even on a straight line.

# %% [markdown]
# ## The real thing
#
# Every optimizer here is a `torch.optim.Optimizer` and goes where those go. Under the hood
# `step()` handles all tensors of a group at once with `torch._foreach_…` functions: on a GPU a few
# kernels instead of hundreds. State names are those of `torch.optim`, so that a checkpoint of one
# can go on under the other.

# %% tags=["nbval-ignore-output"]
from companion.training import Classifier, fit

torch.manual_seed(0)
module = Classifier(mlp(64, 128, 128, 10), optimizer=partial(Adam, lr=2e-3))
result = fit(module, Digits(flatten=True), epochs=15, precision="32-true", test=True)
print(f"Adam, digits: test accuracy {result.metrics['test_accuracy']:.2f}")
assert result.metrics["test_accuracy"] > 0.95

# %% [markdown]
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(module, Digits(flatten=True), epochs=15, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(module, Digits(flatten=True), epochs=15, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(module, Digits(flatten=True), epochs=15, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} adam
# :::

# %% [markdown]
# ## Widespread mistakes
#
# (mistake-e13)=
# :::{admonition} Widespread mistake E13: Adam with the letters moved by one
# :class: mistake
# The learning rate stands where $\beta_1$ belongs and $\beta_1$ where $\beta_2$ belongs; both
# moments are corrected by $\beta_1$, to the power of the *epoch*, which starts at 0.
# :::
#
# In code of our own, for one weight with the gradient 0.5:


# %%
def update_of_a_tutorial(theta, g, m, v, epoch, alpha=0.001, beta_1=0.9, epsilon=1e-8):
    m = alpha * m + (1 - alpha) * g
    v = beta_1 * v + (1 - beta_1) * g**2
    m_hat = m / (1 - beta_1**epoch)
    v_hat = v / (1 - beta_1**epoch)
    return theta - alpha * m_hat / (v_hat**0.5 + epsilon), m, v


# %% tags=["raises-exception"]
update_of_a_tutorial(theta=1.0, g=0.5, m=0.0, v=0.0, epoch=0)

# %% [markdown]
# Plain Python numbers stop at once: $1 - \beta_1^0 = 0$. Tensors do worse. They divide, give
# $\infty/\infty$, and every weight becomes NaN without a word:

# %%
theta = torch.ones(3)
theta, *_ = update_of_a_tutorial(theta, torch.full((3,), 0.5), 0 * theta, 0 * theta, epoch=0)
print("after the first step:", theta.tolist())

# %% tags=["raises-exception"]
assert torch.isfinite(theta).all(), "the weights are no longer numbers"

# %% [markdown]
# Suppose somebody starts the epochs at 1. Now it runs, and how long are its steps? With the
# gradient constant, every step of Adam is $\alpha$. In the first epoch, $1 - \beta_1^1 = 0.1$
# divides both moments in *every* step:

# %%
theta, m, v = (torch.zeros(1).double() for _ in range(3))
right, m_right, v_right = (torch.zeros(1).double() for _ in range(3))
one = torch.ones(1).double()
for t in range(1, 101):
    before = theta, right
    theta, m, v = update_of_a_tutorial(theta, one, m, v, epoch=1)
    right, m_right, v_right = adam_step(right, one, m_right, v_right, t)
    if t in (1, 10, 100):
        wrong_length, length = (before[0] - theta) / 0.001, (before[1] - right) / 0.001
        print(f"step {t:3d}: {wrong_length.item():5.2f} alpha, Adam's {length.item():.2f} alpha")

# %% [markdown]
# Its "mean" $m$ forgets 99.9 % in a step, so there is no momentum. The cure: each moment has its
# own $\beta$ and its own correction, and $t$ counts *steps*, from 1. The companion's `adam_step`
# refuses anything else:

# %% tags=["raises-exception"]
adam_step(theta, one, m, v, t=0)

# %% [markdown]
# ## Exercises
#
# :::{exercise} The longest step
# :label: ex-adam-1
# Show that Adam's step is at most about $\alpha\,(1-\beta_1)/\sqrt{1-\beta_2}$ when a gradient
# arrives after a long silence, and compute it for the default values. Then check by 10,000 zeros
# and one gradient. Why does this make a damaged batch late in training dangerous?
# :::
#
# :::{solution} ex-adam-1
# :class: dropdown
# After the silence $m = v = 0$ and both corrections are 1. One gradient gives $m = (1-\beta_1) g$
# and $v = (1-\beta_2) g^2$; the quotient is $(1-\beta_1)/\sqrt{1-\beta_2} = 0.1/\sqrt{0.001}
# \approx 3.16$. One outlier moves the weights as far as three ordinary steps, and the momentum
# repeats it for a dozen more.
# :::

# %% tags=["hide-cell"]
# Solution
theta = nn.Parameter(torch.zeros(1).double())
optimizer = Adam([theta], lr=1.0)
for value in [0.0] * 10_000 + [1.0]:
    theta.grad = torch.full_like(theta, value)
    optimizer.step()
print(f"step: {-theta.item():.4f}, predicted: {0.1 / 0.001**0.5:.4f}")
assert abs(-theta.item() - 0.1 / 0.001**0.5) < 1e-3

# %% [markdown]
# :::{exercise} Three ways to the sign
# :label: ex-adam-2
# For which values of their options do Adam and Lion both become
# $\theta \leftarrow \theta - \eta \operatorname{sign}(g)$? Check on the gradients of this page.
# :::
#
# :::{solution} ex-adam-2
# :class: dropdown
# $\beta_1 = \beta_2 = 0$, and for Adam $\varepsilon = 0$: then $\hat m = g$, $\sqrt{\hat v} = |g|$
# and Lion's $c = g$.
# :::

# %% tags=["hide-cell"]
# Solution
plain = start.clone()
for g in gradients:
    plain = plain - 0.001 * g.sign()
exactly(follow_torch(partial(Adam, lr=0.001, betas=(0, 0), eps=0), gradients, start), plain)
exactly(follow_torch(partial(Lion, lr=0.001, betas=(0, 0)), gradients, start), plain)
print("Adam = Lion = sign descent")

# %% [markdown]
# :::{exercise} A second moment on a diet
# :label: ex-adam-3
# Adafactor {cite:p}`shazeer2018adafactor` keeps of $v$, a matrix of $p \times q$ numbers, only the
# means of its rows and of its columns, and rebuilds
# $v_{ij} \approx r_i c_j / \operatorname{mean}(r)$. How many
# numbers does it keep for GPT-2's $768 \times 3072$ matrix? How well does it rebuild the mean
# square gradient of the hidden layer of this page's network?
# :::
#
# :::{solution} ex-adam-3
# :class: dropdown
# $768 + 3072 = 3840$ instead of 2.4 million. The rebuilt matrix has the same row and column means;
# single entries are off by a factor that the cell prints. Often that is near enough, because only
# the root of $v$ enters.
# :::

# %% tags=["hide-cell", "nbval-ignore-output"]
# Solution
torch.manual_seed(0)
network = mlp(64, 64, 64, 10)
v = torch.zeros(64, 64)
for rows in torch.randint(len(digits.train[0]), (50, 64)):
    network.zero_grad()
    F.cross_entropy(network(digits.train[0][rows]), digits.train[1][rows]).backward()
    v += network[2].weight.grad ** 2 / 50
rebuilt = torch.outer(v.mean(1), v.mean(0)) / v.mean()
live = v > 0
ratio = (rebuilt[live] / v[live]).sqrt()
print(f"numbers kept: {768 + 3072:,} instead of {768 * 3072:,}")
low, high = ratio.quantile(torch.tensor([0.1, 0.9])).tolist()
print(f"root of v, rebuilt / true: 80 % of the entries between {low:.1f} and {high:.1f}")
torch.testing.assert_close(rebuilt.mean(1), v.mean(1))

# %% [markdown]
# :::{exercise} Muon without its first line
# :label: ex-adam-4
# Leave out the division by the norm in `newton_schulz`. For which singular values does the
# iteration still stay bounded? Find the limit by trying.
# :::
#
# :::{solution} ex-adam-4
# :class: dropdown
# $p(\sigma)$ must not exceed the limit again: the iteration escapes where $|p(\sigma)| > \sigma$
# for large $\sigma$, where the fifth power has taken over. The cell finds the limit.
# :::

# %% tags=["hide-cell"]
# Solution
s = torch.linspace(0, 2, 20_001).double()
y = s.clone()
for _ in range(60):
    y = (a * y + b * y**3 + c * y**5).clamp(-1e6, 1e6)
limit = s[y.abs() < 10].max().item()
print(f"bounded up to sigma = {limit:.3f}")
assert 1.2 < limit < 1.35

# %% [markdown]
# ## Summary
#
# - AdaGrad, RMSProp and Adam divide each number's gradient by the size of its past; Lion takes the
#   sign; Muon makes all singular values of a matrix's step alike. None notices the loss's scale.
# - Adam: two means, each with its own $\beta$ and its own correction $1 - \beta^t$, $t$ from 1;
#   $\varepsilon$ outside of the root, after the correction. AdamW decays beside the moments.
# - State: one buffer for AdaGrad, RMSProp, Lion and Muon, two for Adam, three for AMSGrad.
# - Compare optimizers only with each at its own learning rate, and over several seeds.
#
# Sources: AdaGrad {cite:p}`duchi2011adaptive`; RMSProp {cite:p}`tieleman2012rmsprop`, its options
# {cite:p}`graves2013generating`; Adam {cite:p}`kingma2015adam` (algorithm 1); AdamW
# {cite:p}`loshchilov2019decoupled`; AMSGrad {cite:p}`reddi2018convergence` (theorem 1); Lion
# {cite:p}`chen2023symbolic` (algorithm 2); Muon {cite:p}`jordan2024muon`, at scale
# {cite:p}`liu2025muon`; a critical comparison {cite:p}`wilson2017marginal`; the data
# {cite:p}`xiao2017fashion`.
