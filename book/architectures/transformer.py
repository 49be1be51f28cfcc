# %% [markdown]
# # The Transformer: every token asks every other
#
# **The question: how can each word of a text look at all the others, in a few matrix products
# that a machine does at once, and what does that cost?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# Here is a classifier that is never trained. It compares a handwritten digit with every digit of
# the training set, turns the similarities into weights that add up to 1, and takes the weighted
# mean of the labels. There are no parameters, only one number to choose: how *sharply* it looks.

# %%
import math
import time
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from companion.data.digits import Digits
from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style

use_course_style()
torch.set_num_threads(1)
digits = Digits(flatten=True, dtype=torch.float64)
digits.setup()

keys = F.normalize(digits.train[0], dim=1)  # (1293, 64): what there is to look at
values = F.one_hot(digits.train[1], 10).double()  # (1293, 10): what each of them says
queries = F.normalize(digits.test[0], dim=1)  # (360, 64): who asks


def look_up(sharpness):
    scores = sharpness * queries @ keys.T  # (360, 1293): every query with every key
    return scores.softmax(dim=1) @ values  # (360, 10): a weighted mean of the values


# %% tags=["hide-input"]
sharpnesses = [0.3, 1, 3, 10, 30, 100, 300, 1000]
accuracies = [
    100 * (look_up(s).argmax(1) == digits.test[1]).double().mean().item() for s in sharpnesses
]
best = max(accuracies)
plt.plot(sharpnesses, accuracies, marker="o", color=COLORS[1])
plt.xscale("log")
plt.xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
plt.xlabel("factor on the similarities before the softmax")
plt.ylabel("test digits right (%)")
plt.title(f"No training, no parameters: {best:.0f} % of the test digits right")
plt.show()
assert best > 98

# %% [markdown]
# (The factor was not tuned on the test digits: from 30 upwards it hardly matters.)
#
# Queries, keys, values, a softmax: those two lines are **attention**. A Transformer learns what to
# ask for (queries), what to be found by (keys) and what to say (values), and it does this in every
# layer, for every token of a sequence. This page takes it apart, forward and backward, measures
# what it costs, and puts it together again as a GPT that learns in seconds.

# %% [markdown]
# ## Attention by hand
#
# A sequence of $T$ tokens asks, a sequence of $S$ tokens is looked at (often the same one). Each
# query and each key is a vector of $D$ numbers, each value one of $E$ numbers, mostly $E = D$.
#
# $$\underbrace{Z}_{(T, S)} = \frac{Q K^\top}{\sqrt D}, \qquad
# P_{ts} = \frac{e^{Z_{ts}}}{\sum_{r=1}^{S} e^{Z_{tr}}}, \qquad
# \underbrace{O}_{(T, E)} = P\,V .$$
#
# $Z$ holds the **scores**, one for each query and key; a softmax makes **weights** $P$ of them, row
# by row. Each row of $P$ adds up to 1, so each output is a weighted mean of the values
# {cite:p}`vaswani2017attention`.

# %% tags=["hide-input"]
figure, axes = plt.subplots(figsize=(7.6, 2.6))
axes.set_axis_off()
axes.set_aspect("equal")


def box(x, y, width, height, name, shape, color):
    axes.add_patch(plt.Rectangle((x, y), width, height, facecolor=color, edgecolor="black"))
    axes.text(x + width / 2, y + height / 2, name, ha="center", va="center", fontsize=13)
    axes.text(x + width / 2, y - 0.35, shape, ha="center", va="top", fontsize=10)


def sign(x, text):
    axes.text(x, 1.5, text, ha="center", va="center", fontsize=13)


box(0, 0, 1.6, 3, "$Q$", "(T, D)", "#dbe9f6")
sign(2.0, "×")
box(2.4, 0.7, 4.2, 1.6, "$K^\\top$", "(D, S)", "#dbe9f6")
sign(8.3, "$\\rightarrow$")
axes.text(8.3, 1.9, "softmax\nof each row", ha="center", va="bottom", fontsize=10)
box(10.0, 0, 4.2, 3, "$P$", "(T, S)", "#f6dfc4")
sign(14.6, "×")
box(15.0, -0.6, 1.6, 4.2, "$V$", "(S, E)", "#dbe9f6")
sign(17.0, "=")
box(17.4, 0, 1.6, 3, "$O$", "(T, E)", "#d5efe2")
axes.set_xlim(-0.2, 19.2)
axes.set_ylim(-1.6, 4.2)
axes.set_title("Two matrix products, and between them a table of T × S weights")
plt.show()

# %% [markdown]
# First one query at a time, as the words say it; then all at once. PyTorch's own function is the
# judge.

# %%
generator = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def attention_one_by_one(Q, K, V):
    rows = []
    for query in Q:  # (D,)
        scores = torch.stack([query @ key for key in K]) / math.sqrt(len(query))  # (S,)
        weights = scores.exp() / scores.exp().sum()
        rows.append(sum(weight * value for weight, value in zip(weights, V, strict=True)))
    return torch.stack(rows)


def attention_forward(Q, K, V):
    P = (Q @ K.T / math.sqrt(Q.shape[1])).softmax(dim=1)
    return P @ V, P


T, S, D, E = 4, 6, 8, 5
Q, K, V = normal(T, D), normal(S, D), normal(S, E)
output, P = attention_forward(Q, K, V)
expected = F.scaled_dot_product_attention(Q, K, V)
torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
torch.testing.assert_close(attention_one_by_one(Q, K, V), expected, rtol=1e-10, atol=1e-12)
print("Q", tuple(Q.shape), " K", tuple(K.shape), " V", tuple(V.shape))
print("P", tuple(P.shape), " O", tuple(output.shape))
print("rows of P add up to", [round(row, 9) for row in P.sum(1).tolist()])

