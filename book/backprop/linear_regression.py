# %% [markdown]
# # Linear regression: from data to prediction
#
# **The question: which weights fit the data best, how do you find them, and how good are they on
# data they have not seen?**
#
# Linear regression is the one model of this chapter whose best weights can be *computed*, by a
# formula. So it is the place to learn what training does, because here you know what it should
# find.

# %% tags=["remove-cell", "skip-execution", "nbval-skip"]
# %pip install -q "companion @ git+https://github.com/large-model-compute/course"

# %% [markdown]
# The data come with scikit-learn: 442 diabetes patients, ten measurements of each, and how far the
# disease had progressed a year later, on a scale from 25 to 346 {cite:p}`efron2004least`. Three
# ways to fit the same model to the same patients:

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes

from companion.backprop.features import standardize
from companion.backprop.linear_regression import gradient_descent, hessian, least_squares
from companion.figures import COLORS, LINESTYLES, MARKERS, use_course_style

use_course_style()
torch.set_num_threads(1)  # a second thread costs more than it brings on tensors this small
torch.set_default_dtype(torch.float64)

bunch = load_diabetes(scaled=False)
names = bunch.feature_names
x_all, y_all = torch.tensor(bunch.data), torch.tensor(bunch.target)
(scaled_all,) = standardize(x_all)


def half_the_limit(x):
    return 1 / torch.linalg.eigvalsh(hessian(x))[-1].item()  # derived below


solved = least_squares(x_all, y_all)
best = (solved.predict(x_all) - y_all).square().mean().item()
walks = {
    "gradient descent, columns in their own units": x_all,
    "gradient descent, columns standardised": scaled_all,
}
walks = {
    name: gradient_descent(x, y_all, learning_rate=half_the_limit(x), steps=2000).losses
    for name, x in walks.items()
}

# %% tags=["hide-input"]
for (name, losses), color, style in zip(walks.items(), COLORS[1:], LINESTYLES, strict=False):
    plt.loglog(range(1, len(losses) + 1), losses, color=color, linestyle=style, label=name)
plt.axhline(best, color=COLORS[0], linestyle=":", label="solved in one step")
raw_end, scaled_end = (losses[-1] for losses in walks.values())
steps = len(losses) - 1
plt.title(f"After {steps} steps: {raw_end:.0f} or {scaled_end:.0f}; the solution has {best:.0f}")
plt.xlabel("step + 1 (logarithmic)")
plt.ylabel("mean squared error (progression²)")
plt.yticks([3000, 5000, 10000, 30000], ["3000", "5000", "10000", "30000"])
plt.gca().yaxis.set_minor_formatter("")
plt.legend()
plt.show()

# %% [markdown]
# The formula needs one step. Gradient descent gets there too if the columns are put on one scale
# first, and not otherwise, although each run took half the longest step that its data allow. By the
# end of this page you can derive all three curves. You can also say what none of them tells: how
# well these weights do on the *next* patient.

# %% [markdown]
# ## Model, loss, gradient
#
# A prediction is a weighted sum of the measurements plus an intercept:
#
# $$\hat y_i = x_{i1} w_1 + \dots + x_{ip} w_p + b, \qquad \hat y = Xw + b .$$
#
# | | symbol | shape | here |
# |---|---|---|---|
# | features | $X$ | $(n, p)$ | a row: one patient; a column: one measurement |
# | weights | $w$ | $(p,)$ | progression per unit of the measurement |
# | intercept | $b$ | $()$ | one number, added to every row |
# | targets, predictions | $y,\ \hat y$ | $(n,)$ | |
# | residuals | $r = \hat y - y$ | $(n,)$ | |
#
# The loss is the mean squared error $L = \frac1n \sum_i r_i^2$. A weight $w_j$ enters the residual
# of row $i$ with the factor $x_{ij}$, and the intercept with the factor 1, so by the chain rule
#
# $$\frac{\partial L}{\partial w_j} = \frac1n \sum_i 2 r_i\, x_{ij}
# \quad\Longrightarrow\quad
# \nabla_w L = \frac2n X^\top r\ \ (p,), \qquad
# \frac{\partial L}{\partial b} = \frac2n \sum_i r_i .$$
#
# ## Solve it: the normal equation
#
# Treat the intercept as the weight of a column of ones: $\tilde X = [X\ \mathbf 1]$ of shape
# $(n, p+1)$ and $\theta = (w, b)$ of shape $(p+1,)$. Both gradients become one,
# $\nabla L = \frac2n \tilde X^\top(\tilde X\theta - y)$. $L$ is a sum of squares and therefore
# bowl-shaped: where its gradient is zero is its lowest point. Setting it to zero gives
#
# $$\tilde X^\top \tilde X\, \theta = \tilde X^\top y ,$$
#
# the **normal equation**: $p+1$ linear equations for $p+1$ unknowns. "Normal" means
# perpendicular. It says that $\tilde X^\top r = 0$: the residual is orthogonal to every column,
# because whatever part of it a column could explain has been explained. Legendre published the
# method in 1805; Gauss, who said that he had used it since 1795, connected it with probability in
# 1809 {cite:p}`stigler1981gauss`.

# %%
design = torch.cat([x_all, torch.ones(len(x_all), 1)], dim=1)  # (442, 11)
theta = torch.linalg.solve(design.T @ design, design.T @ y_all)

residual = design @ theta - y_all
leaning = design.T @ residual / (design.norm(dim=0) * residual.norm())  # cosines

reference = np.linalg.lstsq(design.numpy(), y_all.numpy())[0]
np.testing.assert_allclose(theta.numpy(), reference, rtol=1e-9)
assert leaning.abs().max() < 1e-9
for name, weight in zip([*names, "intercept"], theta, strict=True):
    print(f"{name:10s} {weight:9.3f}")

# %% [markdown]
# Read a weight as: patients who differ by one unit in this column, and in no other, differ by so
# much in the prediction. It is not a cause. Columns `s1` to `s4` are blood values that move
# together, and the fit has traded one against the other. Which brings up a question of numerics.

# %% [markdown]
# ## Why nobody solves it that way
#
# How much can rounding hurt? A matrix with largest and smallest singular values
# $\sigma_{\max}, \sigma_{\min}$ has the **condition number** $\kappa = \sigma_{\max} /
# \sigma_{\min}$. Solving with it may lose $\log_{10} \kappa$ of your digits, and float32 has seven.
# The normal equation solves not with $\tilde X$ but with $\tilde X^\top \tilde X$, whose singular
# values are the *squares*. Its condition number is $\kappa^2$.
#
# :::{admonition} Predict first
# :class: predict
# Two columns that differ by about a thousandth of their size, like a length measured twice. The
# target is exactly $y = 1 x_1 + 2 x_2 + 3$, with no noise, all in float32. Roughly how many digits
# of the weights 1 and 2 does the normal equation get right? And a method that works with $X$
# itself?
# :::

