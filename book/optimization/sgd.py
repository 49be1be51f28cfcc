# %% [markdown]
# # Gradient descent, one batch at a time
#
# **The question: you have the gradient. How long may the step be, does it help to remember the last
# one, and how many samples should the gradient come from?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# Here is a valley, fifty times steeper across than along. Two methods start at the same place and
# take the same number of steps. One follows the gradient. The other follows the gradient *and*
# carries on a part of its last step.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style
from companion.optimization.quadratic import tuned_gradient_descent, tuned_heavy_ball
from companion.optimization.sgd import descend

use_course_style()
torch.set_num_threads(1)  # the tensors of this page are small
curvature = torch.tensor([1.0, 50.0], dtype=torch.float64)
start, steps = torch.tensor([10.0, 1.0], dtype=torch.float64), 60


def valley_gradient(w):
    return curvature * w  # of f(w) = (1 w₁² + 50 w₂²) / 2


paths = {}
for name, tune in (("gradient descent", tuned_gradient_descent), ("momentum", tuned_heavy_ball)):
    lr, momentum, _ = tune(1.0, 50.0)  # the best constants there are; you will derive them
    paths[name] = descend(valley_gradient, start, steps=steps, lr=lr, momentum=momentum)
    print(f"{name:16s} distance from the bottom after {steps} steps: {paths[name][-1].norm():.1e}")
ratio = (paths["gradient descent"][-1].norm() / paths["momentum"][-1].norm()).item()
print(f"momentum is {float(f'{ratio:.1g}'):,.0f} times closer")

# %% tags=["hide-input"]
figure, panels = plt.subplots(2, 1, figsize=(7.2, 4.6), sharex=True)
across = torch.linspace(-2.9, 2.9, 120)
along = torch.linspace(-4.5, 10.6, 200)
height = (along.square() + 50 * across.square().unsqueeze(1)) / 2
for axes, (name, path), color, marker in zip(
    panels, paths.items(), COLORS[1:], MARKERS, strict=False
):
    axes.contour(along, across, height, levels=12, colors="#bbbbbb", linewidths=0.7)
    axes.plot(*path.T, color=color, linestyle="-", linewidth=1.2, marker=marker, markersize=4)
    axes.plot(0, 0, "*", color=COLORS[0], markersize=13)
    axes.set_title(f"{name}: {path[-1].norm():.1g} from the star after {steps} steps")
    axes.set_ylabel("steep: $w_2$")
    axes.grid(False)
panels[1].set_xlabel("shallow: $w_1$")
plt.show()

# %% [markdown]
# The same valley and the same number of gradients. The reason for the difference fits on one page
# of algebra, which also says how large a learning rate may be. After that comes what the valley
# does not have: *samples*, a different gradient for each of them, and noise.

# %% [markdown]
# ## What a quadratic teaches
#
# Close to a minimum a smooth loss looks like a bowl, $f(w) = \tfrac12 w^\top H w$, with the minimum
# put at $w = 0$ and $H$ the matrix of second derivatives, of shape $(d, d)$. Its gradient is $Hw$.
# In the direction of an eigenvector of $H$ with eigenvalue $\lambda$ only one number counts, the
# distance $e$ that is left in that direction. **Gradient descent** with the learning rate $\eta$
# does
#
# $$e \;\leftarrow\; e - \eta\,\lambda\, e = (1 - \eta\lambda)\, e .$$
#
# So the distance shrinks if $|1 - \eta\lambda| < 1$, that is if $\eta < 2/\lambda$. *Every*
# direction must shrink, and the steepest one, with the largest eigenvalue $\lambda = L$, is the
# first that fails:
#
# $$\eta < \frac{2}{L} .$$
#
# :::{admonition} Predict first
# :class: predict
# $L = 50$, so the limit is $2/50 = 0.04$. You take 0.0399, then 0.0401. Where are you after 2,000
# steps in each case: near the bottom, or far away? And how far, roughly: 2 times the start, or
# 2,000 times?
# :::

# %%
from companion.optimization.quadratic import step_limit

limit = step_limit(50.0)
for lr in (0.0399, 0.0401):
    path = descend(valley_gradient, start, steps=2000, lr=lr)
    print(f"lr {lr} = {lr / limit:.4f} of the limit: distance {path[-1].norm():.2e}")

# %% [markdown]
# One half of a percent decides: the factor per step is $|1 - 50\eta|$, just below or just above 1,
# and 2,000 steps raise it to the power of 2,000. {doc}`Linear regression
# </book/backprop/linear_regression>` met the same limit on real data.
#
# ### How fast at best
#
# Let the eigenvalues of $H$ reach from $\ell$ to $L$. Their ratio $\kappa = L/\ell$ is the
# **condition number**. A long step suits the shallow directions and a short one the steep
# directions; the best compromise shrinks both ends by the same factor, $1 - \eta\ell =
# -(1 - \eta L)$:
#
# $$\eta = \frac{2}{L + \ell}, \qquad \text{rate} = \frac{\kappa - 1}{\kappa + 1} .$$
#
# **Momentum**, known as the *heavy ball* {cite:p}`polyak1964some`, adds a part $\mu$ of the last
# move:
#
# $$w_{t+1} = w_t - \eta\, g_t + \mu\,(w_t - w_{t-1}) .$$
#
# In one direction of the bowl, $e_{t+1} = (1 + \mu - \eta\lambda)\,e_t - \mu\,e_{t-1}$. Try $e_t =
# z^t$, and $z$ solves
#
# $$z^2 - (1 + \mu - \eta\lambda)\,z + \mu = 0 .$$
#
# The product of its two roots is $\mu$. If they are complex, they are a conjugate pair, and both
# have the size $\sqrt\mu$, *whatever $\lambda$ is*. So make $\mu$ as small as possible while the
# roots are still complex (or just meet) for every $\lambda$ from $\ell$ to $L$. That is so while
# $(1 + \mu - \eta\lambda)^2 \le 4\mu$, or, with the roots of both sides taken,
#
# $$(1 - \sqrt\mu)^2 \;\le\; \eta\lambda \;\le\; (1 + \sqrt\mu)^2 .$$
#
# The smallest $\mu$ is the one whose interval just holds both ends: $\sqrt{\eta\ell} = 1 -
# \sqrt\mu$ and $\sqrt{\eta L} = 1 + \sqrt\mu$. Add the two for $\eta$, divide them for $\mu$:
#
# $$\eta = \frac{4}{(\sqrt L + \sqrt\ell)^2}, \qquad
# \sqrt\mu = \text{rate} = \frac{\sqrt\kappa - 1}{\sqrt\kappa + 1} .$$
#
# A square root of $\kappa$ where gradient descent has $\kappa$ itself: that was the surprise above.
# A third method, **Nesterov**'s, takes the gradient at the place where momentum is about to lead;
# its usual constants ($\eta = 1/L$, $\mu = \frac{\sqrt\kappa - 1}{\sqrt\kappa + 1}$) have the rate
# $1 - 1/\sqrt\kappa$, between the other two.
#
# Formulas are cheap. Here are the three measured in float64, on bowls of dimension 20 in random
# directions:

# %%
from companion.optimization.quadratic import measured_rate, tuned_nesterov

METHODS = {
    "gradient descent": (tuned_gradient_descent, {}),
    "Nesterov": (tuned_nesterov, {"nesterov": True}),
    "heavy ball": (tuned_heavy_ball, {}),
}


def bowl(condition, size=20):
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator).double()).Q
    values = torch.logspace(0, torch.tensor(condition).log10().item(), size).double()
    return basis @ values.diag() @ basis.T, basis.sum(1)  # every direction takes part


races = {}
print("condition  method              theory   measured")
for condition in (10.0, 100.0, 1000.0):
    H, away = bowl(condition)
    for name, (tune, options) in METHODS.items():
        lr, momentum, rate = tune(1.0, condition)
        count = int(60 / (1 - rate))  # the error shrinks by about e^-60
        count = min(count, 4000)
        path = descend(lambda w, H=H: H @ w, away, steps=count, lr=lr, momentum=momentum, **options)
        errors = path.norm(dim=1)
        found = measured_rate(errors, double_root=name != "gradient descent")
        assert abs(found - rate) < 0.004 * (1 - rate) + 1e-3
        races[condition, name] = errors
        print(f"{condition:9.0f}  {name:17s} {rate:8.4f} {found:10.4f}")

# %% tags=["hide-input"]
for name, color, style in zip(METHODS, COLORS[1:], LINESTYLES, strict=False):
    errors = races[1000.0, name][:1200]
    plt.plot(errors / errors[0], label=name, color=color, linestyle=style)
plt.yscale("log")
plt.ylim(1e-14, 3e2)
plt.title("Condition number 1,000: momentum turns κ into √κ")
plt.xlabel("step")
plt.ylabel("distance from the minimum / at the start")
plt.legend()
plt.show()

# %% [markdown]
# (At the tuned constants the two roots of the quadratic equation are equal at the ends of the
# spectrum. The error is then $(a + bt)\,z^t$ and not $z^t$; `measured_rate` takes the factor $t$
# out. It is also why momentum starts with a hump.)
#
# ### The condition number of your data
#
# For a linear layer with squared loss, $H$ comes from the inputs alone: $\tfrac2n X^\top X$, with a
# column of ones for the bias. So the columns of $X$ decide how long training takes. Here are the
# pixels of the digits, raw, centred (mean 0) and standardised (mean 0, spread 1), without the few
# pixels that are nearly always 0:

# %%
from sklearn.datasets import load_digits

from companion.backprop.linear_regression import hessian
from companion.optimization.quadratic import condition_number, steps_to_shrink

pixels = torch.from_numpy(load_digits().data)  # 1,797 images, 64 pixels, 0 to 16
pixels = pixels[:, (pixels > 0).double().mean(0) > 0.02]
centred = pixels - pixels.mean(0)
print(f"{pixels.shape[1]} pixels; steps until the slowest direction has shrunk by a million:")
print("columns        condition  gradient descent   heavy ball")
for name, columns in (
    ("raw", pixels),
    ("centred", centred),
    ("standardised", centred / centred.std(0)),
):
    H = hessian(columns)
    kappa = condition_number(H)
    counts = [
        steps_to_shrink(tune(1.0, kappa).rate, 1e-6)
        for tune in (tuned_gradient_descent, tuned_heavy_ball)
    ]
    print(f"{name:13s} {kappa:10,.0f} {counts[0]:17,} {counts[1]:12,}")

# %% [markdown]
# The same pictures and the same model: from nearly two million steps to under a thousand by
# subtracting a mean and dividing by a spread, and to under a hundred with momentum.
# Is the last line true? Run it.

# %%
values, directions = torch.linalg.eigh(H)
lr, _, rate = tuned_gradient_descent(values[0].item(), values[-1].item())
path = descend(lambda w: H @ w, directions.sum(1), steps=4000, lr=lr)
shrunk = (directions[:, 0] @ path[counts[0]]).abs().item()
found = measured_rate(path.norm(dim=1))
print(f"slowest direction after {counts[0]} steps: {shrunk:.2e} of its start")
print(f"rate measured {found:.6f}, theory {rate:.6f}")
assert abs(found - rate) < 1e-6
assert shrunk <= 1e-6

