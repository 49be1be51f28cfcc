# %% [markdown]
# # Losses: what a network is told about its mistakes
#
# **The question: how does one number for "how wrong" become a direction for every weight?**
#
# A network starts with random answers. A *loss* says how bad they are, and its *gradient* says
# which way to change each output. Choose the loss carelessly and the second half fails: the number
# is large, and yet nothing moves.

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# Here is that failure. One neuron looks at the 8 × 8 pixel digits of scikit-learn and answers "is
# it an 8?". It starts out sure that everything is an 8. Two copies train on the same data with the
# same step size; only the loss differs.

# %%
import matplotlib.pyplot as plt
import torch

from companion.backprop import losses
from companion.data.digits import Digits
from companion.figures import COLORS, LINESTYLES, use_course_style

use_course_style()
torch.set_num_threads(1)  # a second thread costs more than it brings on tensors this small
digits = Digits(flatten=True, dtype=torch.float64)
digits.setup()
x, labels = digits.train
x_test, labels_test = digits.test
is_eight = (labels == 8).double().unsqueeze(1)


# %%
def pull_of_squared_error(p):
    return 2 * (p - is_eight) * p * (1 - p) / len(p)


def pull_of_cross_entropy(p):
    return (p - is_eight) / len(p)


def error_rate_while_training(pull, steps=300, learning_rate=0.1):
    weight, bias = torch.zeros(64, 1, dtype=x.dtype), torch.full((1,), 10.0, dtype=x.dtype)
    rates = []
    for _ in range(steps + 1):
        p = losses.sigmoid(x @ weight + bias)
        rates.append(((p > 0.5) != (is_eight == 1)).double().mean().item())
        delta = pull(p)
        weight, bias = weight - learning_rate * x.T @ delta, bias - learning_rate * delta.sum(0)
    return rates


slow = error_rate_while_training(pull_of_squared_error)
quick = error_rate_while_training(pull_of_cross_entropy)

# %% tags=["hide-input"]
plt.plot(slow, label="sigmoid + squared error")
plt.plot(quick, label="sigmoid + cross-entropy")
plt.axhline(is_eight.mean().item(), color=COLORS[2], linestyle=":", label="always answering no")
ends = f"{quick[-1]:.0%} wrong with cross-entropy, {slow[-1]:.0%} with squared error"
plt.title(f"After {len(quick) - 1} steps: {ends}")
plt.xlabel("step of gradient descent")
plt.ylabel("training images answered wrongly (share)")
plt.ylim(-0.02, 1)
plt.legend(loc="center right")
plt.show()

# %% [markdown]
# For the images that it gets wrong, both losses start out large: the squared error is as good as 1,
# the worst it can be. Its *gradient*, though, is almost zero there, so nothing happens. By the end
# of this page you can derive both gradients, say why one vanishes, and check either against an
# independent number.

# %% [markdown]
# ## Neuron, layer, forward pass
#
# A **neuron** weighs its $d$ inputs, adds a bias and applies a function $f$, the *activation*:
# $a = f(x_1 w_1 + \dots + x_d w_d + b)$. A **layer** is $k$ neurons side by side, each with its
# own column of weights. Put $n$ samples into the rows of a matrix and one line computes all of
# them:
#
# $$Z = XW + b, \qquad A = f(Z).$$
#
# | | symbol | shape | what a row or column is |
# |---|---|---|---|
# | inputs | $X$ | $(n, d)$ | a row: one sample |
# | weights | $W$ | $(d, k)$ | a column: one neuron |
# | bias | $b$ | $(k,)$ | added to every row |
# | outputs before $f$ | $Z$ | $(n, k)$ | $z_{ij} = \sum_m x_{im} w_{mj} + b_j$ |
# | outputs | $A$ | $(n, k)$ | $a_{ij} = f(z_{ij})$ |
#
# Computing the outputs from the inputs is the **forward pass**. When the outputs before $f$ go
# into a softmax or sigmoid they are called *logits*. Many texts write $Y = f(XW + b)$; on this page
# $Y$ is the truth that the outputs are compared with.

# %% tags=["hide-input"]
figure, axes = plt.subplots(figsize=(7.2, 2.6))
axes.set_axis_off()
axes.set_aspect("equal")
shapes = [
    ("X", "(n, d)", 0, 4, 3, COLORS[6]),
    ("W", "(d, k)", 4.4, 3, 2, COLORS[5]),
    ("b", "(k,)", 7.8, 0.6, 2, COLORS[4]),
    ("Z", "(n, k)", 11.2, 4, 2, COLORS[3]),
    ("A", "(n, k)", 15.2, 4, 2, COLORS[3]),
]
for name, shape, left, height, width, color in shapes:
    axes.add_patch(
        plt.Rectangle((left, -height / 2), width, height, facecolor=color, edgecolor="black")
    )
    axes.text(left + width / 2, 0, f"${name}$", ha="center", va="center", fontsize=14)
    axes.text(left + width / 2, -2.6, shape, ha="center", va="center")
for sign, left in (("·", 3.7), ("+", 7.1), ("=", 10.5), ("$f$ →", 14.2)):
    axes.text(left, 0, sign, ha="center", va="center", fontsize=14)
axes.add_patch(plt.Rectangle((0, 0.8), 3, 0.6, fill=False, hatch="///"))
axes.add_patch(plt.Rectangle((11.2, 0.8), 2, 0.6, fill=False, hatch="///"))
axes.set_xlim(-0.2, 17.4)
axes.set_ylim(-3, 2.2)
axes.set_title("A row of X (hatched) meets every column of W and becomes a row of Z")
plt.show()

# %% [markdown]
# The library stores the same numbers differently: `torch.nn.Linear` keeps $W$ transposed,
# $(k, d)$. Formulas on these pages have $W$ as $(d, k)$, so that $XW$ reads as it is computed.

# %%
from companion.backprop.training_loop import layer_forward

generator = torch.Generator().manual_seed(0)
X = torch.randn(5, 3, generator=generator, dtype=torch.float64)  # n = 5 samples, d = 3 inputs
W = torch.randn(3, 2, generator=generator, dtype=torch.float64)  # k = 2 neurons
b = torch.randn(2, generator=generator, dtype=torch.float64)

Z = layer_forward(X, W, b)
one_by_one = [[sum(X[i, m] * W[m, j] for m in range(3)) + b[j] for j in range(2)] for i in range(5)]
torch.testing.assert_close(Z, torch.tensor(one_by_one, dtype=X.dtype))
torch.testing.assert_close(Z, torch.nn.functional.linear(X, W.T, b))
print("Z", tuple(Z.shape), "equals the double sum and torch's linear")