# %% tags=["nbval-ignore-output"]
from companion.backprop.linear_regression import normal_equation


def nearly_equal_columns(difference, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(200, generator=generator)
    second = first + difference * torch.randn(200, generator=generator)
    return torch.stack([first, second], dim=1)


truth = torch.tensor([1.0, 2.0])
twins = nearly_equal_columns(1e-3)
target = (twins @ truth + 3).float()
for solve in (normal_equation, least_squares):
    weight = solve(twins.float(), target).weight
    print(f"{solve.__name__:16s} w = {weight[0]:.4f}, {weight[1]:.4f}")

# %% [markdown]
# The repair is the **QR factorisation**, $X = QR$: $Q$ of shape $(n, p)$ has orthonormal columns,
# $Q^\top Q = I$, and $R$ of shape $(p, p)$ is upper triangular. Put it into the normal equation
# (with centred columns, so that the intercept is out of the way) and cancel:
#
# $$X^\top X w = X^\top y
# \;\Longrightarrow\; R^\top \underbrace{Q^\top Q}_{I} R\, w = R^\top Q^\top y
# \;\Longrightarrow\; R\, w = Q^\top y .$$
#
# Nothing was squared: $R$ has the condition number of $X$. (One exception no method can repair:
# where large residuals are left, the best weights themselves react to a change of $X$ with
# $\kappa^2$ times the residual. Here the fit is exact.) A triangular system is solved from the
# last row up. If some columns are exactly dependent, or there are more columns than rows, many $w$
# are equally good and the smallest of them is taken, through the singular value decomposition
# {cite:p}`golub2013matrix` (sections 5.3 and 5.5). `least_squares` does both.


# %%
def least_squares_by_qr(x, y):
    x_mean, y_mean = x.mean(dim=0), y.mean()
    Q, R = torch.linalg.qr(x - x_mean)
    w = torch.linalg.solve_triangular(R, (Q.T @ (y - y_mean))[:, None], upper=True)[:, 0]
    return w, y_mean - x_mean @ w  # residuals have mean zero: that fixes b


w, b = least_squares_by_qr(x_all, y_all)
torch.testing.assert_close(w, solved.weight, rtol=1e-10, atol=0)
np.testing.assert_allclose(torch.cat([w, b[None]]), reference, rtol=1e-10)

differences = torch.logspace(0, -5, 21)
conditions, errors = [], {"normal_equation": [], "least_squares": []}
for difference in differences.tolist():
    twins = nearly_equal_columns(difference)
    conditions.append(torch.linalg.cond(twins - twins.mean(0)).item())
    target = (twins @ truth + 3).float()
    for solve in (normal_equation, least_squares):
        try:
            error = (solve(twins.float(), target).weight - truth).abs().max().item()
        except ValueError:  # Cholesky met a negative number: no digit is left
            error = float("nan")
        errors[solve.__name__].append(error)
assert np.nanmax(errors["least_squares"][:12]) < 1e-4 < np.nanmax(errors["normal_equation"][:12])

# %% tags=["hide-input"]
epsilon = torch.finfo(torch.float32).eps
guides = np.array(conditions)
for (name, error), color, marker in zip(errors.items(), COLORS[1:], MARKERS, strict=False):
    plt.loglog(conditions, error, marker=marker, linestyle="none", color=color, label=name)
plt.loglog(guides, epsilon * guides, color=COLORS[0], linestyle=":", label="ε κ")
square = epsilon * guides**2
plt.loglog(guides[square < 10], square[square < 10], color=COLORS[0], linestyle="--", label="ε κ²")
plt.title("In float32 the normal equation fails with κ², QR with κ")
plt.xlabel("condition number κ of the centred columns")
plt.ylabel("largest error of a weight (true: 1 and 2)")
plt.legend()
plt.show()

# %% [markdown]
# The points keep to the two slopes: $\varepsilon \kappa^2$ for the normal equation until no digit
# is left, $\varepsilon \kappa$ or better for QR. At the far right the difference of the
# two columns has sunk to where it could be rounding; `least_squares` notices, calls them dependent
# and gives both the weight 1.5, the smallest that fit. Use `least_squares`; use the normal equation
# to think with.
#
# ## Walk down: gradient descent
#
# A network has no such formula. What it has is the gradient. Repeat
#
# $$\theta \leftarrow \theta - \eta\, \nabla L(\theta), \qquad
#   \nabla L = \tfrac2n \tilde X^\top(\tilde X \theta - y),$$
#
# with the learning rate $\eta$. Ten lines, and a check against autograd with `torch.optim.SGD`:


# %%
def descend(x, y, learning_rate, steps):
    w, b = torch.zeros(x.shape[1]), torch.zeros(())
    for _ in range(steps):
        r = x @ w + b - y
        grad_w, grad_b = 2 / len(x) * x.T @ r, 2 / len(x) * r.sum()
        w, b = w - learning_rate * grad_w, b - learning_rate * grad_b
    return w, b


layer = torch.nn.Linear(10, 1)
torch.nn.init.zeros_(layer.weight)
torch.nn.init.zeros_(layer.bias)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
for _ in range(50):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(layer(scaled_all), y_all[:, None]).backward()
    optimizer.step()

w, b = descend(scaled_all, y_all, learning_rate=0.1, steps=50)
torch.testing.assert_close(w, layer.weight[0].detach(), rtol=1e-10, atol=0)
torch.testing.assert_close(b, layer.bias[0].detach(), rtol=1e-10, atol=0)
print("50 steps by hand equal 50 steps of autograd and SGD")

# %% [markdown]
# ### How long may a step be?
#
# $L$ is quadratic, so its second derivatives, the Hessian $H = \frac2n \tilde X^\top \tilde X$ of
# shape $(p+1, p+1)$, are the same everywhere, and $\nabla L(\theta) = H (\theta - \theta^*)$ with
# the solution $\theta^*$. One step turns the error $e = \theta - \theta^*$ into
#
# $$e \leftarrow e - \eta H e = (I - \eta H)\, e .$$
#
# Along an eigenvector of $H$ with eigenvalue $\ell$ the error is multiplied by $1 - \eta\ell$ in
# every step. It dies out if $|1 - \eta\ell| < 1$, that is, $0 < \eta < 2/\ell$, and that must hold
# for *all* eigenvalues:
#
# $$\eta < \frac{2}{\ell_{\max}} .$$
#
# With $\eta = 1/\ell_{\max}$ the steepest direction is done in one step, and the flattest shrinks
# by $1 - \ell_{\min}/\ell_{\max}$ a step: it takes about $\ell_{\max}/\ell_{\min}$ steps to
# bring the error down to $1/2.72$ of it, because $(1 - 1/k)^k \approx 1/2.72$. That ratio is the
# condition number of $H$.
#
# :::{admonition} Predict first
# :class: predict
# The standardised diabetes data, 300 steps. What happens to the loss if $\eta$ is one per cent
# *below* $2/\ell_{\max}$, and what one per cent *above*? How does a plot of the final loss over
# $\eta$ look?
# :::

# %%
eigenvalues = torch.linalg.eigvalsh(hessian(scaled_all))
limit = 2 / eigenvalues[-1].item()
ratios = torch.cat([torch.linspace(0.02, 0.98, 25), torch.tensor([0.99, 1.0, 1.01, 1.02, 1.03])])
reached = []
for ratio in ratios.tolist():
    walk = gradient_descent(scaled_all, y_all, learning_rate=ratio * limit, steps=300)
    reached.append(walk.losses[-1])
print(f"limit 2/ℓ_max = {limit:.4f}")
for ratio in (0.99, 1.01):
    print(f"η = {ratio} of the limit: loss {reached[ratios.tolist().index(ratio)]:.4g}")

# %% tags=["hide-input"]
excess = [loss / best - 1 for loss in reached]
plt.semilogy(ratios, excess, marker="o", color=COLORS[1], markersize=4)
plt.axvline(1, color=COLORS[2], linestyle="--", label=r"$\eta = 2/\ell_{\max}$")
plt.title(rf"Longer steps help, up to a wall at $2/\ell_{{\mathbf{{max}}}}$ = {limit:.2f}")
plt.xlabel(r"learning rate $\eta$, as a multiple of $2/\ell_{\max}$")
plt.ylabel("excess loss after 300 steps\n(share of the smallest loss)")
plt.legend(loc="upper left")
plt.show()

# %% [markdown]
# A wall, not a slope. Below it, longer steps are better, up to just before the wall. The same
# mechanism, with a curvature that changes along the way, sits behind many a "loss went to NaN" of a
# large network.
#
# ### Why standardised columns help
#
# **Standardising** replaces each column by $(x - \text{mean}) / \text{scale}$, where the scale is
# the standard deviation, both taken from the training rows. It does not change which predictions a
# linear model can make. It changes the shape of the bowl.

# %%
for name, x in (("own units", x_all), ("standardised", scaled_all)):
    values = torch.linalg.eigvalsh(hessian(x))
    ratio = (values[-1] / values[0]).item()
    print(f"{name:14s} ℓ_max = {values[-1]:8.1f}   ℓ_max / ℓ_min = {ratio:.2g}")

# %% [markdown]
# That is the first figure explained: that ratio is how many steps the flattest direction needs
# to come down to a third or so, tens of millions or a few hundred. Here is the bowl for a single
# column, the body-mass index, where it can be drawn; both walks start at the circle and aim for the
# star.

# %%
from companion.backprop.linear_regression import LinearModel

bmi = x_all[:, [2]]
one_column = {"BMI in 10 kg/m²": bmi / 10, "BMI standardised": standardize(bmi)[0]}
paths = {}
for (name, x), shift in zip(one_column.items(), (10, 60), strict=True):
    found = least_squares(x, y_all)
    start = LinearModel(found.weight + shift, found.bias + 80)
    values = torch.linalg.eigvalsh(hessian(x))
    ratio, steepest = (values[-1] / values[0]).item(), values[-1].item()
    together = gradient_descent(x, y_all, learning_rate=1.4 / steepest, steps=40, start=start)
    single = gradient_descent(
        x, y_all, learning_rate=0.05 / steepest, steps=400, batch_size=1, start=start
    )
    paths[name] = (found, together.path, single.path, ratio)

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.8))
for axes, (name, (found, together, single, ratio)) in zip(panels, paths.items(), strict=True):
    width = 45 if ratio > 10 else 110
    grid_w, grid_b = torch.meshgrid(
        found.weight + torch.linspace(-width, width, 120),
        found.bias + torch.linspace(-110, 110, 120),
        indexing="xy",
    )
    errors_on_grid = one_column[name] * grid_w.reshape(1, -1) + grid_b.reshape(1, -1)
    surface = (errors_on_grid - y_all[:, None]).square().mean(0).reshape(grid_w.shape)
    axes.contourf(
        grid_w, grid_b, surface, levels=np.geomspace(3800, 4e4, 16), norm="log", extend="both"
    )
    for path, color, label in (
        (single, "#dddddd", "one patient a step"),
        (together, "#ffb000", "all patients a step"),
    ):
        axes.plot(path[:, 0], path[:, 1], color="black", linestyle="-", linewidth=2.4)
        axes.plot(path[:, 0], path[:, 1], color=color, linestyle="-", linewidth=1.2, label=label)
    axes.plot(*together[0], marker="o", color="white", markeredgecolor="black")
    axes.plot(found.weight, found.bias, marker="*", color="white", markersize=14, mec="black")
    axes.set_xlim(grid_w.min(), grid_w.max())
    axes.set_ylim(grid_b.min(), grid_b.max())
    axes.set_xlabel("weight w (progression per unit)")
    axes.set_title(f"{name}: ℓ ratio {ratio:.0f}", fontsize=11)
    axes.grid(False)