# %% [markdown]
# ## Momentum as the libraries write it
#
# PyTorch keeps a **buffer** $b$ instead of the last move:
#
# $$b_t = \mu\, b_{t-1} + (1 - \tau)\, g_t, \qquad w_{t+1} = w_t - \eta\, b_t, \qquad b_1 = g_1 .$$
#
# With the *dampening* $\tau = 0$, its default, $-\eta\, b_t$ is exactly the last move, and this is
# the heavy ball. With $\tau = \mu$ the buffer is a running mean of gradients, a step of the size of
# *one* gradient. Mind the difference when you move a learning rate from one program to another:
# without dampening a constant gradient adds up to $g\,(1 + \mu + \mu^2 + \dots) = g/(1 - \mu)$, ten
# gradients for $\mu = 0.9$. (The first buffer is the first gradient *without* $1 - \tau$.)
#
# **Weight decay** $\lambda$ (the usual letter, no eigenvalue here) adds $\lambda w$ to $g$ before
# anything else; it is the gradient of the penalty $\tfrac\lambda2\lVert w\rVert^2$.
#
# Nesterov's method comes in two dresses. The paper {cite:p}`sutskever2013importance` moves a
# velocity $v$ and asks for the gradient at the **look-ahead** $w + \mu v$:
#
# $$v_{t+1} = \mu\, v_t - \eta\,\nabla f(w_t + \mu v_t), \qquad w_{t+1} = w_t + v_{t+1} .$$
#
# A library gets the gradient where the weights *are*. PyTorch steps by
# $-\eta\,(g_t + \mu\, b_t)$ instead. Is that the same? Call the look-ahead $\tilde w_t = w_t + \mu
# v_t$, and put $v_{t+1} = -\eta\, b_t$: both already hold the gradient of step $t$. The first
# equation becomes $b_t = \mu\, b_{t-1} + \nabla f(\tilde w_t)$, the buffer from above. The second
# one gives
#
# $$\tilde w_{t+1} = w_t + v_{t+1} + \mu v_{t+1}
# = \tilde w_t - \mu v_t + v_{t+1} + \mu v_{t+1}
# = \tilde w_t - \eta\,\bigl(\nabla f(\tilde w_t) + \mu\, b_t\bigr),$$
#
# because $v_{t+1} - \mu v_t = -\eta\,\nabla f(\tilde w_t)$. It is. PyTorch's weights are the
# paper's look-ahead. All of it in code, nothing in place:

# %%
import inspect

from companion.optimization import sgd

for function in (sgd.sgd_step, sgd.heavy_ball_step, sgd.nesterov_step):
    print(inspect.getsource(function).split('"""')[0].strip())
    print(inspect.getsource(function).split('"""')[2].rstrip("\n"), end="\n\n")


# %%
def bent_gradient(w):
    return curvature * w + w**3  # any smooth function will do


lr, mu = 0.01, 0.8
w, v = start, torch.zeros_like(start)
ahead, buffer = start, None
polyak, before = start, start
heavy, heavy_buffer = start, None
for _ in range(50):
    w, v = sgd.nesterov_step(w, v, bent_gradient, lr=lr, momentum=mu)
    ahead, buffer = sgd.sgd_step(
        ahead, bent_gradient(ahead), buffer, lr=lr, momentum=mu, nesterov=True
    )
    torch.testing.assert_close(ahead, w + mu * v, rtol=1e-10, atol=1e-12)
    polyak, before = sgd.heavy_ball_step(polyak, before, bent_gradient(polyak), lr=lr, momentum=mu)
    heavy, heavy_buffer = sgd.sgd_step(
        heavy, bent_gradient(heavy), heavy_buffer, lr=lr, momentum=mu
    )
    torch.testing.assert_close(polyak, heavy, rtol=1e-10, atol=1e-12)
print("50 steps: both Nesterovs agree in the look-ahead, both heavy balls agree")

# %% [markdown]
# ### An optimizer class
#
# `companion.optimization.sgd.SGD` is that step as a `torch.optim.Optimizer`: parameter groups with
# their own options, a state that can be saved, and *foreach* operations. A loop over 50 tensors
# launches 50 small operations for every line of the formula; a foreach operation takes the list.
# (`torch.optim.SGD(foreach=True)` does so too. With Nesterov it writes into your `.grad`; ours
# leaves the gradients as they are.)

# %%
print(inspect.getsource(sgd.SGD._update))

# %% [markdown]
# Does it equal the library? Two groups, weight decay, Nesterov, tiny gradients, rows of zeros,
# a parameter that at times has no gradient; and half-way our optimizer is thrown away, and a new
# one goes on with *PyTorch's* saved state. (`state_dict()` hands out the live buffers. Two
# optimizers that share them would both move them, hence the copy.)

# %%
import copy

from companion.optimization.sgd import SGD


def problem():
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 4), (4,), (4, 3), (3,))
    return [nn.Parameter(torch.randn(s, generator=generator).double()) for s in shapes]


def build(kind, weights):
    groups = [
        {"params": weights[:2], "weight_decay": 0.1},
        {"params": weights[2:], "lr": 0.01, "nesterov": True},
    ]
    return kind(groups, lr=0.1, momentum=0.9)


def train(optimizer, weights, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for index, weight in enumerate(weights):
            weight.grad = 1e-6 * torch.randn(weight.shape, generator=generator).double()
            if index == 0:
                weight.grad[step % 6] = 0  # a row that nobody used
            if index == 1 and step % 4 == 0:
                weight.grad = None
        optimizer.step()


ours, theirs = problem(), problem()
reference = build(torch.optim.SGD, theirs)
train(reference, theirs, 0, 25)
halfway = copy.deepcopy(reference.state_dict())
train(build(SGD, ours), ours, 0, 25)
resumed = build(SGD, ours)
resumed.load_state_dict(halfway)
train(reference, theirs, 25, 50)
train(resumed, ours, 25, 50)
for mine, other in zip(ours, theirs, strict=True):
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=0)
print("50 steps, two groups, resumed from PyTorch's own state: equal to ten digits")

# %% tags=["nbval-ignore-output"]
import time
from statistics import median


def seconds_a_step(kind, **options):
    weights = [nn.Parameter(torch.randn(200, 100)) for _ in range(50)]  # 1 M parameters
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = kind(weights, lr=1e-3, momentum=0.9, **options)
    times = []
    for _ in range(30):
        begin = time.process_time()
        optimizer.step()
        times.append(time.process_time() - begin)
    return median(times)


mine, library = seconds_a_step(SGD), seconds_a_step(torch.optim.SGD, foreach=True)
print(
    f"a step on 1 M parameters in 50 tensors: {1e3 * mine:.2f} ms, {mine / library:.2f} x torch's"
)

