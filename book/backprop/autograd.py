# %% [markdown]
# # Autograd: a tape that remembers
#
# **The question: how can a program differentiate an expression that nobody has differentiated by
# hand?**
#
# Layer by layer you have written backward passes yourself. A library writes them for you, for any
# program made of its operations. On this page you build that library: first for single numbers,
# then for arrays, and then you train a network with it.

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# The effect first. One neuron, one squared error, four numbers that were given. Nobody writes a
# derivative below; one call of `backward` fills in the gradient of everything.

# %%
import matplotlib.pyplot as plt
import torch

from companion.backprop.autograd import Scalar
from companion.backprop.graph_picture import draw_graph
from companion.figures import COLORS, use_course_style

use_course_style()
torch.set_num_threads(1)  # a second thread costs more than it brings on tensors this small

x, w, b, y = Scalar(2.0, "x"), Scalar(-0.6, "w"), Scalar(0.8, "b"), Scalar(1.0, "y")
error = ((x * w + b).named("z").tanh() - y).named("error")
loss = (error * error).named("L")
loss.backward()

figure, axes = plt.subplots(figsize=(9.6, 3.6))
draw_graph(loss, axes, "∂L/∂w is negative: a larger weight would make this loss smaller")
assert w.grad < 0
plt.show()

# %% [markdown]
# Read it from left to right for the values and from right to left for the gradients. Each arrow
# bears a *local derivative*, ∂(its end)/∂(its start). A gradient is the gradient at the arrow's
# end times that number, summed where several arrows leave. That is all of backpropagation.

# %% [markdown]
# ## The chain rule on a graph
#
# Write the computation as a list of numbers $v_1, v_2, \dots, v_N$, each computed from earlier
# ones, with $L = v_N$ the last. Let $\bar v_i = \partial L / \partial v_i$. A change of $v_i$
# reaches $L$ only through the numbers that use $v_i$, so
#
# $$\bar v_N = 1, \qquad
# \bar v_i = \sum_{j \text{ uses } i} \bar v_j \, \frac{\partial v_j}{\partial v_i}.$$
#
# Unroll the recursion and you get a sum over paths
# {cite:p}`bauer1974computational`: for every path from $v_i$ to $L$, multiply the local derivatives
# along it; add up the products.
#
# Here is a tape that stores just that: with every number its inputs and the local derivatives.


# %%
class Number:
    def __init__(self, value, inputs=()):
        self.value, self.inputs, self.grad = value, inputs, 0.0  # inputs: (Number, ∂self/∂input)

    def __add__(self, other):
        return Number(self.value + other.value, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        return Number(self.value * other.value, ((self, other.value), (other, self.value)))


def walk_every_path(node, weight=1.0):
    node.grad += weight
    for source, local in node.inputs:
        walk_every_path(source, weight * local)


a, c = Number(3.0), Number(-2.0)
walk_every_path(a * c + a)
print(f"∂(a·c + a)/∂a = {a.grad}, and c + 1 = {c.value + 1}")

# %% [markdown]
# Right, in a few lines. But count the visits on a chain of *diamonds*, where every number is
# used twice by the next one.
#
# :::{admonition} Predict first
# :class: predict
# `y = y + y`, twenty times over. How many numbers are there, and how many times does
# `walk_every_path` visit one? What would 60 repetitions take?
# :::

# %%
from companion.backprop.autograd import backward_over_paths, topological_order

depths, visits, numbers = list(range(1, 17)), [], []
for depth in depths:
    top = Scalar(1.0)
    for _ in range(depth):
        top = top + top
    visits.append(backward_over_paths(top))
    numbers.append(len(topological_order(top)))
print(f"depth {depths[-1]}: {numbers[-1]} numbers, {visits[-1]:,} visits")
assert visits[-1] == 2 ** (depths[-1] + 1) - 1
for depth in (20, 60):
    paths = 2 ** (depth + 1) - 1
    years = paths / 1e6 / (365 * 24 * 3600)
    print(f"depth {depth}: {paths:,} visits, at a million a second {years:.2g} years")

# %% tags=["hide-input"]
plt.semilogy(depths, visits, marker="o", label="walking every path")
plt.semilogy(depths, numbers, marker="s", label="each number once, users before inputs")
plt.title(f"{numbers[-1]} numbers have {visits[-1]:,} path ends: walk numbers, not paths")
plt.xlabel("depth of the chain y = y + y")
plt.ylabel("visits (log scale)")
plt.legend()
plt.show()

# %% [markdown]
# The cure is to let a number wait until *all* its users have handed in their share, and only then
# pass its own, complete gradient on. The obvious way to visit each number once forgets the
# waiting:


# %%
def hand_on_at_once(root):
    root.grad, waiting, visited = 1.0, [root], set()
    while waiting:
        node = waiting.pop(0)
        if id(node) not in visited:
            visited.add(id(node))
            for source, local in node.inputs:
                source.grad += node.grad * local
                waiting.append(source)


def two_depths(x):
    b = x * x
    return b + (b + b) * b  # b + 2 b²: b is used directly, and deeper down


# %% [markdown]
# :::{admonition} Predict first
# :class: predict
# With $b = x^2$ the function is $x^2 + 2x^4$, and its derivative at $x = 1$ is
# $2 + 8 = 10$. `hand_on_at_once` visits `b` as soon as its first user is done. Is its answer too
# small, too large, or right?
# :::

# %%
x = Number(1.0)
hand_on_at_once(two_depths(x))
at_once = x.grad

x = Scalar(1.0)
two_depths(x).backward()
print(f"handed on at once: {at_once:g}    in topological order: {x.grad:g}    by hand: 10")
assert x.grad == 10

# %% [markdown]
# Too small: when `b` was visited, the share of its deeper users had not arrived, and it was never
# visited again. An order in which every number comes after all its inputs is called
# **topological**; walked backwards, it visits every number after all its *users*. A depth-first
# search finds one in time proportional to the number of arrows. Both tapes of the companion do it
# with a stack of their own, so that a graph ten thousand operations deep does not meet Python's
# recursion limit.
#
# The second rule is hidden in the `+=`: gradients **accumulate**. A number used twice gets both
# shares, and a second call of `backward` adds to the first, which is why training loops set
# gradients to zero.

# %%
reference = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
ours = Scalar(0.4)
for number in (reference, ours):
    u = number
    for _ in range(5):
        u = (u * u.exp()).sin() / (1 + u * u) + u
    u.backward()
print(f"ours {ours.grad:.9f}, torch.autograd {reference.grad.item():.9f}")
assert abs(ours.grad / reference.grad.item() - 1) < 1e-12

# %% [markdown]
# ## Arrays
#
# One Python object for each number of a network would be hopeless. So let a node hold an array,
# and let the operation know how to multiply a gradient by its Jacobian *without forming it*. For
# $y = f(x)$ with $x$ of shape $s$, the rule gets $\bar y$, of the shape of $y$, and returns
#
# $$\bar x = \bar y \, \frac{\partial y}{\partial x}, \qquad \text{of shape } s,$$
#
# a **vector–Jacobian product**. The companion's `Tensor` wraps a torch tensor for the arithmetic
# and leaves torch's autograd out of it, which keeps that one free to be the judge.
#
# | operation | shapes | gradient |
# |---|---|---|
# | $y = a + b$ | any, broadcast | $\bar a = \bar b = \bar y$, each summed to its shape |
# | $y = a \odot b$ | any, broadcast | $\bar a = \bar y \odot b$, $\bar b = \bar y \odot a$, too |
# | $Y = AB$ | $(n, k), (k, m) \to (n, m)$ | $\bar A = \bar Y B^\top$, $\bar B = A^\top \bar Y$ |
# | $y = e^x$ | any | $\bar x = \bar y \odot y$ |
# | sum over axes | $s \to$ fewer | $\bar y$ repeated along those axes |
# | repeat along axes | fewer $\to s$ | $\bar y$ summed over those axes |
# | reshape, transpose | $s \to s'$ | the way back |
# | pick elements | $s \to$ fewer | zeros of shape $s$ with $\bar y$ *added* in |
# | largest element | $s \to$ fewer | $\bar y$ to the largest; ties share it |
#
# From "sum" to "pick" the rules go in pairs. Moving numbers about is linear, and the gradient of a
# linear map is its transpose: repeating and summing are each other's, picking and putting back as
# well.

# %%
from companion.backprop.tensor import Tensor

A = Tensor(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), requires_grad=True)  # (3, 2)
B = Tensor(torch.tensor([[1.0, 0.0, -1.0], [2.0, 1.0, 0.5]]), requires_grad=True)  # (2, 3)
product = A @ B  # (3, 3)
print(product)
product.sum().backward()
ones = torch.ones(3, 3)
assert torch.equal(A.grad.value, ones @ B.value.T)
assert torch.equal(B.grad.value, A.value.T @ ones)
print("gradient of A:", A.grad.value.tolist())

