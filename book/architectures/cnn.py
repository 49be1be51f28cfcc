# %% [markdown]
# # Convolution: one small kernel for the whole image
#
# **The question: how can a network read images with few weights, and see a thing wherever in the
# image it stands?**

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# Two networks learn to tell clothes apart from 3,000 small pictures. The dense one connects every
# pixel with every one of its hidden units. The other one slides small kernels over the picture.
# Then every test picture is pushed a few pixels to the right, which no human eye would mind.

# %%
import time
from functools import partial
from statistics import median

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from torch import nn

from companion.architectures.cnn import LeNet5, LeNet300100, ResNet, SmallCNN
from companion.data.digits import Digits
from companion.data.fashion_mnist import FashionMNIST
from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style
from companion.training import Classifier, fit

use_course_style()
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
adam = partial(torch.optim.AdamW, lr=2e-3, fused=True)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


# %% tags=["nbval-ignore-output"]
fashion = FashionMNIST(batch_size=64, limit=3000)
few = {}
for network in (LeNet300100(), SmallCNN()):
    torch.manual_seed(0)
    network.apply(lambda part: part.reset_parameters() if hasattr(part, "weight") else None)
    fit(Classifier(network, optimizer=adam), fashion, epochs=3, limit_val_batches=0)
    few[type(network).__name__] = network.eval()

shifts, x, labels = range(6), fashion.test[0][:1000], fashion.test[1][:1000]
background = x.min().item()
accuracy = {name: [] for name in few}
with torch.no_grad():
    for shift in shifts:
        moved = F.pad(x, (shift, 0), value=background)[..., :28]
        for name, network in few.items():
            right = (network(moved).argmax(1) == labels).float().mean().item()
            accuracy[name].append(right)
for name, values in accuracy.items():
    print(f"{name:12s} {parameters(few[name]):8,} parameters:", [round(v, 2) for v in values])
assert all(accuracy["SmallCNN"][s] > accuracy["LeNet300100"][s] for s in (0, 1, 2, 3))

# %% tags=["hide-input"]
for (name, values), label, color, style, marker in zip(
    accuracy.items(),
    ("dense network", "convolutional network"),
    COLORS[2:0:-1],
    LINESTYLES,
    MARKERS,
    strict=False,
):
    label = f"{label}, {parameters(few[name]):,} parameters"
    plt.plot(shifts, values, label=label, color=color, linestyle=style, marker=marker)
plt.ylim(0, 1)
plt.title("Up to three pixels to the right, the convolutional network loses less")
plt.xlabel("test images shifted by (pixels)")
plt.ylabel("test accuracy (share of images)")
plt.legend(loc="lower left")
plt.show()

# %% [markdown]
# The convolutional network has a fifth of the weights and is no worse on the pictures as they are.
# When they move, it loses less, up to about three pixels. It is not immune: its last layer is
# dense, and expects things at their usual place. This page takes it apart: the sum, its backward
# pass, pooling, batch normalisation, and then whole networks.

# %% [markdown]
# ## The sum, written right
#
# A one-channel image $x$ of $H \times W$ pixels and a **kernel** $w$ of $k_h \times k_w$ weights.
# Lay the kernel over the image at row $i$, column $j$, multiply what lies over each other, add up:
#
# $$y_{ij} = \sum_{u=0}^{k_h-1} \sum_{v=0}^{k_w-1} w_{uv}\; x_{i+u,\,j+v} .$$
#
# Two pairs of indices: $(i, j)$ says where the kernel lies, $(u, v)$ runs over the kernel and is
# summed away. It fits at $H - k_h + 1$ heights and $W - k_w + 1$ places across.
#
# Here is one, with a kernel that answers to edges: small numbers on the left, large ones right.

# %%
image = torch.tensor([[0, 0, 0, 5, 5], [0, 0, 0, 5, 5], [0, 0, 5, 5, 5], [0, 0, 5, 5, 5]]).double()
kernel = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]).double()
y = torch.zeros(2, 3).double()
for i in range(2):
    for j in range(3):
        for u in range(3):
            for v in range(3):
                y[i, j] += kernel[u, v] * image[i + u, j + v]
print(y.int().tolist())
torch.testing.assert_close(y, F.conv2d(image[None, None], kernel[None, None])[0, 0])

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(7.2, 2.6), width_ratios=(5, 3, 3))
for axes, grid, title in zip(
    panels, (image, kernel, y), ("Image $x$", "Kernel $w$", "Result $y$"), strict=True
):
    axes.imshow(grid, cmap="Greys", vmin=-1, vmax=40)
    for (i, j), value in zip(
        ((i, j) for i in range(grid.shape[0]) for j in range(grid.shape[1])),
        grid.flatten().int().tolist(),
        strict=True,
    ):
        axes.text(j, i, value, ha="center", va="center", fontsize=12)
    axes.set_title(title, fontsize=11)
    axes.set_xticks(range(grid.shape[1]))
    axes.set_yticks(range(grid.shape[0]))
    axes.set_xlabel("column")
    axes.grid(False)
panels[0].set_ylabel("row")
for axes, corner, size in ((panels[0], (0.5, -0.5), 3), (panels[2], (0.5, -0.5), 1)):
    axes.add_patch(plt.Rectangle(corner, size, size, fill=False, edgecolor=COLORS[2], linewidth=3))
figure.suptitle(
    "The framed 3 × 3 pixels times the kernel give the framed number", fontsize=11, weight="bold"
)
plt.show()

# %% [markdown]
# The nine weights serve every place of the image. A dense layer from these 20 pixels to 6 outputs
# would have 120 weights, and would have to learn the edge six times over.

# %% [markdown]
# ## Convolution, or cross-correlation?
#
# What you have just computed is called **cross-correlation** in mathematics. A **convolution** runs
# through image and kernel in opposite directions:
#
# $$(w * x)_{ij} = \sum_{u,v} w_{uv}\; x_{i-u,\,j-v} .$$
#
# Up to where the corner of the result lies, that is the cross-correlation with the kernel turned by
# 180°: first row last, first column last. The flip earns its keep in mathematics, where it makes
# $w * x = x * w$. Networks have no use for that, and their libraries leave it out but keep the
# name.

# %%
from scipy import signal

from companion.architectures.convolution import convolution, cross_correlation

asymmetric = torch.tensor([[0, 1, 2], [0, 0, 3], [0, 0, 0]]).double()
library = F.conv2d(image[None, None], asymmetric[None, None])[0, 0]
for name, ours, theirs in (
    ("cross-correlation", cross_correlation, signal.correlate2d),
    ("convolution", convolution, signal.convolve2d),
):
    expected = torch.from_numpy(theirs(image.numpy(), asymmetric.numpy(), mode="valid"))
    torch.testing.assert_close(ours(image, asymmetric), expected)
    same = torch.equal(expected, library)
    print(f"{name:18s}{expected.int().tolist()}  equals torch's conv2d: {same}")