# %% [markdown]
# ### And backward
#
# Let $\delta = \partial L/\partial O$, of shape $(T, E)$. From $O_{te} = \sum_s P_{ts} V_{se}$
# follow $\partial L/\partial V_{se} = \sum_t P_{ts}\,\delta_{te}$ and
# $\partial L/\partial P_{ts} = \sum_e \delta_{te} V_{se}$; the product $QK^\top$ goes the same
# way. The softmax between them you know from {doc}`the page on layers <../backprop/layers>`. All
# together, last things first:
#
# $$\frac{\partial L}{\partial V} = P^\top\delta, \qquad
# G = \frac{\partial L}{\partial P} = \delta V^\top, \qquad
# \frac{\partial L}{\partial Z} = P \odot \Bigl(G - \textstyle\sum_s P_{ts} G_{ts}\Bigr),$$
# $$\frac{\partial L}{\partial Q} = \frac{1}{\sqrt D}\,\frac{\partial L}{\partial Z}\,K,
# \qquad
# \frac{\partial L}{\partial K} =
# \frac{1}{\sqrt D}\Bigl(\frac{\partial L}{\partial Z}\Bigr)^{\!\top} Q .$$
#
# The middle formula is the softmax's vector–Jacobian product, row by row. Note what must be kept
# for it: $P$, all $T \times S$ numbers of it.


# %%
def attention_backward(delta, Q, K, V, P):
    grad_V = P.T @ delta  # (S, E)
    G = delta @ V.T  # (T, S)
    grad_Z = P * (G - (P * G).sum(dim=1, keepdim=True))  # (T, S)
    scale = 1 / math.sqrt(Q.shape[1])
    return grad_Z @ K * scale, grad_Z.T @ Q * scale, grad_V  # (T, D), (S, D), (S, E)


leaves = [value.clone().requires_grad_() for value in (Q, K, V)]
delta = normal(T, E)
F.scaled_dot_product_attention(*leaves).backward(delta)
for mine, leaf in zip(attention_backward(delta, Q, K, V, P), leaves, strict=True):
    torch.testing.assert_close(mine, leaf.grad, rtol=1e-10, atol=1e-12)
print("the gradients of Q, K and V equal autograd's")

# %% [markdown]
# `companion.architectures.attention` has this pair as `ScaledDotProduct`, for any number of
# leading dimensions and any mask; `scaled_dot_product` returns the weights as well, to be looked
# at. The real modules call `attention`, which hands over to PyTorch's kernels.

# %% [markdown]
# ## Why divide by √D
#
# Let the numbers of a query and of a key be independent, with mean 0 and variance 1. Their product
# is a sum of $D$ terms of variance 1, so it has variance $D$.
#
# :::{admonition} Predict first
# :class: predict
# One query, 64 keys, all random, $D = 256$. How much of the weight goes to the largest key without
# the division: a tenth, a half, nearly all? And what does that do to the gradient of the scores?
# :::

# %%
dims = [4, 16, 64, 256, 1024]
variance, top_weight, gradient = [], {True: [], False: []}, {True: [], False: []}
for dim in dims:
    scores = torch.einsum("nd,nsd->ns", normal(500, dim), normal(500, 64, dim))  # 500 queries
    variance.append(scores.var().item())
    for scaled in (True, False):
        p = (scores / math.sqrt(dim) if scaled else scores).softmax(dim=1)
        g = normal(500, 64)  # a gradient that arrives from above
        back = p * (g - (p * g).sum(1, keepdim=True))
        top_weight[scaled].append(p.max(1).values.mean().item())
        gradient[scaled].append((back.norm(dim=1) / g.norm(dim=1)).median().item())
for dim, var, top in zip(dims, variance, top_weight[False], strict=True):
    print(f"D = {dim:4d}: variance of q·k {var:7.1f}, largest of 64 weights {top:.2f} unscaled")
    assert abs(var / dim - 1) < 0.05

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.2))
for axes, curves, title, label in (
    (panels[0], top_weight, "Undivided, one key takes all", "largest of 64 weights"),
    (panels[1], gradient, "… and the gradient dies", "median gradient, out / in"),
):
    for scaled, name, color, style, marker in (
        (True, "divided by √D", COLORS[1], "-", "o"),
        (False, "not divided", COLORS[2], "--", "s"),
    ):
        axes.plot(dims, curves[scaled], label=name, color=color, linestyle=style, marker=marker)
    axes.set_xscale("log", base=2)
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.minorticks_off()
    axes.set_xlabel("size of a head, D")
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=11)
panels[1].set_yscale("log")
panels[0].legend()
plt.show()
shrinks = gradient[True][3] / gradient[False][3]
print(f"D = 256: without the division the typical gradient is {shrinks:.0f} times smaller")
assert shrinks > 5

# %% [markdown]
# At $D = 256$ the scores have a spread of 16, and that makes the softmax a hard choice: nearly all
# of the weight on one key. There its
# gradient $P \odot (G - \sum P G)$ is nearly 0, since $P$ is 0 for all but one key, and for that
# one the mean is its own value. What cannot move cannot learn. Divided by $\sqrt D$, the scores
# have variance 1 whatever $D$ is.

# %% [markdown]
# ## Who may look at whom
#
# A **mask** says which query may look at which key. A language model must not see what it is to
# predict, so position $t$ looks at positions $0 \dots t$: the **causal mask**. And when sequences
# of unequal length share a batch, nobody may look at the **padding**.
#
# The score of a forbidden pair becomes $-\infty$ *before* the softmax; $e^{-\infty} = 0$, and the
# rest still adds up to 1. In this course `True` means "may look", as in PyTorch's
# `scaled_dot_product_attention`. (The `key_padding_mask` of `nn.MultiheadAttention` means the
# opposite, so you will see a `~` there.)