# %% [markdown]
# ### Broadcasting is copying, so its gradient is a sum
#
# A bias of shape $(3,)$ added to a batch of shape $(4, 3)$ is used four times, once by each row.
# By the accumulation rule its gradient is the sum of the four rows. The general recipe, for any
# shape that was broadcast to the shape of a gradient:


# %%
def un_broadcast(gradient, shape):
    """Sum `gradient` over the axes along which an array of `shape` was repeated."""
    added = gradient.ndim - len(shape)  # axes that the array did not have
    gradient = gradient.sum(tuple(range(added))) if added else gradient
    stretched = tuple(i for i, size in enumerate(shape) if size == 1)
    return gradient.sum(stretched, keepdim=True) if stretched else gradient


generator = torch.Generator().manual_seed(0)
large = torch.randn(2, 4, 3, generator=generator)
for shape in [(3,), (4, 1), (2, 1, 3), (1, 1, 1), (4, 3), ()]:
    small = torch.zeros(shape, requires_grad=True)
    (small + large).backward(large)
    torch.testing.assert_close(un_broadcast(large, shape), small.grad)
    print(f"{shape!s:10} repeated to (2, 4, 3): gradient of shape {tuple(small.grad.shape)}")

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.5))
gradient = torch.tensor([[1, 0, 2], [0, 1, 1], [3, 1, 0], [1, 1, 1]])
bias = torch.tensor([[5, 7, 9]])
for axes, single, many, title, word in (
    (panels[0], bias, bias.expand(4, 3), "forward: one row is used four times", "copy"),
    (panels[1], gradient.sum(0, keepdim=True), gradient, "backward: four rows add up", "sum"),
):
    for rows, top, color in ((many, 4.0, COLORS[6]), (single, -0.9, COLORS[5])):
        for i, row in enumerate(rows):
            for j, entry in enumerate(row):
                axes.add_patch(
                    plt.Rectangle((j, top - i - 1), 1, 1, facecolor=color, edgecolor="black")
                )
                axes.text(j + 0.5, top - i - 0.5, int(entry), ha="center", va="center")
    up = word == "copy"
    axes.annotate(
        "", xy=(3.5, 2.0 if up else -1.4), xytext=(3.5, -1.4 if up else 2.0),
        arrowprops={"arrowstyle": "-|>", "color": COLORS[1] if up else COLORS[2], "lw": 2},
    )  # fmt: skip
    axes.text(3.65, 0.3, word, color=COLORS[1] if up else COLORS[2])
    axes.text(-0.15, 2.0, "(4, 3)", ha="right")
    axes.text(-0.15, -1.5, "(3,)", ha="right")
    axes.set_xlim(-1.1, 4.6)
    axes.set_ylim(-2.0, 4.1)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=11)
plt.show()

# %% [markdown]
# Picking elements obeys the same rule. Row 2 of an embedding table, looked up three times, gets
# three gradients; an implementation that *assigns* instead of adding keeps only the last.

# %%
table = Tensor(torch.zeros(4, 2), requires_grad=True)
rows = torch.tensor([2, 0, 2, 2])
(table[rows] * torch.tensor([[1.0], [10.0], [100.0], [1000.0]])).sum().backward()
print(table.grad.value)

# %% [markdown]
# ### One operation, spelled out
#
# An operation of this tape is a function of plain arrays and one rule for each input. The rule is
# written in operations of the tape; keep that in mind, it will pay off below.

# %%
from companion.backprop.primitive import primitive
from companion.backprop.tensor_views import sum_to


@primitive
def hypot(a, b):  # the length of the vector (a, b)
    return torch.sqrt(a * a + b * b)


hypot.gradients(
    lambda grad, out, a, b: sum_to(grad * a / out, a.shape),
    lambda grad, out, a, b: sum_to(grad * b / out, b.shape),
)

a = Tensor(torch.tensor([[3.0], [6.0]]), requires_grad=True)  # (2, 1)
b = Tensor(torch.tensor([4.0, 8.0, 1.0]), requires_grad=True)  # (3,)
hypot(a, b).sum().backward()  # (2, 3)
print("shapes of the gradients:", a.grad.shape, b.grad.shape)

# %% [markdown]
# Does it all hold together? Here is an expression with every kind of operation in it, against
# torch.autograd in float64. The tests of the companion do the same for hundreds of *randomly built*
# expressions over random shapes, empty arrays included.