turned = asymmetric.flip(0, 1)
torch.testing.assert_close(convolution(image, turned), library)

# %% [markdown]
# :::{admonition} Predict first
# :class: predict
# Give the same task to two learners: pictures, and the same pictures with their edges marked. One
# computes cross-correlations, the other one true convolutions. Both start from a kernel of zeros.
# Who learns better? What will their kernels look like?
# :::

# %%
pictures = fashion.train[0][:16, 0].double()
target = F.conv2d(pictures.unsqueeze(1), asymmetric[None, None])[:, 0]  # the truth to be learnt
learnt, final_losses = {}, {}
for function in (cross_correlation, convolution):
    w = torch.zeros(3, 3).double().requires_grad_()
    optimizer = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def loss_of_the_kernel(w=w, function=function, optimizer=optimizer):
        optimizer.zero_grad()
        made = torch.stack([function(picture, w) for picture in pictures])
        loss = (made - target).square().mean()
        loss.backward()
        return loss

    optimizer.step(loss_of_the_kernel)
    final_losses[function.__name__] = loss_of_the_kernel().item()
    learnt[function.__name__] = w.detach()
for name, w in learnt.items():
    print(
        f"{name:18s}loss below 1e-6: {final_losses[name] < 1e-6}",
        (w.round(decimals=2) + 0).tolist(),
    )
torch.testing.assert_close(learnt["convolution"].flip(0, 1), learnt["cross_correlation"])

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(6.4, 2.9))
for axes, w, title in zip(
    panels, learnt.values(), ("by cross-correlation", "by convolution"), strict=True
):
    axes.imshow(w, cmap="Greys", vmin=-0.5, vmax=6)
    for u in range(3):
        for v in range(3):
            axes.text(v, u, f"{abs(w[u, v].item()):.1f}", ha="center", va="center", fontsize=13)
    axes.set_title(f"Learnt {title}", fontsize=11)
    axes.set_xticks(range(3))
    axes.set_yticks(range(3))
    axes.set_xlabel("column of the kernel")
    axes.set_ylabel("row of the kernel")
    axes.grid(False)
figure.suptitle("The same kernel, turned by 180°", fontsize=12, weight="bold")
plt.show()

# %% [markdown]
# Both learn equally well. The flip is a relabelling of the weights, and learning finds the labels.
# It matters as soon as you hand kernels over, from a book of image processing or from another
# library. And it will come back, for good reason, in the backward pass.

# %% [markdown]
# ## Channels
#
# A colour image has three numbers a pixel, and a hidden layer has as many as you like: its
# **channels**. Each output channel $o$ has a kernel of its own, which reads all input channels $c$:
#
# $$y_{oij} = b_o + \sum_{c,u,v} w_{ocuv}\; x_{c,\,i+u,\,j+v} .$$
#
# | | shape | in SmallCNN's second layer |
# |---|---|---|
# | input $x$ | `(N, C, H, W)` | `(N, 32, 14, 14)` |
# | weights $w$ | `(O, C, kh, kw)` | `(64, 32, 3, 3)` |
# | bias $b$ | `(O,)` | `(64,)` |
# | output $y$ | `(N, O, H', W')` | `(N, 64, 14, 14)` |
#
# $N$ is the number of images in the batch. Across channels the layer is dense; over the image it is
# local and shares its weights. Each output number costs $C\,k_h\,k_w$ multiply–adds (**MACs**).

# %% [markdown]
# ## Padding, stride, dilation, groups
#
# Four knobs decide where the kernel looks.
#
# - **Padding** $p$: a frame of $p$ zeros around the image, so that the kernel also fits at the
#   edge.
# - **Stride** $s$: move the kernel $s$ pixels at a time.
# - **Dilation** $d$: leave $d - 1$ pixels free between the kernel's *taps*, its weights' places.
# - **Groups** $g$: cut the channels into $g$ parts. The outputs of one part read the inputs of that
#   part only, so weights and work shrink to $1/g$.
#
# A kernel of $k$ taps reaches over $d(k-1) + 1$ pixels. In an image with its padding that leaves
# $H + 2p - d(k-1) - 1$ single steps, of which you take every $s$-th, beginning at 0:
#
# $$H' = \Bigl\lfloor \frac{H + 2p - d\,(k - 1) - 1}{s} \Bigr\rfloor + 1 .$$
#
# :::{admonition} Predict first
# :class: predict
# $28 \times 28$ pixels, a $3 \times 3$ kernel. Which output sizes do you get from padding 1; from
# padding 1 and stride 2; from dilation 2 without padding?
# :::

# %%
from companion.architectures.im2col import Window, col2im, im2col, output_size

print("padding 1            :", output_size(28, 3, padding=1))
print("padding 1, stride 2  :", output_size(28, 3, stride=2, padding=1))
print("dilation 2           :", output_size(28, 3, dilation=2))

tried = 0
for size in range(1, 16):
    for k in (1, 2, 3, 5):
        for s in (1, 2, 3):
            for p in (0, 1, 2):
                for d in (1, 2, 3):
                    if d * (k - 1) + 1 <= size + 2 * p:
                        line = torch.zeros(1, 1, size)
                        made = F.conv1d(line, torch.zeros(1, 1, k), None, s, p, d)
                        assert output_size(size, k, s, p, d) == made.shape[2]
                        tried += 1
print(f"{tried:,} combinations: the formula gives torch's size in all of them")

# %% tags=["hide-input"]
cases = {
    "padding 1:\n5 × 5 → 5 × 5": Window.of(3, padding=1),
    "stride 2:\n5 × 5 → 2 × 2": Window.of(3, stride=2),
    "dilation 2:\n5 × 5 → 1 × 1": Window.of(3, dilation=2),
}
figure, panels = plt.subplots(1, 3, figsize=(7.2, 3.1))
for axes, (title, window) in zip(panels, cases.items(), strict=True):
    pad = window.padding[0]
    for row in range(-pad, 5 + pad):
        for column in range(-pad, 5 + pad):
            inside = 0 <= row < 5 and 0 <= column < 5
            axes.add_patch(
                plt.Rectangle(
                    (column, row),
                    1,
                    1,
                    facecolor="#dbe7f0" if inside else "white",
                    edgecolor="#555555",
                    linestyle="-" if inside else ":",
                )
            )
    for place, (i, j) in enumerate(((0, 0), (0, 1))):
        if j >= window.output_size((5, 5))[1]:
            continue
        for u in range(3):
            for v in range(3):
                row = i * window.stride[0] + u * window.dilation[0] - pad
                column = j * window.stride[1] + v * window.dilation[1] - pad
                axes.plot(
                    column + (0.33 if place == 0 else 0.7),
                    row + (0.35 if place == 0 else 0.68),
                    marker="o" if place == 0 else "^",
                    color=COLORS[0] if place == 0 else COLORS[2],
                    markersize=6,
                )
    axes.set_xlim(-1.15, 6.15)
    axes.set_ylim(6.15, -1.15)
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=11)
    axes.set_axis_off()
