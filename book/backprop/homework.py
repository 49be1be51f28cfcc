# %% [markdown]
# # Homework: build the next piece by hand
#
# **The question: can you add to this chapter's machinery what its pages left out, and know that it
# is right?**
#
# Six tasks build on each other. You write a gradient check, then the backward pass of RMSNorm, the
# layer that large language models use where the pages have LayerNorm; a loss with smoothed labels;
# a new operation for the tape. At the end your layer and your loss train a network. All of it goes
# into one file, and a grader tells you, for every task, whether it is right and what the mistake
# probably is.

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# This is what the grader says of a first try. The file is the empty one with task 2 filled in:
# somebody has written the forward pass of RMSNorm, $y = g \odot x / r$, and gone back through it as
# if $r$ were a number that has nothing to do with $x$.

# %%
import tempfile
from pathlib import Path

from companion.homework import grade, stub

EMPTY = "    raise NotImplementedError\n"
FORWARD = """    r = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return gain * x / r
"""
BACKWARD = """    r = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return gain * grad_output / r, (grad_output * x / r).sum(0)
"""
before, forward, backward, after = stub("backprop").split(EMPTY, 3)
folder = Path(tempfile.mkdtemp())
first_try = folder / "first_try.py"
first_try.write_text(before + EMPTY + forward + FORWARD + backward + BACKWARD + after)

print(grade("backprop", first_try, seed=0))

# %% [markdown]
# The forward pass is right, and the hint says why the backward pass is not. Finding the term that
# is missing is task 2.
#
# ## How to work, and how to grade
#
# Take the empty file, fill in functions in any order, and grade as often as you like. It works
# offline, in any directory.
#
# ::::{tab-set}
# :::{tab-item} Command line
# ```bash
# companion check backprop --stub > mine.py
# companion check backprop mine.py
# ```
# The exit status is 0 if all tasks pass, 1 if one fails, 2 if the file cannot be graded at all;
# `--json` prints the report for a program.
# :::
# :::{tab-item} Notebook
# ```python
# from pathlib import Path
# from companion.homework import grade, stub
#
# Path("mine.py").write_text(stub("backprop"))   # once: it overwrites
# print(grade("backprop", "mine.py"))
# ```
# A cell that begins with `%%writefile mine.py` holds the whole file, if you would rather not leave
# the notebook.
# :::
# :::{tab-item} pytest
# ```bash
# pytest -p companion.homework.pytest_plugin --homework backprop mine.py
# ```
# One test a task, so that `-k rms-norm`, `-x` and `--junit-xml` do what they always do. Several
# files at once are fine, for those who teach.
# :::
# ::::
#
# Your file runs in a process of its own: an endless loop, an exit or a crash costs the task in
# which it happens and no other. Inputs are drawn afresh at every grading, answers come back as
# plain arrays, and what is right is worked out elsewhere, in float64, to a relative tolerance of
# $10^{-9}$. So keep the dtype you are given. A task has full points or none.
#
# **Rules.** The file may import whatever is installed, except the graders. It may not start
# processes, use the network, or write outside its own folder. *By hand* means: the functions of the
# task, and everything in your file that they use, must do without what would do the work instead.
# That is `torch.autograd`, `torch.func`, `torch.ops`, `requires_grad`, `enable_grad`,
# `set_grad_enabled` and `inference_mode`; of `companion.backprop` the modules `autograd`,
# `forward_mode`, `tape`, `tensor` and `gradient_check`; and ways around the rule such as `eval`,
# `exec` or `getattr`. Each task adds the library function that is its answer. Autograd is switched
# off while these tasks run.
#
# Here is the empty file. Its comments name the tasks.

# %% tags=["hide-output"]
print(stub("backprop"))

# %% [markdown]
# And this is how it is graded.

# %%
empty = folder / "mine.py"
empty.write_text(stub("backprop"))
report = grade("backprop", empty)
print(report)
assert report.total == 0
assert report.possible == 100