# %%
def messy(x, w, v):
    h = (x @ w + v).tanh()  # (5, 4) @ (2, 4, 3) + (3,) -> (2, 5, 3)
    picked = h[:, [0, 0, -1], 1:]  # (2, 3, 2)
    scaled = picked * h.amax(-1)[:, :3].reshape(2, 3, 1)
    return (scaled.permute(2, 0, 1).exp().sum(-1) / (1 + v.abs().mean())).log().sum() ** 2


shapes = [(5, 4), (2, 4, 3), (3,)]
arrays = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
mine = [Tensor(array, requires_grad=True) for array in arrays]
theirs = [array.clone().requires_grad_() for array in arrays]
messy(*mine).backward()
messy(*theirs).backward()
for a, b in zip(mine, theirs, strict=True):
    torch.testing.assert_close(a.grad.value, b.grad, rtol=1e-10, atol=1e-12)
    print(f"shape {a.shape!s:10} gradients agree with torch.autograd to 1e-10")

# %% [markdown]
# ## What the tape has to guard
#
# **Changes in place.** The rule of $y = x \odot x$ needs $x$ when the *backward* pass comes. If
# somebody has overwritten it by then, the right formula gets the wrong numbers. torch counts every
# write into a tensor's memory, and the tape compares the count with the one it saw.

# %% tags=["raises-exception"]
x = Tensor(torch.tensor([1.0, 2.0]), requires_grad=True)
loss = (x * x).sum()
x.value[0] = 100.0
loss.backward()

# %% [markdown]
# **Memory.** The tape keeps the inputs and the output of every operation alive. A backward pass
# therefore frees the graph it has walked, unless told to keep it, and says so if you come twice.

# %% tags=["raises-exception"]
x = Tensor(torch.tensor([1.0, 2.0]), requires_grad=True)
loss = (x * x).sum()
loss.backward()
loss.backward()

# %% [markdown]
# **What should not be recorded.** Under `no_grad` nothing is, which is what evaluation wants.
# `detach` cuts one value off: numbers pass, gradients do not.

# %%
from companion.backprop.tape import grad, no_grad

x = Tensor(torch.tensor(3.0), requires_grad=True)
with no_grad():
    print("under no_grad:", x * x)
print("recorded:     ", x * x)
(slope,) = grad(x.detach() * x, [x])
print(f"d(detach(x)·x)/dx at 3 = {slope.item():g}, not 6: the detached factor is a constant")

# %% [markdown]
# ## Gradients of gradients
#
# The rules are made of tape operations. Record *them* while walking back, with
# `create_graph=True`, and the gradient is one more expression that can be differentiated.
#
# :::{admonition} Predict first
# :class: predict
# $f(x) = x^4$. What do you get at $x = 2$ from differentiating once, twice, …, five times?
# :::

# %%
x = Tensor(torch.tensor(2.0, dtype=torch.float64), requires_grad=True)
value, derivatives = x**4, []
for _ in range(5):
    (value,) = grad(value, [x], create_graph=True)
    derivatives.append(value.item())
print(derivatives)
assert derivatives == [32, 48, 48, 24, 0]

# %% [markdown]
# ### Newton's method
#
# With second derivatives a step can take the curvature into account,
# $x \leftarrow x - H^{-1} \nabla f$, where $H_{ij} = \partial^2 f/\partial x_i \partial x_j$. The
# banana-shaped valley of Rosenbrock's function,
# $f(x) = (1 - x_1)^2 + 100\,(x_2 - x_1^2)^2$, shows what that is worth. In the picture the valley
# is dark and the star is its lowest point.

# %%
from companion.backprop.higher_order import gradients, hessian


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def path(step, count):
    points = [torch.tensor([-1.2, 1.0], dtype=torch.float64)]
    for _ in range(count):
        points.append(points[-1] - step(points[-1]))
    return torch.stack(points)


def slope_at(x):
    return gradients(rosenbrock, [x])[0]


newton = path(lambda x: torch.linalg.solve(hessian(rosenbrock, x), slope_at(x)), 7)
descent = path(lambda x: 0.001 * slope_at(x), 2000)
for name, points in (("Newton", newton), ("gradient descent", descent)):
    reached = rosenbrock(points[-1]).item()
    value = f"f = {reached:.3f}" if reached > 1e-20 else "f < 1e-20"
    print(f"{name:17} {len(points) - 1:4} steps: {value}")
assert rosenbrock(newton[-1]) < 1e-20

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.9))
across, up = torch.linspace(-1.6, 1.5, 200), torch.linspace(-3.4, 2.2, 200)
grid = torch.meshgrid(across, up, indexing="xy")
surface, levels = rosenbrock(torch.stack(grid)), torch.logspace(-2, 3.6, 18).tolist()
panels[0].contourf(*grid, surface, levels=levels, norm="log", alpha=0.75)
for points, color, mark, name in (
    (descent, COLORS[5], "", "gradient descent"),
    (newton, "white", "o", "Newton"),
):
    panels[0].plot(
        points[:, 0], points[:, 1], color=color, marker=mark, linestyle="-", label=name,
        markeredgecolor="black", linewidth=2.5,
    )  # fmt: skip
    values = rosenbrock(points.T).clamp(min=1e-31)
    panels[1].loglog(
        range(1, len(values) + 1), values, marker=mark, label=name,
        color=COLORS[1] if mark else COLORS[5], linestyle="-" if mark else "--",
    )  # fmt: skip
panels[0].plot(1, 1, marker="*", color="white", markersize=14, markeredgecolor="black")
panels[0].set_xlabel("$x_1$")
panels[0].set_ylabel("$x_2$")
panels[0].set_title("Newton jumps, descent creeps")
panels[0].grid(False)
panels[0].legend(
    loc="lower left", fontsize=9, facecolor="#444444", labelcolor="white", frameon=True
)
panels[1].set_title("Seven steps reach rounding error")
panels[1].set_xlabel("step + 1 (log scale)")
panels[1].set_ylabel("f (log scale, 0 drawn at 1e−31)")
panels[1].legend()
plt.show()

# %% [markdown]
# Newton's second step lands far *above* the start: it trusts a parabola that fits only nearby. And
# for $n$ weights $H$ has $n^2$ entries, out of reach for a network. What is within reach is $H$
# times a vector, for the price of two gradients, because $Hv = \nabla(\nabla f \cdot v)$
# {cite:p}`pearlmutter1994fast`:

# %%
from companion.backprop.higher_order import hessian_vector_product