figure.suptitle(
    "What the first output sees (●) and its right neighbour (▲)", fontsize=11, weight="bold"
)
plt.show()

# %% [markdown]
# At stride 1, padding $(k-1)/2$ keeps the size for odd $k$. At stride 2 the fields of neighbours
# overlap by one column only; without padding, the last row and column of an image of even size are
# never seen. Dilation sees far with few weights. And groups:

# %%
for groups in (1, 2, 32):
    layer = nn.Conv2d(32, 64, 3, padding=1, groups=groups)
    print(f"groups={groups:2d}: weight {str(tuple(layer.weight.shape)):16s} {parameters(layer):6,}")

# %% [markdown]
# ## How far an output sees
#
# The **receptive field** of an output is the part of the image that it depends on. Each further
# layer widens it, and after a stride its steps are longer. For layers with $k_l$, $s_l$, $d_l$, the
# size is
#
# $$r = 1 + \sum_l d_l\,(k_l - 1) \prod_{m < l} s_m .$$
#
# The claim can be measured. Let one output pixel's gradient run back to the input, and look where
# it is not zero, over some random images (for one image alone, a ReLU or a maximum may shut a
# path).

# %%
from companion.architectures.receptive_field import influence, receptive_field

torch.manual_seed(0)
deep = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(8, 8, 3, padding=1),
    nn.MaxPool2d(2),
    nn.ReLU(),
    nn.Conv2d(8, 8, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(8, 8, 3, padding=1),
).double()
field = receptive_field(deep)
by_hand = 1 + 2 + 2 + 1 + 2 * 2 + 2 * 2  # conv, conv, pooling, and twice a conv at jump 2
seen = influence(deep, (1, 28, 28), (7, 7), images=200)
rows, columns = field.pixels(7, 7, (28, 28))
box = torch.zeros(28, 28, dtype=torch.bool)
box[rows.start : rows.stop, columns.start : columns.stop] = True
print("closed form:", field.size, "by hand:", by_hand)
print("measured   :", tuple(int((seen > 0).any(axis).sum()) for axis in (1, 0)))
assert torch.equal(seen > 0, box)
assert field.size == (by_hand, by_hand)

# %% tags=["hide-input"]
figure, axes = plt.subplots(figsize=(5.0, 4.1))
shown = axes.imshow(seen / seen.max())
axes.add_patch(
    plt.Rectangle(
        (columns.start - 0.5, rows.start - 0.5),
        len(columns),
        len(rows),
        fill=False,
        edgecolor="white",
        linewidth=2,
    )
)
figure.colorbar(shown, label="mean |gradient|, relative to the largest")
axes.set_title("Inside the frame, the centre counts most")
axes.set_xlabel("column (pixels)")
axes.set_ylabel("row (pixels)")
axes.grid(False)
plt.show()

# %% [markdown]
# Nothing outside of the frame of the closed form, and inside of it much less at the edge than in
# the middle: few paths lead there. The *effective* field is smaller than $r$
# {cite:p}`luo2016understanding`.

# %% [markdown]
# ## Forward and backward, by loops
#
# $\delta_{oij} = \partial L/\partial y_{oij}$ arrives from above. Read the sum of the forward pass
# (one image, padding included in $x$) once for each of its letters:
#
# $$y_{oij} = b_o + \sum_{c,u,v} w_{ocuv}\; x_{c,\,is+ud,\,js+vd}$$
#
# $$\frac{\partial L}{\partial b_o} = \sum_{i,j} \delta_{oij}, \qquad
# \frac{\partial L}{\partial w_{ocuv}} = \sum_{i,j} \delta_{oij}\; x_{c,\,is+ud,\,js+vd}, \qquad
# \frac{\partial L}{\partial x_{cab}} = \sum_{\substack{o,\,i,j,\,u,v:\\ is+ud=a,\; js+vd=b}}
#   \delta_{oij}\; w_{ocuv} .$$
#
# A weight was used at every place, so its gradient adds up over all places. A pixel was seen by
# every kernel that passed over it, so its gradient adds up over those. In loops nobody has to solve
# $is + ud = a$: each product of the forward pass sends back two.


# %%
def conv_loop(x, w, b, stride=1):  # x: (C, H, W), w: (O, C, kh, kw)
    kh, kw = w.shape[2:]
    height, width = (output_size(x.shape[1 + a], (kh, kw)[a], stride) for a in (0, 1))
    y = x.new_zeros(len(w), height, width)
    for o in range(len(w)):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                patch = x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
                y[o, i, j] = (w[o] * patch).sum() + b[o]
    return y


def conv_loop_backward(delta, x, w, stride=1):
    grad_x, grad_w, grad_b = torch.zeros_like(x), torch.zeros_like(w), x.new_zeros(len(w))
    kh, kw = w.shape[2:]
    for o in range(delta.shape[0]):
        for i in range(delta.shape[1]):
            for j in range(delta.shape[2]):
                rows = slice(i * stride, i * stride + kh)
                columns = slice(j * stride, j * stride + kw)
                grad_w[o] += delta[o, i, j] * x[:, rows, columns]
                grad_x[:, rows, columns] += delta[o, i, j] * w[o]
                grad_b[o] += delta[o, i, j]
    return grad_x, grad_w, grad_b


# %%
def random(*shape):
    return torch.randn(shape, generator=generator).double()


x, w, b = random(2, 7, 6), random(3, 2, 3, 2), random(3)
leaves = [value.clone().requires_grad_() for value in (x, w, b)]
expected = F.conv2d(leaves[0][None], *leaves[1:], stride=2)[0]
torch.testing.assert_close(conv_loop(x, w, b, stride=2), expected)
delta = random(*expected.shape)
for name, mine, autograds in zip(
    ("x", "w", "b"),
    conv_loop_backward(delta, x, w, stride=2),
    torch.autograd.grad(expected, leaves, delta),
    strict=True,
):
    torch.testing.assert_close(mine, autograds, rtol=1e-10, atol=1e-12)
    print(f"dL/d{name} {tuple(mine.shape)!s:13s} agrees with autograd")

# %% [markdown]
# ## The same as matrix products: im2col
#
# Loops in Python are slow, and the processor's fastest tool is the matrix product
# {cite:p}`chellapilla2006high`. So lay out what each tap $(u, v)$ sees at all places, as columns of
# a matrix $X_\text{col}$ with $K = C\,k_h\,k_w$ rows and $P = H'W'$ columns, and write each kernel
# as a row of $W$, $(O, K)$:
#
# | | product | shapes |
# |---|---|---|
# | forward | $Y = W X_\text{col} + b$ | `(O, K) (K, P) = (O, P)` |
# | $\partial L/\partial W$ | $\delta\, X_\text{col}^\top$ | `(O, P) (P, K) = (O, K)` |
# | $\partial L/\partial X_\text{col}$ | $W^\top \delta$ | `(K, O) (O, P) = (K, P)` |
#
# The linear layer of {doc}`chapter 2 <../backprop/layers>` once more. What is left is the way from
# the image to the columns and back. What one tap sees is a regular grid of pixels: one slice with a
# step. Back, each slice is *added* where it came from.