panels[0].set_ylabel("intercept b (progression)")
panels[1].legend(
    loc="lower left", fontsize=9, facecolor="#444444", labelcolor="white", frameon=True
)
figure.suptitle(
    "In a narrow valley descent bounces and then creeps; in a round bowl it arrives",
    x=0.02,
    ha="left",
    fontsize=11,
    fontweight="bold",
)
plt.show()

# %% [markdown]
# ## One patient at a time
#
# The gradient is a mean over all rows. A random row, or a *mini-batch* of $m$ rows, gives an
# estimate of it that is right on average and costs $m/n$ as much. **Stochastic gradient descent**
# shuffles the rows, walks through them batch by batch, and shuffles again: one such pass is an
# *epoch*.
#
# :::{admonition} Predict first
# :class: predict
# At the solution the full gradient is zero, and descent with all rows stands still. Does stochastic
# gradient descent with a constant learning rate stand still there, too? What if all residuals were
# zero?
# :::

# %%
n, epochs = len(scaled_all), 50
steepest = eigenvalues[-1].item()
curves = {}
for name, batch_size, rate in (
    ("all 442 rows a step", n, 1 / steepest),
    ("32 rows a step", 32, 0.2 / steepest),
    ("1 row a step", 1, 0.05 / steepest),
    ("1 row a step, η falling", 1, lambda step: 0.05 / steepest / (1 + step / (2 * n))),
):
    per_epoch = -(-n // batch_size)
    walk = gradient_descent(
        scaled_all, y_all, learning_rate=rate, steps=epochs * per_epoch, batch_size=batch_size
    )
    curves[name] = [loss / best - 1 for loss in walk.losses[::per_epoch]]
for name, curve in curves.items():
    print(f"{name:24s} excess loss after 2 epochs {curve[2]:7.1%}, after {epochs} {curve[-1]:.1%}")

# %% tags=["hide-input"]
for (name, curve), color, style, marker in zip(
    curves.items(), COLORS, LINESTYLES, MARKERS, strict=False
):
    plt.semilogy(curve, color=color, linestyle=style, marker=marker, markevery=5, label=name)
plt.title("Single rows get close first; a constant step keeps them away")
plt.xlabel("epoch (each costs the same arithmetic)")
plt.ylabel("excess loss (share of the smallest loss)")
plt.legend()
plt.show()

# %% [markdown]
# In two epochs the single rows have made 884 small steps, and all rows together two. But each
# row pulls towards *its own* residual, so near the solution the steps are noise around zero: the
# weights dance in a ball around it. A step adds noise of variance $\propto \eta^2$ and takes away a
# share $\propto \eta$ of what is there; they balance where the variance, and with it the excess
# loss, is proportional to $\eta$ (for small $\eta$). So batches of 32, with less noise, stay closer
# than single rows, and letting $\eta$ fall shrinks the ball. With residuals that are all zero there
# is no noise, and no ball. Chapter 4 takes this up.
#
# ## Features: a linear model of anything
#
# "Linear" means linear in the *weights*. The columns may be any functions of the measurements.
#
# - **Powers and products.** `polynomial_features(x, 2)` of two columns $a, b$ is
#   $[a, b, a^2, ab, b^2]$.
# - **Categories.** A category coded 1, 2, 3 claims that 2 lies halfway between. **One-hot**
#   columns, one 0/1 column a category, do not. But they add up to the column of ones, so with an
#   intercept the weights are not unique: leave one out, and it becomes the baseline.

# %%
from companion.backprop.features import one_hot, polynomial_features
from companion.backprop.linear_regression import with_ones

edges = torch.tensor([18.5, 25.0, 30.0])  # WHO classes: under, normal, over, obese
weight_class = torch.bucketize(x_all[:, 2].contiguous(), edges, right=True)
all_four = one_hot(weight_class, 4)
three = one_hot(weight_class, 4, drop_first=True)

rank = torch.linalg.matrix_rank(with_ones(all_four)).item()
print(f"four columns and the ones: {all_four.shape[1] + 1} columns of rank {rank}")
fit_four, fit_three = least_squares(all_four, y_all), least_squares(three, y_all)
torch.testing.assert_close(fit_four.predict(all_four), fit_three.predict(three))
means = torch.stack([y_all[weight_class == c].mean() for c in range(4)])
torch.testing.assert_close(fit_three.bias, means[0])
torch.testing.assert_close(fit_three.weight, means[1:] - means[0])
print("patients in each class:", weight_class.bincount().tolist())
print("three columns: intercept = mean of the underweight, weights = differences from it:")
print([round(value, 1) for value in [fit_three.bias.item(), *fit_three.weight.tolist()]])

# %% [markdown]
# The predictions do not depend on the choice of the baseline, but the reading of the weights does:
# here every one of them is a difference from a mean of very few patients.
#
# ## Is it any good? Three parts
#
# A loss on the data that chose the weights says how well they were *memorised*. So cut the rows in
# three, once, at random:
#
# - **train**: the weights are fitted to it, and so are the means and scales of the standardising;
# - **validation**: decisions are made on it (which features, which $\lambda$, which $\eta$);
# - **test**: opened once, at the end, to report. Whoever decides by it has made it a validation
#   set.

# %%
from companion.backprop.features import train_validation_test_split

split = train_validation_test_split(x_all, y_all, seed=0)
print({name: len(part.x) for name, part in split._asdict().items()})


def rmse(model, x, y):
    """Root mean squared error: the loss in the units of y."""
    return (model.predict(x) - y).square().mean().sqrt().item()


always_mean = (split.validation.y - split.train.y.mean()).square().mean().sqrt().item()
x_train, x_validation = standardize(split.train.x, split.validation.x)
plain = least_squares(x_train, split.train.y)
print(f"always answering the training mean: validation error {always_mean:.1f}")
print(f"ten columns: training error {rmse(plain, x_train, split.train.y):.1f}, ", end="")
print(f"validation error {rmse(plain, x_validation, split.validation.y):.1f}")

# %% [markdown]
# ### Over-fitting
#
# :::{admonition} Predict first
# :class: predict
# Forty training patients, one measurement (body-mass index), and its powers up to degree 1, 2, …,
# 15. How does the training error move with the degree? Can it ever rise? And the validation error?
# :::


# %%
def powers(degree, *parts):
    """Standardise, take powers, standardise again; all statistics from the first part."""
    return standardize(*(polynomial_features(part, degree) for part in standardize(*parts)))


few = split.train.x[:40, [2]], split.train.y[:40]
degrees = range(1, 16)
curves = {"training (40 patients)": [], f"validation ({len(split.validation.x)} patients)": []}
for degree in degrees:
    train, validation = powers(degree, few[0], split.validation.x[:, [2]])
    fitted = least_squares(train, few[1])
    for curve, x, y in zip(
        curves.values(), (train, validation), (few[1], split.validation.y), strict=True
    ):
        curve.append(rmse(fitted, x, y))

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.6))
grid = torch.linspace(few[0].min() - 0.5, few[0].max() + 2, 300)[:, None]
panels[0].scatter(few[0], few[1], s=14, color=COLORS[0], label="training")
panels[0].scatter(
    split.validation.x[:, 2], split.validation.y, s=12, color=COLORS[6], marker="s", alpha=0.6,
    label="validation",
)  # fmt: skip
for degree, color, style in ((1, COLORS[1], "--"), (12, COLORS[2], "-")):
    train, drawn = powers(degree, few[0], grid)
    curve = least_squares(train, few[1]).predict(drawn)
    panels[0].plot(grid, curve, color=color, linestyle=style, label=f"degree {degree}")