point, v = torch.tensor([[-1.2, 1.0], [1.0, 2.0]], dtype=torch.float64)
(product,) = hessian_vector_product(rosenbrock, [point], [v])
torch.testing.assert_close(product, hessian(rosenbrock, point) @ v, rtol=1e-12, atol=0)
print("H v =", product.round(decimals=6).tolist())

# %% [markdown]
# ### A loss that contains a gradient
#
# Small changes of an image should not change the answer. So punish the loss $L_i$ of an image $x_i$
# for being steep *in its input*: train on the mean of
# $L_i + \lambda \lVert \partial L_i/\partial x_i \rVert^2$, called double backpropagation
# {cite:p}`drucker1992improving`. The gradient of that needs second derivatives through the whole
# network. Two hundred digits, the same network with and without the penalty; then every pixel of
# the test images is pushed by a fixed small amount, up or down as the sign of
# $\partial L_i/\partial x_i$ says: to first order the push of that size that hurts most.

# %%
from companion.backprop.tape_network import mlp, mlp_parameters
from companion.backprop.tensor import cross_entropy
from companion.data.digits import Digits

few = Digits(flatten=True, limit=200)
few.setup()
x_few, y_few = few.train
x_test, y_test = few.test


def train_with_penalty(strength, steps=150):
    weights = mlp_parameters([64, 32, 10], seed=0)
    optimizer = torch.optim.Adam(list(weights.values()), lr=0.01)
    for _ in range(steps):
        leaves = {name: Tensor(value, requires_grad=True) for name, value in weights.items()}
        inputs = Tensor(x_few, requires_grad=True)
        total = loss = cross_entropy(mlp(inputs, leaves), y_few)
        if strength > 0:
            (slope,) = grad(loss, [inputs], create_graph=True)
            # L is a mean, so a row of slope is ∂L_i/∂x_i / n: its square times n is 1/n of ‖…‖²
            total = loss + strength * len(x_few) * (slope * slope).sum()
        total.backward()
        for name, value in weights.items():
            value.grad = leaves[name].grad.value
        optimizer.step()
    return weights


def accuracy_when_pushed(weights, distances):
    inputs = Tensor(x_test, requires_grad=True)
    (slope,) = grad(cross_entropy(mlp(inputs, weights), y_test), [inputs])
    pushed = (x_test + distance * slope.value.sign() for distance in distances)
    return [(mlp(x, weights).argmax(1) == y_test).float().mean().item() for x in pushed]


distances = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4]
plain, punished = (accuracy_when_pushed(train_with_penalty(s), distances) for s in (0, 3))
assert punished[0] > plain[0] - 0.02
assert punished[4] > plain[4] + 0.05

# %% tags=["hide-input"]
plt.plot(distances, plain, marker="o", label="loss alone")
plt.plot(distances, punished, marker="s", label="loss + 3 ‖∂Lᵢ/∂xᵢ‖², by double backpropagation")
title = f"Pushed by 0.2, {plain[4]:.0%} of the answers stay right, "
plt.title(title + f"{punished[4]:.0%} with the penalty")
plt.xlabel("size of the push on every pixel (standard deviations)")
plt.ylabel("test accuracy")
plt.ylim(0, 1)
plt.legend()
plt.show()

# %% [markdown]
# ## A network trained by our tape
#
# `TapeClassifier` is a LightningModule with manual optimization: it wraps the weights as leaves,
# runs the network on the tape, walks back, and hands the gradients to any torch optimizer. It sees
# devices only through the arrays, so it runs wherever torch does. Next to it, the same network from
# the same weights under torch.autograd.

# %% tags=["nbval-ignore-output"]
from functools import partial

from companion.backprop.tape_network import TapeClassifier
from companion.training import Classifier, fit

sizes, adam = [64, 64, 10], partial(torch.optim.Adam, lr=3e-3)
start = {name: value.double() for name, value in mlp_parameters(sizes, seed=0).items()}
twin = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
twin = twin.double()
twin.load_state_dict(
    {
        "0.weight": start["weight1"].T, "0.bias": start["bias1"],  # torch stores W as (out, in)
        "2.weight": start["weight2"].T, "2.bias": start["bias2"],
    }
)  # fmt: skip
data = Digits(flatten=True, dtype=torch.float64)
options = {"epochs": 12, "precision": "64-true", "test": True}
ours = fit(TapeClassifier(mlp, start, optimizer=adam), data, **options)
theirs = fit(Classifier(twin, optimizer=adam), data, **options)

curves = torch.tensor([ours.step_losses, theirs.step_losses]).double()
largest_gap = ((curves[0] - curves[1]).abs() / curves[1]).max().item()
print(f"test accuracy: tape {ours.metrics['test_accuracy']:.1%}, ", end="")
print(f"torch.autograd {theirs.metrics['test_accuracy']:.1%}")
print(f"largest relative gap of the {curves.shape[1]} losses: {largest_gap:.0e}")
assert ours.metrics["test_accuracy"] >= 0.95
assert largest_gap < 1e-6

# %% tags=["hide-input"]
plt.semilogy(curves[1], color=COLORS[5], linestyle="-", linewidth=4, label="torch.autograd")
plt.semilogy(curves[0], color=COLORS[0], linestyle="-", linewidth=0.9, label="our tape")
epoch_ends = torch.linspace(0, curves.shape[1], len(ours.history) + 1)[1:]
plt.plot(
    epoch_ends, [epoch["val_loss"] for epoch in ours.history],
    color=COLORS[2], linestyle="--", marker="^", label="our tape, validation",
)  # fmt: skip
plt.title(f"Step for step as torch: {ours.metrics['test_accuracy']:.1%} of the test set right")
plt.xlabel("step")
plt.ylabel("cross-entropy (nats, log scale)")
plt.legend()
plt.show()