# %% [markdown]
# ## A mean over the batch
#
# Each sample $i$ gets a loss $\ell_i$, and training minimises the **mean**
#
# $$L = \frac{1}{n} \sum_{i=1}^{n} \ell_i .$$
#
# The mean, and not the sum, so that the size of a step does not grow with the batch. Everything
# below needs one thing from a loss: the matrix $\delta = \partial L / \partial Z$, which has the
# shape of $Z$. Two more lines then give every weight its gradient, because $z_{ij}$ holds $w_{mj}$
# with the factor $x_{im}$ and $b_j$ with the factor 1:
#
# $$\frac{\partial L}{\partial w_{mj}}
#   = \sum_i \frac{\partial L}{\partial z_{ij}} \frac{\partial z_{ij}}{\partial w_{mj}}
#   = \sum_i x_{im}\, \delta_{ij}
# \quad\Longrightarrow\quad
# \frac{\partial L}{\partial W} = X^\top \delta\ \ (d, k), \qquad
# \frac{\partial L}{\partial b} = \sum_i \delta_{i\cdot}\ \ (k,).$$
#
# The $1/n$ lives inside $\delta$. It enters once, here, and nowhere else.

# %% [markdown]
# ## Mean squared error
#
# For regression, with predictions $\hat Y$ and targets $Y$, both $(n, k)$:
#
# $$L = \frac{1}{nk} \sum_{i,j} (\hat y_{ij} - y_{ij})^2 .$$
#
# Only one term of the sum contains $\hat y_{ij}$, and
# $\frac{d}{d\hat y}(\hat y - y)^2 = 2(\hat y - y)$, so
#
# $$\frac{\partial L}{\partial \hat Y} = \frac{2}{nk}\,(\hat Y - Y).$$
#
# Some books divide by $2n$ to lose the 2. Either is fine, as long as value and gradient agree;
# PyTorch and this page keep the 2.

# %%
Y_hat, Y = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)


def mse(y_hat, y):
    return ((y_hat - y) ** 2).sum() / y.numel()


def mse_gradient(y_hat, y):
    return 2 * (y_hat - y) / y.numel()


# %% [markdown]
# How do you know that a gradient is right? Ask something that does not share your algebra.
# PyTorch's `autograd` differentiates the code of the loss mechanically; you will build such a
# machine yourself two pages on. A float64 holds 15 to 16 digits; the next cell demands that at
# least twelve agree.

# %%
import torch.nn.functional as F


def compare(name, gradient, loss, z, *target):
    """Print how far a hand-written gradient is from autograd's, relative to its largest entry."""
    z = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(z, *target), z)
    error = (gradient(z.detach(), *target) - expected).abs().max() / expected.abs().max()
    assert error < 1e-12, f"{name}: relative error {error:.1e}"
    print(f"{name:32s} agrees with autograd")


torch.testing.assert_close(mse(Y_hat, Y), F.mse_loss(Y_hat, Y), rtol=1e-12, atol=0)
compare("mean squared error", mse_gradient, F.mse_loss, Y_hat, Y)

# %% [markdown]
# ## Sigmoid and binary cross-entropy
#
# A yes/no question wants a probability. The **sigmoid** turns any number into one:
#
# $$\sigma(z) = \frac{1}{1 + e^{-z}}, \qquad
# \sigma'(z) = \frac{e^{-z}}{(1 + e^{-z})^2} = \sigma(z)\,\bigl(1 - \sigma(z)\bigr).$$
#
# Let $p = \sigma(z)$ be the predicted probability of "yes" and $y \in \{0, 1\}$ the truth. The
# model gave the truth the probability $p$ if $y = 1$ and $1 - p$ if $y = 0$, in one formula
# $p^y (1-p)^{1-y}$. Minus its logarithm is the **binary cross-entropy**:
#
# $$\ell = -\,y \log p - (1 - y) \log(1 - p).$$
#
# Giving the truth probability 1 costs nothing; giving it probability 0 costs infinitely much. The
# logarithm is the natural one, which makes *nats* the unit of the loss. Now the gradient, in two
# factors:
#
# $$\frac{\partial \ell}{\partial p} = -\frac{y}{p} + \frac{1-y}{1-p} = \frac{p - y}{p(1-p)}, \qquad
# \frac{\partial p}{\partial z} = p(1-p)
# \quad\Longrightarrow\quad
# \frac{\partial \ell}{\partial z} = p - y .$$
#
# The awkward factor $p(1-p)$ cancels. Over the batch, $\delta = (\sigma(Z) - Y)/n$, or $/(nk)$
# with $k$ questions a row.

# %%
Y = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1]], dtype=torch.float64)


def binary_cross_entropy_gradient(z, y):
    return (1 / (1 + torch.exp(-z)) - y) / z.numel()


compare(
    "sigmoid + binary cross-entropy",
    binary_cross_entropy_gradient,
    F.binary_cross_entropy_with_logits,
    Z,
    Y,
)

# %% [markdown]
# :::{admonition} Predict first
# :class: predict
# One sample, truth $y = 1$. The model's logit is $z = -6$: sure, and wrong. Consider
# $|\partial \ell / \partial z|$, the force with which the loss pulls the logit up, for three
# losses: squared error $(z - 1)^2$ on the raw output, squared error $(\sigma(z) - 1)^2$ behind a
# sigmoid, and cross-entropy. Which pulls hardest, which not at all? And at $z = +6$, where the
# answer is right?
# :::

# %%
z = torch.linspace(-8, 8, 321, dtype=torch.float64)
p = losses.sigmoid(z)
pulls = {
    "squared error, no sigmoid: 2|z − 1|": 2 * (z - 1).abs(),
    "sigmoid + squared error: 2(1 − p) p (1 − p)": 2 * (1 - p) * p * (1 - p),
    "sigmoid + cross-entropy: 1 − p": 1 - p,
}

# %% tags=["hide-input"]
for (name, pull), color, style in zip(pulls.items(), COLORS, LINESTYLES, strict=False):
    plt.plot(z, pull, label=name, color=color, linestyle=style)
plt.axvspan(-8, 0, color="#eeeeee", zorder=0)
plt.text(-7.8, 2.05, "wrong", style="italic")
plt.text(7.8, 2.05, "right", style="italic", ha="right")
plt.ylim(-0.05, 2.2)
plt.xlabel("logit z of a sample whose truth is 1")
plt.ylabel("pull on the logit, |∂ℓ/∂z|")
plt.title("Only cross-entropy pulls hard when wrong and lets go when right")
plt.legend(loc="upper left", bbox_to_anchor=(0, 0.88), fontsize=9)
plt.show()
for name, pull in pulls.items():
    wrong, right = (pull[(z - at).abs().argmin()].item() for at in (-6, 6))
    print(f"{name.split(':')[0]:27s} pull at z = -6: {wrong:7.4f}, at z = 6: {right:7.4f}")