panels[0].set_ylim(0, 380)
panels[0].set_xlim(grid.min() - 1, grid.max() + 1)
panels[0].set_xlabel("body-mass index (kg/m²)")
panels[0].set_ylabel("progression after a year")
panels[0].legend(fontsize=8, loc="upper left", frameon=True, facecolor="white", framealpha=0.9)
for (name, curve), color, style, marker in zip(
    curves.items(), COLORS, LINESTYLES, MARKERS, strict=False
):
    panels[1].semilogy(degrees, curve, color=color, linestyle=style, marker=marker, label=name)
panels[1].set_xlabel("degree of the polynomial")
panels[1].set_ylabel("root mean squared error (progression)")
panels[1].legend(fontsize=8)
falls = curves["training (40 patients)"]
figure.suptitle(
    f"Training error falls from {falls[0]:.0f} to {falls[-1]:.0f}, validation error explodes",
    x=0.02,
    ha="left",
    fontweight="bold",
    fontsize=12,
)
plt.show()

# %% [markdown]
# The training error cannot rise: a higher degree contains the lower one, with weight 0 for the new
# power. The validation error stays low near the straight line and then explodes. With all ten
# columns there is no need for degree 15 to see it:

# %%
for degree in (1, 2, 3):
    train, validation = powers(degree, split.train.x, split.validation.x)
    fitted = least_squares(train, split.train.y)
    print(
        f"degree {degree}: {train.shape[1]:3d} columns for {len(train)} rows, "
        f"training error {abs(rmse(fitted, train, split.train.y)):5.1f}, "
        f"validation error {rmse(fitted, validation, split.validation.y):7.1f}"
    )

