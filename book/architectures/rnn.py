# %% [markdown]
# # Recurrent networks: a state that is handed on
#
# **The question: how does one network with a fixed number of weights read a sequence of any
# length, and how far back can it remember?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# One hundred pairs of numbers go by, one after the other. In each pair the first is a random number
# between 0 and 1, and the second is a mark. Two of the hundred are marked. At the end, say the sum
# of the two marked numbers. That is the *adding problem* {cite:p}`hochreiter1997long`. Who
# remembers nothing says 1 every time, the mean of the sum, and is off by a squared error of
# 1/6 on average.
#
# Two networks with 64 units try it. Both get the same sequences, optimizer and number of steps.

# %%
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from companion.architectures.chrono import chrono_init_
from companion.architectures.rnn import SequenceClassifier
from companion.data.adding_problem import CHANCE, AddingProblem
from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style
from companion.training import Regressor, fit

use_course_style()
torch.set_num_threads(1)  # the tensors of one time step are small

# %% tags=["nbval-ignore-output"]
adding = AddingProblem(length=100, samples=6400, batch_size=64)


def learn_to_add(cell):
    torch.manual_seed(0)
    network = SequenceClassifier(num_features=2, num_classes=1, hidden_size=64, cell=cell)
    if cell == "lstm":
        chrono_init_(network.recurrent, longest=100)  # begin with a long memory; see below
    module = Regressor(network, optimizer=partial(torch.optim.Adam, lr=0.01))
    return fit(module, adding, epochs=6, precision="32-true", gradient_clip_val=1.0)


adders = {cell: learn_to_add(cell) for cell in ("rnn", "lstm")}
errors = {cell: [epoch["val_loss"] for epoch in run.history] for cell, run in adders.items()}
for cell, values in errors.items():
    print(f"{cell:4s}: mean squared error {values[-1]:.4f}; a constant answer: {CHANCE:.4f}")
assert errors["lstm"][-1] < 0.01
assert errors["rnn"][-1] > 0.1

# %% tags=["hide-input"]
steps = [100 * (epoch + 1) for epoch in range(6)]
for cell, label, color, style, marker in zip(
    ("rnn", "lstm"), ("plain RNN", "LSTM"), COLORS[2:0:-1], LINESTYLES, MARKERS, strict=False
):
    plt.plot(steps, errors[cell], label=label, color=color, linestyle=style, marker=marker)
plt.axhline(CHANCE, color="#888888", linewidth=1, linestyle=":")
plt.text(steps[-1], CHANCE * 0.7, "always answer 1", fontsize=10, ha="right")
plt.yscale("log")
plt.title("Adding over 100 steps: the LSTM learns it, the plain RNN does not")
plt.xlabel("training steps (64 sequences each)")
plt.ylabel("mean squared error, new sequences")
plt.legend(loc="lower left")
plt.show()

# %% [markdown]
# (`fit` with `gradient_clip_val=1.0` keeps single steps from going too far: see "Exploding", below.
# `chrono_init_` is the subject of "Cells that keep the gradient".)
#
# Both networks have room to hold a number for a hundred steps. One of them does not *learn* to.
# This page finds out why: it takes the gradient back through time by hand, measures how much of it
# is left after each step, and builds the cells that keep it.

# %% [markdown]
# ## The state update
#
# Let a batch hold $N$ sequences of $T$ steps with $F$ features each: $x$ has shape $(N, T, F)$.
# Elman's network {cite:p}`elman1990finding` keeps a **state** $h$ of $H$ numbers a sequence. It
# begins at $h_0 = 0$, and each step makes a new one from the input and the state before:
#
# $$h_t = \tanh\bigl(x_t W_{ih}^\top + h_{t-1} W_{hh}^\top + b\bigr), \qquad t = 1 \dots T.$$
#
# | quantity | shape | |
# |---|---|---|
# | $x_t$ | `(N, F)` | input of step $t$ |
# | $h_t$ | `(N, H)` | state after step $t$ |
# | $W_{ih}$ | `(H, F)` | input to state |
# | $W_{hh}$ | `(H, H)` | state to state |
# | $b$ | `(H,)` | bias |
#
# No shape holds a $T$. The same weights serve every step, so the network reads sequences of any
# length.

# %% tags=["hide-input"]
figure, axes = plt.subplots(figsize=(7.6, 3.2))
axes.set_axis_off()
axes.set_xlim(-0.9, 8.4)
axes.set_ylim(-1.9, 2.3)
places = [0, 2.2, 4.4, 6.6]
for t, place in enumerate(places):
    axes.add_patch(
        plt.Rectangle((place - 0.5, -0.4), 1.0, 0.8, facecolor="#eef3f8", edgecolor="black")
    )
    axes.text(place, 0, f"$h_{t}$", ha="center", va="center", fontsize=14)
    if t == 0:
        continue
    arrow = {"arrowstyle": "-|>", "linewidth": 1.6}
    back = {"arrowstyle": "-|>", "linewidth": 1.6, "color": COLORS[2], "linestyle": "--"}
    left = places[t - 1]
    axes.annotate("", (place - 0.5, 0.15), (left + 0.5, 0.15), arrowprops=arrow)
    axes.annotate("", (left + 0.5, -0.2), (place - 0.5, -0.2), arrowprops=back)
    axes.text((place + left) / 2, 0.35, "$W_{hh}$", ha="center", fontsize=12)
    axes.annotate("", (place, -0.4), (place, -1.35), arrowprops=arrow)
    axes.text(place, -1.7, f"$x_{t}$", ha="center", fontsize=13)
    axes.text(place + 0.12, -1.0, "$W_{ih}$", fontsize=12)