# %%
from companion.architectures.attention import attention, scaled_dot_product
from companion.architectures.masks import causal_mask

Q, K, V = normal(6, 8), normal(6, 8), normal(6, 8)
padding = torch.tensor([True, True, True, True, False, False])
masks = {
    "no mask": torch.ones(6, 6, dtype=torch.bool),
    "causal": causal_mask(6),
    "causal, 2 of padding": causal_mask(6) & padding,
}

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(7.4, 2.9), sharey=True)
for axes, (name, mask) in zip(panels, masks.items(), strict=True):
    weights = scaled_dot_product(Q, K, V, mask)[1]
    picture = axes.imshow(weights.masked_fill(~mask, torch.nan), vmin=0, vmax=1, cmap="cividis_r")
    axes.set_title(name, fontsize=11)
    axes.set_xlabel("key")
    axes.grid(False)
panels[0].set_ylabel("query")
figure.colorbar(picture, ax=panels, label="weight", shrink=0.8)
figure.suptitle("White: forbidden. Every row adds up to 1", fontsize=12, fontweight="bold")
plt.show()

# %% [markdown]
# Whether a mask is right can be *tested*: change one token, and no output before it may move.


# %%
def leaks(mask):
    """Return the positions whose change is seen by an earlier one."""
    before = scaled_dot_product(Q, K, V, mask)[0]
    found = []
    for t in range(6):
        K2, V2 = K.clone(), V.clone()
        K2[t], V2[t] = K2[t] + 1, V2[t] + 1
        after = scaled_dot_product(Q, K2, V2, mask)[0]
        if not torch.equal(after[:t], before[:t]):
            found.append(t)
    return found


print("causal mask          leaks:", leaks(causal_mask(6)))
print("one diagonal too many leaks:", leaks(torch.ones(6, 6).tril(1).bool()))

# %% [markdown]
# An off-by-one here is the most expensive slip of all: the loss looks splendid in training, since
# the answer is on the table, and the model can generate nothing.
#
# One row may have *nothing* to look at: padding on the left, say, or an empty sequence. Its softmax
# is 0/0. Here such a row becomes 0, forward and backward, as it does in PyTorch.

# %%
nowhere = causal_mask(6).clone()
nowhere[2] = False
for attend in (attention, lambda *a: scaled_dot_product(*a)[0]):
    leaf = Q.clone().requires_grad_()
    output = attend(leaf, K, V, nowhere)
    output.sum().backward()
    print("row 2:", output[2].abs().sum().item(), " gradient:", leaf.grad[2].abs().sum().item())

# %% [markdown]
# :::{admonition} A common mistake: the mask after the softmax
# :class: mistake
# Setting forbidden weights to 0 *after* the softmax hides the values, but the forbidden scores are
# still in the denominator: the rows no longer add up to 1, and the future leaks through them.
# (Caught by `test_a_mask_after_the_softmax_is_caught`.)
# :::


# %%
def masked_too_late(Q, K, V):
    weights = (Q @ K.T / math.sqrt(8)).softmax(dim=1) * causal_mask(6)
    return weights @ V, weights


late, weights = masked_too_late(Q, K, V)
print("rows add up to", [round(row, 2) for row in weights.sum(1).tolist()])
K2 = K.clone()
K2[5] += 1  # the last token changes ...
moved = (masked_too_late(Q, K2, V)[0] - late).abs().amax(dim=1)
print("and earlier outputs move by", [round(m, 3) for m in moved[:5].tolist()])

# %% tags=["raises-exception"]
assert torch.equal(masked_too_late(Q, K2, V)[0][:5], late[:5]), "position 5 leaks into the past"

# %% [markdown]
# ## Several heads
#
# One attention takes *one* weighted mean. A token may want several: the subject of the sentence
# from here, the last adjective from there. **Multi-head attention** cuts the $C$ features of a
# token into $H$ heads of $D = C/H$, attends in each on its own, and mixes the results with one more
# matrix.
#
# | step | shape |
# |---|---|
# | tokens $x$ | `(B, T, C)` |
# | $x W_Q$, $x W_K$, $x W_V$ | `(B, T, C)` each |
# | split into heads | `(B, H, T, D)` each |
# | scores and weights | `(B, H, T, T)` |
# | weighted means | `(B, H, T, D)` |
# | merged, times $W_O$ | `(B, T, C)` |
#
# The split has a trap. `(B, T, C)` to `(B, H, T, D)` is `reshape(B, T, H, D)` **and then**
# `transpose(1, 2)`. Reshape straight to `(B, H, T, D)`: the numbers fit, nothing complains, and
# each "token" of a head is made of pieces of other tokens.