# %% [markdown]
# With more columns than rows the model passes through every training patient, and knows nothing.
#
# ## Ridge: pay for the weights
#
# **Ridge regression** {cite:p}`hoerl1970ridge` adds a price:
#
# $$L_\lambda = \frac1n \lVert Xw + b - y \rVert^2 + \frac\lambda2 \lVert w \rVert^2, \qquad
# \nabla_w L_\lambda = \frac2n X^\top r + \lambda w .$$
#
# The second term of the gradient is the *weight decay* of the {doc}`losses <losses>`. Set the
# gradient to zero, on centred columns:
#
# $$\Bigl(X^\top X + \frac{n\lambda}{2} I\Bigr) w = X^\top y .$$
#
# The matrix on the left has no singular value below $n\lambda/2$, so there is a unique solution for
# any columns whatever. The intercept pays nothing: a penalty on $b$ would make the answer depend on
# where the zero of $y$ lies. scikit-learn calls $n\lambda/2$ `alpha`.

# %%
from sklearn.linear_model import Ridge

from companion.backprop.linear_regression import ridge

train, validation = powers(2, split.train.x, split.validation.x)  # 65 columns
priced = ridge(train, split.train.y, weight_decay=0.1)
theirs = Ridge(alpha=len(train) * 0.1 / 2).fit(train.numpy(), split.train.y.numpy())
np.testing.assert_allclose(priced.weight, theirs.coef_, rtol=1e-9, atol=1e-10)

curvature = torch.linalg.eigvalsh(hessian(train, weight_decay=0.1))
walked = gradient_descent(
    train,
    split.train.y,
    learning_rate=(2 / (curvature[0] + curvature[-1])).item(),
    steps=6000,
    weight_decay=0.1,
)
torch.testing.assert_close(walked.model, priced, rtol=1e-6, atol=1e-6)
print("closed form = scikit-learn's Ridge = gradient descent with weight decay")

# %%
prices = np.geomspace(1e-4, 300, 40)
choices = {}
for degree in (1, 2, 3):
    train, validation = powers(degree, split.train.x, split.validation.x)
    models = [ridge(train, split.train.y, weight_decay=price) for price in prices]
    choices[degree] = [rmse(model, validation, split.validation.y) for model in models]
    lowest = int(np.argmin(choices[degree]))
    print(
        f"degree {degree}: lowest validation error {choices[degree][lowest]:.1f} "
        f"at λ = {prices[lowest]:.2g}"
    )

# %% tags=["hide-input"]
for (degree, curve), color, style in zip(choices.items(), COLORS, LINESTYLES, strict=False):
    columns = polynomial_features(x_all[:1], degree).shape[1]
    label = f"degree {degree}: {columns} columns"
    plt.semilogx(prices, curve, color=color, linestyle=style, label=label)
plt.axhline(always_mean, color=COLORS[4], linestyle=":", linewidth=1.5)
plt.text(prices[0], always_mean - 2, "always the mean", color="black", fontsize=9, va="top")
plt.ylim(50, 100)
plt.xlabel("weight decay λ (logarithmic)")
plt.ylabel("validation error (progression)")
plt.title("A price tames 65 and 285 columns; ten plain ones need none")
plt.legend()
plt.show()

# %% [markdown]
# Ridge turns the hopeless models into usable ones. On these rows it does not make them better than
# the plain ten columns, where the smallest price of the grid is the best one. The three lowest
# errors differ by less than the uncertainty printed below, so this does not prove that powers and
# products are worthless. But they earned nothing that you could see, and then the simplest model
# wins: degree 1, without a price.
#
# ### The test set, once
#
# The chosen model is refitted on training and validation rows together, and the test rows are
# opened. Their squared errors have a mean $q$, and a mean of $k$ numbers has the standard error
# (standard deviation)$/\sqrt k$. A small change $\mathrm dq$ moves the root $\sqrt q$ by
# $\mathrm dq / (2 \sqrt q)$. Report both.

# %%
known_x = torch.cat([split.train.x, split.validation.x])
known_y = torch.cat([split.train.y, split.validation.y])
x_known, x_test = standardize(known_x, split.test.x)
final = least_squares(x_known, known_y)
squares = (final.predict(x_test) - split.test.y).square()
test_error = squares.mean().sqrt().item()
uncertainty = (squares.std() / len(squares) ** 0.5 / (2 * test_error)).item()
print(f"test error {test_error:.1f} ± {uncertainty:.1f}")
off = split.test.y - final.predict(x_test)
print(f"mean residual {off.mean():+.1f} ± {off.std() / len(off) ** 0.5:.1f}")

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.4))
prediction, residuals = final.predict(x_test), split.test.y - final.predict(x_test)
panels[0].scatter(prediction, split.test.y, s=14, color=COLORS[1])
panels[0].plot([25, 346], [25, 346], color=COLORS[0], linestyle="--", label="perfect")
panels[0].set_xlabel("predicted progression")
panels[0].set_ylabel("true progression")
panels[0].legend()
panels[1].scatter(prediction, residuals, s=14, color=COLORS[2], marker="s")
panels[1].axhline(0, color=COLORS[0], linestyle="--")
panels[1].set_xlabel("predicted progression")
panels[1].set_ylabel("residual: true − predicted")
figure.suptitle(
    f"Test patients: off by {residuals.mean():+.0f} on average, by {test_error:.0f} typically",
    x=0.02,
    ha="left",
    fontweight="bold",
    fontsize=12,
)
plt.show()