# %% [markdown]
# ## Task 1: a gradient check (15 points)
#
# Everything after this task is a gradient, so begin with the tool that tells right from wrong.
# Write `wrong_entries(function, gradient, x)`: it returns a boolean tensor of the shape of $x$,
# `True` where the gradient that somebody claims is wrong. For the entry $i$ compare the claim $g_i$
# with the central difference
#
# $$m_i = \frac{f(x + h e_i) - f(x - h e_i)}{2h}, \qquad
#   g_i \text{ is wrong unless } |g_i - m_i| \le 10^{-5} \max(|g_i|, |m_i|).$$
#
# | | shape |
# |---|---|
# | `x`, float64 | any; unchanged when you return |
# | `function(x)` | a single number |
# | `gradient` | that of `x` |
# | result, bool | that of `x` |
#
# The functions are scaled by factors from $10^{-8}$ to $10^8$, one bends so strongly that $f''/f'$
# is about 200, one is asked about near $|x| = 1000$, and one claim is `nan`. Your answer has to
# hold for all of them. [](autograd.ipynb) discusses the step: with $h = 6 \cdot 10^{-6}$, times
# $|x_i|$ where that is above 1, the errors from bending and from rounding are both far below the
# tolerance.
#
# *By hand*: the list above.
#
# :::{admonition} Predict first
# :class: predict
# At $x = 1000$ a function is about 2000 and its slope is 1. Numbers near 2000 are stored to about
# $2 \cdot 10^{-13}$. Down to which step $h$ can a central difference still be right to $10^{-5}$?
# :::

# %%
import torch

x = torch.tensor(1000.0, dtype=torch.float64)


def parabola(x):
    return x * x / 2000 + 1500  # 2000 at x = 1000, with slope 1 there


print("  step   relative error of the slope")
for exponent in range(-1, -12, -2):
    h = 10.0**exponent
    slope = (parabola(x + h) - parabola(x - h)) / (2 * h)
    print(f"  1e{exponent:<4d} {abs(slope - 1):.0e}")

# %% [markdown]
# A parabola has no error from bending, so what you see is rounding: about $10^{-13}/h$. From
# $h \approx 10^{-8}$ downwards, right gradients are called wrong. A step that grows with $|x|$
# stays far away from that.
#
# ## Task 2: RMSNorm by hand (20 points)
#
# RMSNorm {cite:p}`zhang2019root` is LayerNorm without the mean: every row is divided by the root of
# its mean square, then scaled feature by feature,
#
# $$y_{ij} = g_j \, \frac{x_{ij}}{r_i}, \qquad
#   r_i = \sqrt{\frac1d \sum_{k=1}^{d} x_{ik}^2 + \varepsilon}.$$
#
# | | symbol | shape |
# |---|---|---|
# | `x` | $X$ | $(\dots, d)$: any number of leading axes |
# | `grad_output` | $\delta = \partial L / \partial Y$ | that of $X$ |
# | `gain` | $g$ | $(d,)$ |
# | first result | $Y$ | that of $X$ |
# | second result | $(\partial L/\partial X, \partial L/\partial g)$ | those of $X$ and $g$ |
#
# The first result is that of `rms_norm(x, gain, eps=1e-6)`, the second that of
# `rms_norm_backward(grad_output, x, gain, eps=1e-6)`.
#
# Start from one row. $L$ depends on $x_k$ directly through $y_k$ and, through $r$, by way of every
# $y_j$ of the row; write down $\partial r / \partial x_k$ first. The gain is used by every row, so
# its gradient is a sum. Change none of the arguments in place. One of the inputs has a row of
# zeros, one has no row at all.
#
# *By hand*: the list above, and the library's `rms_norm` and `RMSNorm`.
#
# :::{admonition} Predict first
# :class: predict
# Take $\varepsilon = 0$ and $g = 1$. If you stretch a row $x$ by a factor, $y$ does not change.
# What does that say about the direction of $\partial L/\partial x$, whatever $L$ is?
# :::

# %%
import matplotlib.pyplot as plt

from companion.figures import COLORS, use_course_style

use_course_style()
generator = torch.Generator().manual_seed(4)
angles = torch.linspace(0, 2 * torch.pi, 9, dtype=torch.float64)[:-1] + 0.2
lengths = 1.0 + 1.6 * torch.rand(8, generator=generator, dtype=torch.float64)
rows = (lengths * torch.stack([angles.cos(), angles.sin()])).T.clone().requires_grad_()
y = rows / rows.square().mean(-1, keepdim=True).sqrt()
target = torch.tensor([1.0, 1.0], dtype=torch.float64)
((y - target) ** 2).sum().backward()  # torch's gradient: yours has to be equal to it

radial = (rows.grad * rows).sum(-1).detach()
assert radial.abs().max() < 1e-12

# %% tags=["hide-input"]
figure, axes = plt.subplots(figsize=(7.2, 5))
circle = torch.linspace(0, 2 * torch.pi, 200)
axes.plot(2**0.5 * circle.cos(), 2**0.5 * circle.sin(), "-", color=COLORS[2], label="all outputs y")
points, arrows = rows.detach(), -rows.grad
for point, image in zip(points, y.detach(), strict=True):
    axes.plot([point[0], image[0]], [point[1], image[1]], ":", color=COLORS[2], linewidth=1)