# %% [markdown]
# That is the first figure explained. Behind a sigmoid the chain rule gives the squared error one
# factor more than cross-entropy has:
#
# $$\frac{\partial}{\partial z} \bigl(\sigma(z) - y\bigr)^2 = 2\,(p - y) \cdot p(1-p) .$$
#
# It is nearly 0 for every *confident* answer, right or wrong: left of the hump, the worse the
# mistake, the weaker the correction. Without the sigmoid the squared error punishes answers for
# being "too right": at $z = 6$ it pulls *down*.


# %%
def squared_error_behind_a_sigmoid_gradient(z, y):
    p = 1 / (1 + torch.exp(-z))
    return 2 * (p - y) * p * (1 - p) / z.numel()


compare(
    "sigmoid + squared error",
    squared_error_behind_a_sigmoid_gradient,
    lambda z, y: F.mse_loss(torch.sigmoid(z), y),
    Z,
    Y,
)

# %% [markdown]
# ## Softmax and cross-entropy over classes
#
# With $k$ classes, one row of $Z$ holds $k$ logits, and **softmax** turns the row into
# probabilities:
#
# $$p_j = \frac{e^{z_j}}{\sum_{m=1}^{k} e^{z_m}}, \qquad p_j > 0, \quad \sum_j p_j = 1 .$$
#
# The sum runs over the classes: the *last* axis of an $(n, k)$ array, each row for itself. With
# the truth as a one-hot row $y$ (a 1 in the column of the label, 0 elsewhere), the
# **cross-entropy** sums over the classes, then averages over the samples:
#
# $$\ell = -\sum_{j=1}^{k} y_j \log p_j = -\log p_{\text{label}}, \qquad
# L = \frac1n \sum_{i=1}^n \ell_i .$$
#
# For the gradient, differentiate the quotient $e^{z_j}/S$, with $S = \sum_m e^{z_m}$. With
# $\mathbb 1_{jm}$ equal to 1 if $j = m$ and 0 otherwise,
#
# $$\frac{\partial p_j}{\partial z_m}
#   = \frac{\mathbb 1_{jm}\, e^{z_j} S - e^{z_j} e^{z_m}}{S^2}
#   = p_j\,(\mathbb 1_{jm} - p_m),$$
#
# $$\frac{\partial \ell}{\partial z_m} = -\sum_j \frac{y_j}{p_j}\, p_j\,(\mathbb 1_{jm} - p_m)
#   = -y_m + p_m \underbrace{\textstyle\sum_j y_j}_{=1} = p_m - y_m .$$
#
# Again prediction minus truth: $\delta = (P - Y)/n$. Divide by $n$, not by $nk$: a row is *one*
# question here.


# %%
def softmax_gradient(z, labels):
    p = torch.exp(z) / torch.exp(z).sum(dim=-1, keepdim=True)  # rows sum to 1
    return (p - F.one_hot(labels, z.shape[1])) / z.shape[0]


three_classes = torch.randn(5, 3, generator=generator, dtype=torch.float64)
five_labels = torch.tensor([0, 2, 1, 1, 0])
compare("softmax + cross-entropy", softmax_gradient, F.cross_entropy, three_classes, five_labels)
delta = softmax_gradient(three_classes, five_labels)
torch.testing.assert_close(delta.sum(dim=1), torch.zeros(5).double(), rtol=0, atol=1e-14)
print("each row of delta sums to 0")

# %% [markdown]
# A row of $\delta$ sums to 0: whatever the label's logit gains, the others lose between them.
#
# That both classification losses end in "prediction minus truth", as the squared error does
# without an activation (but for its 2), is no accident. It holds whenever the activation is the
# *canonical* partner of the loss {cite:p}`bishop2006prml` (section 4.3.6). It does not hold for
# other pairs, and that is the second of the mistakes below.

# %% [markdown]
# ## Overflow, shown and cured
#
# The formulas are right. The code above is not, yet.
#
# :::{admonition} Predict first
# :class: predict
# The largest float32 is about $3.4 \cdot 10^{38}$, the largest float16 is 65504. A network's
# logits are (1000, 0, −1000). What does the quotient $e^{z_j} / \sum e^{z_m}$ give, and what its
# logarithm? From which logit on does float16 fail?
# :::


# %%
def naive_softmax(z):
    exp_z = torch.exp(z)
    return exp_z / exp_z.sum(dim=-1, keepdim=True)


def show(values):
    return "(" + ", ".join(f"{round(value, 4) + 0.0:g}" for value in values.tolist()) + ")"


for dtype in (torch.float16, torch.float32, torch.float64):
    largest = torch.tensor(torch.finfo(dtype).max, dtype=torch.float64)
    print(f"{dtype} ends at {largest:.1e}: exp(z) is inf from z = {largest.log():.1f} on")
    extreme = torch.tensor([1000.0, 0.0, -1000.0], dtype=dtype)
    mild = torch.tensor([12.0, 0.0, -12.0], dtype=dtype)
    print(f"  logits (1000, 0, -1000): softmax {show(naive_softmax(extreme))}")
    print(f"  logits (12, 0, -12): log softmax {show(torch.log(naive_softmax(mild)))}")

# %% [markdown]
# `inf / inf` is `nan`. A single `nan` in $\delta$ spoils its whole column of $W$ in that step, and
# through the sums in the next softmax every other weight in the step after:

# %%
spoiled = torch.zeros(64, 10, dtype=x.dtype)
spoiled[:, 3] = 100  # large enough that some logits overflow, all of them of class 3
for step in (1, 2):
    spoiled = spoiled - 0.1 * x.T @ softmax_gradient(x @ spoiled, labels)
    print(f"after step {step}: {spoiled.isnan().sum()} of {spoiled.numel()} weights are nan")

# %% [markdown]
# The cure uses that softmax does not change when the same number $c$ is taken from all logits of a
# row, since $e^{z_j - c} = e^{z_j} e^{-c}$ and $e^{-c}$ cancels. Take $c = \max_m z_m$: the largest
# exponent is 0, nothing can overflow, and the denominator is at least 1.
#
# For the loss, do not compute $p$ first and $\log p$ second: a $p$ that has rounded to 0 has lost
# everything. Do both in one piece,
#
# $$\log p_j = (z_j - c) - \log \sum_m e^{z_m - c},$$
#
# the **log-softmax** with the *log-sum-exp* shift {cite:p}`blanchard2021logsumexp`. For the binary
# case the same idea reads
#
# $$\ell = \log(1 + e^{z}) - yz, \qquad
# \log(1 + e^{z}) = \max(z, 0) + \operatorname{log1p}\bigl(e^{-|z|}\bigr),$$
#
# where `log1p(t)` is $\log(1 + t)$ without losing a tiny $t$ against the 1.