# %% [markdown]
# The error came out below the one on the validation rows; two sets of so few patients differ by
# that much easily. The mean residual is another matter: it lies more than two standard errors from
# zero, which chance alone does in fewer than one split of twenty. Another seed would look better,
# and would be worth nothing: a test set that may be drawn again is no test set. So it is
# reported as it came. Look at residuals before you believe a single number. A curve in the
# right-hand cloud would ask for another feature, a funnel would say that the noise is not the same
# everywhere.
#
# Would more patients help? Fit to the first $m$ rows of a fresh shuffle, for several $m$, and
# average over twenty shuffles:

# %%
sizes = [15, 20, 30, 45, 70, 110, 170, 260]
learning = torch.zeros(20, len(sizes), 2)
for draw in range(20):
    order = torch.randperm(len(x_known), generator=torch.Generator().manual_seed(draw))
    held_out = order[-80:]
    for column, size in enumerate(sizes):
        rows = order[:size]
        fitted = least_squares(known_x[rows], known_y[rows])
        for place, part in enumerate((rows, held_out)):
            learning[draw, column, place] = rmse(fitted, known_x[part], known_y[part])
learning = learning.mean(dim=0)
print(f"with {sizes[-1]} rows: training {learning[-1, 0]:.1f}, held out {learning[-1, 1]:.1f}")

# %% tags=["hide-input"]
for place, name in enumerate(("training rows", "80 held-out rows")):
    plt.loglog(
        sizes, learning[:, place], color=COLORS[place], linestyle=LINESTYLES[place],
        marker=MARKERS[place], label=name,
    )  # fmt: skip
gap = learning[-1, 1] - learning[-1, 0]
plt.title(f"The two errors meet: at {sizes[-1]} rows only {gap:.1f} lie between them")
plt.xlabel("number of training rows")
plt.ylabel("root mean squared error (progression)")
plt.xticks(sizes, [str(size) for size in sizes])
plt.yticks([20, 30, 50, 100, 200], ["20", "30", "50", "100", "200"])
plt.gca().xaxis.set_minor_formatter("")
plt.gca().yaxis.set_minor_formatter("")
plt.legend()
plt.show()

# %% [markdown]
# Such **learning curves** say what is missing. A wide gap asks for more rows or fewer columns.
# Curves that have met, far above zero, ask for better features: more rows will not help.

# %% [markdown]
# ## A widespread mistake
#
# (mistake-e17)=
# :::{admonition} Widespread mistake E17: noise that is not centred, a test that is no test
# :class: mistake
# Data are made as `y = 2 * x + 1 + rand(100)`, the reader expects to find the weight 2 and the
# intercept 1, and the fitted model is "evaluated on the test set" by computing the loss on the
# very arrays it was trained on.
# :::
#
# `rand` is uniform on $[0, 1)$, with mean $\tfrac12$. Split it into its mean and the rest:
#
# $$y = 2x + 1 + u = 2x + \underbrace{\left(1 + \tfrac12\right)}_{\text{intercept}}
# + \underbrace{\left(u - \tfrac12\right)}_{\text{noise with mean } 0} .$$
#
# Least squares cannot tell a constant from the mean of the noise. How far from 1.5 can chance
# carry the intercept? Its **standard error** follows from the noise variance, estimated from the
# residuals: $\sqrt{\hat\sigma^2 (\tilde X^\top \tilde X)^{-1}_{bb}}$ with $\hat\sigma^2 =
# \sum r_i^2 / (n - p - 1)$ {cite:p}`hastie2009elements` (section 3.2).

# %%
from companion.backprop.linear_regression import standard_errors


def tutorial_data(seed, n=100):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, generator=generator)
    return x, 2 * x[:, 0] + 1 + torch.rand(n, generator=generator)


x, y = tutorial_data(seed=0)
line, error = least_squares(x, y), standard_errors(x, y)
low, high = (line.bias + k * error.bias for k in (-1.96, 1.96))
print(f"weight {line.weight.item():.2f}, intercept {line.bias:.2f} ± {error.bias:.2f}")
print(f"95 % interval of the intercept: {low:.2f} to {high:.2f}")

# %% tags=["raises-exception"]
assert low < 1 < high, f"1 is {((line.bias - 1) / error.bias).item():.0f} standard errors away"

# %% [markdown]
# Once could be chance. Two thousand data sets are not:

# %%
intercepts, covers, seen, fresh = [], [], [], []
for seed in range(2000):
    x, y = tutorial_data(seed)
    line, error = least_squares(x, y), standard_errors(x, y)
    intercepts.append(line.bias.item())
    covers.append((line.bias - 1.5).abs().item() < 1.96 * error.bias.item())
    new_x, new_y = tutorial_data(seed + 10_000)
    seen.append((line.predict(x) - y).square().mean().item())
    fresh.append((line.predict(new_x) - new_y).square().mean().item())
intercepts = torch.tensor(intercepts)
print(f"mean intercept {intercepts.mean():.3f}, spread {intercepts.std():.3f}")
print(f"share of 95 % intervals that hold 1.5: {np.mean(covers):.1%}")
print(f"smallest of all intercepts: {intercepts.min():.2f}")

# %% tags=["hide-input"]
plt.hist(intercepts, bins=40, color=COLORS[6], edgecolor="white")
plt.axvline(1.5, color=COLORS[0], linestyle="-", label="1 + mean of the noise")
plt.axvline(1.0, color=COLORS[2], linestyle="--", label="what the reader is told")
plt.title(f"None of {len(intercepts)} fitted intercepts is anywhere near 1")
plt.xlabel("fitted intercept")
plt.ylabel("number of data sets")
plt.legend()
plt.show()

# %% [markdown]
# The fix is one term: `rand(100) - 0.5`, or any noise with mean 0.

# %%
x, y = tutorial_data(seed=0)
line, error = least_squares(x, y - 0.5), standard_errors(x, y - 0.5)
print(f"with rand(100) - 0.5: intercept {line.bias:.2f} ± {error.bias:.2f}")
assert (line.bias - 1).abs() < 1.96 * error.bias

# %% [markdown]
# Now the second half of the mistake, the loss on the training data.
#
# :::{admonition} Predict first
# :class: predict
# The noise has variance $\tfrac1{12} = 0.0833$, which is the loss of the *true* line. Is the loss
# of the fitted line on its own training data larger or smaller than that? And on fresh data?
# :::

# %%
print(f"loss on the training data: {np.mean(seen):.4f}")
print(f"variance of the noise:     {1 / 12:.4f}")
print(f"loss on fresh data:        {np.mean(fresh):.4f}")

