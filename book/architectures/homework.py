# %% [markdown]
# # Homework: a network of your own pieces
#
# **The question: can you build a convolution, a recurrent cell and an attention that this chapter's
# pages do not have, go back through them by hand, and put all three into one network that learns?**
#
# Five tasks. You plan a stack of convolutions on paper; write a depthwise-separable convolution and
# a minimal gated unit, forward and backward; write attention that looks back over a sliding window.
# The last task joins them into a network that reads digits row by row. All of it goes into one
# file, and a grader tells you, for every task, whether it is right and what the mistake probably
# is.

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# This is what the grader says of a first try. Somebody has begun with task 1 and worked out the
# sizes of the images only.

# %%
import tempfile
from pathlib import Path

from companion.homework import grade, stub

EMPTY = "    raise NotImplementedError\n"
SIZES = """    rows = []
    for layer in layers:
        size = (size + layer["padding"] - layer["kernel"]) // layer["stride"] + 1
        channels = layer.get("channels", channels)
        rows.append((channels, size, 0, 0, 0))
    return rows
"""
folder = Path(tempfile.mkdtemp())
first_try = folder / "first_try.py"
first_try.write_text(stub("architectures").replace(EMPTY, SIZES, 1))

print(grade("architectures", first_try, seed=0))

# %% [markdown]
# The hint names the first thing that is wrong. Dilation, parameters, multiplications and the
# receptive field would be next.
#
# ## How to work, and how to grade
#
# Take the empty file, fill in functions in any order, and grade as often as you like. It works
# offline, in any directory.
#
# ::::{tab-set}
# :::{tab-item} Command line
# ```bash
# companion check architectures --stub > mine.py
# companion check architectures mine.py
# ```
# The exit status is 0 if all tasks pass, 1 if one fails, 2 if the file cannot be graded at all;
# `--json` prints the report for a program.
# :::
# :::{tab-item} Notebook
# ```python
# from pathlib import Path
# from companion.homework import grade, stub
#
# Path("mine.py").write_text(stub("architectures"))   # once: it overwrites
# print(grade("architectures", "mine.py"))
# ```
# :::
# :::{tab-item} pytest
# ```bash
# pytest -p companion.homework.pytest_plugin --homework architectures mine.py
# ```
# One test a task: `-k sliding-attention` grades that one alone.
# :::
# ::::
#
# Your file runs in a process of its own, on inputs that are drawn afresh at every grading. What is
# right is worked out elsewhere, in float64, to a relative tolerance of $10^{-9}$: keep the dtype
# you are given, and change no argument in place. A task has full points or none.
#
# **Rules.** The file may import whatever is installed, except the graders. It may not start
# processes, use the network, or write outside its own folder. *By hand* means: the functions of the
# task, and everything in your file that they use, must do without what would do the work instead.
# That is `torch.autograd`, `torch.func`, `torch.ops`, `requires_grad`, `enable_grad`,
# `set_grad_enabled` and `inference_mode`; of `companion.backprop` the modules `autograd`,
# `forward_mode`, `tape`, `tensor` and `gradient_check`; and ways around the rule such as `eval`,
# `exec` or `getattr`, which no task may use. Each task adds the library's own answer to it.
#
# Here is the empty file. Its comments name the tasks.

# %% tags=["hide-output"]
print(stub("architectures"))

# %% [markdown]
# And this is how it is graded.

# %%
empty = folder / "mine.py"
empty.write_text(stub("architectures"))
report = grade("architectures", empty)
print(report)
assert report.total == 0
assert report.possible == 100

# %% [markdown]
# ## Task 1: plan a stack of layers (15 points)
#
# Before a network is built, somebody has to know what fits, what it costs and how far it sees.
# Write `plan(layers, channels, size)`. The image has `channels` channels and `size` × `size`
# pixels; every layer is a dictionary:
#
# | key | convolution | pooling |
# |---|---|---|
# | `"kind"` | `"convolution"` | `"pooling"` |
# | `"kernel"`, `"stride"`, `"padding"`, `"dilation"` | whole numbers, for both axes | the same |
# | `"channels"` | channels that go out | |
# | `"groups"` | groups that the channels fall into | |
# | `"bias"` | `True` or `False` | |
#
# The result is a list with one tuple of five `int`s a layer, describing the stack up to and with
# that layer, or that layer:
#
# | | what |
# |---|---|
# | channels | that go out of the layer |
# | size | height of what goes out |
# | parameters | weights and biases of this layer; 0 for a pooling |
# | multiplications | weight times pixel, in this layer, for one image; 0 for a pooling |
# | field | pixels of the image, along one axis, that one output number depends on |
#
# The field reaches from the first of these pixels to the last, padding counted too.
#
# If the window is larger than the padded input, or `groups` does not divide the channels that come
# in or those that go out, raise a `ValueError` whose message holds `layers[i]`, counted from 0.
# [](cnn.ipynb) derives all that you need, for single layers.
#
# *Not allowed*: `torch.nn`; of `companion.architectures` the modules `receptive_field`, `im2col`,
# `convolution` and `pooling`; `companion.compute`.
#
# :::{admonition} Predict first
# :class: predict
# Two 3×3 convolutions, one of them with stride 2. Does it matter for the field which comes first?
# :::