# %% [markdown]
# ## From one gradient to many
#
# The loss of a data set is a mean over $n$ samples, and so is its gradient. **Gradient descent**
# takes all $n$ of them for one step. **Stochastic gradient descent**
# {cite:p}`robbins1951stochastic` takes one sample, and a **mini-batch** is the middle: $B$ samples,
#
# $$\hat g = \frac1B \sum_{i \in \text{batch}} g_i, \qquad g_i = \nabla f_i(w) .$$
#
# If the samples are drawn at random, $\hat g$ is right on average, $\mathrm E\,\hat g = G$, the
# whole set's gradient. What is its spread? For independent draws variances add up, so with $\Sigma$
# the covariance of the $g_i$, summed over the parameters,
#
# $$\mathrm E\,\lVert \hat g - G\rVert^2 = \frac{\operatorname{tr}\Sigma}{B}
# \qquad\text{with replacement.}$$
#
# Nobody draws with replacement in practice: one shuffles the data set and cuts it into batches, so
# that no sample comes twice in an epoch. Then the factor $\frac{n - B}{n - 1}$ appears: a batch of
# all $n$ has no spread at all. Measured on a real network, after a few steps on the digits:

# %%
from companion.data.digits import Digits
from companion.optimization.noise import per_sample_gradients
from companion.optimization.sampling import batches, variance_of_mean

digits = Digits(flatten=True, dtype=torch.float64)
digits.setup()
x, labels = digits.train
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double()
optimizer = SGD(network.parameters(), lr=0.1)
for rows in batches(len(x), 64):  # one epoch
    optimizer.zero_grad()
    F.cross_entropy(network(x[rows]), labels[rows]).backward()
    optimizer.step()

gradients = per_sample_gradients(network, F.cross_entropy, x, labels)  # (n, parameters)
G = gradients.mean(0)
variance = (gradients - G).square().sum().item() / len(x)  # tr Σ of this finite set
print(f"{len(x)} samples, {gradients.shape[1]} parameters")

