# %% [markdown]
# # Layers: the gradient on its way back
#
# **The question: how does the gradient of the output become a gradient for every weight, through
# any number of layers, at the price of about two forward passes?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# There is a way that needs no calculus. Nudge one weight, see how the loss changes, put the weight
# back, take the next one. It is right, and you can write it in a minute. Here it races the backward
# pass of this page on three networks, from the same weights on the same 64 digits.

# %%
import time
from statistics import median

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from companion.backprop import losses
from companion.backprop.layers import Linear, Sequential, Tanh
from companion.data.digits import Digits
from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style

use_course_style()
torch.set_num_threads(1)  # the timings below compare arithmetic, not threads
digits = Digits(flatten=True, dtype=torch.float64)
digits.setup()
x, labels = (part[:64] for part in digits.train)


# %%
@torch.no_grad()
def by_nudging(network, h=1e-5):
    gradients = []
    for parameter in network.parameters():
        numbers, gradient = parameter.view(-1), torch.zeros(parameter.numel()).double()
        for index in range(len(numbers)):
            numbers[index] += h
            above = losses.cross_entropy(network(x), labels)
            numbers[index] -= 2 * h
            below = losses.cross_entropy(network(x), labels)
            numbers[index] += h
            gradient[index] = (above - below) / (2 * h)
        gradients.append(gradient.view_as(parameter))
    return gradients


@torch.no_grad()
def by_backward_pass(network):
    network.zero_grad()
    delta = losses.cross_entropy_backward(network(x), labels)  # the last page's ∂L/∂logits
    network.backward(delta)  # what this page is about
    return [parameter.grad for parameter in network.parameters()]


# %%
sizes, seconds = [], {by_nudging: [], by_backward_pass: []}
for width in (4, 16, 64):
    torch.manual_seed(0)
    network = Sequential(Linear(64, width), Tanh(), Linear(width, 10)).double()
    sizes.append(sum(parameter.numel() for parameter in network.parameters()))
    results = []
    for method, repeats in ((by_backward_pass, 21), (by_nudging, 1)):
        times = []
        for _ in range(repeats):
            start = time.process_time()  # other programs on this machine do not count
            gradients = method(network)
            times.append(time.process_time() - start)
        results.append(gradients)
        seconds[method].append(median(times))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
print("weights:", sizes, "- the same gradients, to six digits")

# %% tags=["hide-input"]
for method, label, color, style, marker in zip(
    (by_nudging, by_backward_pass),
    ("nudging: two forward passes a weight", "one forward and one backward pass"),
    COLORS[2:0:-1],
    LINESTYLES,
    MARKERS,
    strict=False,
):
    plt.plot(sizes, seconds[method], label=label, color=color, linestyle=style, marker=marker)
plt.xscale("log")
plt.yscale("log")
ratio = seconds[by_nudging][-1] / seconds[by_backward_pass][-1]
plt.title(f"{sizes[-1]:,} weights: the same gradient {float(f'{ratio:.1g}'):,.0f} times faster")
plt.xticks(sizes, [f"{size:,}" for size in sizes])
plt.minorticks_off()
plt.xlabel("weights in the network")
plt.ylabel("processor time for the gradient (s)")
plt.legend()
plt.show()

# %% [markdown]
# Nudging takes two forward passes *for each weight*. The backward pass takes about two forward
# passes *altogether*, for a reason that you will see in a moment. The factor between them grows as
# the number of weights does, and it is why networks can be trained at all.
# This page derives it layer by layer, checks every formula against an independent number, and ends
# with a network that learns Fashion-MNIST on hand-written gradients alone.

# %% [markdown]
# ## The chain rule, from the left
#
# Let a layer map $q$ numbers $x$ to $p$ numbers $y$. Its **Jacobian** is the table of all its
# derivatives, $J_{rs} = \partial y_r / \partial x_s$, of shape $(p, q)$. If you know how the loss
# depends on the outputs, $v_r = \partial L / \partial y_r$, the chain rule sums over them:
#
# $$\frac{\partial L}{\partial x_s} = \sum_r \frac{\partial L}{\partial y_r}\,
#   \frac{\partial y_r}{\partial x_s} = (v^\top J)_s .$$
#
# A row vector times a matrix: a **vector–Jacobian product**, VJP. Layers in a row give
# $v^\top J_3 J_2 J_1$. Bracket it from the left, $((v^\top J_3) J_2) J_1$, and there is never
# anything but a vector to multiply with. That order is *back*propagation
# {cite:p}`rumelhart1986learning,baydin2018automatic`.
#
# Now the smallest case worth writing out: a linear layer $Y = XW + b$ with $n = 2$ samples,
# $d_\text{in} = 3$ inputs and $d_\text{out} = 2$ outputs. Laid out row by row, $Y$ has 4 numbers,
# $X$ has 6, $W$ has 6.

# %%
generator = torch.Generator().manual_seed(0)
n, d_in, d_out = 2, 3, 2
X = torch.randn(n, d_in, generator=generator).double()
W = torch.randn(d_in, d_out, generator=generator).double()
b = torch.randn(d_out, generator=generator).double()

J_X = torch.zeros(n, d_out, n, d_in).double()  # J_X[i, k, i', j] = ∂y_ik / ∂x_i'j
J_W = torch.zeros(n, d_out, d_in, d_out).double()  # J_W[i, k, j, k'] = ∂y_ik / ∂w_jk'
for i in range(n):
    for k in range(d_out):
        for j in range(d_in):
            J_X[i, k, i, j] = W[j, k]  # y_ik holds x_ij with the factor w_jk
            J_W[i, k, j, k] = X[i, j]  # and w_jk with the factor x_ij
J_X, J_W = J_X.reshape(n * d_out, n * d_in), J_W.reshape(n * d_out, d_in * d_out)

by_autograd = torch.autograd.functional.jacobian(lambda X, W: X @ W + b, (X, W))
torch.testing.assert_close(J_X, by_autograd[0].reshape(J_X.shape))
torch.testing.assert_close(J_W, by_autograd[1].reshape(J_W.shape))
print("both Jacobians", tuple(J_X.shape), "equal autograd's")

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.1))
names = [f"$y_{{{i}{k}}}$" for i in (1, 2) for k in (1, 2)]
columns = {
    "∂Y/∂X: one block a sample": [f"$x_{{{i}{j}}}$" for i in (1, 2) for j in (1, 2, 3)],
    "∂Y/∂W: gaps between outputs": [f"$w_{{{j}{k}}}$" for j in (1, 2, 3) for k in (1, 2)],
}
for axes, J, (title, ticks), symbol in zip(panels, (J_X, J_W), columns.items(), "wx", strict=True):
    axes.imshow(J != 0, cmap="Greys", vmin=0, vmax=2.2)
    for row in range(4):
        for column in range(6):
            i, k = divmod(row, 2)
            j = column % 3 if symbol == "w" else column // 2
            text = f"${symbol}_{{{(j + 1) if symbol == 'w' else (i + 1)}"
            text += f"{(k + 1) if symbol == 'w' else (j + 1)}}}$"
            axes.text(column, row, text if J[row, column] else "0", ha="center", va="center")
    axes.set_xticks(range(6), ticks)
    axes.set_yticks(range(4), names)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(f"derivative by this entry of {'X' if symbol == 'w' else 'W'}", fontsize=11)
    axes.grid(False)