# %%
import inspect

for function in (im2col, col2im):
    head, _, body = inspect.getsource(function).split('"""')
    print(head.rstrip() + body)

# %% tags=["hide-input"]
small = torch.arange(1, 10).double().view(1, 1, 3, 3)
cells = im2col(small, Window.of(2)).view(4, 4)
counts = col2im(torch.ones(1, 1, 2, 2, 2, 2), Window.of(2), (3, 3))[0, 0]
figure, panels = plt.subplots(1, 3, figsize=(7.2, 2.9), width_ratios=(3, 4, 3))
for axes, grid, title in zip(
    panels,
    (small[0, 0], cells, counts),
    ("Image", "im2col: a column\nfor each place", "col2im of ones:\nhow often seen"),
    strict=True,
):
    axes.imshow(grid, cmap="Greys", vmin=0, vmax=25 if grid is not counts else 10)
    for row in range(len(grid)):
        for column in range(len(grid)):
            text = int(grid[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=12)
    axes.set_title(title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
panels[0].set_xlabel("3 × 3 pixels")
panels[1].set_xlabel("place of the 2 × 2 kernel")
panels[1].set_ylabel("tap of the kernel")
panels[2].set_xlabel("3 × 3 pixels")
figure.suptitle(
    "Overlap: pixel 5 is gathered four times, and adds up four times", fontsize=11, weight="bold"
)
plt.show()

# %% [markdown]
# im2col copies, so at stride 1 it needs $k_h k_w$ times the memory of the image: nine times for a
# $3 \times 3$ kernel. Our layer therefore keeps $x$ for the backward pass and gathers the columns
# again when they are needed.

# %%
from companion.architectures.convolution import (
    Conv2d,
    conv2d_backward,
    conv2d_forward,
    input_gradient_as_convolution,
)

for window, groups in (
    (Window.of(3, stride=2, padding=1), 1),
    (Window.of((3, 2), padding=(2, 0), dilation=(2, 1)), 2),
    (Window.of(5, stride=3, padding=4), 4),
):
    x, w, b = random(2, 4, 9, 8), random(8, 4 // groups, *window.kernel_size), random(8)
    leaves = [value.clone().requires_grad_() for value in (x, w, b)]
    options = (window.stride, window.padding, window.dilation, groups)
    expected = F.conv2d(*leaves, *options)
    torch.testing.assert_close(conv2d_forward(x, w, b, window, groups), expected)
    delta = random(*expected.shape)
    gradients = torch.autograd.grad(expected, leaves, delta)
    for mine, autograds in zip(
        conv2d_backward(delta, x, w, window, groups), gradients, strict=True
    ):
        torch.testing.assert_close(mine, autograds, rtol=1e-10, atol=1e-12)
    flipped = input_gradient_as_convolution(delta, w, window, (9, 8), groups)
    torch.testing.assert_close(flipped, gradients[0], rtol=1e-10, atol=1e-12)
    print(f"{str(tuple(w.shape)):13s} groups={groups}: forward and three gradients agree")

# %% [markdown]
# ### The flip comes back
#
# The last comparison in that cell is a third way to $\partial L/\partial x$. At stride 1 and
# dilation 1, $i + u = a$ means $i = a - u$, so
#
# $$\frac{\partial L}{\partial x_{cab}} = \sum_{o,u,v} w_{ocuv}\; \delta_{o,\,a-u,\,b-v}:$$
#
# a true convolution, minus signs and all. Backward through a cross-correlation *is* a convolution:
# pad $\delta$, turn the kernels by 180°, swap input and output channels. For a stride $s$, spread
# $\delta$ out with $s - 1$ zeros between its numbers first. That is how libraries compute it, and
# under the name of *transposed convolution* it serves as a layer that makes images larger
# {cite:p}`dumoulin2016guide`.
#
# ### How much faster?
#
# One layer, 4 images of 14 × 14 pixels, 8 channels to 16, forward and backward:

# %% tags=["nbval-ignore-output"]
from companion.architectures.convolution import conv2d_backward_loop, conv2d_loop

window = Window.of(3, padding=1)
x, w, b = (value.float() for value in (random(4, 8, 14, 14), random(16, 8, 3, 3), random(16)))
delta = random(4, 16, 14, 14).float()
leaves = [value.clone().requires_grad_() for value in (x, w, b)]


def loops():
    conv2d_loop(x, w, b, window)
    conv2d_backward_loop(delta, x, w, window)


def matrix_products():
    conv2d_forward(x, w, b, window)
    conv2d_backward(delta, x, w, window)


def the_library():
    torch.autograd.grad(F.conv2d(*leaves, padding=1), leaves, delta)


seconds = {}
for function, repeats in ((loops, 1), (matrix_products, 30), (the_library, 30)):
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    seconds[function] = median(times)
gain = seconds[loops] / seconds[matrix_products]
left = seconds[matrix_products] / seconds[the_library]
display(
    Markdown(
        f"Matrix products: **{gain:,.0f} times** faster than the loops. The library: another "
        f"**{left:.1f} times** faster."
    )
)
assert gain > 30

# %% [markdown]
# The library never builds the whole table of columns. The arithmetic is the same.

# %% [markdown]
# ## Pooling
#
# After a few convolutions a thing's exact place matters less than its presence. **Pooling** lays a
# window over each channel, usually 2 × 2 with stride 2, and keeps one number: the largest (*max*)
# or the mean (*average*). It has no weights, and a quarter of the numbers remain.
#
# | | forward | backward |
# |---|---|---|
# | max | the largest of the window | $\delta$ goes to the pixel that was the largest |
# | average | the mean of the window | $\delta / (k_h k_w)$ goes to each pixel |
#
# Where windows overlap, a pixel adds up what it gets. Forward keeps *which* pixel won, one index
# for each output.
#
# :::{admonition} Predict first
# :class: predict
# A window of four equal pixels, $\delta = 1$. Which gradients come out of max pooling: four times
# 1, four times ¼, or something else? (Dark backgrounds make this case common.)
# :::

# %%
from companion.architectures.pooling import AvgPool2d, Flatten, MaxPool2d

layer = MaxPool2d(2)
layer(torch.ones(1, 1, 2, 2))
print("four equal pixels:", layer.backward(torch.ones(1, 1, 1, 1)).flatten().tolist())

for ours, theirs in (
    (MaxPool2d(2), nn.MaxPool2d(2)),
    (MaxPool2d(3, stride=2, padding=1), nn.MaxPool2d(3, stride=2, padding=1)),
    (AvgPool2d(3, stride=2, padding=1), nn.AvgPool2d(3, stride=2, padding=1)),
):
    leaf = random(2, 3, 9, 8).round().requires_grad_()  # whole numbers: many ties
    expected = theirs(leaf)
    delta = random(*expected.shape)
    expected.backward(delta)
    torch.testing.assert_close(ours(leaf.detach()), expected)
    torch.testing.assert_close(ours.backward(delta), leaf.grad, rtol=1e-10, atol=1e-12)
    print(f"{type(ours).__name__} with {ours.window.kernel_size} taps equals torch's")

# %% [markdown]
# The first of the equals takes all. Any split would be a valid slope of a maximum at a kink; this
# one is PyTorch's on the CPU, and it must be decided for results to be the same.

# %% [markdown]
# ## Batch normalisation, and what it remembers
#
# {doc}`Chapter 2 <../backprop/layers>` derived the backward pass for one feature over the batch
# {cite:p}`ioffe2015batch`. In an image network the feature is a *channel*, and its values are those
# of all pixels of all images: mean $\mu$ and variance $v$ over $m = N\,H\,W$ numbers.
# The formulas stay, with sums over three axes.
#
# What deserves a second look is its memory. In evaluation there may be a single image, so
# the layer uses **running statistics**, collected during training with the *momentum* $a$:
#
# $$\bar\mu \leftarrow (1 - a)\,\bar\mu + a\,\mu, \qquad
# \bar v \leftarrow (1 - a)\,\bar v + a\,\frac{m}{m-1}\,v .$$
#
# They start at 0 and 1. After $t$ batches a share $(1-a)^t$ of that start is still in them.

# %%
from companion.architectures.batch_norm import BatchNorm2d

ours, theirs = BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
for step in range(3):  # training: batches with moving statistics
    leaf = (random(4, 3, 5, 5) * (1 + step) + step).requires_grad_()
    expected = theirs(leaf)
    delta = random(4, 3, 5, 5)
    ours.zero_grad()
    theirs.zero_grad()
    expected.backward(delta)
    torch.testing.assert_close(ours(leaf.detach()), expected)
    torch.testing.assert_close(ours.backward(delta), leaf.grad, rtol=1e-10, atol=1e-12)
for (name, mine), their in zip(ours.named_buffers(), theirs.buffers(), strict=True):
    torch.testing.assert_close(mine, their)
    print(f"{name:20s} equals torch's")

# %% [markdown]
# :::{admonition} Predict first
# :class: predict
# A network with six batch normalisations trains for 60 steps, once with momentum 0.1, once with
# 0.001 ("smoother must be better"). Training goes equally well. How do they do in evaluation?
# :::

# %% tags=["nbval-ignore-output"]
digits = Digits(drop_last=True)
digits.setup()


def with_batch_norm(momentum, depth=6, width=16):
    torch.manual_seed(0)
    layers, channels = [], 1
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, momentum=momentum),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 64, 10))