sizes = [1, 4, 16, 64, 256, 1024]
spread = {"with replacement": [], "reshuffled": []}
for order, measured in spread.items():
    for size in sizes:
        errors = []
        for seed in range(max(4, 400 * size // len(x) // 4)):
            drawn = [r for r in batches(len(x), size, order=order, seed=seed) if len(r) == size]
            errors += [(gradients[rows].mean(0) - G).square().sum().item() for rows in drawn[:100]]
        measured.append(sum(errors) / len(errors))
        population = len(x) if order == "reshuffled" else None
        theory = variance_of_mean(variance, size, population=population)
        assert 0.75 < measured[-1] / theory < 1.3

# %% tags=["hide-input"]
for (order, measured), color, marker, population in zip(
    spread.items(), COLORS[1:], MARKERS, (None, len(x)), strict=False
):
    fine = [int(2 ** (k / 4)) for k in range(42) if int(2 ** (k / 4)) < len(x)]
    theory = [variance_of_mean(variance, size, population=population) for size in fine]
    plt.plot(fine, theory, color=color, linestyle="-" if population is None else "--")
    plt.plot(sizes, measured, marker, color=color, label=f"{order} (line: theory)", linestyle="")
plt.axhline(G.square().sum().item(), color="#888888", linewidth=1, linestyle=":")
plt.text(1, 1.15 * G.square().sum().item(), "the gradient itself, squared", fontsize=9)
plt.xscale("log")
plt.yscale("log")
plt.title("Sixteen times the batch, a sixteenth of the noise")
plt.xlabel("batch size B (samples)")
plt.ylabel("mean squared error of the gradient")
plt.legend()
plt.show()

# %% [markdown]
# :::{admonition} Predict first
# :class: predict
# You draw $n$ samples out of $n$ with replacement and call it an epoch. Which share of the data set
# has been seen: all, about 90 %, about 63 %, a half?
# :::

# %%
from companion.optimization.sampling import expected_coverage

drawn = torch.cat(list(batches(len(x), 64, order="with replacement")))
print(f"seen in this epoch : {len(drawn.unique()) / len(x):.1%}")
print(f"expected           : {expected_coverage(len(x), len(x)):.1%}")
print(f"limit 1 - 1/e      : {1 - torch.e**-1:.1%}")

# %% [markdown]
# A sample escapes one draw with probability $1 - \frac1n$ and all $n$ with $(1 - \frac1n)^n \to
# 1/e$. Theory likes replacement, because its draws are independent {cite:p}`bottou2018optimization`
# (section 4); practice reshuffles, because it wastes nothing.
#
# ## The noise scale
#
# The figure has a grey line, $\lVert G\rVert^2$. Where the noise crosses it, noise and signal weigh
# the same. That batch size,
#
# $$B_\text{simple} = \frac{\operatorname{tr}\Sigma}{\lVert G\rVert^2},$$
#
# is the **gradient noise scale** {cite:p}`mccandlish2018empirical`. Far below it, doubling the
# batch is about as good as two steps. Far above it, you average away noise that no longer matters.
# Per-sample gradients are expensive, but two batch sizes are enough. Since
# $\mathrm E\,\lVert\hat g_B\rVert^2 = \lVert G\rVert^2 + \operatorname{tr}\Sigma / B$, two of these
# equations, for $b < B$, can be solved for both unknowns:
#
# $$\lVert G\rVert^2 \approx \frac{B\lVert\hat g_B\rVert^2 - b\lVert\hat g_b\rVert^2}{B - b},
# \qquad \operatorname{tr}\Sigma \approx
# \frac{\lVert\hat g_b\rVert^2 - \lVert\hat g_B\rVert^2}{1/b - 1/B} .$$
#
# Both are right on average. First a problem whose answer is known: gradients $N(G, \Sigma)$ with
# $\lVert G\rVert^2 = 4$ and $\operatorname{tr}\Sigma = 400$, so $B_\text{simple} = 100$.

# %%
from companion.optimization.noise import noise_from_two, noise_of

generator = torch.Generator().manual_seed(0)
b, B, trials = 8, 128, 2000
true_gradient = torch.full((25,), 0.4)
draws = 4 * torch.randn(trials, B, 25, generator=generator) + true_gradient
squares = [draws[:, :size].mean(1).square().sum(1) for size in (b, B)]
signal, noise = (estimate.mean().item() for estimate in noise_from_two(*squares, small=b, big=B))
naive = squares[1].mean().item()
print(f"|G|²: estimated {signal:.2f}, true 4; taking |g_B|² for it: {naive:.2f}")
print(f"tr Σ: estimated {noise:.0f}, true 400")
print(f"noise scale: {noise / signal:.0f} samples, true 100")
assert abs(noise / signal - 100) < 15

# %% [markdown]
# Now while a real network trains. Whoever accumulates micro-batches (more of that below) has both
# gradients at hand already; the callback `GradientNoiseScale` reads them off. Clothes this time
# {cite:p}`xiao2017fashion`:

# %% tags=["nbval-ignore-output"]
from functools import partial

from companion.data.arrays import Arrays
from companion.data.fashion_mnist import FashionMNIST
from companion.optimization.noise import GradientNoiseScale
from companion.training import Classifier, fit


class EachEpoch(GradientNoiseScale):
    """Read the meter after each epoch and start again."""

    def on_train_epoch_end(self, trainer, pl_module):
        readings.append(self.result().scale)
        self.reset()


def small_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


fashion = FashionMNIST(flatten=True, limit=20_480)
fashion.setup()


def clothes_in(batch_size):
    """The same tensors in batches of another size."""
    return Arrays(fashion.train, fashion.validation, fashion.test, batch_size=batch_size)


readings = []
module = Classifier(small_network(), optimizer=partial(SGD, lr=0.1))
metered = fit(
    module,
    clothes_in(32),
    epochs=4,
    precision="32-true",
    accumulate_grad_batches=8,
    callbacks=[EachEpoch(32)],
)
for epoch, (scale, losses) in enumerate(zip(readings, metered.history, strict=True), start=1):
    print(f"epoch {epoch}: loss {losses['train_loss']:.2f}, noise scale {scale:6.0f} samples")
assert readings[-1] > 2 * readings[0]

# %% [markdown]
# It grows as the loss falls: at first all samples agree on what is wrong, later each wants
# something else. A batch that is right at the start is too small later.
#
# ## Batch size and learning rate
#
# The test of all this: how many steps does training need to reach a given loss, for each batch
# size, *when each batch size gets its best learning rate*? To keep it short, the pictures are
# averaged down to 7 × 7, and ten copies of the network train side by side, one for each learning
# rate.

# %%
small = F.avg_pool2d(fashion.train[0].reshape(-1, 28, 28), 4).flatten(1)  # (n, 49)
small, clothes = (small - small.mean(0)) / small.std(0), fashion.train[1]
rates = 2.0 ** torch.arange(-7, 3)  # 1/128 to 4
copies = len(rates)


def start_weights():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(49, 32, generator=generator) / 7
    second = torch.randn(32, 10, generator=generator) / 32**0.5
    shapes = (first, torch.zeros(1, 32), second, torch.zeros(1, 10))
    return [value.expand(copies, *value.shape).clone().requires_grad_() for value in shapes]


def copies_losses(weights, inputs, targets):
    """The mean loss of every copy: (copies,)."""
    W1, b1, W2, b2 = weights
    hidden = torch.baddbmm(b1, inputs.expand(copies, *inputs.shape), W1).relu()
    logits = torch.baddbmm(b2, hidden, W2)
    every = F.cross_entropy(logits.flatten(0, 1), targets.repeat(copies), reduction="none")
    return every.view(copies, -1).mean(1)


def steps_to(target, size):
    """For each learning rate the number of steps to the target loss, infinite if not reached."""
    weights, reached = start_weights(), torch.full((copies,), torch.inf)
    look_every = 20 if size <= 8 else 5 if size <= 128 else 2
    for step, rows in enumerate(batches(len(small), size, epochs=40), start=1):
        total = copies_losses(weights, small[rows], clothes[rows]).sum()
        moves = torch.autograd.grad(total, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, moves, strict=True):
                weight -= rates.view(-1, 1, 1) * gradient
            if step % look_every == 0:
                losses = copies_losses(weights, small[:1000], clothes[:1000])
                reached[(losses <= target) & reached.isinf()] = step
                if step >= 2 * reached.min() or step >= 2500:
                    break
    return reached


# %% tags=["nbval-ignore-output"]
target = 0.6
sizes = [2, 8, 32, 128, 512, 2048]
best_steps, best_rates = [], []
print("batch  best rate  steps to a loss of 0.6   samples")
for size in sizes:
    reached = steps_to(target, size)
    best = int(reached.argmin())
    best_steps.append(int(reached[best]))
    best_rates.append(rates[best].item())
    print(f"{size:5d} {best_rates[-1]:10.3f} {best_steps[-1]:12d} {best_steps[-1] * size:20,}")
assert best_steps[0] / best_steps[1] > 2
assert best_steps[-2] / best_steps[-1] < 2

torch.manual_seed(0)
twin = nn.Sequential(nn.Linear(49, 32), nn.ReLU(), nn.Linear(32, 10))  # one copy, for its noise
optimizer = SGD(twin.parameters(), lr=best_rates[2])
for _, rows in zip(range(best_steps[2]), batches(len(small), sizes[2]), strict=False):
    optimizer.zero_grad()
    F.cross_entropy(twin(small[rows]), clothes[rows]).backward()
    optimizer.step()
there = noise_of(per_sample_gradients(twin, F.cross_entropy, small[:4000], clothes[:4000]))
print(f"noise scale when the loss is about {target}: {there.scale:.0f} samples")
corner = best_steps[0] * sizes[0] / best_steps[-1]  # where "perfect" meets the flat end
print(f"where the two ends of the curve would meet: {corner:.0f} samples")
assert 1 / 10 < there.scale / corner < 10

# %% tags=["hide-input", "nbval-ignore-output"]
figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.6))
left.plot(sizes, best_steps, "o-", color=COLORS[1], label="measured")
ideal = [best_steps[0] * sizes[0] / size for size in sizes]
left.plot(sizes, ideal, color=COLORS[0], linestyle=":", label="perfect: as 1/B")
left.axvline(there.scale, ymax=0.8, color="#888888", linewidth=1, linestyle="-")
left.text(1.15 * there.scale, 6 * best_steps[-2], "noise scale", fontsize=9)
left.set_ylim(min(best_steps) / 3, best_steps[0] * 2)
left.set_ylabel("steps to a loss of 0.6")
left.set_title("Steps: a bend, then flatter", fontsize=11)
right.plot(sizes, best_rates, "s-", color=COLORS[2], label="best rate")
right.plot(
    sizes,
    [best_rates[0] * size / sizes[0] for size in sizes],
    color=COLORS[0],
    linestyle=":",
    label="linear in B",
)
right.set_ylim(best_rates[0] / 2, 8)
right.set_ylabel("best learning rate")
right.set_title("Rate: linear, then slower", fontsize=11)
for axes in (left, right):
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("batch size (samples)")
    axes.legend(fontsize=9)