# %%
B, T, C, H = 1, 4, 6, 2
token_number = torch.arange(T)[None, :, None].expand(B, T, C)  # every feature says whose it is
right = token_number.reshape(B, T, H, C // H).transpose(1, 2)
wrong = token_number.reshape(B, H, T, C // H)
print("right, head 0:", right[0, 0].tolist())
print("wrong, head 0:", wrong[0, 0].tolist())

# %% [markdown]
# Our module beside PyTorch's, with the same weights:

# %%
from companion.architectures.attention import MultiHeadAttention

torch.manual_seed(0)
ours = MultiHeadAttention(embed_dim=16, num_heads=4).double()
theirs = nn.MultiheadAttention(16, 4, batch_first=True).double()
with torch.no_grad():  # PyTorch stacks the three projections
    projections = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
    theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())
x = normal(3, 7, 16)
real = torch.ones(3, 7, dtype=torch.bool)
real[1, 5:] = False  # the second sequence has two tokens of padding
expected = theirs(x, x, x, key_padding_mask=~real, need_weights=False)[0]
torch.testing.assert_close(ours(x, real), expected, rtol=1e-10, atol=1e-12)
print("MultiHeadAttention equals torch.nn.MultiheadAttention:", tuple(expected.shape))

# %% [markdown]
# A model that generates keeps the keys and values of all tokens so far, the **key–value cache**, so
# that each new token costs one row of attention and not $T$ of them. The cache grows with $T$ and
# with the number of texts that are written at once. **Grouped-query attention**
# {cite:p}`ainslie2023gqa` therefore lets several heads of queries share one head of keys and
# values. Per token and layer, and for eight texts of 4,096 tokens in 32 layers:

# %%
head_dim = 128  # the sizes of a 7-billion-parameter Llama, 32 heads of queries, in bfloat16
for kv_heads, name in ((32, "multi-head"), (8, "grouped, 8"), (1, "multi-query")):
    per_token = 2 * kv_heads * head_dim * 2
    in_all = 8 * 4096 * 32 * per_token
    print(f"{name:11s} {per_token:6,} bytes a token and layer, {in_all / 2**30:5.2f} GiB in all")
print(f"the weights of such a model, for comparison: {2 * 6.7e9 / 2**30:.1f} GiB")

# %% [markdown]
# ## What it costs
#
# The scores are $T^2$ products of length $D$, the means as many again: $4T^2D$ operations a head
# forward, counting a multiplication and an addition as two. Twice the text, four times the work,
# and in the naive form four times the memory for $P$.
#
# The memory can be avoided. The fused kernels go through the keys in blocks and keep a running
# maximum and a running sum for each query, so no $(T, T)$ table is ever stored; the backward pass
# computes the blocks again {cite:p}`dao2022flashattention`. Here is what autograd keeps for the
# backward pass, counted, and the time of one forward pass:

# %% tags=["nbval-ignore-output"]
from companion.architectures.transformer import GPT


def bytes_kept(function, *inputs):
    """Return the bytes that autograd stores for the backward pass, each piece of memory once."""
    pieces = {}

    def note(tensor):
        pieces[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = function(*inputs)
    del output
    return sum(pieces.values())


def seconds(function, *inputs, repeats=5):
    times = []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.process_time()
            function(*inputs)
            times.append(time.process_time() - start)
    return min(times)


lengths = [128, 256, 512, 1024, 2048]
kinds = {
    "naive": lambda q, k, v: scaled_dot_product(q, k, v)[0],
    "fused": attention,
}
kept = {name: [] for name in kinds}
took = {name: [] for name in kinds}
for length in lengths:
    qkv = [torch.randn(1, 4, length, 32).requires_grad_() for _ in range(3)]
    for name, function in kinds.items():
        kept[name].append(bytes_kept(function, *qkv) / 2**20)
        took[name].append(1000 * seconds(function, *qkv))
for name in kinds:
    print(
        f"{name}: from {lengths[-2]} to {lengths[-1]} tokens, memory times "
        f"{kept[name][-1] / kept[name][-2]:.1f}, time times {took[name][-1] / took[name][-2]:.1f}"
    )
assert 3.5 < kept["naive"][-1] / kept["naive"][-2] < 4.1
assert kept["fused"][-1] / kept["fused"][-2] < 2.1
assert all(ms[-1] / ms[-2] > 2.5 for ms in took.values())

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.3))
for axes, curves, title, label in (
    (panels[0], kept, "Twice the text: memory ×4 or ×2", "kept for the backward pass (MiB)"),
    (panels[1], took, "The naive form falls behind", "processor time, forward (ms)"),
):
    for (name, ys), color, style, marker in zip(
        curves.items(), COLORS[2:0:-1], LINESTYLES[1::-1], MARKERS, strict=False
    ):
        axes.plot(lengths, ys, label=name, color=color, linestyle=style, marker=marker)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], fontsize=9)
    axes.minorticks_off()
    axes.set_xlabel("sequence length T (4 heads of 32)")
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=11)
panels[0].legend()
plt.show()

# %% [markdown]
# The arithmetic of both grows by the factor four. The naive form also writes its tables to memory
# and reads them again, several times over, and its time leaves the other curve where they become
# large.

# %% [markdown]
# ## Where a token stands
#
# :::{admonition} Predict first
# :class: predict
# Shuffle the tokens of a sentence and send them through multi-head attention without a mask. What
# happens to the outputs?
# :::

# %%
order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
torch.testing.assert_close(ours(x[:, order]), ours(x)[:, order], rtol=1e-10, atol=1e-12)
print("shuffled in, shuffled out: the same numbers")

# %% [markdown]
# Nothing: each token gets the output it had. Attention sees a *set*. "Dog bites man" and "man bites
# dog" differ only if each token carries its position. There are three usual ways.
#
# **Sinusoidal** {cite:p}`vaswani2017attention`: add to token $t$ the vector $(\sin t\omega_0, \cos
# t\omega_0, \sin t\omega_1, \dots)$ with $\omega_i = 10000^{-2i/C}$: a clock with many hands, the
# first turning once in $2\pi$ tokens, the last once in nearly $2\pi \cdot 10000$. **Learnt**: add a
# vector of parameters for each position, as GPT-2 does; beyond the last of them there is nothing.
#
# **Rotary** {cite:p}`su2021roformer`: add nothing. *Turn* each pair of numbers of a query or key at
# position $t$ by the angle $t\omega_i$. Turning both by the same angle does not change their
# product, so
#
# $$\bigl(R(t)\,q\bigr)\cdot\bigl(R(s)\,k\bigr) = q \cdot R(s - t)\,k$$
#
# depends on the *distance* $t - s$ alone. Llama and most models since use it.

# %%
from companion.architectures.positions import RotaryPositions, sinusoidal_table