# %%
def stable_log_softmax(z):
    shifted = z - z.amax(dim=-1, keepdim=True)
    return shifted - torch.log(torch.exp(shifted).sum(dim=-1, keepdim=True))


def stable_binary_cross_entropy(z, y):
    return (z.clamp(min=0) + torch.log1p(torch.exp(-z.abs())) - y * z).mean()


for dtype in (torch.float16, torch.float32, torch.float64):
    extreme = torch.tensor([1000.0, 0.0, -1000.0], dtype=dtype)
    assert torch.equal(stable_log_softmax(extreme), torch.log_softmax(extreme, dim=-1))
    print(f"{dtype}, logits (1000, 0, -1000): log softmax {show(stable_log_softmax(extreme))}")

# %% [markdown]
# How early does the naive form fail? Take the binary loss of a wrong answer,
# $-\log(1 - \sigma(z))$, which should be almost exactly $z$ for large $z$.

# %%
logits = torch.linspace(0.5, 60, 239, dtype=torch.float64)
truth = torch.logaddexp(torch.zeros_like(logits), logits)
naive_error, first_infinite = {}, {}
for dtype in (torch.float16, torch.float32, torch.float64):
    value = -torch.log(1 - 1 / (1 + torch.exp(-logits.to(dtype))))
    naive_error[dtype] = (value.double() - truth).abs() / truth
    first_infinite[dtype] = logits[value.isinf()][0].item()
    stable = torch.stack([stable_binary_cross_entropy(z, 0) for z in logits.to(dtype)])
    assert ((stable.double() - truth).abs() / truth).max() < 4 * torch.finfo(dtype).eps

# %% tags=["hide-input"]
for (dtype, error), color, style in zip(naive_error.items(), COLORS, LINESTYLES, strict=False):
    name = str(dtype).removeprefix("torch.")
    shown = error.clamp(min=1e-17).where(~error.isinf(), torch.nan)
    plt.semilogy(logits, shown, color=color, linestyle=style, label=name)
    plt.axvline(first_infinite[dtype], color=color, linestyle=style, linewidth=1)
    height = 1e-13 if dtype == torch.float16 else 1e-8
    plt.text(first_infinite[dtype] + 0.4, height, "inf from here", rotation=90, fontsize=9)
ends = ", ".join(f"{value:.0f}" for value in first_infinite.values())
plt.title(f"The naive loss is infinite from z = {ends}, and inexact long before")
plt.xlabel("logit z of a sample whose truth is 0")
plt.ylabel("relative error of −log(1 − σ(z))")
plt.legend(loc="lower right", bbox_to_anchor=(0.94, 0))
plt.show()

# %% [markdown]
# The stable form stays within four roundings of the dtype over the whole range: the cell asserts
# it. This is why `torch.nn.CrossEntropyLoss` and `binary_cross_entropy_with_logits` take *logits*,
# not probabilities. Feed them the output of a softmax and they apply a second one. Nothing raises;
# but now the "logits" lie between 0 and 1, and no class can ever get more than $e$ times the
# probability of another. Keras asks with `from_logits=`, and its default is `False` ({doc}`keras`).
#
# `companion.backprop.losses` holds these forms, a few lines each, with checked arguments. Each has
# a `…_backward` beside it, and `losses.MSE`, `losses.BINARY_CROSS_ENTROPY` and
# `losses.CROSS_ENTROPY` are the pairs. From here on the page uses them.
#
# | formula | companion | torch.nn.functional |
# |---|---|---|
# | $\sigma(z)$ | `sigmoid` | `sigmoid` |
# | $\frac{1}{nk}\sum (\hat y - y)^2$ | `mse_loss` | `mse_loss` |
# | $-y\log\sigma(z) - (1-y)\log(1-\sigma(z))$ | `binary_cross_entropy_with_logits` | the same |
# | $e^{z_j} / \sum_m e^{z_m}$ | `softmax` | `softmax` |
# | $z_j - \log\sum_m e^{z_m}$ | `log_softmax` | `log_softmax` |
# | $-\log p_{\text{label}}$ | `cross_entropy` | `cross_entropy` |
# | $L + \frac\lambda2\lVert w\rVert^2$ | `regularized_loss` | `weight_decay=` of SGD |

# %%
z = 1000 * torch.randn(64, 10, generator=generator, dtype=torch.float64)
some = torch.randint(10, (64,), generator=generator)
compare("companion, cross-entropy", losses.cross_entropy_backward, F.cross_entropy, z, some)
compare(
    "companion, binary cross-entropy",
    losses.binary_cross_entropy_with_logits_backward,
    F.binary_cross_entropy_with_logits,
    z,
    F.one_hot(some, 10).double(),
)
compare("companion, squared error", losses.mse_loss_backward, F.mse_loss, z, z.flip(0))

# %% [markdown]
# ## What a few easy samples do to each loss
#
# Two classes along one axis, and one neuron that must find the boundary between them. Then five
# samples join the right-hand class, far from the boundary and on the right side of it: they carry
# no news.
#
# :::{admonition} Predict first
# :class: predict
# Which boundary moves: that of squared error on the labels 0 and 1, that of cross-entropy, both,
# neither?
# :::

# %%
from companion.backprop.training_loop import train_layer

near = torch.cat([torch.linspace(-2.5, -0.2, 12), torch.linspace(0.2, 2.5, 12)]).double()
far = torch.linspace(9, 12, 5).double()
boundaries, curves = {}, {}
for name, loss, threshold, learning_rate in (
    ("MSE", losses.MSE, 0.5, 0.04),
    ("cross-entropy", losses.BINARY_CROSS_ENTROPY, 0, 0.3),
):
    for samples in (near, torch.cat([near, far])):
        truth = (samples > 0).double().unsqueeze(1)
        fitted = train_layer(
            samples.unsqueeze(1), truth, loss, outputs=1, learning_rate=learning_rate,
            epochs=800, batch_size=29, weight_decay=0.01,
        )  # fmt: skip
        slope, offset = fitted.weight.item(), fitted.bias.item()
        boundaries[name, len(samples)] = (threshold - offset) / slope
        curves[name, len(samples)] = (slope, offset)