# %%
from torch import nn

from companion.architectures.receptive_field import receptive_field

plain, strided = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, stride=2)
stride_last = receptive_field([plain, strided]).size[0]
stride_first = receptive_field([strided, plain]).size[0]
print("stride in the second:", stride_last, "pixels")
print("stride in the first: ", stride_first, "pixels")
assert stride_first > stride_last

# %% [markdown]
# A stride spreads the taps of every *later* layer, not its own.
#
# ## Task 2: a depthwise-separable convolution by hand (25 points)
#
# An ordinary convolution looks around and mixes channels at once. Xception
# {cite:p}`chollet2017xception` does one after the other: each channel is convolved with a kernel of
# its own (depth), then a $1 \times 1$ convolution mixes the channels (point),
#
# $$z_{ncij} = \sum_{u,v} D_{cuv} \, x_{n,\,c,\,is + ud - p,\,js + vd - p}, \qquad
#   y_{noij} = b_o + \sum_c P_{oc} \, z_{ncij},$$
#
# with stride $s$, padding $p$, dilation $d$, and $x = 0$ outside the image.
#
# | | symbol | shape |
# |---|---|---|
# | `x` | $x$ | $(N, C, H, W)$ |
# | `depth` | $D$ | $(C, k_h, k_w)$ |
# | `point` | $P$ | $(O, C)$ |
# | `bias` | $b$ | $(O,)$ |
# | `grad_output` | $\delta = \partial L/\partial y$ | $(N, O, H', W')$ |
# | `separable` returns | $y$ | $(N, O, H', W')$ |
# | `separable_backward` returns | the four gradients | those of $x$, $D$, $P$, $b$ |
#
# ```python
# separable(x, depth, point, bias, stride=1, padding=0, dilation=1)
# separable_backward(grad_output, x, depth, point, stride=1, padding=0, dilation=1)
# ```
#
# `separable_backward` is given $\delta$. Go back in the same two steps: first
# $\partial L/\partial z$, then the depthwise part. The moves `im2col` and `col2im` of
# `companion.architectures.im2col` may be used, and so may `unfold` and
# `fold` of torch.
#
# *By hand*: the list above; of `companion.architectures` the modules `convolution`, `cnn` and
# `keras_twin`; `tensorflow` and `keras`; torch's `conv2d`, `Conv2d`, `LazyConv2d`,
# `conv_transpose2d` (and those of one and three dimensions), `convolution` and `torch.nn.grad`.
#
# :::{admonition} Predict first
# :class: predict
# An image of 8 × 8, a kernel of 3 × 3, stride 2, no padding. Which rows of the image get a gradient
# of exactly 0, whatever the loss?
# :::

# %%
import torch
from torch.nn import functional as F

image = torch.ones(1, 1, 8, 8, requires_grad=True)
F.conv2d(image, torch.ones(1, 1, 3, 3), stride=2).sum().backward()
by_row = image.grad[0, 0].sum(1)
print("gradient of each row:", by_row.int().tolist())
assert by_row[7] == 0