rotary = RotaryPositions(context_length=512, head_dim=32).double()
q, k = normal(1, 32), normal(1, 32)
for distance in (0, 3, 50):
    products = [(rotary(q, s + distance) @ rotary(k, s).T).item() for s in (0, 17, 400)]
    print(f"distance {distance:2d}:", [f"{p:.10f}" for p in products])

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.2))
panels[0].imshow(sinusoidal_table(64, 32), aspect="auto")
panels[0].set_title("Sinusoids: hands of a clock", fontsize=11)
panels[0].set_xlabel("feature")
panels[0].set_ylabel("position t")
panels[0].grid(False)
ones = torch.ones(1, 32).double()
distances = range(200)
overlap = [(rotary(ones, d) @ ones.T).item() / 32 for d in distances]
panels[1].plot(distances, overlap, color=COLORS[1])
panels[1].axhline(0, color="#888888", linewidth=0.8, linestyle="-")
panels[1].set_title("Rotary: near keys match best", fontsize=11)
panels[1].set_xlabel("distance t − s of two equal vectors")
panels[1].set_ylabel("product, relative to distance 0")
plt.show()

# %% [markdown]
# Which two numbers form a pair? The paper takes neighbours, $(x_0, x_1), (x_2, x_3), \dots$
# (*interleaved*), and so does Meta's code for Llama. The weights of Llama in the `transformers`
# library are *half-split*: $(x_0, x_{D/2}), (x_1, x_{D/2+1}), \dots$ The two differ by a
# permutation of the features of each head, so a checkpoint works with either, but only after its
# query and key weights were put in that order. Mix them up and the model runs, and talks nonsense.

# %%
from companion.architectures.positions import half_split_order

interleaved = RotaryPositions(512, 32, interleaved=True).double()
x_heads, to_half_split = normal(2, 9, 32), half_split_order(32)
print("same input, same output   :", torch.allclose(interleaved(x_heads), rotary(x_heads)))
one = interleaved(x_heads)[..., to_half_split]
other = rotary(x_heads[..., to_half_split])
print("after the permutation, yes:", torch.allclose(one, other, rtol=1e-10))
assert torch.allclose(one, other, rtol=1e-10)

# %% [markdown]
# ## The other half: norm and feed-forward
#
# Attention mixes tokens. Between two attentions each token is worked on alone, by a small network
# with one hidden layer, mostly four times as wide. Two versions are common:
#
# $$\text{GPT-2: } W_\text{down}\,\mathrm{gelu}(W_\text{up}\,x), \qquad
# \text{Llama: } W_\text{down}\bigl(\mathrm{silu}(W_\text{gate}\,x) \odot W_\text{up}\,x\bigr),
# \qquad \mathrm{silu}(x) = x\,\sigma(x).$$
#
# The second, **SwiGLU** {cite:p}`shazeer2020glu`, has three matrices, so its hidden layer is made
# $\tfrac23$ as wide and both have the same number of parameters.
#
# Before each half the token is normalised: layer norm as on {doc}`the page on layers
# <../backprop/layers>`, or **RMSNorm** {cite:p}`zhang2019root`, which only divides by the root mean
# square, $y = \gamma \odot x / \sqrt{\operatorname{mean}(x^2) + \varepsilon}$. No mean is taken
# out, so one term of the backward pass goes as well:
#
# $$\frac{\partial L}{\partial x} = \frac1r\Bigl(g - \hat x \odot
# \operatorname{mean}(g \odot \hat x)\Bigr), \qquad g = \delta \odot \gamma, \quad \hat x = x/r,
# \quad r = \sqrt{\operatorname{mean}(x^2) + \varepsilon} .$$

# %%
from companion.architectures.feed_forward import FeedForward, SwiGLU, gelu_tanh
from companion.architectures.normalization import RMSNorm
from companion.backprop.base import ManualFunction

tokens, gamma = normal(5, 16).requires_grad_(), normal(16).requires_grad_()
delta = normal(5, 16)
expected = F.rms_norm(tokens, (16,), gamma, 1e-5)
by_hand = ManualFunction.apply(RMSNorm, tokens, gamma, 1e-5)
for one, other in zip(
    torch.autograd.grad(by_hand, (tokens, gamma), delta),
    torch.autograd.grad(expected, (tokens, gamma), delta),
    strict=True,
):
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
print("RMSNorm by hand: both gradients equal autograd's")
for layer in (FeedForward(768, bias=False), SwiGLU(768)):
    print(f"{type(layer).__name__:11s} {sum(p.numel() for p in layer.parameters()):,} parameters")
z = torch.linspace(-6, 6, 10_001).double()
print(f"exact GELU against the tanh form: at most {(F.gelu(z) - gelu_tanh(z)).abs().max():.1e}")

# %% [markdown]
# The last line matters when you load weights: GPT-2 was trained with the tanh form, while BERT in
# the `transformers` library runs with the exact one. The difference is small and adds up over the
# layers.

# %% [markdown]
# ## The block, and where its norm stands
#
# A block adds two things to a stream $h$ of tokens, $(B, T, C)$. The stream itself passes through
# on a straight road:
#
# $$\text{pre-norm:}\quad u = h + \mathrm{attention}(\mathrm{norm}(h)), \qquad
# h' = u + \mathrm{feed\ forward}(\mathrm{norm}(u)).$$
#
# The paper of 2017 had the norm *after* each sum, $u = \mathrm{norm}(h + \mathrm{attention}(h))$,
# **post-norm**. It looks like a detail. Here are networks of both kinds from 2 to 48 blocks, at the
# start of training, with weights that keep the size of a signal (Xavier's), and the gradient that
# one batch gives the last of their blocks.