panels[0].set_ylabel("of this entry of Y", fontsize=11)
plt.show()

# %% [markdown]
# Half of the entries are 0, and the others are copies of $W$ and $X$. No sample's output depends on
# another sample's input: hence the blocks on the left. No output depends on another output's
# weights: hence the gaps on the right.
#
# :::{admonition} Predict first
# :class: predict
# The first layer of the network at the end of this page has $d_\text{in} = 784$,
# $d_\text{out} = 256$ and sees $n = 256$ samples at a time. How many bytes does its $\partial Y /
# \partial W$ need in float32: kilobytes, megabytes, gigabytes? Which share of it is not 0?
# :::

# %%
n_real, in_real, out_real = 256, 784, 256
entries = (n_real * out_real) * (in_real * out_real)
print(f"the Jacobian dY/dW : {entries:,} numbers, {4 * entries / 1e9:.1f} GB")
print(f"of these not 0     : 1 in {out_real}")
print(f"what we want, dL/dW: {in_real * out_real:,} numbers, {4 * in_real * out_real / 1e6:.1f} MB")

# %% [markdown]
# Nobody forms a Jacobian. A **backward pass** is a formula for the product $v^\top J$ that never
# writes $J$ down. The rest of the page is a list of such formulas.

# %% [markdown]
# ## Linear: three products
#
# Let $\delta = \partial L/\partial Y$, of shape $(n, d_\text{out})$ like $Y$. From
# $y_{ik} = \sum_j x_{ij} w_{jk} + b_k$,
#
# $$\frac{\partial L}{\partial x_{ij}} = \sum_k \delta_{ik}\, w_{jk}, \qquad
# \frac{\partial L}{\partial w_{jk}} = \sum_i x_{ij}\, \delta_{ik}, \qquad
# \frac{\partial L}{\partial b_k} = \sum_i \delta_{ik},$$
#
# and as matrices, with the shapes that leave no choice:
#
# | gradient | product | shapes |
# |---|---|---|
# | $\partial L/\partial X$ | $\delta W^\top$ | `(n, d_out) (d_out, d_in) = (n, d_in)` |
# | $\partial L/\partial W$ | $X^\top \delta$ | `(d_in, n) (n, d_out) = (d_in, d_out)` |
# | $\partial L/\partial b$ | column sums of $\delta$ | `(d_out,)` |
#
# A derivative has the shape of what it belongs to. The forward pass is one matrix product, the
# backward pass is two of the same size: there are the "two forward passes" of this page's opening.
#
# First the naive version, one sample at a time:
# each adds the outer product of its input and its $\delta$. Then all at once.


# %%
def linear_backward_naive(delta, X, W):
    grad_X, grad_W, grad_b = torch.zeros_like(X), torch.zeros_like(W), torch.zeros_like(W[0])
    for i in range(len(X)):
        grad_X[i] = W @ delta[i]
        grad_W += torch.outer(X[i], delta[i])
        grad_b += delta[i]
    return grad_X, grad_W, grad_b


def linear_backward(delta, X, W):
    return delta @ W.T, X.T @ delta, delta.sum(0)


# %% [markdown]
# `check` sends a random $\delta$ through a backward pass and through autograd. It will try every
# formula of this page.