axes.plot(points[:, 0], points[:, 1], "o", color=COLORS[1], label="inputs x")
axes.quiver(
    points[:, 0],
    points[:, 1],
    arrows[:, 0],
    arrows[:, 1],
    angles="xy",
    scale_units="xy",
    scale=3,
    width=0.006,
    color=COLORS[0],
    label="downhill, −∂L/∂x / 3",
)
axes.plot(1, 1, "*", color=COLORS[3], markersize=14, label="where L = 0")
axes.set_aspect("equal")
axes.set_xlim(-2.9, 2.6)
axes.set_ylim(-2.1, 2.2)
axes.set_title("The gradient turns a row and never stretches it")
axes.set_xlabel("first feature of the row")
axes.set_ylabel("second feature of the row")
axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
plt.show()

# %% [markdown]
# Every arrow is at a right angle to its row: along $x$ nothing can be gained, so that part of the
# gradient is taken out, and what is left is shorter the longer the row is. Both facts are in the
# formula that you are to find. They are also a quick test of it, before you grade.
#
# :::{dropdown} A hint
# With $u = g \odot \delta$ and $\hat x = x / r$ for a row, what has to be subtracted from $u$ so
# that the rest is at a right angle to $\hat x$? With $\varepsilon > 0$ the same expression is
# right, though the angle is no longer exactly 90°.
# :::
#
# ## Task 3: cross-entropy with smoothed labels (20 points)
#
# The cross-entropy of [](losses.ipynb) has no lowest point: it always pays to be surer still. Label
# smoothing {cite:p}`szegedy2016rethinking` (section 7) replaces the target "class $c$, nothing
# else" by
#
# $$q_{ik} = (1 - \alpha) [k = c_i] + \frac{\alpha}{K}, \qquad
#   L = -\frac1n \sum_{i=1}^{n} \sum_{k=1}^{K} q_{ik} \log p_{ik}, \qquad
#   p_i = \operatorname{softmax}(z_i).$$
#
# | | symbol | shape |
# |---|---|---|
# | `z` | logits $Z$ | $(n, K)$ |
# | `labels`, int64 | $c$ | $(n,)$ |
# | `smoothing` | $\alpha$ | a number in $[0, 1]$ |
# | first result | $L$ | a scalar |
# | second result | $\partial L/\partial Z$ | $(n, K)$ |
#
# The first result is that of `smoothed_cross_entropy(z, labels, smoothing)`, the second that of
# `smoothed_cross_entropy_backward(z, labels, smoothing)`.
#
# Logits go to $|z| = 1000$ and beyond, with rows that lie far apart from each other. Now *every*
# class has a weight in the sum, so a probability that has underflowed to 0 costs you at once. The
# functions of `companion.backprop.losses` may be used.
#
# *By hand*: the list above, and torch's `cross_entropy` and `CrossEntropyLoss`.
#
# :::{admonition} Predict first
# :class: predict
# Two classes, $\alpha = 0.1$. How much larger than the other must the right class's logit be for
# the loss to be as low as it gets: 3, 6, or as much as possible?
# :::

# %%
import math

from torch.nn import functional as F

margin = torch.linspace(-2, 10, 241, dtype=torch.float64)
logits = torch.stack([margin, torch.zeros_like(margin)], dim=1)
right = torch.zeros(len(margin), dtype=torch.int64)
curves = {
    alpha: F.cross_entropy(logits, right, label_smoothing=alpha, reduction="none")
    for alpha in (0.0, 0.1, 0.3)
}
best = margin[curves[0.1].argmin()].item()
assert abs(best - math.log(0.95 / 0.05)) < 0.05  # p = q where the gradient p − q is 0
print(f"lowest at a margin of {best:.2f}, where p = {torch.sigmoid(torch.tensor(best)):.3f}")

# %% tags=["hide-input"]
for alpha, curve in curves.items():
    plt.plot(margin, curve, label=f"α = {alpha:g}")
plt.plot(best, curves[0.1].min(), "o", color=COLORS[1])
plt.title(f"With α = 0.1 it does not pay to be surer than a margin of {best:.2f}")
plt.xlabel("logit of the right class minus the other one")
plt.ylabel("loss (nats)")
plt.legend()
plt.show()