axes.text(3.3, -0.62, r"$\delta_2 W_{hh}$", ha="center", fontsize=12, color=COLORS[2])
axes.text(5.5, -0.62, r"$\delta_3 W_{hh}$", ha="center", fontsize=12, color=COLORS[2])
axes.annotate("", (6.6, 1.3), (6.6, 0.4), arrowprops={"arrowstyle": "-|>", "linewidth": 1.6})
axes.text(6.6, 1.5, "loss $L$", ha="center", fontsize=13)
axes.annotate("", (6.95, 0.4), (6.95, 1.3), arrowprops=back)
axes.text(7.1, 0.8, r"$\partial L/\partial h_3$", fontsize=12, color=COLORS[2])
axes.set_title("Unrolled in time, a recurrent network is a deep one with equal layers")
plt.show()

# %%
generator = torch.Generator().manual_seed(0)
N, T, F_, H = 3, 6, 2, 4


def random(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


x, W_ih, W_hh, b = random(N, T, F_), random(H, F_), random(H, H) / 2, random(H)

h = [torch.zeros(N, H).double()]
for t in range(T):
    h.append(torch.tanh(x[:, t] @ W_ih.T + h[t] @ W_hh.T + b))

library = nn.RNN(F_, H, batch_first=True).double()
with torch.no_grad():
    library.weight_ih_l0.copy_(W_ih)
    library.weight_hh_l0.copy_(W_hh)
    library.bias_ih_l0.copy_(b)
    library.bias_hh_l0.zero_()
output, last = library(x)
torch.testing.assert_close(torch.stack(h[1:], 1), output, rtol=1e-10, atol=1e-12)
print("outputs", tuple(output.shape), "and last state", tuple(last.shape), "as in torch.nn.RNN")

# %% [markdown]
# The library has two biases, $b_{ih}$ and $b_{hh}$, of which only the sum counts. It returns every
# state, the *outputs*, and the last one once more, with the number of layers in front.

# %% [markdown]
# ## Back through time
#
# Unrolled, the network is $T$ layers deep, and the rule of {doc}`chapter 2 <../backprop/layers>`
# applies: $\delta$ goes back, layer by layer. Two things are new.
#
# *Two paths.* $h_t$ is read by the loss (perhaps) and by the next step (always), so its gradient is
# a sum. With $g_t$ for what the loss sends to $h_t$ directly and $\delta_t$ for the gradient at the
# argument of the tanh:
#
# $$\frac{\partial L}{\partial h_t} = g_t + \delta_{t+1} W_{hh}, \qquad
# \delta_t = \frac{\partial L}{\partial h_t} \odot (1 - h_t^2), \qquad \delta_{T+1} = 0.$$
#
# All of these are $(N, H)$. *Shared weights.* Each step uses the same $W_{hh}$, so its gradient is
# the sum of what every step contributes:
#
# $$\frac{\partial L}{\partial W_{hh}} = \sum_{t=1}^{T} \delta_t^\top h_{t-1}, \qquad
# \frac{\partial L}{\partial W_{ih}} = \sum_{t=1}^{T} \delta_t^\top x_t, \qquad
# \frac{\partial L}{\partial b} = \sum_{t=1}^{T} \sum_{n=1}^{N} \delta_{t,n}.$$
#
# The shapes: `(H, N) (N, H) = (H, H)` and `(H, N) (N, F) = (H, F)`. This is **back-propagation
# through time**, BPTT {cite:p}`werbos1990backpropagation`.
#
# :::{admonition} Predict first
# :class: predict
# You write `grad_W_hh = delta.T @ h[t]` inside the loop instead of `+=`. The code runs and the
# shapes are right. Which step's contribution is left at the end: the first or the last? Will the
# loss still fall?
# :::


# %%
def back_through_time(g, x, h, W_ih, W_hh):
    grad_W_ih, grad_W_hh = torch.zeros_like(W_ih), torch.zeros_like(W_hh)
    grad_b, grad_x = torch.zeros(len(W_hh)).double(), torch.zeros_like(x)
    from_next = torch.zeros_like(h[0])
    for t in reversed(range(T)):  # step t + 1 of the formulas: h[t + 1] is made from h[t]
        delta = (g[:, t] + from_next) * (1 - h[t + 1] ** 2)
        grad_W_ih += delta.T @ x[:, t]
        grad_W_hh += delta.T @ h[t]
        grad_b += delta.sum(0)
        grad_x[:, t] = delta @ W_ih
        from_next = delta @ W_hh
    return grad_x, grad_W_ih, grad_W_hh, grad_b


g = random(N, T, H)
leaf = x.clone().requires_grad_()
library(leaf)[0].backward(g)
ours = back_through_time(g, x, h, W_ih, W_hh)
theirs = leaf.grad, library.weight_ih_l0.grad, library.weight_hh_l0.grad, library.bias_ih_l0.grad
for name, mine, other in zip(("x", "W_ih", "W_hh", "b"), ours, theirs, strict=True):
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    print(f"dL/d{name:4s} {tuple(mine.shape)!s:10s} equals autograd's")

# %% [markdown]
# With `=` for `+=` the loop, which runs backwards, leaves the contribution of the *first* step. It
# is a part of the true gradient, so the loss often falls for a while; only a comparison with an
# independent number shows the slip.
#
# The memory is that of $T$ layers: every $h_t$ has to be kept until the gradient comes by.

# %% [markdown]
# ## How much of the gradient comes through
#
# How does the state of step $T$ depend on that of step $t$? One step has the Jacobian
#
# $$\frac{\partial h_{t+1}}{\partial h_t} = \operatorname{diag}(1 - h_{t+1}^2)\, W_{hh}
# \quad\text{of shape } (H, H),$$
#
# and $T - t$ steps have the product of as many. Let $\lVert\cdot\rVert$ be the largest singular
# value, the most by which a matrix can stretch a vector. The slope of the tanh is at most 1, so
#
# $$\Bigl\lVert\frac{\partial h_T}{\partial h_t}\Bigr\rVert
# \;\le\; \lVert W_{hh}\rVert^{\,T-t}.$$
#
# Take a random rotation times a number $\rho$. All its eigenvalues have size $\rho$, the *spectral
# radius*, and all its singular values too, so the bound is $\rho^{\,\text{lag}}$
# {cite:p}`bengio1994learning,pascanu2013difficulty`.
#
# :::{admonition} Predict first
# :class: predict
# How much of the gradient is left after 50 steps for $\rho = 0.9$? And for $\rho = 1$, where the
# bound says "no more than all of it": all of it, half, or next to nothing?
# :::

# %%
from companion.architectures.bptt import elman
from companion.architectures.lags import jacobian_norms, with_spectral_radius

units, lag = 32, 60
inputs, from_input = random(16, lag, 8) * 0.1, random(units, 8)
measured = {}
for radius in (0.5, 0.9, 1.0, 1.1, 1.5):
    W = with_spectral_radius(units, radius)
    states = elman(
        inputs, torch.zeros(16, units).double(), from_input, W, torch.zeros(units).double()
    )
    norms = jacobian_norms(states, W)  # (16, 61): a row a sequence, lags 0 to 60
    measured[radius] = norms.log().mean(0).exp()
    bound = radius ** torch.arange(lag + 1).double()
    assert (norms <= bound * (1 + 1e-9)).all()
    print(f"radius {radius}: after 50 steps {measured[radius][50]:.0e}, bound {bound[50]:.0e}")

# %% tags=["hide-input"]
for (radius, norms), color, style in zip(measured.items(), COLORS, LINESTYLES, strict=False):
    plt.plot(norms, label=f"ρ = {radius}", color=color, linestyle=style)
    plt.plot(radius ** torch.arange(lag + 1.0), color=color, linewidth=0.8, linestyle=":")
plt.yscale("log")
plt.ylim(1e-12, 1e6)
plt.xlim(0, lag)
plt.title("Up to ρ = 1.1 the gradient vanishes; at 1.5 it grows")
plt.xlabel("lag T − t (steps); thin dotted lines: the bound ρ^lag")
plt.ylabel("largest stretch of ∂h(T)/∂h(t)")
plt.legend(ncol=2, loc="lower left")
plt.show()

# %% [markdown]
# Below $\rho = 1$ the gradient *must* vanish. At $\rho = 1$ only the slopes of the tanh shrink it,
# and it vanishes all the same. Above 1 it is a fight: the matrix stretches, but larger states lie
# where the tanh is flat. This is why the plain RNN fails at the top of the page: what the marked
# number of step 10 contributes to the gradient is drowned by what the last steps contribute.
#
# ### Exploding, and what to do about it
#
# Where the product grows, one unlucky batch can throw the weights far away. **Clipping by norm**
# {cite:p}`pascanu2013difficulty` shortens the gradient of *all* parameters by one factor:
#
# $$n = \Bigl(\sum_{\text{parameters}} \lVert g\rVert^2\Bigr)^{1/2}, \qquad
# g \leftarrow g \cdot \min\Bigl(1, \frac{c}{n + 10^{-6}}\Bigr).$$
#
# The step gets shorter and keeps its direction. Clipping each number on its own does not.


# %%
from companion.architectures.clipping import clip_grad_norm_


def clip_by_norm(gradients, limit):
    norm = sum(g.square().sum() for g in gradients).sqrt()
    return [g * (limit / (norm + 1e-6)).clamp(max=1) for g in gradients]


gradients = [random(4, 3) * 50, random(3)]
parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
for parameter, gradient in zip(parameters, gradients, strict=True):
    parameter.grad = gradient.clone()
nn.utils.clip_grad_norm_(parameters, 1.0)
by_norm = clip_by_norm(gradients, 1.0)
for mine, parameter, gradient in zip(by_norm, parameters, gradients, strict=True):
    torch.testing.assert_close(mine, parameter.grad, rtol=1e-10, atol=1e-12)
    parameter.grad = gradient.clone()
clip_grad_norm_(parameters, 1.0)  # the companion's
torch.testing.assert_close(parameters[0].grad, by_norm[0], rtol=1e-10, atol=1e-12)

flat = torch.cat([g.flatten() for g in gradients])
for name, clipped in (("norm", by_norm), ("value", [g.clamp(-1, 1) for g in gradients])):
    cosine = F.cosine_similarity(flat, torch.cat([g.flatten() for g in clipped]), dim=0)
    print(f"clipped by {name:5s}: cosine with the true gradient {cosine:.3f}")

# %% [markdown]
# The companion's `clip_grad_norm_` does this in place, and `fit(…, gradient_clip_val=1.0)` has
# Lightning do it before every step. It is a seat belt against explosion; no clipping
# brings a vanished gradient back.

# %% [markdown]
# ## Cells that keep the gradient
#
# The cure for vanishing is a state that is *added to* instead of multiplied. The **LSTM**
# {cite:p}`hochreiter1997long,gers2000learning` has a second state, the cell $c$, and three gates,
# numbers between 0 and 1 that depend on the input and on $h$. With $a = x_t W_{ih}^\top + b_{ih}$
# and $b = h_{t-1} W_{hh}^\top + b_{hh}$, both $(N, 4H)$, in four blocks of $H$ columns:
#
# $$\begin{aligned}
# i &= \sigma(a_i + b_i) & &\text{input gate: what comes in}\\
# f &= \sigma(a_f + b_f) & &\text{forget gate: what stays}\\
# g &= \tanh(a_g + b_g) & &\text{the candidate}\\
# o &= \sigma(a_o + b_o) & &\text{output gate: what is shown}\\
# c_t &= f \odot c_{t-1} + i \odot g, & h_t &= o \odot \tanh(c_t).
# \end{aligned}$$
#
# Along the cell, $\partial c_t/\partial c_{t-1}$ is $f$ (and what goes round through $h$): no
# matrix, no tanh. Where $f \approx 1$ the gradient stays.
#
# Backward, from $\partial L/\partial h_t$ and $\partial L/\partial c_t$. The new cell is used
# twice, in $h_t$ and in the next step, so first
#
# $$\bar c = \frac{\partial L}{\partial c_t}
#   + \frac{\partial L}{\partial h_t} \odot o \odot (1 - \tanh^2 c_t),$$
#
# then each gate by the product rule times its own slope, all $(N, H)$:
#
# $$\begin{aligned}
# \delta_i &= \bar c \odot g \odot i(1-i), & \delta_f &= \bar c \odot c_{t-1} \odot f(1-f),\\
# \delta_g &= \bar c \odot i \odot (1-g^2), &
# \delta_o &= \tfrac{\partial L}{\partial h_t} \odot \tanh c_t \odot o(1-o),
# \end{aligned}$$
#
# and $\partial L/\partial c_{t-1} = \bar c \odot f$. Side by side the four make $\delta$,
# $(N, 4H)$, and the rest is as before: $\delta W_{hh}$ goes to the step before.

# %%
import inspect

from companion.architectures.cells import GRUCell, LSTMCell

print(inspect.getsource(LSTMCell.step))
print(inspect.getsource(LSTMCell.step_backward))

# %% [markdown]
# The **GRU** {cite:p}`cho2014learning` does with one state and two gates. Its $a$ and $b$ are
# $(N, 3H)$:
#
# $$r = \sigma(a_r + b_r), \quad z = \sigma(a_z + b_z), \quad n = \tanh(a_n + r \odot b_n), \quad
# h_t = (1 - z) \odot n + z \odot h_{t-1}.$$
#
# Look at the candidate $n$: the reset gate $r$ multiplies $b_n$, which is the *product*
# $h_{t-1} W_{hn}^\top$ and its bias. So it is in cuDNN, in PyTorch and in Keras's default. In the
# paper, $r$ multiplies $h_{t-1}$ *before* the product. The two are different functions, and weights
# trained for one do not serve the other:

# %%
from companion.architectures import rnn

cell, state, value = GRUCell(2, 4).double(), random(3, 4), random(3, 2)
a = value @ cell.weight_ih.T + cell.bias_ih
b_ = state @ cell.weight_hh.T + cell.bias_hh
r, z = torch.sigmoid(a + b_)[:, :4], torch.sigmoid(a + b_)[:, 4:8]
after_product = torch.tanh(a[:, 8:] + r * b_[:, 8:])
before_product = torch.tanh(a[:, 8:] + (r * state) @ cell.weight_hh[8:].T + cell.bias_hh[8:])
twin = nn.GRUCell(2, 4).double()
twin.load_state_dict(cell.state_dict())
for name, n in (("after", after_product), ("before", before_product)):
    same = torch.allclose((1 - z) * n + z * state, twin(value, state), rtol=1e-10)
    print(f"reset gate {name:6s} the product: equal to torch.nn.GRUCell: {same}")

# %% [markdown]
# Unrolled over time and stacked in layers, the three cells are `rnn.RNN`, `rnn.LSTM` and `rnn.GRU`
# of the companion: names, layout and first weights as in `torch.nn`, and a `backward` written by
# hand. Two layers over random sequences, all gradients:

# %%
for kind in ("RNN", "LSTM", "GRU"):
    ours = getattr(rnn, kind)(2, 5, num_layers=2, batch_first=True).double()
    theirs = getattr(nn, kind)(2, 5, num_layers=2, batch_first=True).double()
    ours.load_state_dict(theirs.state_dict())
    leaf, g = x.clone().requires_grad_(), random(N, T, 5)
    expected, _ = theirs(leaf)
    expected.backward(g)
    found, _ = ours(x)
    grad_x, _ = ours.backward(g)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad_x, leaf.grad, rtol=1e-10, atol=1e-12)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-12)
    count = sum(p.numel() for p in ours.parameters())
    print(f"{kind:4s} output and {len(list(ours.parameters()))} gradients equal; {count} weights")