# %%
def check(name, function, backward, *inputs):
    """Compare a backward pass with autograd's, for a random delta that arrives from above."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    output = function(*leaves)
    delta = torch.randn(output.shape, generator=generator).to(output.dtype)
    expected = torch.autograd.grad(output, leaves, delta)
    for mine, autograds in zip(backward(delta), expected, strict=True):
        torch.testing.assert_close(mine, autograds, rtol=1e-10, atol=1e-12)
    print(f"{name:12s} agrees with autograd")


# %%
X = torch.randn(8, 5, generator=generator).double()
W = torch.randn(5, 3, generator=generator).double()
b = torch.randn(3, generator=generator).double()
check("linear", lambda X, W, b: X @ W + b, lambda delta: linear_backward(delta, X, W), X, W, b)
check("naive", lambda X, W, b: X @ W + b, lambda d: linear_backward_naive(d, X, W), X, W, b)
delta = torch.randn(8, 3, generator=generator).double()
vjp = delta.flatten() @ torch.autograd.functional.jacobian(lambda W: X @ W, W).reshape(24, 15)
torch.testing.assert_close(vjp.reshape(5, 3), X.T @ delta)
print("and with the Jacobian, formed once to be sure")

# %% tags=["nbval-ignore-output"]
big_X, big_W = torch.randn(n_real, in_real), torch.randn(in_real, out_real)
big_delta = torch.randn(n_real, out_real)
times = {linear_backward_naive: [], linear_backward: []}
for _ in range(7):
    for function, measured in times.items():
        start = time.process_time()
        function(big_delta, big_X, big_W)
        measured.append(time.process_time() - start)
ratio = min(times[linear_backward_naive]) / min(times[linear_backward])
print(f"{n_real} samples: the loop takes {ratio:.0f} times as long as the products")

# %% [markdown]
# The library keeps $W$ transposed, $(d_\text{out}, d_\text{in})$, as `torch.nn.Linear` does. There
# the same three lines read $\delta W$, $\delta^\top X$ and $\sum_i \delta_i$:
# `companion.backprop.layers.linear_backward`.

# %% [markdown]
# ## Activations: a slope for each number
#
# An activation works on each number alone: $y_{ik} = f(x_{ik})$. Its Jacobian is diagonal, and the
# product with it is one multiplication a number,
#
# $$\frac{\partial L}{\partial X} = \delta \odot f'(X).$$
#
# | activation | $f(x)$ | slope $f'(x)$ | what it must keep |
# |---|---|---|---|
# | ReLU | $\max(x, 0)$ | 1 if $y > 0$, else 0 | $y$ |
# | sigmoid | $1/(1 + e^{-x})$ | $y\,(1 - y)$ | $y$ |
# | tanh | $\tanh x$ | $1 - y^2$ | $y$ |
# | GELU {cite:p}`hendrycks2016gelu` | $x\,\Phi(x)$ | $\Phi(x) + x\,\varphi(x)$ | $x$ |
#
# $\Phi$ is the distribution function of the standard normal and $\varphi(x) =
# e^{-x^2/2}/\sqrt{2\pi}$ its derivative, so the GELU's slope is the product rule. The first three
# slopes can be had from the *output*. That is worth knowing: if a linear layer comes next, the
# output is its input, which it keeps anyway.
#
# At its kink the ReLU has no derivative. Any value between 0 and 1 would do; the libraries take 0.


# %%
def standard_normal_cdf(x):
    return torch.special.erfc(-x / 2**0.5) / 2


def density(x):
    return torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5


slopes = {
    "ReLU": (torch.relu, lambda x: (x > 0).double()),
    "sigmoid": (torch.sigmoid, lambda x: torch.sigmoid(x) * (1 - torch.sigmoid(x))),
    "tanh": (torch.tanh, lambda x: 1 - torch.tanh(x) ** 2),
    "GELU": (F.gelu, lambda x: standard_normal_cdf(x) + x * density(x)),
}
for name, (function, slope) in slopes.items():
    check(name, function, lambda delta, slope=slope: (delta * slope(X),), X)

# %% tags=["hide-input"]
z = torch.linspace(-5, 5, 401).double()
for (name, (_, slope)), color, style in zip(slopes.items(), COLORS, LINESTYLES, strict=False):
    plt.plot(z, slope(z), label=name, color=color, linestyle=style)
plt.axhline(0.25, color="#888888", linewidth=0.8, linestyle="-")
plt.text(5.3, 0.265, "1/4: no sigmoid lets more through", fontsize=9, ha="right")
plt.title("Every sigmoid on the way costs at least three quarters of the gradient")
plt.xlabel("input x")
plt.ylabel("slope f'(x), the factor on the gradient")
plt.legend()
plt.show()

# %% [markdown]
# ## Softmax and cross-entropy: the start of the way back
#
# The {doc}`previous page <losses>` derived where $\delta$ begins. One row of softmax has the
# Jacobian $\operatorname{diag}(p) - p\,p^\top$, so its VJP needs no matrix either:
#
# $$v^\top\bigl(\operatorname{diag}(p) - p\,p^\top\bigr)
#   = p \odot \bigl(v - \langle v, p \rangle\bigr).$$
#
# ($\langle v, p\rangle = \sum_k v_k p_k$.) After the softmax comes the cross-entropy
# $-\tfrac1n \sum_k y_k \log p_k$, $y$ being the one-hot label of the row; what it sends back is
# $v = -y/(np)$. Put in, with $\sum_k y_k = 1$, the two collapse to $(p - y)/n$, and for all rows at
# once to $\delta = (P - Y)/n$. Take this short form: the long one divides by probabilities.

# %%
Z = torch.randn(8, 4, generator=generator).double()
one_hot = F.one_hot(torch.arange(8) % 4, 4).double()
P = losses.softmax(Z)

v = -one_hot / P / len(Z)  # ∂L/∂P of the mean of -log p
long_way = P * (v - (v * P).sum(1, keepdim=True))  # the VJP of softmax
short_way = (P - one_hot) / len(Z)
torch.testing.assert_close(long_way, short_way)
torch.testing.assert_close(short_way, losses.cross_entropy_backward(Z, torch.arange(8) % 4))
print("two steps or one: the same delta")

# %% [markdown]
# ## A network of nothing but matrix products
#
# Two linear layers, a ReLU between them, softmax ($P$) and cross-entropy ($L$) on top. Here are all
# of its numbers and their shapes, on the way there and back.

# %% tags=["hide-input"]
figure, axes = plt.subplots(figsize=(7.6, 3.7))
axes.set_axis_off()
axes.set_xlim(-0.75, 9.0)
axes.set_ylim(-2.5, 2.6)
nodes = [
    ("$X$", "(n, 64)", None),
    ("$Z_1 = XW_1 + b_1$", "(n, 32)", r"$\delta_1 = \partial L/\partial Z_1$"),
    ("$A_1 = \\max(Z_1, 0)$", "(n, 32)", r"$\partial L/\partial A_1$"),
    ("$Z_2 = A_1W_2 + b_2$", "(n, 10)", r"$\delta_2 = (P - Y)/n$"),
    ("$P$,  $L$", "(n, 10), ()", "1"),
]
places = [0, 1.9, 4.1, 6.3, 8.3]
for place, (name, shape, back) in zip(places, nodes, strict=True):
    wide = 0.95 if "=" in name else 0.5 if name == "$X$" else 0.65
    axes.add_patch(
        plt.Rectangle((place - wide, -0.35), 2 * wide, 0.95, facecolor="#eef3f8", edgecolor="black")
    )
    axes.text(place, 0.28, name, ha="center", va="center", fontsize=11)
    axes.text(place, -0.1, shape, ha="center", va="center", fontsize=10.5, color="#333333")
    if back:
        axes.text(place, -1.15, back, ha="center", va="center", fontsize=11, color=COLORS[2])
for left, right, (gap_left, gap_right) in zip(
    places, places[1:], ((0.5, 0.95), (0.95, 0.95), (0.95, 0.95), (0.95, 0.65)), strict=False
):
    style = {"arrowstyle": "-|>", "linewidth": 1.6}
    axes.annotate("", (right - gap_right, 0.12), (left + gap_left, 0.12), arrowprops=style)
back_style = {"arrowstyle": "-|>", "linewidth": 1.6, "color": COLORS[2], "linestyle": "--"}
for left, right in zip(places[1:], places[2:], strict=False):
    wide = 0.3 if right == places[-1] else 0.8
    axes.annotate("", (left + 0.8, -1.15), (right - wide, -1.15), arrowprops=back_style)
for place, weight, shapes, gradient in (
    (1.9, "$W_1, b_1$", "(64, 32), (32,)", r"$X^\top\delta_1$, sum of $\delta_1$"),
    (6.3, "$W_2, b_2$", "(32, 10), (10,)", r"$A_1^\top\delta_2$, sum of $\delta_2$"),
):
    axes.text(place, 2.15, weight, ha="center", fontsize=11)
    axes.text(place, 1.75, shapes, ha="center", fontsize=10.5, color="#333333")
    axes.annotate("", (place, 0.6), (place, 1.65), arrowprops={"arrowstyle": "-|>"})
    axes.annotate("", (place, -1.95), (place, -1.4), arrowprops=back_style)
    axes.text(place, -2.3, gradient, ha="center", fontsize=11, color=COLORS[2])
axes.set_title("Forward (solid) keeps X, A₁ and P; backward (dashed) uses them in reverse")
plt.show()

# %% [markdown]
# Each gradient on the dashed path has the shape of the box above it. In code that is four lines of
# forward pass and six of backward pass.

# %%
x, labels = digits.train
x_test, labels_test = digits.test
generator = torch.Generator().manual_seed(0)
# The size of the first weights is a subject of its own: "How far the gradient comes", below.
W1 = torch.randn(64, 32, generator=generator).double() * (2 / 64) ** 0.5
W2 = torch.randn(32, 10, generator=generator).double() * (2 / 32) ** 0.5
b1, b2 = torch.zeros(32).double(), torch.zeros(10).double()


def forward(X):
    Z1 = X @ W1 + b1
    A1 = Z1.clamp(min=0)
    Z2 = A1 @ W2 + b2
    return A1, losses.softmax(Z2)


def backward(X, Y, A1, P):
    delta2 = (P - Y) / len(X)
    grad_W2, grad_b2 = A1.T @ delta2, delta2.sum(0)
    grad_A1 = delta2 @ W2.T
    delta1 = grad_A1 * (A1 > 0)
    grad_W1, grad_b1 = X.T @ delta1, delta1.sum(0)
    return grad_W1, grad_b1, grad_W2, grad_b2


# %% [markdown]
# Before it may learn, it is checked. Then it learns, batch by batch, as on the last page.

# %%
leaves = [value.clone().requires_grad_() for value in (W1, b1, W2, b2)]
hidden = (x[:50] @ leaves[0] + leaves[1]).relu()
F.cross_entropy(hidden @ leaves[2] + leaves[3], labels[:50]).backward()
Y = F.one_hot(labels, 10).double()
for mine, leaf in zip(backward(x[:50], Y[:50], *forward(x[:50])), leaves, strict=True):
    torch.testing.assert_close(mine, leaf.grad, rtol=1e-10, atol=1e-12)

for _ in range(15):
    for rows in torch.randperm(len(x), generator=generator).split(32):
        A1, P = forward(x[rows])
        gradients = backward(x[rows], Y[rows], A1, P)
        for parameter, gradient in zip((W1, b1, W2, b2), gradients, strict=True):
            parameter -= 0.1 * gradient  # all four gradients exist before the first step
accuracy = (forward(x_test)[1].argmax(1) == labels_test).double().mean().item()
assert accuracy > 0.95
print(f"a two-layer network without autograd: {accuracy:.1%} of the test digits right")

# %% [markdown]
# The comment in the last loop names a classic trap. $\partial L/\partial A_1$ needs the $W_2$ of
# the forward pass. Update $W_2$ as soon as its own gradient is known, and the layers below receive
# the error through weights that never made the prediction.

# %% [markdown]
# ## Normalisation: the derivation with three terms
#
# **Batch normalisation** {cite:p}`ioffe2015batch` gives each feature mean 0 and variance 1 over the
# batch, then lets the network choose scale $\gamma$ and shift $\beta$. For one feature with the
# values $x_1 \dots x_n$ (from here on $v$ is their variance; the small $\varepsilon$ guards against
# a division by 0):
#
# $$\mu = \frac1n\sum_i x_i, \quad v = \frac1n\sum_i (x_i - \mu)^2, \quad
# s = \frac{1}{\sqrt{v + \varepsilon}}, \quad \hat x_i = (x_i - \mu)\,s, \quad
# y_i = \gamma\,\hat x_i + \beta .$$
#
# The parameters are easy: $\partial L/\partial\gamma = \sum_i \delta_i \hat x_i$ and $\partial
# L/\partial\beta = \sum_i \delta_i$. For the input, let $g_i = \partial L/\partial \hat x_i =
# \delta_i\gamma$. Now every $\hat x_i$ depends on every $x_j$, in three ways: directly, through
# $\mu$, and through $v$. The pieces are
#
# $$\frac{\partial\mu}{\partial x_j} = \frac1n, \qquad
# \frac{\partial v}{\partial x_j} = \frac2n\,(x_j - \mu), \qquad
# \frac{\partial s}{\partial v} = -\tfrac12\, s^3 .$$
#
# (In the second one the derivative of $\mu$ drops out, as $\sum_i (x_i - \mu) = 0$.) Put together,
# with $\mathbb 1_{ij}$ for 1 if $i = j$ and 0 otherwise,
#
# $$\frac{\partial \hat x_i}{\partial x_j}
# = s\,\Bigl(\mathbb 1_{ij} - \frac1n\Bigr) - (x_i - \mu)\,\frac{s^3}{n}\,(x_j - \mu)
# = s\,\Bigl(\mathbb 1_{ij} - \frac1n - \frac{\hat x_i\,\hat x_j}{n}\Bigr),$$
#
# and the VJP, with means over the batch:
#
# $$\boxed{\;\frac{\partial L}{\partial x} = s\,\Bigl(g - \operatorname{mean}(g)
# - \hat x \odot \operatorname{mean}(g \odot \hat x)\Bigr)\;}$$
#
# **Layer normalisation** {cite:p}`ba2016layer` is the same formula over the other axis: the
# features of one sample. It needs no batch, and it does in evaluation what it does in training.
# Its $\gamma$ and $\beta$ still belong to the features, so *their* gradients are sums over the
# batch in both.

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 2.7))
for axes, title, across in zip(
    panels,
    ("Batch norm: one feature, all samples", "Layer norm: one sample, all features"),
    (False, True),
    strict=True,
):
    for row in range(5):
        for column in range(7):
            inside = row == 1 if across else column == 2
            axes.add_patch(
                plt.Rectangle(
                    (column, 4 - row),
                    1,
                    1,
                    facecolor=COLORS[5] if inside else "white",
                    edgecolor="black",
                    hatch="///" if inside else None,
                )
            )
    axes.set_xlim(-0.1, 7.1)
    axes.set_ylim(-0.1, 5.1)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("features, $d$")
    axes.set_ylabel("samples, $n$")
    axes.set_title(title, fontsize=11)
    axes.grid(False)
plt.show()


# %%
def normalize(x, dim, eps=1e-5):
    mean = x.mean(dim, keepdim=True)
    s = 1 / ((x - mean).square().mean(dim, keepdim=True) + eps).sqrt()
    return (x - mean) * s, s


def normalize_backward(g, x_hat, s, dim):
    through_mean = g.mean(dim, keepdim=True)
    through_variance = x_hat * (g * x_hat).mean(dim, keepdim=True)
    return s * (g - through_mean - through_variance)


gamma = torch.randn(5, generator=generator).double()
beta = torch.randn(5, generator=generator).double()
for name, dim, function in (
    ("batch norm", 0, lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True)),
    ("layer norm", 1, lambda x, g, b: F.layer_norm(x, (5,), g, b)),
):
    x_hat, s = normalize(X, dim)

    def all_three(delta, x_hat=x_hat, s=s, dim=dim):
        grad_x = normalize_backward(delta * gamma, x_hat, s, dim)
        return grad_x, (delta * x_hat).sum(0), delta.sum(0)

    check(name, function, all_three, X, gamma, beta)

# %% [markdown]
# :::{admonition} Predict first
# :class: predict
# Let any $\delta$ at all arrive at a batch normalisation. What is the *sum* of $\partial L/\partial
# x_i$ over the batch? And what does it mean for the bias of the linear layer just before?
# :::

# %%
x_hat, s = normalize(X, 0)
for seed in range(3):
    anything = torch.randn(X.shape, generator=torch.Generator().manual_seed(seed)).double()
    total = normalize_backward(anything, x_hat, s, 0).sum(0)
    print("every feature's sum over the batch is 0 to 12 digits:", bool(total.abs().max() < 1e-12))

# %% [markdown]
# Always 0. Shift all samples together and the outputs do not move, so the gradient has no part in
# that direction; the second term took it out. (The third takes out stretching.) The bias
# before a batch normalisation is exactly such a shift: its gradient is 0, and it may be left out.
#
# ### Training is not evaluation
#
# A single image has no batch to be normalised by. Batch normalisation keeps running averages of
# $\mu$ and $v$ while it trains, and uses them in evaluation, where they are constants: the gradient
# has only its first term. The averages start at 0 and 1, and each batch moves them a tenth of the
# way: 0.9 of the old and 0.1 of the new.
#
# One detail decides whether a trained network gives the same answers here and in PyTorch. The batch
# is normalised with its *biased* variance $v$ (with $1/n$), but the running average takes the
# *unbiased* one, $v\,n/(n-1)$.

# %%
from companion.backprop.normalization import BatchNorm1d, LayerNorm

ours, theirs = BatchNorm1d(5).double(), nn.BatchNorm1d(5).double()
for layer in (ours, theirs):
    layer(X)
torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-12, atol=0)
biased, unbiased = X.var(0, correction=0), X.var(0, correction=1)
print(
    "running variance = 0.9 + 0.1 * unbiased:",
    torch.allclose(ours.running_var, 0.9 + unbiased / 10),
)
print(
    "running variance = 0.9 + 0.1 * biased  :", torch.allclose(ours.running_var, 0.9 + biased / 10)
)

# %% [markdown]
# ## How far the gradient comes
#
# Thirty layers of width 128 and a random $\delta$ at the top. The weights are random with spread
# $1/\sqrt{128}$, so that a product with them keeps the size of a signal; for the ReLU, which drops
# half of it, they are $\sqrt2$ larger.
#
# :::{admonition} Predict first
# :class: predict
# How large is the gradient at the *first* layer compared with the last, when all activations are
# sigmoids? ReLUs? And sigmoids with a batch normalisation before each?
# :::

# %%
from companion.backprop.layers import ReLU, Sigmoid


@torch.no_grad()
def gradient_sizes(activation, gain=1.0, normalise=False, depth=30, width=128):
    torch.manual_seed(0)
    blocks = []
    for _ in range(depth):
        linear = Linear(width, width).double()
        linear.weight.normal_(std=gain / width**0.5)
        blocks.append(
            Sequential(linear, *([BatchNorm1d(width).double()] if normalise else []), activation())
        )
    signal = torch.randn(256, width).double()
    for block in blocks:
        signal = block(signal)
    delta, sizes = torch.randn_like(signal), []
    for block in reversed(blocks):
        delta = block.backward(delta)
        sizes.append(delta.norm().item())
    return torch.tensor(sizes[::-1]) / sizes[0]


flows = {
    "ReLU, weights √2 larger": gradient_sizes(ReLU, gain=2**0.5),
    "sigmoid + batch norm": gradient_sizes(Sigmoid, normalise=True),
    "tanh": gradient_sizes(Tanh),
    "sigmoid": gradient_sizes(Sigmoid),
}
for name, sizes in flows.items():
    per_layer = (sizes[0] / sizes[-1]) ** (1 / (len(sizes) - 1))
    print(
        f"{name:24s} first layer / last: {sizes[0].item():8.1e}, a factor {per_layer:.2f} a layer"
    )

# %% tags=["hide-input"]
for (name, sizes), color, style in zip(flows.items(), COLORS, LINESTYLES, strict=False):
    plt.plot(range(1, 31), sizes, label=name, color=color, linestyle=style)
plt.yscale("log")
plt.xlabel("layer (1 = at the input)")
plt.ylabel("size of the gradient, relative to layer 30")
exponent = round(torch.log10(flows["sigmoid"][0]).item())
plt.title(f"Sigmoids: one part in 10$^{{{-exponent}}}$ of the gradient reaches layer 1")
plt.legend()
plt.show()

# %% [markdown]
# The sigmoid's slope is at most $\tfrac14$, and layer upon layer the factors multiply: the gradient
# *vanishes*, and gradient descent hardly moves the first layers. With ReLUs half of the paths pass
# at full size, and weights $\sqrt2$ larger make up for the other half. Batch normalisation before
# each sigmoid divides by a small standard deviation on the way back (the outputs of the sigmoid
# below vary little), which makes up for the slope. Chapter 4 returns to this with initialisation.

# %% [markdown]
# ## Dropout and embedding
#
# **Dropout** {cite:p}`srivastava2014dropout` sets each number to 0 with probability $p$ in training
# and scales the others by $1/(1-p)$, so that the mean stays what it was and evaluation needs no
# correction ("inverted" dropout, section 10 of the paper, whose $p$ is the probability to *keep*).
# With the mask $m$ of zeros and ones,
#
# $$y = x \odot \frac{m}{1-p} \quad\Longrightarrow\quad
# \frac{\partial L}{\partial x} = \delta \odot \frac{m}{1-p}:$$
#
# the *same* mask and the *same* scale. Draw a new mask on the way back and the gradient belongs to
# another network.
#
# An **embedding** looks rows up in a table: $y_i = W_{t_i}$ for the token $t_i$. As a matrix
# product that would be a one-hot row times $W$, so the gradient is $\text{onehot}^\top \delta$:
# row $t$ of $\partial L/\partial W$ is the *sum* of $\delta_i$ over all $i$ with $t_i = t$. In
# code: scatter-add.
#
# :::{admonition} Predict first
# :class: predict
# Tokens `[2, 0, 2, 2]`, all $\delta = 1$. What does `grad[tokens] = delta` leave in row 2, what
# `grad[tokens] += delta`, and what is right?
# :::

# %%
tokens, delta = torch.tensor([2, 0, 2, 2]), torch.ones(4, 1)
assigned, augmented = torch.zeros(4, 1), torch.zeros(4, 1)
assigned[tokens] = delta
augmented[tokens] += delta
added = torch.zeros(4, 1).index_add(0, tokens, delta)
by_one_hot = F.one_hot(tokens, 4).float().T @ delta
print("grad[tokens] = delta :", assigned.flatten().tolist())
print("grad[tokens] += delta:", augmented.flatten().tolist())
print("index_add            :", added.flatten().tolist())
assert torch.equal(added, by_one_hot)

# %% [markdown]
# The `+=` reads all rows first and writes them afterwards, so two of the three additions are lost.
# In a language model the most common words would learn from one of their many uses in a batch, as
# if they were rare.

# %% [markdown]
# ## The same as modules
#
# In the companion each layer is a pair of plain functions. `compute` returns the output and what to
# keep; `vjp` turns $\delta$ and what was kept into gradients. Around them, `Layer` adds the
# housekeeping of an `nn.Module`. This is the whole of two of them:

# %%
import inspect

from companion.backprop.layers import GELU, Dropout, Embedding

for function in (Linear.compute, Linear.vjp, GELU.compute, GELU.vjp):
    print(inspect.getsource(function))

# %% [markdown]
# And here are all of them beside `torch.nn`, from the same `state_dict` (and, for dropout, the same
# random numbers): output, gradient of the input, gradient of the parameters.

# %%
pairs = [
    (Linear(6, 4), nn.Linear(6, 4)),
    (ReLU(), nn.ReLU()),
    (Sigmoid(), nn.Sigmoid()),
    (Tanh(), nn.Tanh()),
    (GELU(), nn.GELU()),
    (LayerNorm(6), nn.LayerNorm(6)),
    (BatchNorm1d(6), nn.BatchNorm1d(6)),
    (Dropout(0.3), nn.Dropout(0.3)),
    (Embedding(7, 3), nn.Embedding(7, 3)),
]
for ours, theirs in pairs:
    ours, theirs = ours.double(), theirs.double()
    ours.load_state_dict(theirs.state_dict())
    kind = type(ours).__name__
    tokens = torch.tensor([[1, 6, 1], [0, 1, 3]])
    value = tokens if kind == "Embedding" else torch.randn(5, 6, generator=generator).double()
    leaf = value.clone().requires_grad_(kind != "Embedding")
    torch.manual_seed(0)  # dropout draws its mask from here
    expected = theirs(leaf)
    delta = torch.randn(expected.shape, generator=generator).double()
    expected.backward(delta)
    torch.manual_seed(0)
    torch.testing.assert_close(ours(value), expected, rtol=1e-10, atol=1e-12)
    grad_input = ours.backward(delta)
    if grad_input is not None:
        torch.testing.assert_close(grad_input, leaf.grad, rtol=1e-10, atol=1e-12)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-12)
    print(f"{kind:12s} equals torch.nn.{kind}")

# %% [markdown]
# A formula that is made of differentiable operations can be differentiated once more.
# `ManualFunction` sets a pair into autograd's graph, and PyTorch's own checkers try first and
# second derivatives against central differences:

# %%
from torch.autograd import gradcheck, gradgradcheck

from companion.backprop.base import ManualFunction

inputs = [torch.randn(s, generator=generator).double() for s in ((4, 3), (3,), (3,))]
inputs = [value.requires_grad_() for value in inputs]
for layer in (LayerNorm, BatchNorm1d):
    as_function = lambda *values, layer=layer: ManualFunction.apply(layer, *values)  # noqa: E731
    print(
        f"{layer.__name__:12s}", gradcheck(as_function, inputs), gradgradcheck(as_function, inputs)
    )

# %% [markdown]
# ## Where the memory goes
#
# The backward pass uses numbers of the forward pass, so these must be kept until it comes by. Here
# is the network that you will train in a moment, after one forward pass of a batch. Its linear
# layers have no bias where a batch normalisation would take it out again.

# %%
from companion.backprop.base import kept_bytes, kept_tensors


def build_network():
    torch.manual_seed(0)
    return Sequential(
        Linear(784, 256, bias=False),
        BatchNorm1d(256),
        ReLU(),
        Linear(256, 128, bias=False),
        BatchNorm1d(128),
        ReLU(),
        Linear(128, 10),
    )


network = build_network()
with torch.no_grad():
    network(torch.randn(n_real, in_real))

# %%
parameter_bytes = sum(4 * parameter.numel() for parameter in network.parameters())
seen = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
print("layer          keeps                                      new bytes")
for layer in network:
    kept = [t for t in kept_tensors(layer) if t.untyped_storage().data_ptr() not in seen]
    seen |= {t.untyped_storage().data_ptr() for t in kept}
    what = ", ".join(str(tuple(t.shape)) for t in kept) or "(its input is already there)"
    size = sum(t.untyped_storage().nbytes() for t in kept)
    print(f"{type(layer).__name__:14s} {what:38s} {size:13,}")
total = kept_bytes(network)
print(f"kept for {n_real} samples: {total:,} bytes; parameters: {parameter_bytes:,} bytes")
even = parameter_bytes / (total / n_real)
print(f"from {even:.0f} samples a batch on, activations outweigh parameters")

# %% [markdown]
# Parameters cost the same for any batch; what is kept grows with it. That is the memory that
# activation checkpointing, mixed precision and pipeline parallelism of later chapters fight over.
# The linear layer after a ReLU adds nothing: the ReLU keeps its output, and that is the linear
# layer's input. `backward` lets go of each piece as it passes, so a second call has nothing to work
# with:

# %% tags=["raises-exception"]
delta = torch.randn(n_real, 10)
network.backward(delta)
assert kept_bytes(network) == 0
network.backward(delta)

# %% [markdown]
# ## A network that learns with gradients of your own
#
# `ManualBackprop` puts these layers under Lightning. Its training step is the chapter so far:

# %%
from companion.backprop.manual import ManualBackprop

print(inspect.getsource(ManualBackprop.training_step))

# %% [markdown]
# The lines around `optimizer.step()` serve several processes, the schedule and the log.
# `automatic_optimization = False` tells the Trainer to keep its hands off the gradients, and
# `torch.no_grad()` switches autograd off. No graph is recorded, no `loss.backward()` is called.
# `input_gradient=False` spares the product $\delta W^\top$ of the first layer: nobody wants the
# gradient of the images.
#
# First the proof that it is training as you know it. One hundred steps in float64, from the same
# weights on the same batches, once by hand and once by autograd:

# %%
from functools import partial

from companion.training import Classifier, fit

torch.manual_seed(0)
by_hand = Sequential(Linear(64, 32), ReLU(), LayerNorm(32), Linear(32, 10)).double()
twin = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 10)).double()
twin.load_state_dict(by_hand.state_dict())


def little_digits():
    return Digits(batch_size=32, flatten=True, limit=320, dtype=torch.float64)


adam = partial(torch.optim.Adam, lr=1e-2)
first = fit(ManualBackprop(by_hand, optimizer=adam), little_digits(), epochs=10)
second = fit(Classifier(twin, optimizer=adam), little_digits(), epochs=10)
for mine, autograds in zip(by_hand.parameters(), twin.parameters(), strict=True):
    torch.testing.assert_close(mine, autograds, rtol=1e-10, atol=1e-12)
print(len(first.step_losses), "steps of Adam: the same weights to ten digits")

# %% [markdown]
# Now the real thing: pictures of clothing {cite:p}`xiao2017fashion`, two hidden layers with
# normalisation and ReLU, AdamW, and a learning rate that rises and falls once.

# %% tags=["nbval-ignore-output"]
from companion.data.fashion_mnist import FashionMNIST

fashion, epochs = FashionMNIST(batch_size=256, flatten=True), 3
fashion.setup()
schedule = partial(
    torch.optim.lr_scheduler.OneCycleLR,
    max_lr=0.01,
    total_steps=epochs * len(fashion.train_dataloader()),
)
network = build_network()
module = ManualBackprop(
    network,
    optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.01),
    scheduler=schedule,
    scheduler_interval="step",
)
result = fit(module, fashion, epochs=epochs, precision="32-true", test=True)
test_accuracy = result.metrics["test_accuracy"]
print(f"{len(fashion.train[0]):,} training images, {len(fashion.test[0]):,} test images")
print(
    f"{len(result.step_losses)} steps in {result.seconds:.0f} s, test accuracy {test_accuracy:.1%}"
)
assert test_accuracy >= 0.87

# %% tags=["hide-input"]
plt.plot(result.step_losses, color=COLORS[6], linestyle="-", linewidth=0.8, label="each batch")
smooth = torch.tensor(result.step_losses).unfold(0, 21, 1).mean(1)
plt.plot(range(10, 10 + len(smooth)), smooth, color=COLORS[0], linestyle="-", label="mean of 21")
steps_per_epoch = len(result.step_losses) // epochs
validation = [epoch["val_loss"] for epoch in result.history]
places = [steps_per_epoch * (epoch + 1) for epoch in range(epochs)]
plt.plot(places, validation, "s", color=COLORS[2], label="validation (accuracy in %)")
for place, loss, epoch in zip(places, validation, result.history, strict=True):
    text = f"{epoch['val_accuracy']:.1%}"
    plt.annotate(text, (place, loss), (0, 16), textcoords="offset points", ha="center", fontsize=9)
plt.title(f"Hand-written gradients learn Fashion-MNIST: {test_accuracy:.1%} of the test set right")
plt.xlabel("step (256 images each)")
plt.ylabel("cross-entropy (nats)")
plt.ylim(0, 1.6)
plt.xlim(-10, places[-1] + 25)
plt.legend()
plt.show()

# %% [markdown]
# What the first layer has learnt can be looked at, since each of its 256 neurons weighs the pixels
# of an image. A weight counts for as much as its pixel varies, so here is weight times spread of
# the pixel, for the sixteen neurons where that is largest.

# %% tags=["hide-input"]
sway = (network[0].weight.detach() * fashion.train[0].std(0)).reshape(-1, 28, 28)
strongest = sway.flatten(1).norm(dim=1).argsort(descending=True)[:16]
figure, panels = plt.subplots(2, 8, figsize=(7.2, 2.4))
for neuron, axes in zip(strongest, panels.flat, strict=True):
    limit = sway[neuron].abs().quantile(0.995)
    axes.imshow(sway[neuron], vmin=-limit, vmax=limit)
    axes.set_axis_off()
figure.suptitle(
    "First-layer neurons look for outlines (bright: raises the neuron, dark: lowers it)",
    fontsize=11,
    fontweight="bold",
)
plt.show()

# %% [markdown]
# Outlines of shirts and shoes, found by products and sums that you have derived.
#
# Is it slower than autograd? One step's gradients both ways, in turn:

# %% tags=["nbval-ignore-output"]
network = Sequential(Linear(784, 256), ReLU(), Linear(256, 128), ReLU(), Linear(128, 10))
twin = nn.Sequential(
    nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
)
batch, classes = torch.randn(n_real, in_real), torch.randint(10, (n_real,))


@torch.no_grad()
def gradients_by_hand():
    network.zero_grad()
    delta = losses.cross_entropy_backward(network(batch), classes)
    network.backward(delta, input_gradient=False)


def gradients_by_autograd():
    twin.zero_grad()
    F.cross_entropy(twin(batch), classes).backward()


ratios = []
for _ in range(9):
    times = []
    for function in (gradients_by_hand, gradients_by_autograd):
        function()
        start = time.process_time()
        for _ in range(10):
            function()
        times.append(time.process_time() - start)
    ratios.append(times[0] / times[1])
print(f"time by hand / by autograd: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")

# %% [markdown]
# The matrix products are the same ones; only the bookkeeping around them differs.
#
# Devices come in through `fit` alone: nothing in the layers or in `ManualBackprop` names one.
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(module, FashionMNIST(batch_size=256, flatten=True), epochs=3, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(module, FashionMNIST(batch_size=256, flatten=True), epochs=3, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(module, FashionMNIST(batch_size=256, flatten=True), epochs=3, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} manual-backprop
# :::

# %% [markdown]
# ## Widespread mistakes
#
# (mistake-e5)=
# :::{admonition} Widespread mistake E5: a backward pass out of thin air
# :class: mistake
# The backward function reads variables that were local to the forward function and are gone, and it
# builds Jacobians as diagonal matrices over the batch, whose shapes cannot meet the next factor.
# :::
#
# Here is a function in that manner, for a sigmoid layer:


# %%
def forward_of_a_tutorial(X, W, b):
    pre_activation = X @ W + b
    return torch.sigmoid(pre_activation)  # pre_activation ends here


def backward_of_a_tutorial(X, W, A, Y):
    grad_W = X.T @ (A - Y) / len(X)
    slope = torch.sigmoid(pre_activation) * (1 - torch.sigmoid(pre_activation))
    return grad_W, slope @ W.T


X = torch.randn(4, 3, generator=generator).double()
W = torch.randn(3, 2, generator=generator).double()
Y = torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0]]).double()
A = forward_of_a_tutorial(X, W, torch.zeros(2).double())

# %% tags=["raises-exception"]
backward_of_a_tutorial(X, W, A, Y)

# %% [markdown]
# (In a notebook it may be worse. A global left over under that name lets the function run, on the
# numbers of another batch.) Suppose the missing variable is handed over. Next comes the Jacobian,
# put together with `diagflat` over the whole batch: 8 outputs in all, hence 8 × 8. The factor
# before it is $(4, 3)$.

# %% tags=["raises-exception"]
pre_activation = X @ W
slope = torch.sigmoid(pre_activation) * (1 - torch.sigmoid(pre_activation))
jacobian = torch.diagflat(Y - A)
grad_X = (slope @ W.T) @ jacobian

# %% [markdown]
# Even where the shapes happen to meet, $\delta$ appears nowhere in `slope @ W.T`: it is a slope
# that nobody has asked for. The cure has two parts. The forward pass *returns* what the backward
# pass will need. And every product is a VJP, which starts from $\delta$ and whose result has the
# shape of the thing it belongs to.


# %%
def forward_that_keeps(X, W, b):
    A = torch.sigmoid(X @ W + b)
    return A, (X, W, A)


def backward_with_what_was_kept(grad_A, kept):
    X, W, A = kept
    delta = grad_A * A * (1 - A)
    return delta @ W.T, X.T @ delta, delta.sum(0)


zero = torch.zeros(2).double()
A, kept = forward_that_keeps(X, W, zero)
# The loss is half the squared error, summed over outputs, mean over samples: ∂L/∂A = (A - Y)/n.
gradients = backward_with_what_was_kept((A - Y) / len(X), kept)
for name, value, gradient in zip(("X", "W", "b"), (X, W, zero), gradients, strict=True):
    assert gradient.shape == value.shape
    print(f"dL/d{name} has shape {tuple(gradient.shape)}, as {name} has")
leaves = [value.clone().requires_grad_() for value in (X, W, zero)]
(torch.sigmoid(leaves[0] @ leaves[1] + leaves[2]) - Y).square().sum().div(2 * len(X)).backward()
for gradient, leaf in zip(gradients, leaves, strict=True):
    torch.testing.assert_close(gradient, leaf.grad)

# %% [markdown]
# (mistake-e14)=
# :::{admonition} Widespread mistake E14: the activation twice, and a transpose on the wrong side
# :class: mistake
# "$z = f(Wx + b)$, then $a = f(z)$", and "$\partial L/\partial W = x^\top\,\partial L/\partial z$"
# for column vectors $x$.
# :::
#
# The first half runs without complaint. Two sigmoids in a row: whatever the inner one says, its
# answer lies between 0 and 1, and the outer one maps that to a narrow band above one half. A
# network that ends this way cannot say no. On the question "is it an 8?":

# %%
x, labels = digits.train
is_eight = (labels == 8).double().unsqueeze(1)


def train_yes_or_no(times, steps=200, learning_rate=0.5):
    weight, bias = torch.zeros(64, 1).double(), torch.zeros(1).double()
    for _ in range(steps):
        inner = losses.sigmoid(x @ weight + bias)
        answer = inner if times == 1 else losses.sigmoid(inner)
        delta = (answer - is_eight) / len(x)  # sigmoid + binary cross-entropy
        if times == 2:
            delta = delta * inner * (1 - inner)  # the chain rule, done right
        weight, bias = weight - learning_rate * x.T @ delta, bias - learning_rate * delta.sum(0)
    return answer


for times in (1, 2):
    answer = train_yes_or_no(times)
    wrong = ((answer > 0.5) != (is_eight == 1)).double().mean().item()
    print(f"sigmoid {times}x: answers {answer.min():.2f} to {answer.max():.2f}, {wrong:.0%} wrong")

# %% tags=["raises-exception"]
assert train_yes_or_no(2).min() < 0.5, "applied twice, the sigmoid never answers less than 1/2"

# %% [markdown]
# The second half fails at once for most layers. With one sample as a column, $x$ is $(d_\text{in},
# 1)$ and $\delta$ is $(d_\text{out}, 1)$:

# %% tags=["raises-exception"]
column, delta = torch.randn(3, 1, generator=generator), torch.randn(2, 1, generator=generator)
column.T @ delta  # (1, 3) times (2, 1)

# %% [markdown]
# It is worse where it does not fail. If $d_\text{in} = d_\text{out}$, the product is a single
# number, and the update broadcasts it over the whole matrix: every weight moves by the same
# amount.

# %%
W = torch.randn(3, 3, generator=generator).double()
column, delta = (torch.randn(3, 1, generator=generator).double() for _ in range(2))
wrong_step = W - 0.1 * column.T @ delta
print("shape of the wrong gradient:", tuple((column.T @ delta).shape))
print("changes of the nine weights:", [round(c, 3) for c in (wrong_step - W).flatten().tolist()])

leaf = W.clone().requires_grad_()
(leaf @ column).backward(delta)
torch.testing.assert_close(delta @ column.T, leaf.grad)
print("delta x^T", tuple((delta @ column.T).shape), "equals autograd's gradient of W")

# %% [markdown]
# With columns it is $\delta x^\top$, an outer product; with one sample a row, as on these pages,
# $X^\top\delta$. If you cannot remember which: the shape of $W$ decides.

# %% [markdown]
# ## Exercises
#
# :::{exercise} A layer that is not here
# :label: ex-layers-1
# The SiLU is $y = x\,\sigma(x)$. Derive its slope, write it as a `Layer` with `compute` and `vjp`,
# and let `gradcheck` try it. What must it keep?
# :::
#
# :::{solution} ex-layers-1
# :class: dropdown
# Product rule: $\sigma(x) + x\,\sigma(x)(1 - \sigma(x)) = \sigma(x) + y\,(1 - \sigma(x))$. Neither
# input nor slope can be had from $y$ alone, since two different $x < 0$ share one $y$; so keep $x$.
# :::

# %% tags=["hide-cell"]
# Solution
from companion.backprop.base import Layer


class SiLU(Layer):
    @staticmethod
    def compute(x):
        return x * torch.sigmoid(x), (x,)

    @staticmethod
    def vjp(grad_output, x):
        gate = torch.sigmoid(x)
        return (grad_output * (gate + x * gate * (1 - gate)),)


inputs = [torch.randn(4, 3, generator=generator).double().requires_grad_()]
print("SiLU:", gradcheck(lambda value: ManualFunction.apply(SiLU, value), inputs))
ours, expected = SiLU(), torch.nn.functional.silu(inputs[0])
torch.testing.assert_close(ours(inputs[0]), expected)

# %% [markdown]
# :::{exercise} Two half batches
# :label: ex-layers-2
# Memory is short, so you send a batch of 64 through the network as two halves and let the
# gradients add up. By what must you multiply each half's $\delta$ so that the sum is the gradient
# of the whole batch? Try it on a network with `LayerNorm`, then with `BatchNorm1d`. Why does one
# of them differ?
# :::
#
# :::{solution} ex-layers-2
# :class: dropdown
# Each half's $\delta$ carries $1/32$ and should carry $1/64$: multiply by ½. With layer
# normalisation the result is exact, as no sample meets another. Batch normalisation sees other
# statistics in each half: it is another function, with another gradient. Accumulating
# micro-batches is not the same as a large batch there.
# :::

# %% tags=["hide-cell"]
# Solution
for normalise in (LayerNorm, BatchNorm1d):
    torch.manual_seed(0)
    network = Sequential(Linear(64, 16), normalise(16), ReLU(), Linear(16, 10)).double()
    with torch.no_grad():
        grads = []
        for size in (64, 32):
            network.zero_grad()
            for rows in torch.arange(64).split(size):
                delta = losses.cross_entropy_backward(network(x[rows]), labels[rows])
                network.backward(delta * size / 64)
            grads.append(network[0].weight.grad.clone())
    same = torch.allclose(*grads, rtol=1e-10, atol=1e-14)
    print(f"{normalise.__name__:12s} two halves equal the whole: {same}")

# %% [markdown]
# :::{exercise} A shortcut for the gradient
# :label: ex-layers-3
# A *residual* block computes $y = x + f(x)$ {cite:p}`he2016deep`. Write its backward pass for any
# $f$ that has one. Then repeat the thirty sigmoid layers with residual blocks: how much of the
# gradient comes through?
# :::
#
# :::{solution} ex-layers-3
# :class: dropdown
# The sum sends $\delta$ down both paths, and what comes out of them adds up: $\partial L/\partial
# x = \delta + \delta^\top J_f$. One of the two terms has lost nothing at all, so the gradient
# reaches the first layer at about full size even where $f$ lets almost none through.
# :::


# %% tags=["hide-cell"]
# Solution
class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)

    def backward(self, grad_output, *, input_gradient=True):
        return grad_output + self.inner.backward(grad_output)


torch.manual_seed(0)
blocks = [Residual(Sequential(Linear(128, 128), Sigmoid())).double() for _ in range(30)]
with torch.no_grad():
    stack = Sequential(*blocks)
    top = torch.randn_like(stack(torch.randn(256, 128).double()))
    kept_share = (stack.backward(top).norm() / top.norm()).item()
print(f"gradient at the first layer / at the last: {kept_share:.2f}")
assert 0.1 < kept_share < 10

# %% [markdown]
# :::{exercise} Forget and recompute
# :label: ex-layers-4
# A block could keep only its *input* and run its forward pass again when the gradient arrives.
# Write `Recompute(inner)` that does so. How many bytes does it keep for three `Linear(64, 64)` +
# `GELU` pairs, against the plain `Sequential`, and what does it cost?
# :::
#
# :::{solution} ex-layers-4
# :class: dropdown
# It keeps one tensor instead of six and pays with one more forward pass, so the step costs about
# 4/3 as much. This is *activation checkpointing*, chapter 5. (Dropout inside would need the same
# random numbers twice.)
# :::


# %% tags=["hide-cell"]
# Solution
class Recompute(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        self._saved = (x,)
        output = self.inner(x)
        for layer in self.inner:
            layer._saved = None  # forget
        return output

    def backward(self, grad_output, *, input_gradient=True):
        self.inner(*self._saved)  # recompute
        self._saved = None
        return self.inner.backward(grad_output)


torch.manual_seed(0)
plain = Sequential(*[kind() for _ in range(3) for kind in (partial(Linear, 64, 64), GELU)])
saving = Recompute(plain)
value, delta = torch.randn(32, 64), torch.randn(32, 64)
with torch.no_grad():
    plain(value)
    plain_bytes, expected = kept_bytes(plain), plain.backward(delta)
    saving(value)
    saving_bytes, again = kept_bytes(saving), saving.backward(delta)
torch.testing.assert_close(again, expected)
print(f"kept: {plain_bytes:,} bytes in a plain Sequential, {saving_bytes:,} with recomputation")

# %% [markdown]
# ## Summary
#
# - A backward pass is a vector–Jacobian product: $\delta$ in, a gradient of the input's shape out.
#   The Jacobian itself is never formed.
# - Linear: $\delta W^\top$, $X^\top\delta$, $\sum_i\delta_i$. Activation: $\delta \odot f'$.
#   Dropout: the same mask and scale. Embedding: scatter-add.
# - Normalisation over the batch or over the features:
#   $s\,(g - \operatorname{mean}(g) - \hat x \odot \operatorname{mean}(g \odot \hat x))$.
# - The forward pass keeps what the backward pass needs; that memory grows with the batch.
# - Sigmoids in depth make gradients vanish; ReLUs, normalisation and shortcuts keep them alive.
#
# Sources: back-propagation {cite:p}`rumelhart1986learning`; reverse mode as vector–Jacobian
# products {cite:p}`baydin2018automatic` (section 3.2); batch normalisation
# {cite:p}`ioffe2015batch`
# (section 3); layer normalisation {cite:p}`ba2016layer` (section 3); dropout
# {cite:p}`srivastava2014dropout` (sections 4 and 10); GELU {cite:p}`hendrycks2016gelu` (section 2);
# residual blocks {cite:p}`he2016deep`; the data {cite:p}`xiao2017fashion`.