# %% [markdown]
# The fit has bent towards the noise of its rows, so its training loss is *too good*, and on fresh
# rows it is worse than the truth. For $p$ features, an intercept, $n$ rows and noise of variance
# $\sigma^2$ the expected values are
#
# $$\mathbb E\, L_{\text{train}} = \sigma^2 \Bigl(1 - \frac{p+1}{n}\Bigr), \qquad
# \mathbb E\, L_{\text{fresh}} \approx \sigma^2 \Bigl(1 + \frac{p+1}{n}\Bigr),$$
#
# the first exactly, the second if the fresh rows have the same $x$, and more otherwise
# {cite:p}`hastie2009elements` (section 7.4). For two coefficients and 100 rows the optimism is four
# per cent, which is why the tutorial gets away with it. Give it more columns of pure noise:

# %%
counts = [1, 5, 10, 20, 30, 40, 50, 60]
generator = torch.Generator().manual_seed(0)
optimism = []
for p in counts:
    pair = []
    for _ in range(200):
        x = torch.randn(200, p, generator=generator)  # 100 rows to fit, 100 fresh ones
        y = 2 * x[:, 0] + 1 + torch.rand(200, generator=generator) - 0.5
        line = least_squares(x[:100], y[:100])
        squares = (line.predict(x) - y).square()
        pair.append([squares[:100].mean().item(), squares[100:].mean().item()])
    optimism.append(torch.tensor(pair).mean(dim=0).tolist())
on_seen, on_fresh = (np.array(column) * 12 for column in zip(*optimism, strict=True))

# %% tags=["hide-input"]
p = np.array(counts)
plt.plot(p, on_seen, "o", color=COLORS[1], label="training loss, mean of 200 data sets")
plt.plot(p, 1 - (p + 1) / 100, color=COLORS[1], linestyle="--", label="1 − (p+1)/n")
plt.plot(p, on_fresh, "s", color=COLORS[2], label="loss on fresh data")
gaussian = (1 + 1 / 100) * (1 + p / (100 - p - 2))
plt.plot(p, gaussian, color=COLORS[2], linestyle="-", label="(1 + 1/n)(1 + p/(n−p−2))")
plt.plot(p, 1 + (p + 1) / 100, color=COLORS[2], linestyle=":", label="1 + (p+1)/n")
plt.axhline(1, color=COLORS[0], linestyle="-", linewidth=1)
ratio = on_fresh[-1] / on_seen[-1]
plt.title(f"With {counts[-1]} columns the fresh loss is {ratio:.1f} times the training loss")
plt.xlabel("number of columns p, of which one matters (n = 100)")
plt.ylabel("loss / variance of the noise")
plt.legend(fontsize=9)
plt.show()

# %% [markdown]
# The training loss promises ever more while the model gets ever worse. (The solid line is the exact
# expectation for $p$ independent standard normal columns: the variance of $\hat w$ is then
# $\sigma^2/(n-p-2)$ in each direction on average, and a fresh row lies from the mean of the
# training rows with variance $1 + 1/n$ in each.) A loss deserves the name "test" only on rows that
# had no part in any choice.

# %% [markdown]
# ## The same with Lightning
#
# `Regressor` wraps any network, here one linear layer, and `fit` trains it. The tolerance is
# stated and checked: every coefficient within $10^{-6}$ of the closed form's largest. Momentum, a
# running sum of past gradients, shortens the walk through a narrow valley; chapter 4 says by how
# much.

# %%
from functools import partial

from companion.backprop.least_squares import LeastSquares
from companion.data.arrays import Arrays
from companion.training import Regressor, fit

x_train, x_validation = standardize(split.train.x, split.validation.x)
data = Arrays(
    train=(x_train, split.train.y[:, None]),
    validation=(x_validation, split.validation.y[:, None]),
    batch_size=len(x_train),
)
closed_form = least_squares(x_train, split.train.y)

torch.manual_seed(0)
network = torch.nn.Linear(10, 1)
optimizer = partial(torch.optim.SGD, lr=0.4, momentum=0.85)
result = fit(Regressor(network, optimizer=optimizer), data, epochs=400)

largest = closed_form.bias.abs().item()
off = max(
    (network.weight[0] - closed_form.weight).abs().max().item(),
    (network.bias[0] - closed_form.bias).abs().item(),
)
assert off < 1e-6 * largest
print(f"{len(result.step_losses)} steps of SGD: within 1e-6 of the closed form")
print(f"validation error {result.metrics['val_loss'] ** 0.5:.1f}")

# %% [markdown]
# The target has the shape $(n, 1)$, like the prediction. A target of shape $(n,)$ would be
# *broadcast* against it to $(n, n)$; `Regressor` refuses that, and the third exercise shows why.
#
# The closed form fits into Lightning as well. `LeastSquares` reads the loader once, batch after
# batch, and keeps only the triangle $R$ of everything read so far: stacking the next batch under it
# and factorising again gives the $R$ of both. The data may be larger than the memory, and spread
# over several processes.

# %%
in_batches = Arrays(train=data.train, validation=data.validation, batch_size=32)
one_pass = fit(LeastSquares(10), in_batches)
weight = one_pass.module.network.weight[0]
torch.testing.assert_close(weight.detach(), closed_form.weight, rtol=1e-9, atol=1e-9)
print(f"{len(one_pass.step_losses)} batches, {one_pass.trainer.global_step} step: the closed form")

# %% [markdown]
# Same line, other hardware:
#
# ::::{tab-set}
# :::{tab-item} CPU
# ```python
# fit(Regressor(network, optimizer=optimizer), data, epochs=400, accelerator="cpu")
# ```
# :::
# :::{tab-item} On a GPU
# ```python
# fit(Regressor(network, optimizer=optimizer), data, epochs=400, accelerator="gpu")
# ```
# :::
# :::{tab-item} On a TPU
# ```python
# fit(Regressor(network, optimizer=optimizer), data, epochs=400, accelerator="tpu")
# ```
# :::
# ::::
#
# :::{evidence} linear-regression
# :::
#
# On a TPU give it a float32 network, and expect a few digits. `LeastSquares` runs there too, but
# its factorisation is computed on the host's CPU:
#
# :::{evidence} one-pass-least-squares
# :::
#
# The companion has one recipe for each technique of this page; `companion run ridge-regression`
# runs one.
#
# | technique | in the companion |
# |---|---|
# | solve | `normal_equation`, `least_squares`, `ridge`, `LeastSquares` |
# | descend | `gradient_descent`, `hessian`, `Regressor` |
# | features | `standardize`, `Standardizer`, `polynomial_features`, `one_hot` |
# | judge | `train_validation_test_split`, `standard_errors` |