# %% [markdown]
# The LSTM has four times the weights of the RNN and the GRU three times.
#
# An LSTM keeps the gradient only if its forget gates are open, and they are not from the start.
# With biases near 0, $f = \tfrac12$ and the memory halves at every step. A bias of $\log \tau$
# gives $f = \tau/(1+\tau)$, a memory of about $\tau$ steps. *Chrono initialisation*
# {cite:p}`tallec2018recurrent` draws $\tau$ for each unit between 1 and the longest lag, and sets
# the input gate's bias to $-\log\tau$. Here is the gradient that the last output sends to each
# input, in *untrained* networks:


# %% tags=["nbval-ignore-output"]
def gradient_at_inputs(layer, steps=100):
    torch.manual_seed(1)
    inputs = torch.rand(64, steps, 2).requires_grad_()
    output, _ = layer(inputs)
    output[:, -1].sum().backward()
    return inputs.grad.norm(dim=2).mean(0).flip(0)  # index = lag


arrivals = {}
for name, layer in (("plain RNN", nn.RNN), ("LSTM", nn.LSTM), ("LSTM, chrono", nn.LSTM)):
    torch.manual_seed(0)
    network = layer(2, 64, batch_first=True)
    arrivals[name] = gradient_at_inputs(chrono_init_(network, 100) if "chrono" in name else network)
    print(
        f"{name:12s}: lag 90 gets {arrivals[name][90] / arrivals[name][0]:.0e} of what lag 0 gets"
    )