# %% [markdown]
# The last row: no window reaches it. $\partial L/\partial x$ has the shape of $x$ all the same.
#
# ## Task 3: a minimal gated unit through time (25 points)
#
# The GRU of [](rnn.ipynb) has two gates. The minimal gated unit {cite:p}`zhou2016minimal` makes one
# do both jobs: it decides what the candidate sees of the old state, and how much of the old state
# is replaced,
#
# $$f_t = \sigma(W_f x_t + U_f h_{t-1} + b_f), \qquad
#   \tilde h_t = \tanh(W_h x_t + U_h (f_t \odot h_{t-1}) + b_h), \qquad
#   h_t = (1 - f_t) \odot h_{t-1} + f_t \odot \tilde h_t.$$
#
# | | symbol | shape |
# |---|---|---|
# | `x` | $x$ | $(N, T, F)$ |
# | `lengths`, int64 | $\ell$ | $(N,)$, each from 1 to $T$ |
# | `h0` | $h_0$ | $(N, H)$ |
# | `w_ih` | $W_f$ over $W_h$ | $(2H, F)$ |
# | `w_hh` | $U_f$ over $U_h$ | $(2H, H)$ |
# | `bias` | $b_f$, then $b_h$ | $(2H,)$ |
# | `mgu` returns, first | all $h_t$, 0 at padding | $(N, T, H)$ |
# | `mgu` returns, second | $h_{\ell_n}$ of each row $n$ | $(N, H)$ |
#
# ```python
# mgu(x, lengths, h0, w_ih, w_hh, bias)
# mgu_backward(grad_output, grad_last, x, lengths, h0, w_ih, w_hh, bias)
# ```
#
# Row $n$ is real up to step $\ell_n$; what stands behind that in `x`, and in the gradient that
# arrives there, is large and must not count. `mgu_backward` is given what arrives at both results,
# and returns the gradients of `x`, `h0`, `w_ih`, `w_hh` and `bias`, in this order and in their
# shapes; 0 for what is padding in `x`.
#
# Draw one step first, and count: along how many ways does $h_{t-1}$ reach $h_t$, and in how many
# places does $f_t$ stand? The modules of `companion.architectures` may be used.
#
# *By hand*: the list above.
#
# :::{admonition} Predict first
# :class: predict
# The bias $b_f$ is set to $-4$, so that $f$ stays near $\sigma(-4) \approx 0.02$. How much of the
# gradient is left after 40 steps back: almost nothing, about half, almost all?
# :::

# %%
generator = torch.Generator().manual_seed(0)
hidden, steps = 16, 40
u_f, u_h = torch.randn(2, hidden, hidden, generator=generator, dtype=torch.float64) / hidden**0.5
noise = torch.randn(steps, 2, hidden, generator=generator, dtype=torch.float64)


def left_over(gate_bias):
    """Return how long the gradient of one direction of the last state is, step by step back."""
    states = [torch.zeros(hidden, dtype=torch.float64, requires_grad=True)]
    for to_gate, to_candidate in noise:
        h = states[-1]
        f = torch.sigmoid(to_gate / 2 + u_f @ h + gate_bias)
        states.append((1 - f) * h + f * torch.tanh(to_candidate + u_h @ (f * h)))
    direction = torch.ones(hidden, dtype=torch.float64) / hidden**0.5
    grads = torch.autograd.grad(states[-1] @ direction, states)
    return [grad.norm().item() for grad in reversed(grads)]


curves = {gate_bias: left_over(gate_bias) for gate_bias in (-4, -2, 0)}
share = curves[-4][-1]
print(f"left after {steps} steps with a bias of -4: {share:.2f}")
assert 0.2 < share < 0.9
assert curves[0][-1] < 0.01

# %% tags=["hide-input"]
import matplotlib.pyplot as plt

from companion.figures import LINESTYLES, use_course_style

use_course_style()
for (gate_bias, curve), style in zip(curves.items(), LINESTYLES, strict=False):
    plt.semilogy(curve, linestyle=style, label=f"bias of the gate {gate_bias}")
plt.title("A gate that is nearly shut carries the gradient far back")
plt.xlabel("steps back through time")
plt.ylabel("length of the gradient")
plt.legend()
plt.show()

