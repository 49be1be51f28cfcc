"""Judges of rms-norm and smoothed-cross-entropy: forward values and gradients against autograd."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from companion.homework.tasks import Answers, Inputs, Suspects, Wrong, expect_close

DEFAULT_EPS = 1e-6
# shape of x, eps (None: the default), size of the entries of x
RMS_CASES: tuple[tuple[tuple[int, ...], float | None, float], ...] = (
    ((5, 7), None, 1.0),
    ((1, 4), 1e-3, 1.0),
    ((2, 3, 6), 1e-2, 0.1),
    ((4, 1), 1e-1, 1.0),
    ((3, 3), 1e-2, 0.1),
    ((2, 5), None, 1e-3),
    ((0, 3), None, 1.0),
)
# shape of z, smoothing, size of the logits, offset between the rows
SMOOTHED_CASES: tuple[tuple[tuple[int, int], float, float, float], ...] = (
    ((6, 5), 0.1, 2.0, 0.0),
    ((1, 4), 0.2, 2.0, 0.0),
    ((3, 2), 0.0, 2.0, 0.0),
    ((4, 4), 1.0, 2.0, 0.0),
    ((5, 10), 0.1, 1000.0, 0.0),
    ((4, 6), 0.3, 2.0, 1000.0),
)


def each_case(count: int, rows: Callable[[int], int], check: Callable[[int], None]) -> None:
    """Check all cases; say so if everything but batches of several rows is right.

    Raises:
        Wrong: the first one, completed by that hint where there is no better one.
    """
    wrongs: dict[int, Wrong] = {}
    for i in range(count):
        try:
            check(i)
        except Wrong as wrong:
            wrongs[i] = wrong
    if not wrongs:
        return
    first = next(iter(wrongs.values()))
    single = {i for i in range(count) if rows(i) == 1}
    if not first.hint and single and not single & set(wrongs):
        first.hint = "right for a single row, wrong for a batch: which axes are summed, which kept?"
    raise first


def draw_rms(rng: np.random.Generator) -> Inputs:
    """Draw x, gain and ∂L/∂y of every case; one row of the fifth case is zero."""
    inputs: Inputs = {"eps": [eps for _, eps, _ in RMS_CASES]}
    for i, (shape, _, size) in enumerate(RMS_CASES):
        x = size * rng.standard_normal(shape)
        if i == 4:
            x[1] = 0
        features = shape[-1]
        inputs[f"x{i}"] = x
        inputs[f"gain{i}"] = rng.uniform(0.5, 2.0, features) * rng.choice([-1.0, 1.0], features)
        inputs[f"grad_output{i}"] = rng.standard_normal(shape)
    return inputs


def rms_by_autograd(
    x: np.ndarray, gain: np.ndarray, grad_output: np.ndarray, eps: float
) -> dict[str, np.ndarray]:
    """Return ``y``, ``grad_x`` and ``grad_gain``."""
    leaf, scale = (torch.tensor(array, requires_grad=True) for array in (x, gain))
    y = leaf / (leaf.square().mean(-1, keepdim=True) + eps).sqrt() * scale
    grad_x, grad_gain = torch.autograd.grad(y, [leaf, scale], torch.tensor(grad_output))
    return {"y": y.detach().numpy(), "grad_x": grad_x.numpy(), "grad_gain": grad_gain.numpy()}


def rms_suspects(
    x: np.ndarray, gain: np.ndarray, grad_output: np.ndarray, eps: float
) -> dict[str, Suspects]:
    """Return what known mistakes give: name -> pairs of a hint and an array."""
    if not x.size:
        return {"y": (), "grad_x": (), "grad_gain": ()}
    count, rows = x.shape[-1], x[..., 0].size
    lead = tuple(range(x.ndim - 1))

    def mean(a: np.ndarray, axis: int | tuple[int, ...] = -1) -> np.ndarray:
        return a.mean(axis, keepdims=True)

    def gradient(u: np.ndarray, eps: float) -> np.ndarray:
        r = np.sqrt(mean(x * x) + eps)
        return (u - x / r * mean(u * x / r)) / r

    square = mean(x * x)
    r, bare = np.sqrt(square + eps), np.sqrt(square)
    x_hat, u = x / r, grad_output * gain
    through_r = x_hat * mean(u * x_hat)
    centred = x - mean(x)
    spread = np.sqrt(mean(centred**2) + eps)
    to_gain = grad_output * x_hat
    default = "the default of eps is 1e-6"
    layer_norm = "RMSNorm does not subtract the mean: that is LayerNorm"
    features = "means go over the features of each row, not over the batch"
    axes = "gain is used by every row: sum over all axes but the last"
    y = [
        ("eps belongs under the root: r = sqrt(mean(x²) + eps)", x / (bare + eps)),
        ("eps is left out", x / bare),
        (layer_norm, centred / spread),
        (layer_norm, x / spread),
        (
            "the mean of the squares is asked for, this is their sum",
            x / np.sqrt(square * count + eps),
        ),
        (features, x / np.sqrt(mean(x * x, 0) + eps)),
        (features, x / np.sqrt(mean(x * x, tuple(range(x.ndim))) + eps)),
        ("the root of the mean square is missing", x / (square + eps)),
        (default, x / np.sqrt(square + 1e-5)),
    ]
    return {
        "y": [
            ("gain is left out", x_hat),
            ("gain multiplies as it is", x_hat * (1 + gain)),
            *((hint, wrong * gain) for hint, wrong in y),
        ],
        "grad_x": [
            ("the pair is (grad_x, grad_gain), in this order", to_gain.sum(lead)),
            ("r is not a constant: it depends on every entry of the row", u / r),
            ("first back through gain: u = gain · grad_output", gradient(grad_output, eps)),
            ("gain multiplies before the projection", gain * gradient(grad_output, eps)),
            (
                "the projection takes a mean over the features, not a sum",
                (u - through_r * count) / r,
            ),
            ("the term through r is subtracted: a longer row makes y smaller", (u + through_r) / r),
            ("the factor 1/r is missing", u - through_r),
            ("there is one factor 1/r, not two", (u - through_r) / r**2),
            ("the projection is along x / r, not x", (u - x * mean(u * x)) / r),
            (features, (u - x_hat * mean(u * x_hat, 0)) / r),
            (layer_norm, (u - mean(u) - through_r) / r),
            ("eps is left out in the backward pass", gradient(u, 0.0)),
            ("eps must be the one that is passed", gradient(u, DEFAULT_EPS)),
        ],
        "grad_gain": [
            (axes, to_gain),
            (axes, to_gain.sum(0)),
            ("gain meets x / r, not x", (grad_output * x).sum(lead)),
            ("a sum over the rows is asked for, not their mean", to_gain.sum(lead) / rows),
            ("gain itself is no factor of its gradient", (u * x_hat).sum(lead)),
        ],
    }


def judge_rms(inputs: Inputs, answers: Answers) -> None:
    """Compare y, ∂L/∂x and ∂L/∂gain of every case with autograd."""

    def check(i: int) -> None:
        shape, eps, _ = RMS_CASES[i]
        case = [inputs[f"{name}{i}"] for name in ("x", "gain", "grad_output")]
        eps = DEFAULT_EPS if eps is None else eps
        suspects = rms_suspects(*case, eps)
        for name, want in rms_by_autograd(*case, eps).items():
            what = f"{name} for x of shape {shape} and eps = {eps:g}"
            expect_close(what, answers.array(f"{name}{i}"), want, suspects=suspects[name])

    each_case(len(RMS_CASES), lambda i: int(np.prod(RMS_CASES[i][0][:-1])), check)


def draw_smoothed(rng: np.random.Generator) -> Inputs:
    """Draw logits and labels of every case."""
    inputs: Inputs = {"smoothing": [smoothing for _, smoothing, _, _ in SMOOTHED_CASES]}
    for i, ((rows, classes), _, size, offset) in enumerate(SMOOTHED_CASES):
        z = size * rng.standard_normal((rows, classes))
        inputs[f"z{i}"] = z + offset * (-1.0) ** np.arange(rows)[:, None]
        inputs[f"labels{i}"] = rng.integers(0, classes, rows)
    return inputs


def smoothed_by_torch(
    z: np.ndarray, labels: np.ndarray, smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss and its gradient."""
    leaf = torch.tensor(z, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(leaf, torch.tensor(labels), label_smoothing=smoothing)
    (grad,) = torch.autograd.grad(loss, leaf)
    return loss.detach().numpy(), grad.numpy()


def smoothed_suspects(z: np.ndarray, labels: np.ndarray, smoothing: float) -> dict[str, Suspects]:
    """Return what known mistakes give: name -> pairs of a hint and an array."""
    rows, classes = z.shape
    hot = np.eye(classes)[labels]
    share, rest = smoothing / classes, 1 - smoothing
    others = smoothing / max(classes - 1, 1)
    spread = "α is spread over all K classes, α/K each, not over the K − 1 wrong ones"
    right_class = "the right class gets 1 − α + α/K"
    targets = [
        (spread, rest * hot + others * (1 - hot)),
        (spread, rest * hot + others),
        ("every class gets α/K, not α", rest * hot + smoothing),
        (right_class, hot + share),
        (right_class, hot + share * (1 - hot)),
        (right_class, rest * hot + share * (1 - hot)),
        ("α and 1 − α have changed places", smoothing * hot + rest / classes),
        ("α and 1 − α have changed places", smoothing * hot + share),
        ("the targets are not smoothed", hot),
        ("the α/K of every class is missing", rest * hot),
        ("K is the number of classes, not of rows", rest * hot + smoothing / rows),
    ]
    down = "softmax runs over the classes of each row, not over the batch"
    shifted = z - z.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    shifted = z - z.max(0, keepdims=True)
    log_p_down = shifted - np.log(np.exp(shifted).sum(0, keepdims=True))
    q = rest * hot + share
    return {
        "loss": [
            *((hint, np.array(-(wrong * log_p).sum() / rows)) for hint, wrong in targets),
            (down, np.array(-(q * log_p_down).sum() / rows)),
            ("one number is asked for, the mean over the batch", -(q * log_p).sum(1)),
            ("the logarithm of p + a little something is no cure", floored(q, log_p)),
        ],
        "grad_z": [
            *((hint, (np.exp(log_p) - wrong) / rows) for hint, wrong in targets),
            (down, (np.exp(log_p_down) - q) / rows),
            ("the gradient has softmax(z) in it, not z", (z - q) / rows),
        ],
    }


def floored(q: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """Return the loss with log(p + 1e-12) for log p."""
    return np.array(-(q * np.log(np.exp(log_p) + 1e-12)).sum() / len(q))


def judge_smoothed(inputs: Inputs, answers: Answers) -> None:
    """Compare the loss and its gradient of every case with torch."""

    def check(i: int) -> None:
        (rows, classes), smoothing, size, offset = SMOOTHED_CASES[i]
        z, labels = inputs[f"z{i}"], inputs[f"labels{i}"]
        suspects = smoothed_suspects(z, labels, smoothing)
        factors = [
            ("it is exactly n times too large: the loss is a mean over the batch", rows),
            ("the mean goes over the batch, not over the classes as well", 1 / classes),
            ("the mean goes over the n rows, not over the K classes", rows / classes),
            ("the mean over the batch is taken twice", 1 / rows),
        ]
        for name, want in zip(
            ("loss", "grad_z"), smoothed_by_torch(z, labels, smoothing), strict=True
        ):
            far = f", |z| to {np.abs(z).max():.0f}" if max(size, offset) > 100 else ""
            what = f"{name} for z of shape {(rows, classes)}, smoothing {smoothing}{far}"
            got = answers.array(f"{name}{i}")
            if not np.isfinite(got).all():
                raise Wrong(
                    f"{what} holds {'nan' if np.isnan(got).any() else 'inf'}",
                    "exp overflows or log meets 0: take each row's maximum out first, and compute "
                    "log softmax in one piece",
                )
            expect_close(what, got, want, suspects=suspects[name], factors=factors)

    each_case(len(SMOOTHED_CASES), lambda i: SMOOTHED_CASES[i][0][0], check)