@torch.no_grad()
def accuracy_in(network, training):
    network.train(training)
    kept = {name: value.clone() for name, value in network.named_buffers()}
    x, labels = digits.test
    right = (network(x).argmax(1) == labels).float().mean().item()
    network.load_state_dict(kept, strict=False)  # as if this look had not happened
    return right


@torch.no_grad()
def collect_statistics_again(network):
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None  # the plain mean over all batches
    network.train()
    for rows in torch.arange(len(digits.train[0])).split(256):
        network(digits.train[0][rows])


results = {}
for momentum in (0.1, 0.001):
    network = with_batch_norm(momentum)
    fit(Classifier(network, optimizer=adam), digits, epochs=3, precision="32-true")
    results[momentum] = [accuracy_in(network, training) for training in (True, False)]
    by_batch, by_memory = results[momentum]
    print(f"momentum {momentum:5}: statistics of the batch {by_batch:.0%}, running {by_memory:.0%}")
collect_statistics_again(network)
repaired = accuracy_in(network, training=False)
print(f"momentum 0.001, statistics collected anew: {repaired:.0%}")
assert results[0.001][1] < 0.6 < min(results[0.1][1], results[0.001][0], repaired)

# %% [markdown]
# The weights are fine; the memory is still full of its start value, and each layer hands its error
# on to the next. When a network is good in
# training and bad in evaluation, suspect the running statistics first: too few steps for the
# momentum, `model.eval()` forgotten, other preprocessing, or weights that were averaged or copied
# without these buffers. The cure is the last function above: a pass over the data without
# gradients.

# %% [markdown]
# ## Layers of your own that learn
#
# `Conv2d`, `MaxPool2d`, `BatchNorm2d` and `Flatten` are layers in the manner of chapter 2, so
# `ManualBackprop` trains them. Autograd is off; a twin with torch's layers and autograd starts from
# the same weights.

# %%
from companion.backprop.layers import Linear, ReLU, Sequential
from companion.backprop.manual import ManualBackprop

torch.manual_seed(0)
by_hand = Sequential(
    Conv2d(1, 8, 3, padding=1, bias=False),
    BatchNorm2d(8),
    ReLU(),
    MaxPool2d(2),
    Conv2d(8, 16, 3, padding=1, groups=2),
    ReLU(),
    AvgPool2d(2),
    Flatten(),
    Linear(64, 10),
).double()
twin = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1, bias=False),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 3, padding=1, groups=2),
    nn.ReLU(),
    nn.AvgPool2d(2),
    nn.Flatten(),
    nn.Linear(64, 10),
).double()
twin.load_state_dict(by_hand.state_dict())
sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
options = {"epochs": 4, "test": True}
first = fit(ManualBackprop(by_hand, optimizer=sgd), Digits(dtype=torch.float64), **options)
second = fit(Classifier(twin, optimizer=sgd), Digits(dtype=torch.float64), **options)
for mine, autograds in zip(by_hand.state_dict().values(), twin.state_dict().values(), strict=True):
    torch.testing.assert_close(mine, autograds, rtol=1e-10, atol=1e-12)
print(f"{len(first.step_losses)} steps: weights and running statistics agree to ten digits,")
print(f"test accuracy {first.metrics['test_accuracy']:.1%}")

# %% [markdown]
# ## Four networks
#
# **LeNet-300-100** and **LeNet-5** {cite:p}`lecun1998gradient` were made for handwritten digits.
# The first has no convolution; chapter 7 will prune it. LeNet-5 set the
# pattern of convolution and pooling in turn. Ours has the sizes of the paper but is simpler, as
# nearly everybody's is: every map of the second convolution reads all six below (there, a table
# picks some); pooling has no weights and no squashing function; the output is a dense layer with
# cross-entropy (there, distances to drawn 7 × 12 letters); the tanh is not scaled.
# **SmallCNN** is the course's fast network, and **ResNet** the residual network for small images
# {cite:p}`he2016deep`, which the end of this page takes up.
#
# A convolution's cost is a product of its shapes: $O\,C\,k_h k_w / g$ weights, each used at $H'W'$
# places.