moved = {
    name: round(boundaries[name, 29] - boundaries[name, 24], 2) + 0.0
    for name in ("MSE", "cross-entropy")
}
for name, distance in moved.items():
    print(f"{name:14s} boundary moves by {distance:+.2f}")

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.3), sharey=True)
line = torch.linspace(-3, 12.5, 300)
for axes, name in zip(panels, moved, strict=True):
    for count, color, style, text in (
        (24, COLORS[1], "--", "without"),
        (29, COLORS[2], "-", "with"),
    ):
        slope, offset = curves[name, count]
        out = slope * line + offset
        out = torch.sigmoid(out) if name == "cross-entropy" else out
        axes.plot(line, out, color=color, linestyle=style, label=f"{text} the far samples")
        axes.axvline(boundaries[name, count], color=color, linestyle=style, linewidth=1)
    for samples, marker in ((near, "o"), (far, "s")):
        axes.scatter(samples, (samples > 0).double(), marker=marker, s=18, color="black", zorder=3)
    axes.set_title(f"{name}: it moves {moved[name]:+.2f}")
    axes.set_xlabel("input x")
    axes.set_ylim(-0.3, 1.6)
panels[0].set_ylabel("output (0: left class, 1: right class)")
panels[0].legend(loc="lower right", fontsize=9)
figure.suptitle(
    "Far samples on the right side drag only the squared error's boundary",
    x=0.02,
    ha="left",
    fontweight="bold",
)
plt.show()

# %% [markdown]
# The straight line of the squared error owes the far samples an output of 1 and tilts to pay it;
# samples near the boundary then fall on the wrong side. Cross-entropy has let go of them, since
# $1 - p \approx 0$.
#
# Neither loss is safe against a *wrong label* far out: there the squared error's pull on the
# output grows with the distance without end, while cross-entropy's stays below 1 for each sample.
# The first exercise caps the squared error's pull too.

# %% [markdown]
# ## The regularised mean loss
#
# A loss can be small for bad reasons, such as huge weights that draw the boundary exactly around
# the training samples. **Weight decay** adds a price for them:
#
# $$L_\lambda = \underbrace{\frac1n \sum_i \ell_i}_{\text{mean loss}}
#   + \frac{\lambda}{2} \lVert w \rVert^2, \qquad
# \frac{\partial L_\lambda}{\partial w} = \frac{\partial L}{\partial w} + \lambda w,$$
#
# where $\lVert w \rVert^2$ is the sum of the squares of all weights. The $\tfrac12$ is there to
# cancel the 2. The biases are usually left out {cite:p}`goodfellow2016deep` (section 7.1): they
# shift the output, they do not make it steeper.
#
# Put the gradient into a step of gradient descent with learning rate $\eta$ and collect the terms:
#
# $$w \leftarrow w - \eta\left(\frac{\partial L}{\partial w} + \lambda w\right)
#   = (1 - \eta\lambda)\, w - \eta\, \frac{\partial L}{\partial w} .$$
#
# Before each step the weights shrink by the factor $1 - \eta\lambda$; hence the name
# {cite:p}`krogh1991weight`. For plain SGD the penalty and the `weight_decay=` of the optimizer are
# the same thing. For Adam they are not {cite:p}`loshchilov2019decoupled`, which chapter 4 shows.

# %%
gradient = torch.randn(3, 2, generator=generator, dtype=torch.float64)
parameter = torch.nn.Parameter(W.clone())
parameter.grad = gradient.clone()
torch.optim.SGD([parameter], lr=0.1, weight_decay=0.5).step()

by_penalty = W - 0.1 * losses.regularized_loss_backward(W, gradient, 0.5)
by_shrinking = (1 - 0.1 * 0.5) * W - 0.1 * gradient
torch.testing.assert_close(by_penalty, parameter.detach(), rtol=1e-12, atol=0)
torch.testing.assert_close(by_shrinking, parameter.detach(), rtol=1e-12, atol=0)
print("penalty, shrinking and SGD(weight_decay=0.5) take the same step")

# %% [markdown]
# ### The landscape
#
# One neuron with one input has two parameters, $w$ and $b$, so its loss is a surface that can be
# drawn. The data are six samples that a single threshold separates.
#
# :::{admonition} Predict first
# :class: predict
# Where is the lowest point of the cross-entropy surface for *separable* data? And with a penalty
# on $w$?
# :::

# %%
inputs = torch.tensor([[-2.0], [-1.5], [-0.5], [0.7], [1.4], [2.2]], dtype=torch.float64)
targets = (inputs > 0).double()
grid_w, grid_b = torch.meshgrid(
    torch.linspace(-2, 12, 141).double(), torch.linspace(-6, 6, 121).double(), indexing="xy"
)
z = inputs.reshape(-1, 1, 1) * grid_w + grid_b  # (6, 121, 141): every sample at every grid point
surface = (losses.softplus(z) - targets.reshape(-1, 1, 1) * z).mean(0)


def descend(weight_decay, steps=4000, learning_rate=0.8):
    w, bias, path = torch.tensor([[-1.5]]).double(), torch.tensor([5.0]).double(), []
    for _ in range(steps + 1):
        path.append((w.item(), bias.item()))
        delta = losses.binary_cross_entropy_with_logits_backward(inputs @ w + bias, targets)
        w = w - learning_rate * losses.regularized_loss_backward(w, inputs.T @ delta, weight_decay)
        bias = bias - learning_rate * delta.sum(0)
    return torch.tensor(path)


paths = {decay: descend(decay) for decay in (0.0, 0.05)}
for decay, path in paths.items():
    visited = ", ".join(f"{path[step, 0]:.1f}" for step in (250, 1000, 4000))
    print(f"λ = {decay:g}: w after 250, 1000, 4000 steps: {visited}")

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.6), sharey=True)
levels = torch.logspace(-3.5, 1, 19).tolist()
for axes, (decay, path) in zip(panels, paths.items(), strict=True):
    total = (surface + decay / 2 * grid_w**2).clamp(levels[0], levels[-1] * 0.99)
    filled = axes.contourf(grid_w, grid_b, total, levels=levels, norm="log")
    axes.contour(grid_w, grid_b, total, levels=levels, colors="white", linewidths=0.4)
    for width, color in ((4, "black"), (1.8, "white")):
        axes.plot(path[:, 0], path[:, 1], color=color, linestyle="-", linewidth=width)
    axes.plot(*path[0], marker="o", color="white", markeredgecolor="black")
    axes.plot(*path[-1], marker="*", color="white", markersize=15, markeredgecolor="black")
    axes.set_title(f"λ = {decay:g}: w = {path[-1, 0]:.1f}")
    axes.set_xlabel("weight w")
    axes.grid(False)
panels[0].set_ylabel("bias b")
bar = figure.colorbar(filled, ax=panels, ticks=[0.001, 0.01, 0.1, 1, 10])
bar.set_label("regularised loss (nats)")
bar.ax.minorticks_off()
title = f"Without a penalty the valley has no bottom ({len(path) - 1} steps from ○ to ☆)"
figure.suptitle(title, x=0.02, ha="left", fontweight="bold", fontsize=12)
plt.show()