# %% tags=["hide-input"]
for (name, sizes), color, style in zip(
    arrivals.items(), (COLORS[2], COLORS[3], COLORS[1]), LINESTYLES, strict=False
):
    plt.plot(sizes / sizes[0], label=name, color=color, linestyle=style)
plt.yscale("log")
plt.ylim(1e-20, 10)
plt.title("Before training: only the chrono LSTM hears the distant past")
plt.xlabel("lag: steps before the last")
plt.ylabel("gradient at that input, relative to lag 0")
plt.legend(loc="lower left")
plt.show()

# %% [markdown]
# A gap of many powers of ten, before a single step of training. An LSTM whose gates start half open
# has to open them before it can hear the distant past; the plain RNN has no gate to open.
#
# Was the first figure luck, or a matter of the learning rate? Here are longer runs, three learning
# rates for the RNN and three seeds for the LSTM. Each ends when it has solved the task or used up
# its steps.

# %% tags=["nbval-ignore-output"]
from companion.recorded import provenance, recorded

longer = recorded("adding-problem")
for run in longer["runs"]:
    name = run["cell"] + (" chrono" if run["chrono"] else "")
    print(
        f"{name:12s} learning rate {run['learning_rate']:<5g} seed {run['seed']}: "
        f"error {run['errors'][-1]:.4f} after {run['steps']} steps"
    )