# %% [markdown]
# About $(1 - 0.02)^{40}$ is left: the way $1 - f$ hands the gradient on almost whole. It is the
# same trick as the LSTM's.
#
# ## Task 4: attention that slides (20 points)
#
# A long text costs attention twice: every query looks at every key, and every key must be kept.
# A sliding window {cite:p}`beltagy2020longformer` limits both. And instead of positions added to
# the input, ALiBi {cite:p}`press2022train` subtracts from each score a penalty for distance,
#
# $$s_{hij} = \frac{q_{hi} \cdot k_{hj}}{\sqrt D} - m_h \, (i - j), \qquad
#   0 \le i - j < w, \qquad m_h = 2^{-8h/n}, \quad h = 1 \dots n,$$
#
# and a softmax over the $w$ keys (or fewer, at the beginning) that query $i$ may see.
#
# | | shape |
# |---|---|
# | result of `alibi_slopes(heads)`, float64 | $(n,)$ |
# | `q` | $(N, n, T, D)$: the *last* $T$ of the $S$ positions |
# | `k` | $(N, n, S, D)$ |
# | `v` | $(N, n, S, E)$ |
# | result of `attend(q, k, v, window)`, in the type of `q` | $(N, n, T, E)$ |
#
# Then write `Decoder(window)`, for a text that arrives bit by bit. `step(q, k, v)` takes the next
# one or more positions and returns the output there: all steps together must give what `attend`
# gives for the whole text. Between steps it may keep keys and values of `window` positions and no
# more. The grader counts the numbers that stay in memory; note that a slice of a tensor keeps all
# of that tensor.
#
# Scores go to several thousand, one window is 1, one is longer than the text.
#
# *Not allowed*: `scaled_dot_product_attention`, `flex_attention`, `MultiheadAttention`,
# `tensorflow`, `keras`, and the ways around the rule. Autograd may be used here: the function needs
# no backward pass of its own.
#
# :::{admonition} Predict first
# :class: predict
# There are 8 heads, and all keys are alike. At which distance does a key count half as much as the
# query's own, in the first head and in the last?
# :::

# %%
import math

for head in (1, 4, 8):
    slope = 2.0**-head  # 8 heads: the slopes are 1/2, 1/4, … 1/256
    print(f"head {head}: half the weight at a distance of {math.log(2) / slope:6.1f}")

# %% [markdown]
# The heads look over distances from one word to a few hundred, without a single parameter.
#
# ## Task 5: train a network of your pieces (15 points)
#
# Wrap your two backward passes into layers, each around one `torch.autograd.Function`:
#
# - `SeparableConv2d(in_channels, out_channels, kernel_size, stride=1, padding=0)` has the
#   parameters `depth`, `point` and `bias` of task 2;
# - `MGU(input_size, hidden_size)` has the parameters `w_ih`, `w_hh` and `bias` of task 3, begins
#   with $h_0 = 0$, takes all steps as real, and returns all states, `(batch, time, hidden_size)`.
#
# Neither has anything else in its `state_dict`. How the parameters begin is yours to choose. The
# grader compares both layers' gradients with autograd's, and looks whether torch had to
# differentiate anything itself.
#
# `RowReader` stands in the empty file, and is to be left as it is. It uses all you have written:
# `plan` for its sizes, your convolution to see strokes, your cell to read the image row by row,
# your attention to look back from the last row over four.
#
# Last, `train(data)`: train a `RowReader` through `Classifier` and `fit` of `companion.training`,
# and return what `fit` returned. `data` is a LightningDataModule with 1,200 digits of 8 × 8 pixels,
# `(batch, 8, 8)`, and a validation set. At least 85 % of 400 more digits, which your file never
# sees, must be classified rightly. The classes are renumbered at every grading. You have a minute;
# a few seconds are enough.
#
# `fit` trains in bfloat16 where the processor multiplies in it, and hands your layers a mixture of
# types. `fit(…, precision="32-true")` spares you that. Mind the slopes of task 4, which are
# float64. The same call trains on a GPU or a TPU with `accelerator="gpu"` or `"tpu"`; the grader
# has only the CPU.
#
# *Not allowed*: `torch.autograd.grad`, `torch.autograd.backward`, `torch.autograd.functional`,
# `torch.func`, `torch.ops`, `enable_grad`, `set_grad_enabled`, what task 2 forbids of torch and the
# companion, and the ways around the rule.

# %%
separable_weights = 9 * 1 + 8 * 1 + 8
cell_weights = 2 * 32 * (64 + 32 + 1)
last_weights = 10 * (32 + 1)
print(f"convolution {separable_weights}, cell {cell_weights}, last layer {last_weights}")
print("a network that knows nothing has a loss of", f"{math.log(10):.2f}")

# %% [markdown]
# ## Before you hand in
#
# - Grade it three times: the inputs are different each time.
# - If a task builds on one that fails, mend the earlier one first; the report says so.
# - A hint is a guess from the numbers. Where there is none, make the input small, one row and one
#   step, and compare with a central difference: `wrong_entries` of
#   [the last homework](../backprop/homework.ipynb) is what you need.
#
# ## Sources
#
# Depthwise-separable convolution: {cite:t}`chollet2017xception`. Minimal gated unit:
# {cite:t}`zhou2016minimal`. Sliding window: {cite:t}`beltagy2020longformer`. ALiBi:
# {cite:t}`press2022train`.