# %% [markdown]
# Every doubling of $w$ makes the right answers more certain and the loss smaller, so without a
# penalty $w$ grows for ever, more and more slowly. The penalty bends the valley's floor up and
# gives it a lowest point. The colours are logarithmic: in the dark part of the left picture the
# loss itself is nearly flat, which is why a loss curve may look finished long before the weights
# are.

# %% [markdown]
# ## The five-step training loop
#
# 1. **Initialise** the weights.
# 2. **Forward**: compute the outputs of a batch.
# 3. **Loss**: compare them with the truth.
# 4. **Backward**: compute the gradient of the loss with respect to every weight.
# 5. **Update**: $w \leftarrow w - \eta\, \partial L/\partial w$; go back to 2.
#
# Here it is in plain tensors for all ten digits: *softmax regression*, one layer of ten neurons.

# %%
learning_rate, weight_decay, epochs, batch_size = 0.1, 1e-3, 20, 64
order_generator = torch.Generator().manual_seed(0)
weight = torch.zeros(64, 10, dtype=x.dtype)  # 1. initialise
bias = torch.zeros(10, dtype=x.dtype)
step_losses = []

for _ in range(epochs):
    for rows in torch.randperm(len(x), generator=order_generator).split(batch_size):
        z = x[rows] @ weight + bias  # 2. forward
        mean_loss = losses.cross_entropy(z, labels[rows])  # 3. loss
        step_losses.append((mean_loss + weight_decay / 2 * (weight**2).sum()).item())
        delta = losses.cross_entropy_backward(z, labels[rows])  # 4. backward
        grad_weight = x[rows].T @ delta + weight_decay * weight
        weight = weight - learning_rate * grad_weight  # 5. update
        bias = bias - learning_rate * delta.sum(0)

accuracy = (layer_forward(x_test, weight, bias).argmax(1) == labels_test).double().mean().item()
print(f"{len(step_losses)} steps, test accuracy {accuracy:.1%}")

# %% tags=["hide-input"]
chance = torch.tensor(10.0).log().item()
plt.plot(step_losses, color=COLORS[6], linestyle="-", linewidth=0.8, label="each batch")
smooth = torch.tensor(step_losses).unfold(0, 21, 1).mean(1)
middle = range(10, 10 + len(smooth))
plt.plot(middle, smooth, color=COLORS[0], linestyle="-", label="mean of 21 batches")
plt.axhline(chance, color=COLORS[2], linestyle=":", label="log 10: all classes equally likely")
last, steps = smooth[-1].item(), len(step_losses)
ends = f"{accuracy:.1%} of the test set right"
plt.title(f"From log 10 = {chance:.2f} to {last:.2f} in {steps} steps; {ends}")
plt.xlabel("step")
plt.ylabel("regularised loss (nats)")
plt.ylim(0, 2.6)
plt.legend()
plt.show()

# %% [markdown]
# The first value of such a curve is a free test. With all weights 0 every class has probability
# $1/10$, and the loss must be $\log 10$. If yours starts elsewhere, something before the loss is
# wrong.
#
# The same loop stands in the companion as `train_layer`, where it is compared with autograd and
# `torch.optim.SGD`. Same order, same numbers:

# %%
again = train_layer(
    x,
    labels,
    losses.CROSS_ENTROPY,
    outputs=10,
    learning_rate=0.1,
    epochs=20,
    batch_size=64,
    weight_decay=1e-3,
)
torch.testing.assert_close(again.weight, weight, rtol=1e-10, atol=1e-12)

figure, panels = plt.subplots(2, 5, figsize=(7.2, 3.4))
for digit, axes in enumerate(panels.flat):
    image = axes.imshow(again.weight[:, digit].reshape(8, 8), vmin=-0.8, vmax=0.8)
    axes.set_axis_off()
    axes.set_title(str(digit), fontsize=10, loc="center")
figure.colorbar(image, ax=panels, label="weight (bright: votes for the digit)", extend="both")
figure.suptitle(
    "Each column of W has become a template of its digit", x=0.02, ha="left", fontweight="bold"
)
plt.show()

# %% [markdown]
# A single yes/no question goes the same way with the binary loss: one neuron for "is it an 8?".

# %%
one_neuron = train_layer(
    x, is_eight, losses.BINARY_CROSS_ENTROPY, outputs=1, learning_rate=0.5, epochs=20, batch_size=64
)
says_eight = layer_forward(x_test, one_neuron.weight, one_neuron.bias).squeeze(1) > 0
right = (says_eight == (labels_test == 8)).double().mean().item()
always_no = (labels_test != 8).double().mean().item()
print(f"logistic regression: {right:.1%} right; always answering no: {always_no:.1%}")

# %% [markdown]
# ## The same with Lightning
#
# Beyond one layer you will not want to write step 4 by hand each time. `Classifier` wraps any
# network, `fit` runs the five steps, and the loss may be ours: any function of outputs and
# targets.

# %% tags=["nbval-ignore-output"]
from functools import partial

from companion.training import Classifier, fit

torch.manual_seed(0)
module = Classifier(
    torch.nn.Linear(64, 10),
    loss=losses.cross_entropy,
    optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=1e-3),
)
result = fit(module, Digits(flatten=True), epochs=20, precision="32-true", test=True)
first, test_accuracy = result.step_losses[0], result.metrics["test_accuracy"]
print(f"test accuracy {test_accuracy:.1%}, first loss {first:.2f}")
assert abs(test_accuracy - accuracy) < 0.03