# %% [markdown]
# ## Exercises
#
# :::{exercise} Rows of unequal worth
# :label: ex-linear-regression-1
# Some measurements are more precise than others, so row $i$ gets a weight $a_i > 0$ in the loss:
# $L = \frac1n \sum_i a_i r_i^2$. Derive the normal equation, turn it into an ordinary
# least-squares problem, and check it against scikit-learn's `sample_weight`. (`with_ones(x)` is
# $\tilde X$; `least_squares(…, intercept=False)` adds no intercept of its own.)
# :::
#
# :::{solution} ex-linear-regression-1
# :class: dropdown
# With $A = \operatorname{diag}(a)$ the gradient is $\frac2n \tilde X^\top A(\tilde X\theta - y)$,
# so $\tilde X^\top A \tilde X \theta = \tilde X^\top A y$. Multiply each row of $\tilde X$ and $y$
# by $\sqrt{a_i}$ and this is the ordinary normal equation. The column of ones is multiplied too, so
# it must be a column of its own.
# :::

# %% tags=["hide-cell"]
# Solution
from sklearn.linear_model import LinearRegression

a = torch.linspace(0.1, 3, len(x_all))
root = a.sqrt()
ours = least_squares(root[:, None] * with_ones(x_all), root * y_all, intercept=False).weight
theirs = LinearRegression().fit(x_all.numpy(), y_all.numpy(), sample_weight=a.numpy())
np.testing.assert_allclose(ours[:-1], theirs.coef_, rtol=1e-8)
np.testing.assert_allclose(ours[-1], theirs.intercept_, rtol=1e-8)

# %% [markdown]
# :::{exercise} Leave one out, without refitting
# :label: ex-linear-regression-2
# Leave-one-out validation fits $n$ models, each without one row, and predicts that row. For least
# squares one fit is enough: with the *hat matrix* $P = \tilde X(\tilde X^\top \tilde X)^{-1}
# \tilde X^\top$, which turns $y$ into $\hat y$, the left-out residual is $r_i / (1 - P_{ii})$.
# Check this against the $n$ fits. How do you get $P_{ii}$ from $\tilde X = QR$?
# :::
#
# :::{solution} ex-linear-regression-2
# :class: dropdown
# $P = QR(R^\top R)^{-1}R^\top Q^\top = QQ^\top$, so $P_{ii}$ is the squared length of row $i$ of
# $Q$. Their sum is $p + 1$, so on average a row takes the share $(p+1)/n$ of its own residual away:
# the optimism above. The formula follows from the update of an inverse when one row is removed
# (Sherman–Morrison).
# :::

# %% tags=["hide-cell"]
# Solution
Q = torch.linalg.qr(with_ones(scaled_all)).Q
share = Q.square().sum(dim=1)
residual = least_squares(scaled_all, y_all).predict(scaled_all) - y_all
shortcut = residual / (1 - share)
for i in range(0, len(y_all), 40):
    others = torch.arange(len(y_all)) != i
    refitted = least_squares(scaled_all[others], y_all[others])
    torch.testing.assert_close(refitted.predict(scaled_all[i]) - y_all[i], shortcut[i])
left_out, training = (v.square().mean().sqrt().item() for v in (shortcut, residual))
print(f"leave-one-out error {left_out:.1f}, training error {training:.1f}")
print(f"the shares add up to {share.sum():.1f} = p + 1")

# %% [markdown]
# :::{exercise} A model that refuses to learn
# :label: ex-linear-regression-3
# Somebody writes `((prediction - y) ** 2).mean()` with a prediction of shape $(n, 1)$ and a $y$ of
# shape $(n,)$. No error is raised. Which weights does this loss want?
# :::
#
# :::{solution} ex-linear-regression-3
# :class: dropdown
# Broadcasting makes an $(n, n)$ array: *every* prediction is compared with *every* target. For each
# prediction the best answer is then the mean of all targets, so the weights go to 0 and the
# intercept to $\bar y$. The loss settles at the variance of $y$ and looks like a hard data set.
# :::

# %% tags=["hide-cell"]
# Solution
layer = torch.nn.Linear(10, 1)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.4, momentum=0.85)
for _ in range(400):
    optimizer.zero_grad()
    loss = ((layer(scaled_all) - y_all) ** 2).mean()
    loss.backward()
    optimizer.step()
assert layer.weight.abs().max() < 1e-6
torch.testing.assert_close(layer.bias[0].detach(), y_all.mean())
torch.testing.assert_close(loss.detach(), y_all.var(correction=0))

# %% [markdown]
# :::{exercise} Statistics that leak
# :label: ex-linear-regression-4
# Standardise *all* rows together before splitting, and the validation rows have had a say in the
# means and scales. For plain least squares this changes no prediction at all. Why? For which of
# this page's models does it?
# :::
#
# :::{solution} ex-linear-regression-4
# :class: dropdown
# Least squares finds the best linear function of the columns, and shifting and scaling them does
# not change which functions are linear: only the numbers called $w$ and $b$ change. A penalty on
# $w$, or a descent that is stopped early, does depend on the scale, so there the validation rows
# leak into the model. Keep the habit: the leak grows with every step that learns from data, such as
# choosing features by their correlation with $y$.
# :::

# %% tags=["hide-cell"]
# Solution
(leaky,) = standardize(torch.cat([split.train.x, split.validation.x]))
leaky_train, leaky_validation = leaky.split([len(split.train.x), len(split.validation.x)])
pairs = ((x_train, x_validation), (leaky_train, leaky_validation))
honest, leaked = (least_squares(a, split.train.y).predict(b) for a, b in pairs)
torch.testing.assert_close(honest, leaked)
honest, leaked = (ridge(a, split.train.y, weight_decay=1.0).predict(b) for a, b in pairs)
print(f"ridge: predictions move by up to {(honest - leaked).abs().max():.2f}")

# %% [markdown]
# ## Summary
#
# - $\nabla L = \frac2n \tilde X^\top r$. Zero gradient is the normal equation: the residual is
#   orthogonal to every column. Solve by QR: $\tilde X^\top \tilde X$ squares the condition number.
# - Descent converges for $\eta < 2/\ell_{\max}$ in about $\ell_{\max}/\ell_{\min}$ steps, a ratio
#   that standardised columns bring down. Stochastic steps get close first; a falling $\eta$ lets
#   them arrive.
# - The training loss falls with every column, the validation loss does not. Ridge prices the
#   weights and leaves the intercept free.
# - Fit on training rows (statistics too), decide on validation rows, open the test rows once.
# - The intercept absorbs the mean of the noise; a loss on training data is optimistic by the factor
#   $1 - (p+1)/n$.
#
# Sources: least squares' history {cite:p}`stigler1981gauss`; standard errors, ridge, optimism,
# validation {cite:p}`hastie2009elements` (sections 3.2, 3.4.1, 7.2 to 7.4); QR and condition
# {cite:p}`golub2013matrix`; ridge {cite:p}`hoerl1970ridge`; the triangle of many batches
# {cite:p}`demmel2012communication`; the data {cite:p}`efron2004least`.