# %% [markdown]
# The two lines lie on each other. They need not agree to the last bit everywhere: another machine
# may take its sums in another order, and hundreds of Adam steps carry the rounding along.
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(TapeClassifier(mlp, start, optimizer=adam), data, epochs=12, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(TapeClassifier(mlp, start, optimizer=adam), data, epochs=12, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(TapeClassifier(mlp, start, optimizer=adam), data, epochs=12, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} tape-network
# :::
#
# A function written on the tape also fits into an ordinary network: `as_torch` makes it one that
# torch.autograd can call, and `Classifier` trains the rest around it.

# %%
from companion.backprop.tape_network import as_torch


class Hypot(torch.nn.Module):
    """Pairs of features become one length each: (batch, 2 k) to (batch, k)."""

    def forward(self, z):
        return as_torch(lambda z: hypot(z[:, ::2], z[:, 1::2]))(z)


z = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
assert torch.autograd.gradcheck(Hypot(), z)
print("torch's own gradient check passes through our tape")

# %% [markdown]
# ## The tape is memory
#
# Training needs so much more memory than inference because of the tape. Count it: for each layer
# $ZW + b$ with a ReLU, ours keeps the product, the sum and the ReLU's result, each batch × width.
# The third line of the figure belongs to forward mode, the subject of the next section, which has
# no tape: it holds only the layer in hand, its value, its tangent, and the same of its weights.

# %%
from companion.backprop.tape import tape_size

batch, width = 256, 64


def stacked(depth, wrap):
    weights = [0.15 * torch.randn(width, width, generator=generator) for _ in range(depth)]
    leaves = [wrap(weight) for weight in weights]
    h = torch.randn(batch, width, generator=generator)
    h = Tensor(h) if wrap is not torch_leaf else h
    for leaf in leaves:
        h = (h @ leaf + 0.1).relu()
    return h.sum()


def tape_leaf(weight):
    return Tensor(weight, requires_grad=True)


def torch_leaf(weight):
    return weight.clone().requires_grad_()


def bytes_kept_by_torch(depth):
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        keep_alive = stacked(depth, torch_leaf)  # noqa: F841
    return sum(kept.values())


layers = [1, 2, 4, 6, 8, 10]
kept_by_us = [tape_size(stacked(depth, tape_leaf)).bytes for depth in layers]
kept_by_torch = [bytes_kept_by_torch(depth) for depth in layers]
predicted = [4 * (depth * (3 * batch * width + width**2) + batch * width + 1) for depth in layers]
assert kept_by_us == predicted
print("layers   ours (KiB)   torch (KiB)")
for depth, a, b in zip(layers, kept_by_us, kept_by_torch, strict=True):
    print(f"{depth:6} {a / 1024:12.0f} {b / 1024:13.0f}")

# %% tags=["hide-input"]
forward_only = [4 * (2 * batch * width + 2 * width**2)] * len(layers)
plt.plot(layers, [k / 1024 for k in kept_by_us], marker="o", label="our tape")
plt.plot(layers, [k / 1024 for k in kept_by_torch], marker="s", label="torch.autograd")
in_hand = [k / 1024 for k in forward_only]
plt.plot(layers, in_hand, marker="^", label="forward mode (computed)")
ratio = (kept_by_us[-1] - kept_by_us[-2]) / (kept_by_torch[-1] - kept_by_torch[-2])
plt.title(f"Each layer lengthens the tape; ours keeps {ratio:.1f} times as much of it")
plt.xlabel("layers")
plt.ylabel("memory kept for the derivatives (KiB)")
plt.ylim(0)
plt.legend()
plt.show()

# %% [markdown]
# torch does better because each of its rules names what it needs: a sum needs nothing, a ReLU only
# its result, which is the next product's input anyway. Ours keeps inputs and output of every
# operation, for the sake of short rules. Either way the memory grows with depth × batch × width.
# Chapter 5 trades memory for time by computing parts twice; the last exercise does so in a few
# lines.

# %% [markdown]
# ## Forward mode
#
# There is an older way, which needs no tape {cite:p}`wengert1964simple`. Carry the derivative along
# with the value. A **dual number** $x + \dot x\,\varepsilon$, with $\varepsilon^2 = 0$, does it by
# plain algebra:
#
# $$(x + \dot x \varepsilon)(y + \dot y \varepsilon) = xy + (\dot x y + x \dot y)\,\varepsilon,
# \qquad f(x + \dot x \varepsilon) = f(x) + f'(x)\,\dot x\,\varepsilon .$$

# %%
from companion.backprop.forward_mode import Dual, jvp

x = Dual(3.0, 1.0)
y = x * x + (2 * x).sin()
expected = 2 * 3.0 + 2 * torch.tensor(6.0, dtype=torch.float64).cos()
torch.testing.assert_close(y.tangent, expected, rtol=1e-12, atol=0)
print(f"value {float(y.value):.6f}, tangent {float(y.tangent):.6f}")

# %% [markdown]
# One pass gives the derivative in *one direction* $\dot x$ of the input, for all outputs: a
# Jacobian–vector product $J \dot x$. Reverse mode gives the derivative of *one combination* of the
# outputs, for all inputs: $\bar y^\top J$. For a function of $n$ numbers with $m$ results, the full
# Jacobian takes $n$ passes forward or $m$ passes backward.
#
# :::{admonition} Predict first
# :class: predict
# $f(x) = B \tanh(Ax)$ with $n$ inputs, 32 hidden numbers and $m = 64 - n$ outputs. For which $n$ is
# forward mode cheaper? And how many times the price of $f$ does the gradient of *one* number
# with respect to 256 inputs cost, either way?
# :::

# %%
from companion.backprop.forward_mode import jacobian_forward, jacobian_reverse
from companion.backprop.primitive import count_operations


def operations(function, *arguments):
    with count_operations() as counted:
        function(*arguments)
    return sum(counted.values())


def two_layers(inputs, outputs):
    A = torch.randn(32, inputs, generator=generator, dtype=torch.float64)
    B = torch.randn(outputs, 32, generator=generator, dtype=torch.float64)
    point = torch.randn(inputs, generator=generator, dtype=torch.float64)
    return (lambda x: Tensor(B) @ (Tensor(A) @ x).tanh()), point


inputs = list(range(1, 64, 3))
forward_cost, reverse_cost = [], []
for n in inputs:
    f, point = two_layers(n, 64 - n)
    forward_cost.append(operations(jacobian_forward, f, point))
    reverse_cost.append(operations(jacobian_reverse, f, point))
    torch.testing.assert_close(jacobian_forward(f, point), jacobian_reverse(f, point))
crossover = next(n for n, a, b in zip(inputs, forward_cost, reverse_cost, strict=True) if a > b)

sizes = [1, 4, 16, 64, 256]
relative = {"forward": [], "reverse": []}
for n in sizes:
    f, point = two_layers(n, 1)
    price = operations(f, Tensor(point))
    relative["forward"].append(operations(jacobian_forward, f, point) / price)
    relative["reverse"].append(operations(jacobian_reverse, f, point) / price)
print(f"Jacobian: forward mode is cheaper up to about n = {crossover}, m = {64 - crossover}")
dear, cheap = relative["forward"][-1], relative["reverse"][-1]
print(f"gradient with respect to {sizes[-1]} numbers, in prices of f:", end=" ")
print(f"{dear:.0f} forward, {cheap:.1f} reverse")

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.9))
for axes, across, rows, label in (
    (panels[0], inputs, (forward_cost, reverse_cost), "scalar operations (log scale)"),
    (panels[1], sizes, (relative["forward"], relative["reverse"]), "cost / cost of f (log scale)"),
):
    axes.plot(across, rows[0], marker="o", label="forward mode: n passes")
    axes.plot(across, rows[1], marker="s", label="reverse mode: m passes")
    axes.set_yscale("log")
    axes.set_ylabel(label)