plt.show()

# %% [markdown]
# Two regimes. At the left, four times the batch saves most of three quarters of the steps, and the
# best learning rate grows with the batch. The **linear scaling rule** {cite:p}`goyal2017accurate`,
# "$k$ times the batch, $k$ times the rate", is the dotted line: it holds for the first factor of
# four and promises too much after that. At the right the rate cannot follow: the curvature limits
# it, as $2/L$ does, with noise or without. Four times the samples then save few steps: compare the
# last column of the table.
#
# The bend between them is the **critical batch size**. Below it samples are used well. Above it you
# only save time, if you have the devices to work on the samples at once. Where it lies differs
# widely between models and data sets {cite:p}`shallue2019measuring`. The noise scale (the grey
# line) tells no more than its order of magnitude, but from a single run: compare the last two lines
# under the table. (It was smaller earlier in the run, and it knows nothing of the curvature.)

# %% [markdown]
# ## Gradient accumulation
#
# A batch that does not fit in memory can be taken in **micro-batches**: compute a gradient, add it
# to the last, step once. The mean of $n$ samples is a weighted sum over micro-batches of $n_k$,
#
# $$\nabla f = \sum_k \frac{n_k}{n}\,\nabla f_k ,$$
#
# so this is no approximation.
#
# :::{admonition} Predict first
# :class: predict
# 100 samples in micro-batches of 32: three whole ones and one of 4. You average the four gradients.
# How much does one of the last 4 samples count, compared with one of the first 96?
# :::

# %%
from companion.optimization.accumulation import accumulate_gradients

print(inspect.getsource(accumulate_gradients).split('"""')[2])


def gradient_after(work, normalise=False):
    torch.manual_seed(0)
    layers = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)]
    if normalise:
        layers.insert(1, nn.BatchNorm1d(32))
    net = nn.Sequential(*layers).double()
    work(net)
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def whole(net):
    F.cross_entropy(net(x[:100]), labels[:100]).backward()


def weighted(net):
    accumulate_gradients(net, F.cross_entropy, x[:100], labels[:100], micro_batch_size=32)


def plain_average(net):
    for rows in torch.arange(100).split(32):
        (F.cross_entropy(net(x[rows]), labels[rows]) / 4).backward()


for name, work, normalise in (
    ("weighted by n_k / n", weighted, False),
    ("plain average of four", plain_average, False),
    ("weighted, with batch norm", weighted, True),
):
    expected = gradient_after(whole, normalise)
    off = ((gradient_after(work, normalise) - expected).norm() / expected.norm()).item()
    assert (off < 1e-12) == (name == "weighted by n_k / n")
    difference = f"{off:.0%}" if off > 1e-12 else "less than 1e-12"
    print(f"{name:26s} differs from the large batch by {difference}")

# %% [markdown]
# Eight times as much: each of the last four stands for a quarter of a quarter, the others for a
# quarter of $1/32$. And with batch normalisation nothing can be exact, because each micro-batch is
# normalised by its own mean and spread: it is another function.
#
# Lightning's `accumulate_grad_batches=4` divides every micro-batch's loss by 4. That equals the
# large batch where all are whole. For the other case `MicroBatchClassifier` takes each batch of the
# loader in pieces and weighs them right.

# %%
from companion.optimization.accumulation import MicroBatchClassifier