assert all(run["solved"] == (run["cell"] == "lstm") for run in longer["runs"])
print(provenance(longer))

# %% [markdown]
# The plain RNN fails at all three. The LSTM gets there without chrono initialisation as well, but
# later.

# %% [markdown]
# ## Long sequences in windows
#
# BPTT over a whole book would keep every state of it. **Truncated BPTT**
# {cite:p}`williams1990efficient` cuts the text into windows of $W$ steps. The state is carried from
# window to window, so the *forward* pass is that of the whole text. But it is detached there: the
# *gradient* goes back $W$ steps at most.
#
# What does that cost? A task with a known lag: the input is random bits, and the network is to say
# the bit of 6 steps ago. Knowing nothing costs $\log 2 = 0.69$ nats a bit.
#
# :::{admonition} Predict first
# :class: predict
# The state is carried on, so the bit of 6 steps ago is *in reach* of the forward pass for any
# window. Which is the smallest window with which the network learns the task: 2, 6, 7 or 12?
# :::

# %% tags=["nbval-ignore-output"]
from companion.architectures.rnn import CharacterRNN
from companion.architectures.truncated import TruncatedBPTT
from companion.data import echo

windows, echo_losses = (2, 6, 7, 12), []
for window in windows:
    torch.manual_seed(0)
    module = TruncatedBPTT(
        CharacterRNN(vocab_size=2, embed_dim=4, hidden_size=32),
        window=window,
        optimizer=partial(torch.optim.Adam, lr=0.01),
    )
    data = echo.Echo(lag=6, length=252)
    options = {"epochs": 2 * window, "check_val_every_n_epoch": 2 * window}  # 504 steps for each
    result = fit(module, data, precision="32-true", **options)
    echo_losses.append(result.metrics["val_loss"])
    print(f"window {window:2d}: {echo_losses[-1]:.3f} nats a bit")
assert min(echo_losses[:2]) > 0.5
assert max(echo_losses[2:]) < 0.1

# %% tags=["hide-input"]
plt.plot(windows, echo_losses, marker="o", color=COLORS[1])
plt.axvline(6.5, color="#888888", linewidth=1, linestyle=":")
plt.axhline(echo.CHANCE, color="#888888", linewidth=1, linestyle="--")
plt.text(12, echo.CHANCE - 0.05, "knowing nothing", ha="right", fontsize=10)
plt.text(6.7, 0.35, "first window with lag 6 inside", fontsize=10)
plt.ylim(-0.02, 0.8)
plt.title("An echo of 6 steps is learnt only where the window is longer")
plt.xlabel("window W (steps)")
plt.ylabel("validation loss (nats a bit)")
plt.show()