# %%
from companion.architectures.repeats import Repeats
from companion.architectures.transformer import Block, TransformerConfig

repeats = Repeats(vocab_size=16, context_length=24)
repeats.setup()
x_batch, y_batch = (part[:16] for part in repeats.train)


def last_gradient(depth, norm_first):
    """Return the gradient's norm in the last block, and the spread of the stream after it."""
    torch.manual_seed(0)
    model = GPT(TransformerConfig(16, 24, depth, 4, 64, norm_first=norm_first))
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
    logits = model(x_batch).flatten(0, 1)
    F.cross_entropy(logits, y_batch.flatten()).backward()
    with torch.no_grad():
        stream = model.embed(x_batch)
        for block in model.blocks:
            stream = block(stream)
    return model.blocks[-1].feed_forward.down.weight.grad.norm().item(), stream.std().item()


depths = [2, 6, 12, 24, 48]
sizes = {}
for name, norm_first in (("pre-norm", True), ("post-norm", False)):
    sizes[name], spreads = zip(*[last_gradient(d, norm_first) for d in depths], strict=True)
    print(f"{name:9s} gradient, 48 blocks / 2 blocks: {sizes[name][-1] / sizes[name][0]:.2f}")
    print(f"{name:9s} spread of the stream at its end: {[round(s, 1) for s in spreads]}")
assert sizes["pre-norm"][-1] / sizes["pre-norm"][0] < 0.4
assert 0.7 < sizes["post-norm"][-1] / sizes["post-norm"][0] < 1.5

# %% tags=["hide-input"]
for (name, values), color, style, marker in zip(
    sizes.items(), COLORS[1:3], LINESTYLES, MARKERS, strict=False
):
    plt.plot(depths, values, label=name, color=color, linestyle=style, marker=marker)
guide = [sizes["pre-norm"][0] * math.sqrt(2 / depth) for depth in depths]
plt.plot(depths, guide, color="#888888", linestyle=":", linewidth=1, label="falls as 1/√L")
plt.xscale("log")
plt.yscale("log")
plt.xticks(depths, [str(depth) for depth in depths])
plt.yticks([0.01, 0.02, 0.05], ["0.01", "0.02", "0.05"])
plt.minorticks_off()
plt.xlabel("number of blocks, L")
plt.ylabel("gradient of the last block (norm)")
plt.title("Norm first: the deeper the network, the gentler its first gradient")
plt.legend()
plt.show()

# %% [markdown]
# With the norm first the stream grows as blocks add to it, roughly as $\sqrt L$, and the final norm
# divides by that; so the gradients of the blocks become smaller as there are more of them, and
# their sum stays in hand. After the sum, the norm sets the stream back to 1 each time, and the last
# blocks get the same large gradient at any depth. Such networks need a careful warm-up of the
# learning rate, pre-norm networks mostly do not {cite:p}`xiong2020layer`.
#
# GPT-2 goes one step further. All weights start with spread 0.02, and those that *write* to the
# stream with $0.02/\sqrt{2L}$, since $2L$ terms are added up.

# %%
torch.manual_seed(0)
block = Block(TransformerConfig(16, 24, 1, 4, 64, causal=False)).double()
layer = nn.TransformerEncoderLayer(
    64, 4, 256, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
).double()
with torch.no_grad():
    attention_weights = [block.attention.query, block.attention.key, block.attention.value]
    layer.self_attn.in_proj_weight.copy_(torch.cat([p.weight for p in attention_weights]))
    layer.self_attn.in_proj_bias.copy_(torch.cat([p.bias for p in attention_weights]))
layer.self_attn.out_proj.load_state_dict(block.attention.output.state_dict())
layer.linear1.load_state_dict(block.feed_forward.up.state_dict())
layer.linear2.load_state_dict(block.feed_forward.down.state_dict())
stream = normal(2, 9, 64)
torch.testing.assert_close(block(stream), layer(stream), rtol=1e-10, atol=1e-12)
print("Block equals torch.nn.TransformerEncoderLayer(norm_first=True)")

# %% [markdown]
# ## A GPT, counted
#
# Put a table of token vectors below the blocks and, after a last norm, the same table above them:
# the score of a token is the product of the stream with the token's own vector (*tied*
# embeddings {cite:p}`press2017using`). That is GPT. Its parameters, with biases and learnt
# positions, $V$ tokens, context $T$, $L$ blocks:
#
# $$\underbrace{VC + TC}_{\text{tables}} + L\,\Bigl(\underbrace{4C^2 + 4C}_{\text{attention}} +
# \underbrace{8C^2 + 5C}_{\text{feed-forward}} + \underbrace{4C}_{\text{norms}}\Bigr)
# + \underbrace{2C}_{\text{last norm}} .$$
#
# About $12LC^2$ in the blocks: a third attention, two thirds feed-forward.
#
# :::{admonition} Predict first
# :class: predict
# GPT-2 small has $V = 50257$, $T = 1024$, $L = 12$, $C = 768$. Which share of its parameters is the
# table of tokens: a tenth, a third, a half?
# :::

# %%
from companion.architectures.configuration import parameter_count


def by_hand(V, T, L, C):
    return V * C + T * C + L * (12 * C**2 + 13 * C) + 2 * C


gpt2 = TransformerConfig(50257, 1024, 12, 12, 768)
assert by_hand(50257, 1024, 12, 768) == parameter_count(gpt2)
print(f"GPT-2 small: {parameter_count(gpt2):,} parameters, tokens {50257 * 768:,}")
print(f"share of the token table: {50257 * 768 / parameter_count(gpt2):.0%}")
small = TransformerConfig(100, 64, 3, 4, 32)
assert parameter_count(small) == sum(p.numel() for p in GPT(small).parameters())
llama = TransformerConfig(
    32000,
    2048,
    32,
    32,
    4096,
    hidden_dim=11008,
    norm="rms",
    feed_forward="swiglu",
    positions="rotary",
    bias=False,
    tie_embeddings=False,
)
print(f"Llama 7B: {parameter_count(llama):,} parameters")