panels[0].axvline(crossover, color="#777777", linestyle=":", linewidth=1.2)
panels[0].set_title(f"n inputs, m = 64 − n outputs:\nthe modes cross near n = {crossover}")
panels[0].set_xlabel("number of inputs n")
panels[0].legend(fontsize=9)
panels[1].set_xscale("log")
panels[1].set_title(f"One output: {cheap:.1f} times the price of f,\nhowever many inputs")
panels[1].set_xlabel("number of inputs n (log scale)")
plt.show()

# %% [markdown]
# A forward pass computes value and tangent together, about twice the work of $f$; a backward pass
# reuses the values on the tape and costs about as much as $f$ again. So $2n$ meets $m$, and the
# crossing lies near $n = 64/3$ and not at 32. A loss has $m = 1$ and millions of inputs: reverse
# mode gives the whole gradient for a small constant times the price of the loss, whatever $n$ is
# {cite:p}`griewank2008evaluating`. That theorem is why networks can be trained at all. Forward
# mode wins where few inputs drive many outputs, and where the tape would not fit in memory.
#
# The parts of a dual number may be Tensors. Then the slope $\nabla f \cdot v$ is computed by
# forward mode and differentiated by reverse mode: Pearlmutter's way to $Hv$.

# %%
point = torch.tensor([-1.2, 1.0], dtype=torch.float64)
leaf = Tensor(point, requires_grad=True)
_, slope = jvp(rosenbrock, [leaf], [v])
(mixed,) = grad(slope, [leaf])
torch.testing.assert_close(mixed.value, hessian_vector_product(rosenbrock, [point], [v])[0])
print("reverse over forward:", mixed.value.round(decimals=6).tolist())

# %% [markdown]
# ## Is the gradient right?
#
# A gradient claims to be a slope, and slopes can be measured. **Central differences** compare two
# values,
#
# $$\frac{f(x + h) - f(x - h)}{2h} = f'(x) + \underbrace{\frac{h^2}{6} f'''(x)}_{\text{truncation}}
#   + \underbrace{O\!\left(\frac{\epsilon\,|f|}{h}\right)}_{\text{rounding}} .$$
#
# :::{admonition} Predict first
# :class: predict
# The smaller the step $h$, the better? Where is the best one, in float64 and in float32, and how
# many digits does it give?
# :::

# %% tags=["nbval-ignore-output"]
from companion.backprop.gradient_check import GradientMismatch, default_step, gradient_check


def wavy(x):
    return (x.sin() * (1.5 * x).exp()).sum()


place = torch.tensor([0.3, -0.7, 1.1, 0.9], dtype=torch.float64)
exact = gradients(wavy, [place])[0]
steps = torch.logspace(-13, 0, 53, dtype=torch.float64)


def error_of(difference, dtype):
    return [
        max(abs(difference(i, float(h), dtype) - exact[i].item()) for i in range(4)) for h in steps
    ]


def moved(i, h, dtype):
    shifted = place.to(dtype).clone()
    shifted[i] += h
    return wavy(shifted).item()


def central(i, h, dtype):
    return (moved(i, h, dtype) - moved(i, -h, dtype)) / (2 * h)


def one_sided(i, h, dtype):
    return (moved(i, h, dtype) - moved(i, 0.0, dtype)) / h


errors = {
    "central, float64": error_of(central, torch.float64),
    "one-sided, float64": error_of(one_sided, torch.float64),
    "central, float32": error_of(central, torch.float32),
}
best = {name: min(zip(column, steps.tolist(), strict=True)) for name, column in errors.items()}
for name, (_, h) in best.items():
    print(f"{name:19} best near h = 1e{round(torch.tensor(h).log10().item()):+d}")
assert best["central, float64"][0] < 1e-8
assert best["central, float32"][0] > 1e-6

# %% tags=["hide-input"]
for (name, column), mark in zip(errors.items(), "os^", strict=True):
    plt.loglog(steps, column, marker=mark, markersize=3, linewidth=1.2, label=name)
plt.loglog(steps[26:], 20 * steps[26:] ** 2, color="#777777", linestyle="-", linewidth=0.8)
plt.text(3e-5, 3e-6, "∝ h²", color="#555555")
plt.loglog(steps[:30], 6e-16 / steps[:30], color="#777777", linestyle="-", linewidth=0.8)
plt.text(3e-12, 3e-6, "∝ ε/h", color="#555555")
for dtype, style in ((torch.float64, "-."), (torch.float32, ":")):
    plt.axvline(default_step(dtype), color=COLORS[4], linewidth=1.3, linestyle=style)
plt.text(default_step(torch.float64), 30, "$ε_{64}^{1/3}$", ha="center", color="#a03070")
plt.text(default_step(torch.float32), 30, "$ε_{32}^{1/3}$", ha="center", color="#a03070")
plt.ylim(1e-13, 20)
plt.title("Too small a step drowns in rounding: check gradients in float64", pad=20)
plt.xlabel("step h (log scale)")
plt.ylabel("largest error of the slope (log scale)")
plt.legend(fontsize=9, loc="lower left")
plt.show()

# %% [markdown]
# Neither too large nor too small: truncation falls with $h^2$, rounding rises with $1/h$, and they
# meet near $h = \epsilon^{1/3}$. (Where the float32 curve is flat, $x \pm h$ rounds to $x$ and the
# measured slope is 0.) At the best step float64 leaves about ten digits and float32 four or five,
# too few to tell a wrong factor of 1.0001 from rounding. So gradients are checked in float64,
# whatever the training runs in.
#
# Now a rule with a classic mistake, a forgotten transpose. On square matrices no shape complains.


# %%
@primitive
def product_without_transpose(a, b):
    return a @ b


product_without_transpose.gradients(
    lambda grad, out, a, b: grad @ b,  # should be grad @ bᵀ
    lambda grad, out, a, b: a.T @ grad,
)