# %% [markdown]
# Seven. The last position of a window of 7 looks back at its first, 6 steps ago. In a window of 6
# no output and the bit it needs are ever in one window, so no gradient says "keep this". Once a
# longer window has taught it, the network does it anywhere.
#
# The training step, with the one line that cuts the graph:

# %%
print(inspect.getsource(TruncatedBPTT.training_step).split('"""')[2])

# %% [markdown]
# ## Sequences of unequal length
#
# Utterances have 7 frames or 29, sentences 3 words or 30. A batch must be one tensor, so the short
# ones are filled up, *padded*, to $(N, T_{\max}, F)$. What is padding must not count.

# %%
from companion.architectures import sequences

parts = [random(5, 2), random(2, 2), random(3, 2)]
padded, lengths = sequences.pad(parts)
print("padded", tuple(padded.shape), "lengths", lengths.tolist())
print(sequences.mask(lengths, 5).int())

# %% [markdown]
# Run an LSTM over the padded batch and take `output[:, -1]`, as for equal lengths. The second
# sequence's state has then read three rows of zeros after its end. The right one stands at position
# $\ell - 1$. Three ways to get it, and they agree: pick it by index; let a masked step hand the
# state on unchanged; or *pack* the batch, so that the library never sees the padding.

# %%
network = rnn.LSTM(2, 4, batch_first=True).double()
twin = nn.LSTM(2, 4, batch_first=True).double()
twin.load_state_dict(network.state_dict())

output, _ = network(padded)
wrong, by_index = output[:, -1], sequences.last_step(output, lengths)
_, (by_mask, _) = network(padded, lengths=lengths)
packed = nn.utils.rnn.pack_padded_sequence(padded, lengths, True, enforce_sorted=False)
_, (by_packing, _) = twin(packed)
alone = torch.cat([network(part.unsqueeze(0))[0][:, -1] for part in parts])
for name, found in (
    ("output[:, -1]", wrong),
    ("by index", by_index),
    ("by mask", by_mask[0]),
    ("by packing", by_packing[0]),
):
    right = [torch.allclose(a, b, rtol=1e-10) for a, b in zip(found, alone, strict=True)]
    print(f"{name:14s} equal to the sequence on its own: {right}")

# %% [markdown]
# A packed batch holds, step by step, the rows that are still there, longest first, and how many
# they are. It costs $\sum_i \ell_i$ steps of work instead of $N\,T_{\max}$:

# %%
order = lengths.argsort(descending=True)
ours = sequences.pack(padded[order], lengths[order])
theirs = nn.utils.rnn.pack_padded_sequence(padded[order], lengths[order], batch_first=True)
assert torch.equal(ours.data, theirs.data)
assert torch.equal(ours.batch_sizes, theirs.batch_sizes)
print("rows still there at each step:", ours.batch_sizes.tolist())
print(f"steps of work: {len(ours.data)} packed, {padded[..., 0].numel()} padded")

# %% [markdown]
# Text has no frames but tokens, whole numbers. An **embedding** turns each into a row of a table
# that is learnt with the rest ({doc}`its backward pass <../backprop/layers>` is a scatter-add):
# `(N, T)` numbers become `(N, T, F)`, and from there on all is as above.

# %% [markdown]
# ## Who is speaking?
#
# Nine Japanese men said the vowels /ae/, 640 times in all {cite:p}`kudo1999multidimensional`. A
# window of 25.6 ms slid over the sound in steps of 6.4 ms, and each place of it became a frame of
# 12 numbers that describe the shape of the vocal tract; an utterance has 7 to 29 frames. 270
# utterances are for training, 370 for the test.
#
# `JapaneseVowels` standardises each channel and pads with zeros. `padding_value=0.0` tells the
# network where each utterance ends. Width, learning rate and epochs were chosen on a validation
# split, a fifth of the training utterances; now it trains on all 270, from three seeds.

# %% tags=["nbval-ignore-output"]
from companion.data.japanese_vowels import JapaneseVowels
from companion.training import Classifier

vowels, epochs = JapaneseVowels(batch_size=30, validation_fraction=0.0), 20
vowels.setup()
schedule = partial(
    torch.optim.lr_scheduler.OneCycleLR,
    max_lr=0.01,
    total_steps=epochs * len(vowels.train_dataloader()),
)
accuracies = []
for seed in range(3):
    torch.manual_seed(seed)
    speaker = SequenceClassifier(12, 9, hidden_size=64, cell="lstm", padding_value=0.0)
    module = Classifier(
        speaker,
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        scheduler=schedule,
        scheduler_interval="step",
    )
    result = fit(
        module,
        vowels,
        epochs=epochs,
        seed=seed,
        precision="32-true",
        gradient_clip_val=1.0,
        test=True,
    )
    accuracies.append(result.metrics["test_accuracy"])
mean_accuracy = sum(accuracies) / 3
print("test accuracy:", ", ".join(f"{value:.1%}" for value in accuracies))
print(f"mean of three seeds: {mean_accuracy:.1%}")
assert mean_accuracy >= 0.95

# %% [markdown]
# A recurrent network has an opinion after every frame. How early is it right?