# %% [markdown]
# The minimum is where $p = q$, and there the loss is the entropy of $q$, not 0. Task 6 uses that.
#
# ## Task 4: a new operation for the tape (15 points)
#
# [](autograd.ipynb) has `exp`, `log`, `sum` and `amax`, but not
#
# $$\operatorname{logsumexp}(x) = \log \sum_k e^{x_k}$$
#
# in one piece. Make it a `primitive` with one gradient rule; the module
# `companion.backprop.primitive` begins with an example of how that is done.
#
# | | shape |
# |---|---|
# | `x` | any |
# | `dim`, by keyword only | the axis that is summed over |
# | result of `logsumexp(x, dim=…)` | that of `x`, with 1 at `dim` |
#
# The rule is called with Tensors and must return a Tensor in the shape of `x`. It is judged by
# first and by *second* derivatives, so nothing in it may be taken off the tape. Inputs go to 1000:

# %%
large = torch.tensor([1000.0, 1001.0], dtype=torch.float64)
print("log of the sum of exp:", large.exp().sum().log().item())
print("what it should be:   ", f"{1001 + math.log1p(math.exp(-1)):.4f}")

# %% [markdown]
# The cure is the one of [](losses.ipynb). What the derivative is you have met there too, under
# another name.
#
# *By hand*: the list above, and every `logsumexp` of torch. The tape may be used here, of course.
# When you are done, try `wrong_entries` on the function
# `lambda v: logsumexp(Tensor(v), dim=0).sum().value`: your own check of your own operation.
#
# ## Task 5: your backward pass in an `nn.Module` (15 points)
#
# A formula becomes useful when it can stand in anybody's network. Wrap the two functions of task 2
# into a `torch.autograd.Function`, and that into a module:
#
# - `RMSNorm(features, eps=1e-6)` has one parameter, `gain`, shape `(features,)`, ones at first, and
#   nothing else in its `state_dict`;
# - `layer(x)` takes `x` of shape `(…, features)` in any floating-point type and keeps that type;
# - its whole backward pass is yours, the gain's part included: torch must find one node of yours
#   between output and inputs, and nothing that it would differentiate itself.
#
# `forward` may keep what `backward` needs with `ctx.save_for_backward`; a plain number such as
# `eps` can be set on `ctx`. `backward` returns one value for every argument of `forward`, `None`
# for `eps`. The grader uses one layer twice in a network, and two layers of different `eps` side by
# side.
#
# *Not allowed*: `torch.autograd.grad`, `torch.autograd.backward`, `torch.autograd.functional`,
# `torch.func`, `torch.ops`, `enable_grad`, `set_grad_enabled`, the library's `rms_norm` and
# `RMSNorm`, and the ways around the rule.
#
# ## Task 6: train with it (15 points)
#
# Write `train(data)`. It builds
#
# $$\texttt{Linear(64, 32)} \to \texttt{RMSNorm(32)} \to \texttt{ReLU} \to \texttt{Linear(32, 10)}$$
#
# as an `nn.Sequential`, with *your* `RMSNorm`; trains it through `Classifier` and `fit` of
# `companion.training`, with your `smoothed_cross_entropy` at $\alpha = 0.1$ as its loss; and
# returns what `fit` returned. `data` is a LightningDataModule with 1,200 flattened digits and a
# validation set. At least 90 % of 400 more digits, which your file never sees, must be classified
# rightly. The classes are renumbered at every grading, so there is no point in bringing weights
# along. You have a minute; a few seconds are enough.
#
# `fit` trains in bfloat16 where the processor multiplies in it, and your layer is then handed
# bfloat16. `fit(…, precision="32-true")` keeps to float32, and gives the same result on every
# machine. The same call trains on a GPU or a TPU with `accelerator="gpu"` or `"tpu"`; the grader
# has only the CPU.

# %%
alpha, classes = 0.1, 10
q_right = 1 - alpha + alpha / classes
q_other = alpha / classes
floor = -q_right * math.log(q_right) - (classes - 1) * q_other * math.log(q_other)
print(f"the loss of a network that knows nothing: {math.log(classes):.3f}")
print(f"the lowest loss there is:                 {floor:.3f}")

# %% [markdown]
# A training loss below the second number means that the labels were not smoothed. The grader looks
# at that as well.
#
# ## Before you hand in
#
# - Grade it three times: the inputs are different each time.
# - If a task builds on one that fails, mend the earlier one first; the report says so.
# - A hint is a guess from the numbers. Where there is none, make the input small, `x` of shape `(1,
#   2)`, and compare with your gradient check.
#
# ## Sources
#
# RMSNorm: {cite:t}`zhang2019root`. Label smoothing: {cite:t}`szegedy2016rethinking`.