def trained(kind, batch_size, limit, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double()
    data = Digits(batch_size, flatten=True, dtype=torch.float64, limit=limit)
    module = kind(net, optimizer=partial(SGD, lr=0.1, momentum=0.9))
    fit(module, data, epochs=3, **options)
    return torch.cat([p.detach().flatten() for p in net.parameters()])


for limit in (1280, 1200):
    large = trained(Classifier, 64, limit)
    pieces = {
        "accumulate_grad_batches=4": trained(Classifier, 16, limit, accumulate_grad_batches=4),
        "MicroBatchClassifier": trained(
            partial(MicroBatchClassifier, micro_batch_size=24), 64, limit
        ),
    }
    for name, weights in pieces.items():
        same = torch.allclose(weights, large, rtol=1e-8, atol=1e-12)
        print(f"{limit} samples, {name:26s} the large batch's weights: {same}")

# %% [markdown]
# (1,280 samples are 20 batches of 64. The last of 1,200 has 48 samples, three micro-batches of 16,
# and Lightning still divides by 4.)
#
# ## Too large a step, in a network
#
# Beyond $2/L$ each step climbs, and the gradient at the higher place is larger still. Here is the
# linear classifier with a squared loss, whose $L$ the inputs tell (it is a mean over ten outputs,
# hence the tenth), at one and a half times the limit. `fit` stops at the first loss that is not a
# number:


# %%
def squared(logits, labels):
    return F.mse_loss(logits, F.one_hot(labels, 10).to(logits))


L = torch.linalg.eigvalsh(hessian(x))[-1].item() / 10
print(f"L = {L:.1f}, so the learning rate must stay below {step_limit(L):.3f}")
too_long = partial(SGD, lr=1.5 * step_limit(L))

# %% tags=["nbval-ignore-output"]
from companion.training import NonFiniteLossError

linear = Classifier(nn.Linear(64, 10), loss=squared, optimizer=too_long)
try:
    fit(linear, Digits(flatten=True), epochs=20, precision="32-true")
except NonFiniteLossError as error:
    print(error)
assert not all(bool(p.isfinite().all()) and p.abs().max() < 1e9 for p in linear.parameters())

# %% [markdown]
# That is the friendly failure. The gradient of the cross-entropy is bounded, and a ReLU network can
# be thrown to a place where its ReLUs are off for every image. No gradient passes through them, so
# only the last bias still moves, and the loss stays finite:

# %% tags=["nbval-ignore-output"]
torch.manual_seed(0)
deep = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
huge = Classifier(deep, optimizer=partial(SGD, lr=50.0, momentum=0.9))
stuck = fit(huge, Digits(flatten=True), epochs=5, precision="32-true").metrics
with torch.no_grad():
    on = (deep[:4](x.float()) > 0).float().mean().item()
print(f"loss {stuck['val_loss']:.1f}, accuracy {stuck['val_accuracy']:.0%}")
print(f"ReLUs of the last hidden layer that are on, over all images: {on:.1%}")
assert stuck["val_accuracy"] < 0.3

# %% [markdown]
# Learning rates are searched on a logarithmic grid, from below: {doc}`Schedules <schedules>` has a
# test that does it in one run.

# %% [markdown]
# ## The real thing
#
# One network on 20,480 pictures of clothing, five ways to step, each through `fit` from the same
# weights. Unless the name says otherwise the learning rate is 0.01, without momentum.

# %% tags=["nbval-ignore-output"]
VARIANTS = {
    "B = 64": (64, partial(SGD, lr=0.01)),
    "B = 64, momentum 0.9": (64, partial(SGD, lr=0.01, momentum=0.9)),
    "B = 64, Nesterov 0.9": (64, partial(SGD, lr=0.01, momentum=0.9, nesterov=True)),
    "B = 1,024": (1024, partial(SGD, lr=0.01)),
    "B = 1,024, rate × 16": (1024, partial(SGD, lr=0.16)),
}
runs = {}
for name, (batch_size, optimizer) in VARIANTS.items():
    module = Classifier(small_network(), optimizer=optimizer)
    data = clothes_in(batch_size)
    runs[name] = fit(module, data, epochs=4, precision="32-true", test=True)
    accuracy = runs[name].metrics["test_accuracy"]
    print(f"{name:28s} {len(runs[name].step_losses):5d} steps, test accuracy {accuracy:.1%}")
final = {name: run.metrics["val_loss"] for name, run in runs.items()}
assert final["B = 64, momentum 0.9"] < final["B = 64"] < final["B = 1,024"]
lost = final["B = 1,024"] - final["B = 64"]
assert final["B = 1,024"] - final["B = 1,024, rate × 16"] > 0.5 * lost

# %% tags=["hide-input", "nbval-ignore-output"]
for (name, run), color, style, marker in zip(
    runs.items(), COLORS, LINESTYLES, MARKERS, strict=False
):
    losses = [epoch["val_loss"] for epoch in run.history]
    plt.plot(
        range(1, 5), losses, label=name, color=color, linestyle=style, marker=marker, markersize=6
    )
plt.title("Momentum helps; a large batch needs a larger rate")
plt.xlabel("epoch (20,480 samples each)")
plt.ylabel("validation loss (nats)")
plt.xticks(range(1, 5))
plt.legend(fontsize=9)
plt.show()

# %% [markdown]
# The same samples and the same arithmetic in all five. With the rate unchanged, the large batch
# takes a sixteenth of the steps and falls behind by far. With sixteen times the rate it gets back
# most of what it lost. Momentum 0.9 adds up to steps ten times as long, and it helps here because
# 0.01 was a cautious rate. Nesterov's look-ahead makes hardly any difference in this figure.
#
# Devices come in through `fit` alone; nothing in the optimizer names one.
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(Classifier(network, optimizer=partial(SGD, lr=0.01, momentum=0.9)), data, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(Classifier(network, optimizer=partial(SGD, lr=0.01, momentum=0.9)), data, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(Classifier(network, optimizer=partial(SGD, lr=0.01, momentum=0.9)), data, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} momentum
# :::

# %% [markdown]
# ## A widespread mistake
#
# (mistake-e16)=
# :::{admonition} Widespread mistake E16: "stochastic" samples in their stored order
# :class: mistake
# "SGD: for each epoch, for each sample of the data set, compute the gradient and update." Nothing
# in this loop is random: it visits the samples in the order in which they happen to be stored.
# :::
#
# Many data sets are stored class by class. Here is that loop, word for word, on digits that are,
# with a linear classifier and its gradient $x^\top (p - y)$ written out:


# %%
def tutorial_sgd(x, y, order, learning_rate=0.05):
    weight, bias = torch.zeros(64, 10).double(), torch.zeros(10).double()
    for rows in batches(len(x), 1, order=order):  # one epoch, one sample at a time
        delta = (x[rows] @ weight + bias).softmax(1) - F.one_hot(y[rows], 10)
        weight -= learning_rate * x[rows].T @ delta
        bias -= learning_rate * delta[0]
    return weight, bias


by_class = labels.argsort(stable=True)
x_test, labels_test = digits.test
accuracies = {}
for order in ("in order", "reshuffled", "with replacement"):
    weight, bias = tutorial_sgd(x[by_class], labels[by_class], order)
    answers = (x_test @ weight + bias).argmax(1)
    accuracies[order] = (answers == labels_test).double().mean().item()
    nines = (answers == 9).double().mean().item()
    print(f"{order:17s} test accuracy {accuracies[order]:.0%}, answers '9': {nines:.0%}")

# %% tags=["raises-exception"]
assert accuracies["in order"] > 0.8, "the last class visited has the last word"

# %% [markdown]
# The cure is one line: draw the order anew in each epoch. `torch.utils.data.DataLoader` does so
# only with `shuffle=True`, which is not its default. The data modules of this course always do it
# for training, from `(seed, epoch)`, so that a resumed run sees the same batches.

# %% [markdown]
# ## Exercises
#
# :::{exercise} How far may momentum stretch the step?
# :label: ex-sgd-1
# Gradient descent diverges beyond $\eta = 2/L$. Where is the limit of the heavy ball with momentum
# $\mu$? Find it from the equation for $z$, then check it on the valley.
# :::
#
# :::{solution} ex-sgd-1
# :class: dropdown
# The first root to leave the unit circle does so at $z = -1$. Put it in:
# $1 + (1 + \mu - \eta\lambda) + \mu = 0$, hence $\eta = 2(1 + \mu)/L$.
# With $\mu = 0.9$ that is 1.9 times as long.
# :::

# %% tags=["hide-cell"]
# Solution
mu = 0.9
for factor in (0.999, 1.001):
    lr = factor * 2 * (1 + mu) / 50
    path = descend(valley_gradient, start, steps=20_000, lr=lr, momentum=mu)
    print(f"{factor} of 2 (1 + mu) / L: converges: {bool(path[-1].norm() < 1)}")
    assert (path[-1].norm() < 1) == (factor < 1)

# %% [markdown]
# :::{exercise} Whose weights do you evaluate?
# :label: ex-sgd-2
# PyTorch's Nesterov weights are the look-ahead $\tilde w = w + \mu v$. Given the optimizer's buffer
# $b$, how do you get the paper's $w$ back? Try it after 20 steps in the valley.
# :::
#
# :::{solution} ex-sgd-2
# :class: dropdown
# $v = -\eta\, b$, so $w = \tilde w - \mu v = \tilde w + \mu\,\eta\, b$. Late in training the
# velocity is small, and few people bother.
# :::

# %% tags=["hide-cell"]
# Solution
parameter = nn.Parameter(start.clone())
optimizer = SGD([parameter], lr=0.01, momentum=0.8, nesterov=True)
w, v = start, torch.zeros_like(start)
for _ in range(20):
    parameter.grad = valley_gradient(parameter.detach())
    optimizer.step()
    w, v = sgd.nesterov_step(w, v, valley_gradient, lr=0.01, momentum=0.8)
buffer = optimizer.state[parameter]["momentum_buffer"]
torch.testing.assert_close(parameter.detach() + 0.8 * 0.01 * buffer, w)
print("w = look-ahead + mu * lr * buffer")

# %% [markdown]
# :::{exercise} Where SGD stops
# :label: ex-sgd-3
# Let $f_i(w) = \tfrac12 (w - x_i)^2$ with $x_i$ of variance $\sigma^2$, batches of $B$ drawn with
# replacement, a constant $\eta$. The weight never comes to rest at the mean: derive the variance it
# keeps, and measure it. What does it say about the learning rate late in training?
# :::
#
# :::{solution} ex-sgd-3
# :class: dropdown
# $e \leftarrow (1 - \eta)\,e + \eta\,\xi$ with $\operatorname{Var}\xi = \sigma^2/B$. In equilibrium
# $V = (1 - \eta)^2 V + \eta^2\sigma^2/B$, so $V = \frac{\eta}{2 - \eta}\,\frac{\sigma^2}{B} \approx
# \frac{\eta}{2}\,\frac{\sigma^2}{B}$. Half the rate or twice the batch: both halve it. That is why
# learning rates fall at the end, and why $\eta/B$ is what the linear rule keeps.
# :::

# %% tags=["hide-cell"]
# Solution
generator = torch.Generator().manual_seed(0)
lr, size = 0.2, 4
noise = torch.randn(5000, 400, generator=generator).double() / size**0.5  # steps, copies
e, kept = torch.zeros(400).double(), []
for step, xi in enumerate(noise):
    e = (1 - lr) * e + lr * xi
    if step > 100:
        kept.append(e.square().mean())
measured, theory = torch.stack(kept).mean().item(), lr / (2 - lr) / size
print(f"variance that stays: measured {measured:.4f}, theory {theory:.4f}")
assert abs(measured / theory - 1) < 0.03

# %% [markdown]
# :::{exercise} Shuffling once
# :label: ex-sgd-4
# Many programs shuffle the data set once, before training, and visit it in that order in every
# epoch. Does it cure E16? Repeat the experiment with the order `"shuffled once"` and say what is
# still missing.
# :::
#
# :::{solution} ex-sgd-4
# :class: dropdown
# It cures the sorted classes. But every epoch repeats the same batches and the same order, so the
# same few samples always have the last word. Reshuffling costs one permutation an epoch.
# :::

# %% tags=["hide-cell"]
# Solution
weight, bias = tutorial_sgd(x[by_class], labels[by_class], "shuffled once")
accuracy = ((x_test @ weight + bias).argmax(1) == labels_test).double().mean().item()
print(f"shuffled once: test accuracy {accuracy:.0%}")
assert accuracy > 0.85

# %% [markdown]
# ## Summary
#
# - Gradient descent converges below $\eta = 2/L$ and no further; its best rate is
#   $(\kappa - 1)/(\kappa + 1)$. Momentum puts $\sqrt\kappa$ there, standardised data a smaller
#   $\kappa$.
# - PyTorch's momentum is the heavy ball, its Nesterov the paper's in the look-ahead variable.
# - A batch of $B$ has the noise $\operatorname{tr}\Sigma/B$; it equals the signal at the noise
#   scale. Below the critical batch size the rate may grow with the batch; above, more is wasted.
# - Draw the samples anew in every epoch.
# - Accumulated micro-batches, weighted by their size, *are* the large batch, but for batch norm.
#
# Sources: stochastic approximation {cite:p}`robbins1951stochastic`; the heavy ball
# {cite:p}`polyak1964some`; Nesterov's momentum {cite:p}`sutskever2013importance` (section 2); SGD
# in large {cite:p}`bottou2018optimization` (sections 4 and 7); the noise scale
# {cite:p}`mccandlish2018empirical` (section 2.2, appendix A.1); batch size and learning rate
# {cite:p}`goyal2017accurate,shallue2019measuring`; the data {cite:p}`xiao2017fashion`.