# %%
x_test, labels_test = vowels.test
with torch.no_grad():
    outputs, _ = speaker.recurrent(x_test)
    guesses = speaker.head(outputs).argmax(2)  # (370, 29): an answer after each frame
heard = torch.arange(1, 30)
at = torch.minimum(heard.unsqueeze(0), vowels.lengths["test"].unsqueeze(1)) - 1
right = (guesses.gather(1, at) == labels_test.unsqueeze(1)).float().mean(0)
careless = (guesses[:, -1] == labels_test).float().mean().item()

# %% tags=["hide-input", "nbval-ignore-output"]
milliseconds = 25.6 + 6.4 * (heard - 1)  # the first frame's window, then a step a frame
plt.plot(milliseconds, 100 * right, color=COLORS[1], label="after that much of the utterance")
plt.axhline(100 * careless, color=COLORS[2], linestyle="--", label="with the padding read as data")
plt.ylim(0, 103)
enough = milliseconds[(right > 0.9).int().argmax()].item()
plt.title(f"After {enough:.0f} ms of sound, nine answers in ten are right")
plt.xlabel("sound heard (ms)")
plt.ylabel("test utterances named rightly (%)")
plt.legend(loc="lower right")
plt.show()

# %% tags=["nbval-ignore-output"]
print(f"state after the last real frame: {right[-1]:.1%}")
print(f"state after the padding        : {careless:.1%}")
assert careless < right[-1]