square = [torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
try:
    gradient_check(product_without_transpose, square)
except GradientMismatch as mismatch:
    print("wrong rule:", mismatch)
report = gradient_check(lambda a, b: a @ b, square)
print(f"right rule: {report.compared} numbers agree, {report.evaluations} evaluations")
assert report.largest_error < 1e-8

# %% [markdown]
# A gradient written by hand, without a tape, can be checked too: give it as `gradient=`. Here is
# {ref}`Widespread mistake E3 <mistake-e3>`, the gradient of sigmoid with cross-entropy, with
# $p = \sigma(z)$ the mean of $p - y$, used for the squared error:

# %%
from companion.backprop import losses

z, target = torch.randn(4, 1, generator=generator, dtype=torch.float64), torch.ones(4, 1).double()


def squared(z):
    return losses.mse_loss(losses.sigmoid(z), target)


def of_cross_entropy(z):
    return (losses.sigmoid(z) - target) / len(z)


def of_squared_error(z):
    p = losses.sigmoid(z)
    return losses.mse_loss_backward(p, target) * p * (1 - p)


gradient_check(squared, [z], gradient=of_squared_error)
try:
    gradient_check(squared, [z], gradient=of_cross_entropy)
except GradientMismatch as mismatch:
    print("A - Y for the squared error:", mismatch)

# %% [markdown]
# A network has too many weights to move one at a time. Move them *all* along a random direction
# and compare one number, $\nabla f \cdot d$: a wrong gradient agrees with the slope along a random
# direction only by an unlikely accident.

# %%
x_check, y_check = (part[:32] for part in data.test)


def network_loss(*weights):
    return cross_entropy(mlp(x_check, dict(zip(start, weights, strict=True))), y_check)


trained = [value.detach() for value in ours.module.network.weights.values()]
weights_in_all = sum(value.numel() for value in trained)
report = gradient_check(network_loss, trained, projections=5)
print(f"{weights_in_all} weights checked along {report.compared} directions: ", end="")
print(f"{report.evaluations} evaluations in place of {2 * weights_in_all}")

# %% [markdown]
# ### What a gradient check cannot see
#
# It measures at the points it is given, and it assumes that the function is smooth there.


# %%
@primitive
def forgetful_relu(x):
    return x.relu()


forgetful_relu.gradients(lambda grad, out, x: grad)  # forgets the zero side

positive, mixed_signs = torch.tensor([0.5, 2.0]).double(), torch.tensor([0.5, -2.0]).double()
gradient_check(forgetful_relu, [positive])
print("wrong rule, positive inputs only: passes")
for title, function, where_ in (
    ("wrong rule, both signs:", forgetful_relu, mixed_signs),
    ("right rule, exactly at the kink:", lambda x: x.relu().sum(), torch.zeros(1).double()),
):
    try:
        gradient_check(function, [where_])
    except GradientMismatch as mismatch:
        print(title, mismatch)

# %% [markdown]
# The first line is the dangerous one: a wrong rule passes because no input ever reached the branch
# where it is wrong. Choose inputs on both sides of every branch. The last line is a false alarm: at
# a kink the central difference is the mean of two slopes, and 0 is one that the tape may choose.
# Move the point. A check cannot see, either, that the *function* is not the one you meant, or that
# a seed changes the dropout mask between its two evaluations.

# %% [markdown]
# ## Against torch.autograd
#
# Same results; at what price? One training step's forward and backward pass, for growing layers.

# %% tags=["nbval-ignore-output"]
import time


def seconds(run, repeats):
    run()  # warm up
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)  # what else the machine does only adds


def one_step(width, kind):
    values = mlp_parameters([width, width, width, 10])
    x_batch = torch.randn(64, width, generator=generator)
    labels = torch.arange(64) % 10

    def on_tape():
        leaves = {name: Tensor(value, requires_grad=True) for name, value in values.items()}
        cross_entropy(mlp(Tensor(x_batch), leaves), labels).backward()

    def in_torch():
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        torch.nn.functional.cross_entropy(mlp(x_batch, leaves), labels).backward()

    return on_tape if kind == "tape" else in_torch


widths = [16, 64, 256, 1024]
times = {kind: [seconds(one_step(w, kind), 15) for w in widths] for kind in ("tape", "torch")}
slowdown = [a / b for a, b in zip(times["tape"], times["torch"], strict=True)]
print("width   tape (ms)   torch (ms)   ratio")
for w, a, b, r in zip(widths, times["tape"], times["torch"], slowdown, strict=True):
    print(f"{w:5} {1e3 * a:11.2f} {1e3 * b:12.2f} {r:7.1f}")
leaves = {k: Tensor(v, requires_grad=True) for k, v in mlp_parameters([16, 16, 16, 10]).items()}
nodes = tape_size(cross_entropy(mlp(torch.zeros(64, 16), leaves), torch.arange(64) % 10)).nodes
price = 1e6 * (times["tape"][0] - times["torch"][0]) / nodes
print(f"{price:.0f} µs more for each of the {nodes} recorded operations, there and back")

# %% tags=["hide-input", "nbval-ignore-output"]
for kind, mark in (("tape", "o"), ("torch", "s")):
    label = "our tape" if kind == "tape" else "torch.autograd"
    plt.loglog(widths, [1e3 * t for t in times[kind]], marker=mark, label=label)
plt.title(f"{slowdown[0]:.1f} times torch's time on small layers, {slowdown[-1]:.1f} on large ones")
plt.xlabel("width of the layers (batch 64, log scale)")
plt.ylabel("forward + backward pass (ms, log scale)")
plt.legend()
plt.show()

# %% [markdown]
# Each of our operations costs microseconds of Python (the last printed line says how many): a node,
# a dictionary, a lambda. torch keeps its graph in C++, and its log-softmax is one kernel where ours
# is five operations. All of that is *per operation*, so it weighs most when the arrays are small.
# Where a matrix product takes milliseconds, both wait for the same one.

# %% [markdown]
# ## Exercises
#
# :::{exercise} A new operation
# :label: ex-autograd-1
# Give the tape $\operatorname{softplus}(x) = \log(1 + e^x)$ such that neither value nor gradient
# overflows at $x = \pm 1000$. Check it against central differences, and its second derivative
# against $\sigma(x)(1 - \sigma(x))$.
# :::
#
# :::{solution} ex-autograd-1
# :class: dropdown
# $\log(1 + e^x) = \max(x, 0) + \log(1 + e^{-|x|})$ never takes the exponential of a large number.
# The derivative is $\sigma(x)$, which the tape has. The code is in the cell below.
# :::

# %% tags=["hide-cell"]
from companion.backprop.tensor_ops import sigmoid


@primitive
def softplus(x):
    return x.relu() + torch.log1p(torch.exp(-x.abs()))


softplus.gradients(lambda grad, out, x: grad * sigmoid(x))

points = torch.tensor([-1000.0, -1.0, 0.0, 2.0, 1000.0], dtype=torch.float64)
gradient_check(softplus, [points])
curvature = hessian(lambda x: softplus(x).sum(), points).diag()
expected = points.sigmoid() * (1 - points.sigmoid())
torch.testing.assert_close(curvature, expected, rtol=1e-10, atol=1e-12)
print(softplus(points).round(decimals=6).tolist())