# %%
from torch.utils.flop_counter import FlopCounterMode


def macs(network, shape=(1, 28, 28)):
    """Multiply–adds of convolutions and dense layers for one image."""
    total = 0

    def count(layer, inputs, output):
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            places = output.shape[2] * output.shape[3]
            total += layer.weight.numel() * places
        else:
            total += layer.weight.numel()

    kinds = nn.Conv2d | nn.Linear
    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        network.eval()(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return total


networks = {
    "LeNet-300-100": LeNet300100(),
    "LeNet-5": LeNet5(),
    "SmallCNN": SmallCNN(),
    "ResNet, 8 layers": ResNet(),
    "ResNet, 20 layers": ResNet(blocks_per_stage=3),
}
lines = [
    "| network | parameters | MACs for one 28 × 28 image | uses of a weight |",
    "|---|--:|--:|--:|",
]
for name, network in networks.items():
    counted = macs(network)
    with FlopCounterMode(display=False) as torchs, torch.no_grad():
        network(torch.zeros(1, 1, 28, 28))
    assert torchs.get_total_flops() == 2 * counted  # a multiplication and an addition each
    uses = counted / parameters(network)
    lines.append(f"| {name} | {parameters(network):,} | {counted:,} | {uses:.0f} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# In a dense network every weight is used once an image. A convolution uses each one at every place:
# few parameters, much arithmetic. "How large is the model" and "how much does it compute" are two
# questions.
#
# The paper's LeNet-5 has 60,000 parameters. Ours differs by exactly what was left out and put in:

# %%
paper = {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48_120, "F6": 10_164}
full_table, output_layer = 16 * (6 * 25 + 1), 10 * (84 + 1)
ours = sum(paper.values()) - paper["S2"] - paper["S4"] - paper["C3"] + full_table + output_layer
print(f"paper {sum(paper.values()):,}, ours {ours:,}")
assert ours == parameters(LeNet5())

# %% [markdown]
# ## How to train fast on two cores
#
# Five choices make a step of SmallCNN cheaper, or make fewer steps do. `fit` makes the first four
# by itself, unless you hand it an optimizer of your own: then `fused` is yours to say. What the
# first three save on this machine, on a batch of 128 and one thread:

# %% tags=["nbval-ignore-output"]
from companion.fitting import multiplies_bfloat16

batch, classes = fashion.train[0][:128], fashion.train[1][:128]


def make_step(channels_last=False, bfloat16=False, fused=False):
    torch.manual_seed(0)
    network = SmallCNN()
    if channels_last:
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=fused)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(network(batch), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


steps = {
    "plain": make_step(),
    "channels_last": make_step(channels_last=True),
    "+ fused AdamW": make_step(channels_last=True, fused=True),
}
if multiplies_bfloat16():
    steps["+ bfloat16"] = make_step(channels_last=True, bfloat16=True, fused=True)
times = {name: [] for name in steps}
for _ in range(9):
    for name, step in steps.items():  # in turn, so that a busy moment hits all of them
        start = time.process_time()
        step()
        times[name].append(time.process_time() - start)
for name, values in times.items():
    share = median(values[2:]) / median(times["plain"][2:])
    print(f"{name:15s} {1e3 * median(values[2:]):5.1f} ms a step, {share:.2f} of plain")

# %% [markdown]
# - **channels_last** stores the channels of a pixel side by side. That is the order in which the
#   kernel's products need them.
# - A **fused** optimizer updates all weights in one sweep instead of a dozen small operations each.
#   SmallCNN has only six weight tensors, so there is little to gain here.
# - **bfloat16** halves the bytes of every product, on processors that multiply in it.
# - **Whole batches** are cut out of a tensor in memory; nothing is fetched image by image.
# - **One cycle**: the learning rate rises to a value that would be too high to stay at, and falls
#   to almost nothing {cite:p}`smith2019super`. With **random flips** left to right (a shoe stays a
#   shoe) each picture comes in one of two forms.
#
# Together, on 20,000 of the pictures, once over:


# %% tags=["nbval-ignore-output"]
class RandomFlip(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        heads = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
        return torch.where(heads, x.flip(3), x)


clothes = FashionMNIST(batch_size=128, limit=20_000)
clothes.setup()
torch.manual_seed(0)
cnn = SmallCNN()
schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=6e-3, total_steps=157)
module = Classifier(
    nn.Sequential(RandomFlip(), cnn),
    optimizer=partial(torch.optim.AdamW, lr=1e-3, fused=True),
    scheduler=schedule,
    scheduler_interval="step",
)
result = fit(module, clothes, epochs=1, limit_val_batches=0, test=True)
cnn_accuracy = result.metrics["test_accuracy"]
print(
    f"{len(result.step_losses)} steps in {result.seconds:.0f} s: test accuracy {cnn_accuracy:.1%}"
)
assert cnn_accuracy > 0.83

# %% [markdown]
# `make bench` trains on all 60,000 pictures for longer, side by side with a hand-tuned loop and
# with Keras, and writes its figures down.
#
# ### What it looks at
#
# The first layer's 32 kernels, and what the liveliest channels of both layers make of a boot and a
# shirt:

# %% tags=["hide-input"]
filters = cnn.features[0].weight.detach().float().cpu()[:, 0]
figure, panels = plt.subplots(4, 8, figsize=(7.2, 3.9))
for axes, w in zip(panels.flat, filters, strict=True):
    limit = w.abs().max()
    axes.imshow(w, vmin=-limit, vmax=limit)
    axes.set_axis_off()
figure.suptitle(
    "Many of the 32 learnt kernels are edges: bright (+) one side, dark (−) the other",
    fontsize=11,
    weight="bold",
)
plt.show()

# %% tags=["hide-input"]
cnn.eval()
names = list(clothes.class_names)
chosen = [
    (clothes.test[1] == names.index(name)).nonzero()[0, 0] for name in ("ankle boot", "shirt")
]
with torch.no_grad():
    inputs = clothes.test[0][torch.stack(chosen)]
    first_maps = cnn.features[:3](inputs)
    second_maps = cnn.features(inputs)
strong_first = first_maps.std((0, 2, 3)).argsort(descending=True)[:4]
strong_second = second_maps.std((0, 2, 3)).argsort(descending=True)[:4]
figure, panels = plt.subplots(2, 9, figsize=(7.2, 2.2))
for row, name in enumerate(("boot", "shirt")):
    panels[row, 0].imshow(inputs[row, 0])
    panels[row, 0].set_title(name, fontsize=10)
    for column in range(4):
        panels[row, 1 + column].imshow(first_maps[row, strong_first[column]])
        panels[row, 5 + column].imshow(second_maps[row, strong_second[column]])
for axes in panels.flat:
    axes.set_axis_off()
panels[0, 1].set_title("14 × 14 maps", fontsize=10, loc="left")
panels[0, 5].set_title("7 × 7 maps", fontsize=10, loc="left")
figure.suptitle(
    "Feature maps: the first layer still shows the thing, the second marks places",
    fontsize=11,
    weight="bold",
)
plt.show()

# %% [markdown]
# ## Shortcuts
#
# More layers can say more, but stack enough of them and even the *training* loss gets worse. A
# **residual block** {cite:p}`he2016deep` computes $y = \operatorname{relu}(x + f(x))$, $f$ being
# two convolutions with batch normalisation. On the way back $\delta = \partial L/\partial y$ passes
# the ReLU, where $y > 0$, and the sum sends it down both branches. With $J_f$ for the Jacobian of
# $f$,
#
# $$\frac{\partial L}{\partial x} = \delta' + J_f^\top \delta', \qquad
# \delta' = \delta \odot [y > 0],$$
#
# and the first term has met no weight at all. Below, a network of 38 layers with weights, with and
# without shortcuts: same layers, same parameters, same three seeds, three passes over the digits.


# %% tags=["nbval-ignore-output"]
def train_deep(shortcuts, seed, rate=0.02):
    torch.manual_seed(seed)
    network = ResNet(widths=(8, 16), blocks_per_stage=9, shortcuts=shortcuts)
    x, labels = (part[:128] for part in digits.train)
    F.cross_entropy(network(x), labels).backward()
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    norms = torch.stack([layer.weight.grad.norm() for layer in layers])
    network.zero_grad()
    momentum = partial(torch.optim.SGD, lr=rate, momentum=0.9)
    learner = Classifier(network, optimizer=momentum)
    data = Digits(drop_last=True)
    result = fit(learner, data, epochs=3, limit_val_batches=0, test=True, seed=seed)
    return norms, result.step_losses, result.metrics["test_accuracy"]


runs = {
    shortcuts: [train_deep(shortcuts, seed) for seed in range(3)] for shortcuts in (True, False)
}
for shortcuts, three in runs.items():
    scores = ", ".join(f"{accuracy:.1%}" for *_, accuracy in three)
    ratio = median((norms[0] / norms[-1]).item() for norms, *_ in three)
    assert 1 < ratio < 20 if shortcuts else ratio > 50
    name = "with shortcuts" if shortcuts else "without"
    print(f"{name:15s} test accuracy {scores}; gradient at layer 1 / at layer 37: {ratio:.0f}")
slower = train_deep(shortcuts=False, seed=0, rate=0.002)
print(f"without, a tenth of the learning rate: test accuracy {slower[2]:.1%}")
worst, best = min(three[2] for three in runs[True]), max(three[2] for three in runs[False])
assert worst > max(best, slower[2]) + 0.1

# %% tags=["hide-input"]
figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4))
for (shortcuts, three), color, style in zip(runs.items(), COLORS[1:3], LINESTYLES, strict=False):
    name = "with shortcuts" if shortcuts else "without"
    norms = torch.stack([norms for norms, *_ in three]).mean(0)
    left.plot(range(1, len(norms) + 1), norms, color=color, linestyle=style, label=name)
    losses = torch.tensor([losses for _, losses, _ in three])
    right.plot(range(1, losses.shape[1] + 1), losses.mean(0), color=color, linestyle=style)
    right.fill_between(
        range(1, losses.shape[1] + 1), losses.amin(0), losses.amax(0), color=color, alpha=0.2
    )