# %% [markdown]
# The dashed line is the failure of the last section on real data: same network, same weights, but
# the answer is read after the padding.
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(module, JapaneseVowels(), epochs=20, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(module, JapaneseVowels(), epochs=20, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(module, JapaneseVowels(), epochs=20, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} sequence-classification
# :::
#
# The same classifier in Keras stands on {doc}`the chapter's Keras page <keras>`.

# %% [markdown]
# ## Widespread mistakes
#
# (mistake-e7)=
# :::{admonition} Widespread mistake E7: an RNN that gets the LSTM's states
# :class: mistake
# `nn.RNN` is called with a pair `(h0, c0)`, as the LSTM is. A plain recurrent network has one
# state.
# :::

# %% tags=["raises-exception"]
network = nn.RNN(2, 4, batch_first=True)
h0, c0 = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)
network(torch.zeros(3, 5, 2), (h0, c0))

# %% [markdown]
# The message says little about the cause. The cure is to pass one tensor, of shape (layers,
# sequences, $H$), or nothing, which stands for zeros. Only the LSTM takes and returns a pair:

# %%
inputs = torch.zeros(3, 5, 2)
_, state = network(inputs, h0)
print("RNN :", tuple(state.shape))
_, (h_last, c_last) = nn.LSTM(2, 4, batch_first=True)(inputs, (h0, c0))
print("LSTM:", tuple(h_last.shape), tuple(c_last.shape))

# %% [markdown]
# The opposite slip is silent: unpack the plain RNN's state with `_, (h, c) = …` and, with two
# layers, `h` and `c` are the states of layer 1 and layer 2.

# %%
two_layers = nn.RNN(2, 4, num_layers=2, batch_first=True)
_, (h, c) = two_layers(torch.rand(3, 5, 2))
print('"h" and "c":', tuple(h.shape), tuple(c.shape), "- no error, and no cell state either")

# %% [markdown]
# ## A character model of Shakespeare
#
# Last, a network that writes. Each character is embedded, a GRU reads them one by one, and after
# each it says how likely every character is to come next. `LanguageModel` trains it on
# the next character of the plays. Three whole plays are held out, and the beginning of them is the
# validation set. The loss is in nats a character.

# %% tags=["nbval-ignore-output"]
from companion.data.shakespeare import Shakespeare
from companion.training import LanguageModel

length, batch, steps = 64, 32, 150
plays = Shakespeare(batch, length, limit=length * batch * steps + 1, validation_limit=30_000)
plays.setup()
schedule = partial(
    torch.optim.lr_scheduler.OneCycleLR,
    max_lr=0.006,
    total_steps=len(plays.train_dataloader()),
)
torch.manual_seed(0)
writer = CharacterRNN(plays.vocab_size, embed_dim=32, hidden_size=192, cell="gru")
module = LanguageModel(
    writer,
    optimizer=partial(torch.optim.AdamW, lr=0.006),
    scheduler=schedule,
    scheduler_interval="step",
)
result = fit(module, plays, precision="32-true", gradient_clip_val=1.0)
nothing = torch.tensor(plays.vocab_size).log().item()
print(f"{len(result.step_losses)} steps, {result.seconds:.0f} s")
print(f"knowing nothing of the {plays.vocab_size} characters costs {nothing:.2f} nats each")
print(f"held-out plays: {result.metrics['val_loss']:.2f} nats a character")
assert result.metrics["val_loss"] < 2.3

# %% tags=["nbval-ignore-output"]
prompt = torch.tensor([plays.encode("HAMLET\n")])
print(plays.decode(writer.sample(prompt, 300, temperature=0.7, seed=1)[0].tolist()))

# %% [markdown]
# Names in capitals, lines, words that are nearly English: from single characters, in seconds. To
# write the next character the network needs its state and the last character only, so a text of any
# length costs the same for each character. The {doc}`transformer <transformer>` of the next page
# gives that up for something else.

# %% [markdown]
# ## Exercises
#
# :::{exercise} One weight, by hand
# :label: ex-rnn-1
# Let $H = F = N = 1$, without tanh: $h_t = w h_{t-1} + x_t$ with $x_1 = 1$, all other inputs 0,
# and $L = h_T$. What is $\partial L/\partial w$? Below which $w > 0$ is it smaller than a millionth
# for $T = 100$?
# :::
#
# :::{solution} ex-rnn-1
# :class: dropdown
# $h_T = w^{T-1}$, so the gradient is $(T-1)\,w^{T-2}$: one term $w^{T-2}$ for each of the $T-1$
# uses of $w$. It vanishes or explodes exponentially in $T$; the factor in front only grows
# linearly. $99\,w^{98} < 10^{-6}$ means $w < (10^{-6}/99)^{1/98} \approx 0.829$.
# :::

# %% tags=["hide-cell"]
# Solution
steps_in_all = 100
for w in (0.8, 0.83, 0.85, 1.0, 1.1):
    weight = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    state = torch.ones((), dtype=torch.float64)  # h_1
    for _ in range(steps_in_all - 1):
        state = weight * state
    state.backward()
    closed = (steps_in_all - 1) * w ** (steps_in_all - 2)
    torch.testing.assert_close(weight.grad.item(), closed, rtol=1e-10, atol=0)
    print(f"w = {w}: gradient {closed:.1e}, below a millionth: {closed < 1e-6}")

# %% [markdown]
# :::{exercise} A gate that stays open
# :label: ex-rnn-2
# A forget gate stands at $f$ for all steps. Which bias does it need (all else 0) so that half of
# the cell is left after 100 steps?
# :::
#
# :::{solution} ex-rnn-2
# :class: dropdown
# $f^{100} = \tfrac12$ gives $f = 2^{-1/100} \approx 0.993$, and the bias is $\log(f/(1-f)) \approx
# 5$. Chrono initialisation spreads the biases between $\log 1 = 0$ and $\log 99 \approx 4.6$.
# :::

# %% tags=["hide-cell"]
# Solution
f = 2 ** (-1 / 100)
bias = torch.logit(torch.tensor(f, dtype=torch.float64))
cells, none = torch.ones(1, 1).double(), torch.zeros(1, 4).double()
a = none.clone()
a[0, 0], a[0, 1] = -50.0, bias  # nothing comes in
for _ in range(100):
    (_, cells), _ = LSTMCell.step(a, none, torch.zeros(1, 1).double(), cells)
print(f"bias {bias:.2f}: after 100 steps {cells.item():.3f} of the cell is left")
assert abs(cells.item() - 0.5) < 1e-9

# %% [markdown]
# :::{exercise} Backwards as well
# :label: ex-rnn-3
# A *bidirectional* network also reads each sequence from its end. Reverse a padded batch so that
# the padding stays at the end, and check the state of the backward direction against
# `nn.GRU(bidirectional=True)` on packed sequences. Why does the network above, which picks the last
# real step by index, not need packing, while this one does?
# :::
#
# :::{solution} ex-rnn-3
# :class: dropdown
# Read forwards, the padding comes after everything that counts and cannot change it. Read
# backwards, it comes first, and the state has been through it before the first real step.
# :::

# %% tags=["hide-cell"]
# Solution
both = nn.GRU(2, 4, batch_first=True, bidirectional=True).double()
packed = nn.utils.rnn.pack_padded_sequence(padded, lengths, True, enforce_sorted=False)
_, (_, expected) = both(packed)  # forward and backward direction

positions = torch.arange(padded.shape[1])
mirrored = (lengths.unsqueeze(1) - 1 - positions) % padded.shape[1]  # 1, 0 | 4, 3, 2: real first
reversed_batch = padded.gather(1, mirrored.unsqueeze(2).expand_as(padded))
one_way = nn.GRU(2, 4, batch_first=True).double()
one_way.load_state_dict(
    {name.removesuffix("_reverse"): p for name, p in both.state_dict().items() if "reverse" in name}
)
found = sequences.last_step(one_way(reversed_batch)[0], lengths)
torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
print("the backward direction, without packing: equal")

# %% [markdown]
# ## Summary
#
# - A recurrent network applies one set of weights at every step; its gradient is a sum over the
#   steps, gathered from the last to the first.
# - Over a lag the gradient is a product of as many Jacobians, of size at most
#   $\lVert W_{hh}\rVert^{\text{lag}}$: it vanishes or explodes. Clip by norm against the second.
# - LSTM and GRU add to their state behind gates; an LSTM whose forget gates are open from the start
#   learns lags of a hundred steps soonest.
# - Truncated BPTT learns nothing that needs a longer gradient than its window.
# - Pick the state at each sequence's real end: by index, by mask or by packing.
#
# Sources: the state update {cite:p}`elman1990finding`; BPTT {cite:p}`werbos1990backpropagation`;
# vanishing gradients {cite:p}`bengio1994learning` and clipping {cite:p}`pascanu2013difficulty`
# (sections 2 and 3.2); LSTM {cite:p}`hochreiter1997long` (the adding problem is experiment 4, there
# with other ranges and lengths) with forget gates {cite:p}`gers2000learning`; GRU
# {cite:p}`cho2014learning` (section 2.3); chrono initialisation {cite:p}`tallec2018recurrent`;
# truncation {cite:p}`williams1990efficient`; the speech data {cite:p}`kudo1999multidimensional`.