# %% [markdown]
# :::{exercise} Forward mode out of reverse mode
# :label: ex-autograd-2
# You have a tape and no dual numbers. Compute $Jv$ for $f: \mathbb R^n \to \mathbb R^m$ with *two
# backward passes*, whatever $n$ and $m$ are. Hint: $\bar y^\top J$ is linear in $\bar y$. What is
# its Jacobian with respect to $\bar y$? (`grad(y, [x], y_bar, create_graph=True)` takes $\bar y$ as
# its third argument, an array or a Tensor.)
# :::
#
# :::{solution} ex-autograd-2
# :class: dropdown
# $g(\bar y) = J^\top \bar y$ has the Jacobian $J^\top$. A backward pass through $g$ with the
# vector $v$ gives $v^\top J^\top = (Jv)^\top$. So: walk back once from a $\bar y$ that is itself a
# leaf, recording; then walk back through that walk. The value of $\bar y$ does not matter.
# :::

# %% tags=["hide-cell"]


def jvp_by_two_reverse_passes(function, x, direction):
    leaf = Tensor(x, requires_grad=True)
    out = function(leaf)
    dummy = Tensor(torch.zeros(out.shape, dtype=x.dtype), requires_grad=True)
    (vjp,) = grad(out, [leaf], dummy, create_graph=True)
    (result,) = grad(vjp, [dummy], direction)
    return result.value


f, point = two_layers(5, 3)
direction = torch.randn(5, generator=generator, dtype=torch.float64)
_, expected = jvp(f, [point], [direction])
torch.testing.assert_close(jvp_by_two_reverse_passes(f, point, direction), expected.value)
print("two backward passes make one forward derivative")

# %% [markdown]
# :::{exercise} The largest learning rate
# :label: ex-autograd-3
# On a quadratic, gradient descent diverges once the learning rate $\eta$ exceeds $2/\ell$, where
# $\ell$ is the largest eigenvalue of the Hessian. Why? `largest_curvature` of
# `companion.backprop.higher_order` finds $\ell$ by repeated Hessian–vector products. Fit $\frac1n
# \lVert Xw - y \rVert^2$ to the digits (is it an 8?), predict the limit, and run 200 steps at 0.9
# and at 1.1 times the limit.
# :::
#
# :::{solution} ex-autograd-3
# :class: dropdown
# Along the eigenvector of $\ell$ a step multiplies the error by $1 - \eta\ell$. Its size is
# below 1 exactly for $0 < \eta < 2/\ell$. The cell below runs both.
# :::

# %% tags=["hide-cell"]
from companion.backprop.higher_order import largest_curvature

X, is_eight = data.train[0], (data.train[1] == 8).double()


def squared_error(w):
    return ((Tensor(X) @ w - Tensor(is_eight)) ** 2).mean()


begin = torch.zeros(64, dtype=torch.float64)
limit = 2 / largest_curvature(squared_error, [begin], iterations=200)
after = {}
for factor in (0.9, 1.1):
    w = begin
    for _ in range(200):
        w = w - factor * limit * gradients(squared_error, [w])[0]
    after[factor] = squared_error(Tensor(w)).item()
print(f"limit {limit:.3f}; loss after 200 steps: {after[0.9]:.3f} at 0.9, {after[1.1]:.1e} at 1.1")
assert after[0.9] < 0.1 < 1e3 < after[1.1]

# %% [markdown]
# :::{exercise} Memory for time
# :label: ex-autograd-4
# Write `checkpoint(segment)`, which turns a function of one Tensor into an operation that records
# *one* node: its forward pass runs the segment without recording, and its gradient rule runs the
# segment again, recorded this time, and walks back through it. Compare `tape_size` and the
# gradients for five layers. (Inside a rule, `with recording(True):` of `companion.backprop.tape`
# turns recording on.)
# :::
#
# :::{solution} ex-autograd-4
# :class: dropdown
# The new operation keeps its input and its output and nothing in between; the segment's own tape
# lives only while its rule runs. The forward work is done twice. The segment's weights must be
# inputs of the operation too if they are to get gradients; here they are constants for brevity.
# :::

# %% tags=["hide-cell"]
from companion.backprop.tape import recording


def checkpoint(segment):
    @primitive
    def run(x):
        with no_grad():
            return segment(Tensor(x)).value

    def rule(gradient, out, x):
        with recording(True):
            again = Tensor(x.value, requires_grad=True)
            result = segment(again)
        return grad(result, [again], gradient)[0]

    run.gradients(rule)
    return run


fixed = [torch.randn(8, 8, generator=generator, dtype=torch.float64) for _ in range(5)]


def five_layers(h):
    for weight in fixed:
        h = (h @ weight).tanh()
    return h


x_seg = torch.randn(100, 8, generator=generator, dtype=torch.float64)
found, held = [], []
for function in (five_layers, checkpoint(five_layers)):
    leaf = Tensor(x_seg, requires_grad=True)
    out = function(leaf).sum()
    held.append(tape_size(out))
    found.append(grad(out, [leaf])[0].value)
torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-15)
print(f"recorded operations: {held[0].nodes} and {held[1].nodes}; ", end="")
print(f"KiB kept: {held[0].bytes / 1024:.0f} and {held[1].bytes / 1024:.0f}")

# %% [markdown]
# ## Summary
#
# - A tape stores operations and inputs; backwards in topological order, gradients add up.
# - Every array rule is a vector–Jacobian product: repeating and summing, picking and putting are
#   each other's transposes.
# - Rules made of recorded operations give derivatives of every order; $Hv$ costs two gradients.
# - Reverse mode: one pass per output, and memory. Forward mode: one pass per input, no tape.
# - Check in float64, $h \approx \epsilon^{1/3}$, on both sides of every branch.
#
# **Sources.** Reverse accumulation goes back to Linnainmaa's thesis of 1970 and
# {cite:t}`linnainmaa1976taylor`; backpropagation in networks to
# {cite:t}`rumelhart1986learning`; the path sum to {cite:t}`bauer1974computational`; forward
# accumulation to {cite:t}`wengert1964simple`. {cite:t}`griewank2008evaluating` is the textbook,
# {cite:t}`baydin2018automatic` the survey for machine learning. Exact Hessian–vector products are
# from {cite:t}`pearlmutter1994fast`, the input-gradient penalty from
# {cite:t}`drucker1992improving`, the choice of the step from {cite:t}`nocedal2006numerical`
# (section 8.1).