# %% [markdown]
# Here autograd computed step 4. The first loss is a little above log 10, because `torch.nn.Linear`
# starts from random weights; and `weight_decay=` of the optimizer shrinks every parameter it is
# given, the biases too, unless you put them in a parameter group of their own. On the
# {doc}`next page <layers>` you put hand-written gradients *into* Lightning.
#
# The device is an argument of `fit`, nothing else changes:
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(module, Digits(flatten=True), epochs=20, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(module, Digits(flatten=True), epochs=20, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(module, Digits(flatten=True), epochs=20, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} softmax-cross-entropy
# :::

# %% [markdown]
# ## Widespread mistakes
#
# (mistake-e1)=
# :::{admonition} Widespread mistake E1: the update is the gradient
# :class: mistake
# "$\Delta W = \nabla L$." The gradient points *uphill*, and its length is a slope, not a distance.
# The step is $\Delta W = -\eta \nabla L$.
# :::
#
# Raw pixels from 0 to 16, as scikit-learn delivers them. Each row shows the loss before the first
# six steps of one rule:

# %%
raw = (x - x.min()) / (x.max() - x.min()) * 16


def losses_while_stepping(factor, steps=6):
    weight, values = torch.zeros(64, 10, dtype=x.dtype), []
    for _ in range(steps):
        values.append(losses.cross_entropy(raw @ weight, labels).item())
        weight = weight + factor * raw.T @ losses.cross_entropy_backward(raw @ weight, labels)
    return values


runs = {
    "W + gradient": losses_while_stepping(+1),
    "W - gradient": losses_while_stepping(-1),
    "W - 0.01 gradient": losses_while_stepping(-0.01),
}
for name, values in runs.items():
    print(f"{name:18s}", *(f"{value:8.2f}" for value in values))

# %% [markdown]
# Without the sign the loss rises, and will for ever: as a function of $W$ it is bowl-shaped
# (convex), so it lies above its tangent, and $L(W + \nabla L) \ge L(W) + \lVert \nabla L \rVert^2$.
# With the sign and without $\eta$ the step is right in direction and far too long: the loss leaps
# up. Small enough steps against the gradient go down.

# %% [markdown]
# (mistake-e3)=
# :::{admonition} Widespread mistake E3: $A - Y$ for every loss
# :class: mistake
# The text says "mean squared error", the network ends in a sigmoid, and the backward pass starts
# from `A - Y`. That is the gradient of *another* loss: binary cross-entropy.
# :::
#
# A gradient check exposes it. Nudge each entry of $Z$ by $\pm h$, watch the stated loss, and
# compare:


# %%
def by_central_differences(loss, z, h=1e-5):
    gradient = torch.zeros_like(z)
    for index in range(z.numel()):
        nudge = torch.zeros_like(z)
        nudge.view(-1)[index] = h
        gradient.view(-1)[index] = (loss(z + nudge) - loss(z - nudge)) / (2 * h)
    return gradient


A = losses.sigmoid(Z)
numerical = by_central_differences(lambda z: losses.mse_loss(losses.sigmoid(z), Y), Z)

# %% tags=["raises-exception"]
claimed = 2 * (A - Y) / A.numel()  # "the derivative of the squared error"
worst = ((claimed - numerical).abs() / numerical.abs()).max()
assert worst < 1e-6, f"A − Y is off by up to {worst:.0f} times the true gradient"

# %% [markdown]
# The fix is the chain rule, all of it:
# $\partial L/\partial Z = \frac{2}{nk}(A - Y) \odot A \odot (1 - A)$. And the three pairs for
# which prediction minus truth *is* the gradient:

# %%
right_gradient = losses.sigmoid_backward(Z, losses.mse_loss_backward(A, Y))
torch.testing.assert_close(right_gradient, numerical, rtol=1e-6, atol=1e-9)

one_hot = F.one_hot(torch.tensor([0, 1, 1, 0, 1]), 2).double()
pairs = {
    "no activation + half squared error": (lambda z: ((z - Y) ** 2).mean() / 2, (Z - Y) / 10),
    "sigmoid + binary cross-entropy": (
        lambda z: losses.binary_cross_entropy_with_logits(z, Y),
        (A - Y) / 10,
    ),
    "softmax + cross-entropy": (
        lambda z: losses.cross_entropy(z, one_hot.argmax(1)),
        (losses.softmax(Z) - one_hot) / 5,
    ),
}
for name, (loss, shortcut) in pairs.items():
    torch.testing.assert_close(shortcut, by_central_differences(loss, Z), rtol=1e-6, atol=1e-9)
    print(f"prediction − truth is the gradient of {name}")

# %% [markdown]
# Why does nobody notice? Because training works: the weights go down the cross-entropy, whose name
# the text never mentions.

# %% [markdown]
# (mistake-e4)=
# :::{admonition} Widespread mistake E4: softmax over the batch
# :class: mistake
# `exp / exp.sum(axis=0)` on an array of shape `(batch, classes)` makes the *columns* sum to 1:
# each sample competes with the other samples of its batch.
# :::


# %%
def softmax_over_axis_0(z):
    exp_z = torch.exp(z - z.max())
    return exp_z / exp_z.sum(axis=0)


scores = layer_forward(x_test, weight, bias)
print("row sums:", [round(value, 2) for value in softmax_over_axis_0(scores[:4]).sum(1).tolist()])
print("one image alone:", softmax_over_axis_0(scores[:1]).squeeze().tolist())

# %% tags=["raises-exception"]
alone, in_company = softmax_over_axis_0(scores[:1])[0], softmax_over_axis_0(scores[:4])[0]
assert torch.allclose(alone, in_company), "the answer for an image depends on the other images"

# %%
assert torch.allclose(losses.softmax(scores[:1])[0], losses.softmax(scores[:4])[0])
assert torch.allclose(losses.softmax(scores).sum(dim=1), torch.ones(len(scores)).double())
print("along the last axis: rows sum to 1, and every image has its own answer")

# %% [markdown]
# A trap beside it: where the loss is computed on a single sample, the wrong axis gives every class
# the probability 1, and a loss of exactly 0.

# %% [markdown]
# (mistake-e15)=
# :::{admonition} Widespread mistake E15: half a cross-entropy
# :class: mistake
# "$-\frac1n \sum_i y_i \log \hat y_i$", for two classes and for many. With two classes the term
# $(1-y)\log(1-\hat y)$ is missing; with many, the sum over the classes.
# :::
#
# Train "is it an 8?" with the half formula. Its gradient is $-y\,(1 - \sigma(z))$: the samples
# with $y = 0$ are not heard.

# %%
half = losses.Loss(
    forward=lambda z, y: (y * losses.softplus(-z)).mean(),
    backward=lambda z, y: -y * losses.sigmoid(-z) / z.numel(),
)
deaf = train_layer(x, is_eight, half, outputs=1, learning_rate=0.5, epochs=20, batch_size=64)
answers = layer_forward(x_test, deaf.weight, deaf.bias).squeeze(1) > 0
print(
    f"last loss {deaf.losses[-1]:.4f}, answers yes to {answers.double().mean():.0%} of the images"
)
print(f"right: {(answers == (labels_test == 8)).double().mean():.1%}")

# %% [markdown]
# A loss of almost nothing, and a useless neuron: it says yes to everything. Only the complete
# formula counts both kinds of mistake.
#
# With many classes, read the formula as code with a one-hot $y$ and a `mean`, and the sum over
# classes turns into a mean over classes:

# %%
one_hot = F.one_hot(labels_test, 10).double()
log_p = losses.log_softmax(scores)
no_class_sum = -(one_hot * log_p).mean().item()
class_sum = -(one_hot * log_p).sum(dim=1).mean().item()
print(f"mean over everything {no_class_sum:.4f}, sum over classes {class_sum:.4f}")
print(f"ratio {class_sum / no_class_sum:.1f} = the number of classes")
assert abs(class_sum - losses.cross_entropy(scores, labels_test).item()) < 1e-12

# %% [markdown]
# Off by the factor 10: the direction is right, the learning rate silently ten times smaller than
# the one you set, and the loss can be compared with nobody else's.

# %% [markdown]
# ## Exercises
#
# :::{exercise} A pull that is capped
# :label: ex-losses-1
# The Huber loss is $\tfrac12 e^2$ for $|e| \le 1$ and $|e| - \tfrac12$ beyond, with
# $e = \hat y - y$. Write the gradient of its mean and check it against `F.huber_loss`. What is the
# largest pull that one outlier can have?
# :::
#
# :::{solution} ex-losses-1
# :class: dropdown
# The derivative is $e$ inside and $\pm 1$ outside: $e$ clamped to $[-1, 1]$. Divide by the number
# of entries. No entry pulls with more than $1/(nk)$, however far out it lies. The next cell
# checks it.
# :::

# %% tags=["hide-cell"]
# Solution
compare(
    "Huber loss",
    lambda y_hat, y: (y_hat - y).clamp(-1, 1) / y.numel(),
    F.huber_loss,
    3 * Y_hat,
    Y,
)

# %% [markdown]
# :::{exercise} Two classes, two formulas
# :label: ex-losses-2
# Show that softmax cross-entropy over the two logits $(0, z)$ is the binary cross-entropy of $z$.
# What does that say about the number of weights that two softmax neurons really have?
# :::
#
# :::{solution} ex-losses-2
# :class: dropdown
# The softmax of $(0, z)$ gives class 1 the probability $e^z / (1 + e^z) = \sigma(z)$ and class 0
# the rest, $1 - \sigma(z)$; both losses take minus the logarithm of the true class's probability.
# Only the *difference* of the two logits matters, so one of the two weight columns is redundant.
# In the same way $k$ softmax neurons have one column more than they need.
# :::

# %% tags=["hide-cell"]
# Solution
z = torch.tensor([[-30.0], [0.0], [2.0], [800.0]], dtype=torch.float64)
truth = torch.tensor([1, 0, 1, 0])
as_softmax = losses.cross_entropy(torch.cat([torch.zeros_like(z), z], dim=1), truth)
as_sigmoid = losses.binary_cross_entropy_with_logits(z, truth.double().unsqueeze(1))
torch.testing.assert_close(as_softmax, as_sigmoid, rtol=1e-12, atol=0)

# %% [markdown]
# :::{exercise} Softer targets
# :label: ex-losses-3
# *Label smoothing* replaces the one-hot row $y$ by $(1 - \varepsilon)\, y + \varepsilon / k$.
# Derive $\partial L/\partial Z$ and check it against `F.cross_entropy(..., label_smoothing=0.1)`.
# Where is the loss smallest now: can the logits still run off to infinity as in the landscape
# above?
# :::
#
# :::{solution} ex-losses-3
# :class: dropdown
# The derivation used only that the target row sums to 1, and the smoothed row does. So
# $\delta = (P - Y_\varepsilon)/n$. It is zero where $P = Y_\varepsilon$, that is, at a probability
# of $1 - \varepsilon + \varepsilon/k$ for the label and $\varepsilon/k$ for the others: finite
# logits. The valley has a bottom.
# :::


# %% tags=["hide-cell"]
# Solution
def smoothed_gradient(z, labels, epsilon=0.1):
    # .to(z.dtype): an integer tensor times 0.9 is float32, and half of float64's digits are gone
    target = (1 - epsilon) * F.one_hot(labels, z.shape[1]).to(z.dtype) + epsilon / z.shape[1]
    return (losses.softmax(z) - target) / len(z)


smoothed_loss = partial(F.cross_entropy, label_smoothing=0.1)
compare("label smoothing", smoothed_gradient, smoothed_loss, three_classes, five_labels)

# %% [markdown]
# :::{exercise} The bias is different
# :label: ex-losses-4
# Train softmax regression with `weight_decay=100` on the digits, starting from zero. What does the
# network answer once its weights are almost 0, and which loss does it reach? Then think: why would
# a penalty on the bias make that worse?
# :::
#
# :::{solution} ex-losses-4
# :class: dropdown
# With $W \approx 0$ the logits are just $b$, the same for every image. The free bias still learns
# how *frequent* each class is, so the loss is the entropy of the class frequencies, close to
# $\log 10$ as the digits are about equally frequent. A penalised bias could not even learn that.
# :::

# %% tags=["hide-cell"]
# Solution
flat = train_layer(
    x,
    labels,
    losses.CROSS_ENTROPY,
    outputs=10,
    learning_rate=0.005,
    epochs=400,
    batch_size=len(x),
    weight_decay=100.0,
)
share = labels.bincount().double() / len(labels)
reached = losses.cross_entropy(layer_forward(x, flat.weight, flat.bias), labels).item()
entropy = -(share * share.log()).sum().item()
print(f"largest weight {flat.weight.abs().max():.3f}; loss {reached:.2f}, entropy {entropy:.2f}")

# %% [markdown]
# ## Summary
#
# - A layer is $Z = XW + b$; the loss hands back $\delta = \partial L/\partial Z$, and
#   $X^\top\delta$, $\sum_i \delta_i$ are the gradients of $W$ and $b$.
# - Squared error: $2(\hat Y - Y)/(nk)$. Sigmoid with binary cross-entropy: $(P - Y)/(nk)$.
#   Softmax with cross-entropy: $(P - Y)/n$. Other pairs keep their factors.
# - Compute log-softmax and log-sigmoid in one piece from logits, with the maximum taken out.
# - $\tfrac\lambda2\lVert w\rVert^2$ adds $\lambda w$ to the gradient: under SGD the weights shrink
#   by $1 - \eta\lambda$ each step; biases are left out.
# - Check a gradient against something that does not share its algebra, and the first loss against
#   $\log k$.
#
# Sources: back-propagation and the step $-\varepsilon\,\partial E/\partial w$
# {cite:p}`rumelhart1986learning`; logistic and softmax regression, canonical links
# {cite:p}`bishop2006prml` (sections 4.3.2, 4.3.4, 4.3.6); overflow and output units
# {cite:p}`goodfellow2016deep` (sections 4.1, 6.2.2, 7.1); rounding errors of log-sum-exp
# {cite:p}`blanchard2021logsumexp`; weight decay {cite:p}`krogh1991weight,loshchilov2019decoupled`.