# %% [markdown]
# One class, two families. What makes a Llama of a GPT-2 is the six options in the last cell (more
# with `num_kv_heads`). This is checked with the library that people really use: randomly
# initialised GPT-2 and Llama models of `transformers`, their weights read by `from_gpt2` and
# `from_llama` in `companion.architectures.hugging_face`, give the same logits to $10^{-5}$. See
# `tests/architectures/test_hugging_face.py`; this page can do without `transformers`.

# %% [markdown]
# ## What attention learns
#
# A piece of random tokens, then the same piece again. Its length differs from sequence to
# sequence, so counting does not help. Whoever has just read a token must find its *last
# occurrence*, and say what came after it then. (Some tokens occur twice in a piece; there it takes
# more than one token to be sure.) The loss counts only where the answer can be known.

# %%
from companion.training import LanguageModel, fit

print("tokens :", repeats.train[0][0].tolist())
print("targets:", repeats.train[1][0].tolist(), " (-100: does not count)")

# %% tags=["nbval-ignore-output"]
steps = 300
x_val, y_val = repeats.validation


def train(num_layers, use_positions=True):
    """Return a trained model, what `fit` says, and the share of the known tokens it gets right."""
    torch.manual_seed(0)
    positions = "rotary" if use_positions else "learnt"
    model = GPT(TransformerConfig(16, 24, num_layers, 2, 48, positions=positions))
    if not use_positions:
        model.positions = None  # nothing is added any more
    learner = LanguageModel(
        model,
        optimizer=partial(torch.optim.AdamW, lr=5e-3),
        scheduler=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=5e-3, total_steps=steps),
        scheduler_interval="step",
    )
    result = fit(learner, repeats, max_steps=steps, precision="32-true")
    with torch.no_grad():
        guesses = model.eval()(x_val).argmax(-1)
    return model, result, (guesses == y_val)[y_val >= 0].double().mean().item()


model, result, accuracy = train(num_layers=2)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {steps} steps")
print(f"{result.seconds:.0f} s; {accuracy:.1%} of the tokens right, {1 / 16:.1%} is chance")
assert accuracy > 0.9

# %% tags=["hide-input"]
plt.plot(result.step_losses, color=COLORS[1])
plt.axhline(math.log(16), color="#888888", linewidth=1, linestyle=":")
plt.text(steps, math.log(16) + 0.05, "chance, ln 16", ha="right", fontsize=9)
plt.xlabel("step (64 sequences each)")
plt.ylabel("cross-entropy (nats)")
plt.title("A slow start; then the loss falls in a rush")
plt.ylim(0, 3.1)
plt.show()

# %% [markdown]
# *How* does it do it? Look at the weights of both layers, over all sequences of the validation set.
# Two patterns are measured for each head: how much weight goes to the token just before, and how
# much to the token that came *after* the last occurrence of the present one.

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    stream, patterns = model.embed(x_val), []
    for block in model.blocks:
        patterns.append(block.attention.weights(block.attention_norm(stream)))  # (N, H, T, T)
        stream = block(stream)

first_known = (y_val >= 0).double().argmax(1)  # position of the first target that counts
period = first_known  # the piece's first token is met again `period` steps later
places = torch.arange(24)
scores = {"previous token": [], "after the last occurrence": []}
for weights in patterns:
    before = weights[:, :, places[1:], places[:-1]].mean((0, 2))
    look = torch.stack(
        [
            w[:, p:, :][:, torch.arange(24 - p), torch.arange(24 - p) + 1].mean(1)
            for w, p in zip(weights, period.tolist(), strict=True)
        ]
    ).mean(0)
    scores["previous token"].append(before.tolist())
    scores["after the last occurrence"].append(look.tolist())
for name, layers in scores.items():
    for number, heads in enumerate(layers, 1):
        print(f"{name:26s} layer {number}: {[round(h, 2) for h in heads]}")

# %% tags=["hide-input"]
previous = int(torch.tensor(scores["previous token"][0]).argmax())
induction = int(torch.tensor(scores["after the last occurrence"][1]).argmax())
sample = int((period == 9).double().argmax())
letters = [chr(65 + token) for token in x_val[sample].tolist()]  # A to P for the 16 tokens
figure, panels = plt.subplots(1, 2, figsize=(7.6, 4.0), sharey=True)
for axes, weights, title in (
    (panels[0], patterns[0][sample, previous], "Layer 1: the one before"),
    (panels[1], patterns[1][sample, induction], "Layer 2: what followed last time"),
):
    picture = axes.imshow(weights, vmin=0, vmax=1, cmap="cividis_r")
    axes.set_xticks(places, letters, fontsize=7)
    axes.set_yticks(places, letters, fontsize=7)
    axes.set_xlabel("key (its token, A to P)")
    axes.set_title(title, fontsize=11)
    axes.grid(False)
panels[0].set_ylabel("query (its token)")
figure.colorbar(picture, ax=panels, label="weight", shrink=0.8)
plt.show()
assert max(scores["after the last occurrence"][1]) > 0.5

# %% [markdown]
# The network was told nothing of this. The heads of the first layer put much of their weight on the
# token just before, and so write into each place what stood in front of it. A head of the second
# layer then looks for a place whose *predecessor* is the present token, and says what it finds
# there. Such heads are called **induction heads** {cite:p}`olsson2022context`. They turn up in
# large language models too, and there the loss was seen to fall suddenly just when they form.
#
# When such a model writes, token by token, the cache spares it the past. Same logits, one pass of
# length 1 a token, with a `KeyValueCache`:

# %%
ids = x_val[:4]
with torch.no_grad():
    whole = model.double()(ids)
    cache = model.new_cache()
    one_by_one = torch.cat([model(ids[:, t : t + 1], cache) for t in range(24)], dim=1)
torch.testing.assert_close(one_by_one, whole, rtol=1e-10, atol=1e-12)
model.float()
print(f"24 steps with the cache equal one pass; it holds {cache.num_bytes():,} bytes")

# %% [markdown]
# Devices come in through `fit` alone.
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(LanguageModel(GPT(config)), data, max_steps=300, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(LanguageModel(GPT(config)), data, max_steps=300, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(LanguageModel(GPT(config)), data, max_steps=300, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} gpt
# :::
#
# The same class reads Shakespeare on {doc}`the page on language models <language_models>`, and with
# `causal=False` it becomes an encoder in {doc}`the page on its variants <transformer_variants>`.
# Its Keras twin stands on {doc}`the chapter's Keras page <keras>`.

# %% [markdown]
# ## Exercises
#
# :::{exercise} Take the layer away
# :label: ex-transformer-1
# Call `train` for one layer only, and for two layers without positions. Before you do: which of
# them can find the last occurrence of a token and the one after it?
# :::
#
# :::{solution} ex-transformer-1
# :class: dropdown
# Neither does it well. One layer can find *the same token* in the past, but what came after it is
# stored one place further, and nothing has moved it there: the first layer's job is missing.
# Without positions a causal network can still guess where it is, from how many tokens it sees, but
# "just before me" is hard to say. Both are better than chance, since the token to come is one of
# those of the piece.
# :::


# %% tags=["hide-cell", "nbval-ignore-output"]
# Solution
for layers, use_positions in ((1, True), (2, False)):
    _, _, right = train(layers, use_positions)
    print(f"{layers} layers, positions {use_positions}: {right:.0%} right (in full {accuracy:.0%})")
    assert right < 0.75

# %% [markdown]
# :::{exercise} Attention that never stores its weights
# :label: ex-transformer-2
# Compute attention for one query while you walk through the keys once, one at a time, keeping only
# a running maximum $m$, a running sum $\ell$ and a running weighted sum $a$. What must happen to
# $\ell$ and $a$ when a new maximum comes along?
# :::
#
# :::{solution} ex-transformer-2
# :class: dropdown
# They were computed relative to the old maximum, so both are multiplied by $e^{m_\text{old} -
# m_\text{new}}$. The output is $a/\ell$. Taken for blocks of keys instead of single ones, this is
# the forward pass of FlashAttention.
# :::


# %% tags=["hide-cell"]
# Solution
def attention_in_one_walk(query, K, V):
    maximum, total, mean = -torch.inf, 0.0, torch.zeros_like(V[0])
    for key, value in zip(K, V, strict=True):
        score = query @ key / math.sqrt(len(query))
        new = max(maximum, score)
        shrink, weight = math.exp(maximum - new), math.exp(score - new)
        maximum, total, mean = new, total * shrink + weight, mean * shrink + weight * value
    return mean / total


Q, K, V = normal(3, 8), normal(50, 8), normal(50, 4)
walked = torch.stack([attention_in_one_walk(query, K, V) for query in Q])
torch.testing.assert_close(walked, attention(Q, K, V), rtol=1e-10, atol=1e-12)
print("one walk through the keys, no table: the same output")

# %% [markdown]
# :::{exercise} Where the parameters are
# :label: ex-transformer-3
# From the formula above: at which $C$ does a GPT with $V = 50257$, $T = 1024$ and $L = 12$ have as
# many parameters in its blocks as in its tables? What does that say about the vocabulary of a small
# model?
# :::
#
# :::{solution} ex-transformer-3
# :class: dropdown
# Leave out the small terms: $12LC^2 = (V + T)\,C$, so $C = (V + T)/(12L) \approx 356$. Below that
# most of the model is a dictionary; a small model is better off with a small vocabulary.
# :::

# %% tags=["hide-cell"]
# Solution
V, T, L = 50257, 1024, 12
C = (V + T) / (12 * L)
print(f"C = {C:.0f}")
for C in (128, 384, 1024):
    share = (V + T) * C / by_hand(V, T, L, C)
    print(f"C = {C:4d}: {share:.0%} of the parameters are tables")

# %% [markdown]
# ## Summary
#
# - Attention: $\mathrm{softmax}(QK^\top/\sqrt D)\,V$, a weighted mean of values. Backward it needs
#   the weights $P$, kept or computed again.
# - Dividing by $\sqrt D$ keeps the softmax soft. Masks go *before* it; a leak test shows that they
#   hold.
# - Time grows as $T^2$, and so does the memory of the naive form, not that of the fused one.
# - Attention sees a set: positions are added (sinusoidal, learnt) or turned in (rotary).
# - A block adds attention and a feed-forward network to a stream, each behind a norm; two such
#   blocks learn to look up what came next.
#
# Sources: attention, heads, sinusoids {cite:p}`vaswani2017attention` (sections 3.2 to 3.5); GPT-2's
# choices {cite:p}`radford2019language` (section 2.3); rotary positions {cite:p}`su2021roformer`
# (section 3.2); RMSNorm {cite:p}`zhang2019root`; GELU {cite:p}`hendrycks2016gelu`;
# SwiGLU {cite:p}`shazeer2020glu` (section 2); grouped queries {cite:p}`ainslie2023gqa`; the place
# of the norm {cite:p}`xiong2020layer`; Llama {cite:p}`touvron2023llama` (section 2.2); attention in
# blocks {cite:p}`dao2022flashattention`; induction heads {cite:p}`olsson2022context`.