left.set_yscale("log")
left.set_xlabel("layer (1 = at the input)")
left.set_ylabel("norm of the weight gradient")
left.set_title("Before training", fontsize=11)
left.legend()
right.set_xlabel("training step")
right.set_ylabel("training loss (nats)")
right.set_title("Mean and range of 3 seeds", fontsize=11)
figure.suptitle(
    "38 layers learn with shortcuts, and hardly without them", fontsize=12, weight="bold"
)
plt.show()

# %% [markdown]
# Look at the left panel before you explain the right one. The gradients of the plain network do not
# vanish. With batch normalisation in every layer they *grow* on the way down, layer by layer, until
# the first layer's is many times the last one's (the output above says how many): no single
# learning rate suits both ends. The shortcuts keep all of them close together. Smaller steps are no
# way out for the plain network in this time, as the last line of the output says. Three passes over
# small images are no final word on what it could reach; He et al. saw the same order at the end of
# the training of far larger ones.

# %% [markdown]
# ## The same on other devices
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(Classifier(SmallCNN()), FashionMNIST(batch_size=128), epochs=3, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(Classifier(SmallCNN()), FashionMNIST(batch_size=128), epochs=3, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(Classifier(SmallCNN()), FashionMNIST(batch_size=128), epochs=3, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} small-cnn
# :::
#
# The Keras twin of these networks is on the chapter's page {doc}`keras`.

# %% [markdown]
# ## Widespread mistakes
#
# (mistake-e6)=
# :::{admonition} Widespread mistake E6: the poolings forgotten
# :class: mistake
# After two poolings of a $28 \times 28$ image, the dense layer still expects `64 * 28 * 28` inputs,
# and `view(-1, 64 * 28 * 28)` puts the maps into that shape.
# :::
#
# Each pooling halves height and width: $28 \to 14 \to 7$. There are `64 * 7 * 7` numbers an image,
# a sixteenth of what is asked for. With most batches the mistake is loud:


# %%
class Tutorial(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(64 * 28 * 28, 10)

    def forward(self, x):
        return self.classifier(self.features(x).view(-1, 64 * 28 * 28))


tutorial = Tutorial()

# %% tags=["raises-exception"]
tutorial(torch.zeros(100, 1, 28, 28))

# %% [markdown]
# With a batch of 32 it is silent. The `-1` means "as many rows as it takes", and it takes two:

# %%
logits = tutorial(torch.zeros(32, 1, 28, 28))
print("32 images went in; the logits have shape", tuple(logits.shape))

# %% [markdown]
# Sixteen images were merged into one row. The loss would complain now; an `argmax` in a demo would
# not. The rule: never let `-1` stand for the batch. `flatten(1)` keeps the batch axis, whatever
# comes, and then the dense layer is the one that raises until its size is right.

# %%
features = tutorial.features(torch.zeros(32, 1, 28, 28)).flatten(1)
print("flatten(1) gives", tuple(features.shape), "and 64 * 7 * 7 =", 64 * 7 * 7)
assert nn.Linear(64 * 7 * 7, 10)(features).shape == (32, 10)

# %% [markdown]
# (mistake-e8)=
# :::{admonition} Widespread mistake E8: a sum over its own result's indices
# :class: mistake
# "Convolution computes $y_{ij} = \sum_i \sum_j x_{ij}\, w_{ij}$."
# :::
#
# $i$ and $j$ name the output pixel and are summed over at once, so nothing is left to name one.
# Taken at its word it is a single number, defined only if the kernel is as large as the image.

# %% tags=["raises-exception"]
image, kernel = random(5, 5), random(3, 3)
(image * kernel).sum()

# %% [markdown]
# The sum needs four indices, two for the place and two for the tap. And written with plus signs, as
# at the top of this page, it is a cross-correlation: whoever calls it convolution and then compares
# with SciPy's `convolve2d` will find other numbers.

# %%
place_and_tap = torch.tensor(
    [
        [
            sum(kernel[u, v] * image[i + u, j + v] for u in range(3) for v in range(3))
            for j in range(3)
        ]
        for i in range(3)
    ]
)
as_correlation = torch.from_numpy(signal.correlate2d(image.numpy(), kernel.numpy(), "valid"))
as_convolution = torch.from_numpy(signal.convolve2d(image.numpy(), kernel.numpy(), "valid"))
print("equals SciPy's correlation:", torch.allclose(place_and_tap, as_correlation))
print("equals SciPy's convolution:", torch.allclose(place_and_tap, as_convolution))

# %% [markdown]
# ## Exercises
#
# :::{exercise} One large kernel or three small ones
# :label: ex-cnn-1
# How many $3 \times 3$ convolutions in a row see as far as one of $7 \times 7$? Compare their
# weights for $C$ channels in and out everywhere, and check with `receptive_field`.
# :::
#
# :::{solution} ex-cnn-1
# :class: dropdown
# Three: $1 + 3 \cdot 2 = 7$. They have $27\,C^2$ weights against $49\,C^2$, and room for two more
# ReLUs.
# :::

# %% tags=["hide-cell"]
# Solution
three = [nn.Conv2d(8, 8, 3, bias=False) for _ in range(3)]
one = nn.Conv2d(8, 8, 7, bias=False)
assert receptive_field(three).size == receptive_field([one]).size == (7, 7)
print(sum(parameters(layer) for layer in three), "weights against", parameters(one))

# %% [markdown]
# :::{exercise} Depth and point
# :label: ex-cnn-2
# A *depthwise separable* convolution first runs one kernel on each channel alone (`groups=C`), then
# mixes the channels with a $1 \times 1$ convolution. By what factor does it save MACs, for $C = O =
# 64$ and $3 \times 3$? Derive it, then count.
# :::
#
# :::{solution} ex-cnn-2
# :class: dropdown
# $9\,C + C\,O$ against $9\,C\,O$ for each place: the ratio is $1/O + 1/9$, here about 1 in 8.
# :::

# %% tags=["hide-cell"]
# Solution
usual = nn.Conv2d(64, 64, 3, padding=1, bias=False)
separable = nn.Sequential(
    nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), nn.Conv2d(64, 64, 1, bias=False)
)
ratio = macs(separable, (64, 14, 14)) / macs(usual, (64, 14, 14))
print(f"counted {ratio:.4f}, derived {1 / 64 + 1 / 9:.4f}")
assert abs(ratio - (1 / 64 + 1 / 9)) < 1e-12

# %% [markdown]
# :::{exercise} Fold the normalisation away
# :label: ex-cnn-3
# In evaluation a batch normalisation is one slope and one offset for each channel. Put them into
# the weights and the bias of the convolution before it, so that the normalisation can be dropped.
# :::
#
# :::{solution} ex-cnn-3
# :class: dropdown
# $y = \gamma\,(w \cdot x - \bar\mu)/\sqrt{\bar v + \varepsilon} + \beta$. With $t = \gamma /
# \sqrt{\bar v + \varepsilon}$: the weights become $t\,w$ and the bias $\beta - t\,\bar\mu$.
# Deployment tools do this before anything else.
# :::

# %% tags=["hide-cell"]
# Solution
conv, norm = nn.Conv2d(3, 5, 3, bias=False).double(), nn.BatchNorm2d(5).double()
for _ in range(20):
    norm(conv(random(8, 3, 9, 9)))
norm.eval()
with torch.no_grad():
    t = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = nn.Conv2d(3, 5, 3).double()
    folded.weight.copy_(conv.weight * t.view(-1, 1, 1, 1))
    folded.bias.copy_(norm.bias - t * norm.running_mean)
    x = random(2, 3, 9, 9)
    torch.testing.assert_close(folded(x), norm(conv(x)), rtol=1e-10, atol=1e-12)
print("one convolution instead of two layers, the same numbers")

# %% [markdown]
# :::{exercise} Larger again
# :label: ex-cnn-4
# A generator of images needs layers that make maps *larger*. Show that `F.conv_transpose2d` is our
# `input_gradient_as_convolution`, and find the `output_padding` that it needs for stride 2, padding
# 1, and a $3 \times 3$ kernel to turn $4 \times 4$ into $8 \times 8$. Why must one choose?
# :::
#
# :::{solution} ex-cnn-4
# :class: dropdown
# Both 7 × 7 and 8 × 8 images become 4 × 4 under this convolution (the floor in the formula), so the
# way back does not know which one was meant: `output_padding=1` says 8.
# :::

# %% tags=["hide-cell"]
# Solution
window, delta, w = Window.of(3, stride=2, padding=1), random(1, 5, 4, 4), random(5, 3, 3, 3)
assert output_size(7, 3, 2, 1) == output_size(8, 3, 2, 1) == 4
for size, extra in ((7, 0), (8, 1)):
    ours = input_gradient_as_convolution(delta, w, window, (size, size))
    theirs = F.conv_transpose2d(delta, w, stride=2, padding=1, output_padding=extra)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    print(f"output_padding={extra}: 4 x 4 becomes {size} x {size}, as ours")

# %% [markdown]
# ## Summary
#
# - A convolution is a dense layer over channels whose weights are shared by all places. Libraries
#   compute cross-correlation; learning does not mind.
# - Size: $\lfloor (H + 2p - d(k-1) - 1)/s \rfloor + 1$. Few parameters, many uses of each.
# - Backward: $\delta X_\text{col}^\top$ for the weights, a convolution with turned kernels for the
#   image, the winner's pixel for a maximum.
# - Batch normalisation remembers running statistics; when training is good and evaluation is bad,
#   look there first.
# - Shortcuts give the gradient a way around the weights, which lets deep networks learn.
#
# Sources: LeNet {cite:p}`lecun1998gradient` (sections II.A and II.B); convolution arithmetic
# {cite:p}`dumoulin2016guide`; im2col {cite:p}`chellapilla2006high`; receptive fields
# {cite:p}`araujo2019computing,luo2016understanding`; batch normalisation {cite:p}`ioffe2015batch`
# (section 3); residual networks {cite:p}`he2016deep` (sections 3 and 4.2); one cycle
# {cite:p}`smith2019super`; the data {cite:p}`xiao2017fashion`.
