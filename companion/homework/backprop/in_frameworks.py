"""Judges of logsumexp, rms-norm-layer and train: the tape, an nn.Module, a training run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from companion.homework.tasks import Answers, Inputs, Suspects, Wrong, expect_close

# shape of x, dim, size of x, offset between neighbours along axis 0
LOGSUMEXP_CASES: tuple[tuple[tuple[int, ...], int, float, float], ...] = (
    ((3, 4), -1, 1.0, 0.0),
    ((3, 4), 0, 1.0, 0.0),
    ((2, 3, 4), 1, 1.0, 0.0),
    ((5,), 0, 1.0, 0.0),
    ((1, 3), 1, 1.0, 0.0),
    ((4, 3), 1, 1.0, 1000.0),
    ((3, 5), 1, 1000.0, 0.0),
)
LAYER_CASES: tuple[tuple[tuple[int, ...], float], ...] = (
    ((4, 5), 1e-2),
    ((2, 3, 6), 0.3),
    ((1, 4), 1e-6),
)
# Nodes that only rearrange or copy; anything else in the graph is a derivative taken by torch.
REARRANGING = [
    "AccumulateGrad",
    "AliasBackward0",
    "CloneBackward0",
    "ExpandBackward0",
    "PermuteBackward0",
    "ReshapeAliasBackward0",
    "SqueezeBackward1",
    "TBackward0",
    "ToCopyBackward0",
    "TransposeBackward0",
    "UnsafeViewBackward0",
    "UnsqueezeBackward0",
    "ViewBackward0",
    "custom",
]
SMOOTHING, CLASSES = 0.1, 10
ACCURACY = 0.90
WEIGHTS = {
    "0.weight": (32, 64),
    "0.bias": (32,),
    "1.gain": (32,),
    "3.weight": (10, 32),
    "3.bias": (10,),
}


def draw_logsumexp(rng: np.random.Generator) -> Inputs:
    """Draw x, the weights of the result and a direction for the second derivative."""
    inputs: Inputs = {"dims": [dim for _, dim, _, _ in LOGSUMEXP_CASES]}
    for i, (shape, dim, size, offset) in enumerate(LOGSUMEXP_CASES):
        rows = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        kept = list(shape)
        kept[dim] = 1
        inputs[f"x{i}"] = size * rng.standard_normal(shape) + offset * (-1.0) ** rows
        inputs[f"weights{i}"] = rng.uniform(0.5, 2.0, kept)
        inputs[f"direction{i}"] = rng.standard_normal(shape)
    return inputs


def judge_logsumexp(inputs: Inputs, answers: Answers) -> None:
    """Compare values, first and second derivatives with torch.autograd."""
    for i, (shape, dim, size, offset) in enumerate(LOGSUMEXP_CASES):
        x = torch.tensor(inputs[f"x{i}"], requires_grad=True)
        weights, direction = (torch.tensor(inputs[f"{n}{i}"]) for n in ("weights", "direction"))
        out = torch.logsumexp(x, dim, keepdim=True)
        (first,) = torch.autograd.grad((out * weights).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * direction).sum(), x)
        far = f", |x| near {max(size, offset):g}" if max(size, offset) > 1 else ""
        what = f"for x of shape {shape}, dim={dim}{far}"
        got = answers.array(f"out{i}")
        suspects = value_suspects(x.detach(), out.detach(), dim)
        expect_close(f"the result {what}", got, _array(out), suspects=suspects)
        if answers.integer(f"nodes{i}") != 1:
            raise Wrong(
                f"the tape holds {answers.integer(f'nodes{i}')} operations for one logsumexp",
                "it is to be one primitive with a rule of its own, not a chain of others",
            )
        got = answers.array(f"first{i}")
        suspects = rule_suspects(x.detach(), out.detach(), weights, dim)
        expect_close(f"the gradient {what}", got, _array(first), suspects=suspects)
        got = answers.array(f"second{i}")
        if not got.size or (not got.any() and _array(second).any()):
            raise Wrong(
                f"the second derivative {what} is 0",
                "the rule computes with plain arrays: use the Tensors it is given, so that it is "
                "recorded too",
            )
        expect_close(
            f"the second derivative {what}",
            got,
            _array(second),
            otherwise="part of the rule is constant to the tape: neither x nor out may be detached",
            scale=1.0,
        )


def value_suspects(x: Tensor, out: Tensor, dim: int) -> Suspects:
    """Return what known mistakes give for the result."""
    largest = x.amax(dim, keepdim=True)
    powers = (x - largest).exp()
    along = "sum over `dim`, and over `dim` alone"
    found = [
        ("keep `dim` as an axis of size 1", out.squeeze(dim)),
        (along, largest + powers.sum().log()),
        (along, torch.logsumexp(x, tuple(range(x.ndim)), keepdim=True).expand(out.shape)),
        (along, largest + powers.sum(-1, keepdim=True).log()),
        ("the logarithm of a sum, not of a mean", out - np.log(x.shape[dim])),
        ("what is subtracted before exp is added again after log", out - largest),
        ("the natural logarithm is asked for", largest + powers.sum(dim, keepdim=True).log2()),
    ]
    return [(hint, _array(wrong)) for hint, wrong in found]


def rule_suspects(x: Tensor, out: Tensor, weights: Tensor, dim: int) -> Suspects:
    """Return what known mistakes give for the gradient, `weights` being what arrives."""
    p = torch.softmax(x, dim)
    softmax = "the rule must give grad · exp(x − out): the softmax"
    found = [
        ("the rule forgets `grad`: multiply by what arrives from above", p),
        (softmax, weights.expand(x.shape)),
        (softmax, weights * (out - x).exp()),
        ("the gradient is a softmax, not its logarithm", weights * (x - out)),
        ("`grad` belongs to its own row; this sums it over all rows", p * weights.sum()),
    ]
    return [(hint, _array(wrong)) for hint, wrong in found]


def _array(x: Tensor) -> np.ndarray:
    return x.detach().numpy()


def draw_layer(rng: np.random.Generator) -> Inputs:
    """Draw inputs, the gains of two layers and the weights of the loss."""
    inputs: Inputs = {
        "eps": [eps for _, eps in LAYER_CASES],
        "x_default": 1e-3 * rng.standard_normal((3, 5)),
    }
    for i, (shape, _) in enumerate(LAYER_CASES):
        inputs[f"x{i}"] = rng.standard_normal(shape)
        inputs[f"weights{i}"] = rng.standard_normal(shape)
        for part in ("first", "second"):
            inputs[f"{part}_gain{i}"] = rng.uniform(0.5, 2.0, shape[-1])
    return inputs


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def stacked(x: Tensor, first: Tensor, second: Tensor, eps: float, other_eps: float) -> Tensor:
    """Return the first layer after the second one after the first one."""
    y = rms_norm(x, first, eps)
    return rms_norm(torch.tanh(rms_norm(y, second, other_eps)), first, eps)


def judge_layer(inputs: Inputs, answers: Answers) -> None:
    """Compare the composition first(tanh(second(first(x)))) and its gradients with autograd."""
    expect_close("the initial gain of RMSNorm(5)", answers.array("initial_gain"), np.ones(5))
    x = torch.tensor(inputs["x_default"]).float()
    got = answers.array("y_float32")
    if got.dtype != np.float32:
        raise Wrong(f"RMSNorm turns float32 into {got.dtype}")
    want = rms_norm(x, torch.ones(5), 1e-6).numpy()
    expect_close("RMSNorm(5) in float32, with the default eps", got, want, rtol=1e-4)
    kinds = answers.text("graph").split()
    if "custom" not in kinds or not set(kinds) <= set(REARRANGING):
        others = sorted(set(kinds) - set(REARRANGING))
        found = f"torch differentiates through {', '.join(others)[:200]}" if others else "nothing"
        raise Wrong(
            f"the backward pass of RMSNorm is not yours alone: {found}",
            "put the whole of rms_norm, gain included, into the forward of one autograd Function",
        )
    for i, (shape, eps) in enumerate(LAYER_CASES):
        x, first, second = (
            torch.tensor(inputs[f"{name}{i}"], requires_grad=True)
            for name in ("x", "first_gain", "second_gain")
        )
        z = stacked(x, first, second, eps, 2 * eps)
        by_default = stacked(x, first, second, 1e-6, 1e-6)
        grads = torch.autograd.grad(
            (z * torch.tensor(inputs[f"weights{i}"])).sum(), [x, first, second]
        )
        expect_close(
            f"the output for x of shape {shape}, eps={eps:g}",
            answers.array(f"z{i}"),
            _array(z),
            suspects=[("eps is not the one that the layer was made with", _array(by_default))],
        )
        for name, want in zip(("x", "first_gain", "second_gain"), grads, strict=True):
            expect_close(
                f"the gradient of {name.replace('_', ' ')} for x of shape {shape}",
                answers.array(f"grad_{name}{i}"),
                want.numpy(),
                otherwise="the output is right, so look at backward: does it use x, gain and eps "
                "of its own call, and return what rms_norm_backward gives?",
            )


def draw_train(rng: np.random.Generator) -> Inputs:
    """Draw a split of Digits; the classes are renumbered, so nobody knows the labels beforehand."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = rng.permutation(len(digits.target))
    pixels = digits.data[order] / 16
    labels = rng.permutation(CLASSES)[digits.target[order]].astype(np.int64)
    train = pixels[:1200]
    x = ((pixels - train.mean()) / train.std()).astype(np.float32)
    return {
        "seed": int(rng.integers(2**31)),
        "x_train": x[:1200],
        "y_train": labels[:1200],
        "x_validation": x[1200:1397],
        "y_validation": labels[1200:1397],
        "x_probe": x[1397:],
        "_labels": labels[1397:],
    }


def judge_train(inputs: Inputs, answers: Answers) -> None:
    """Rebuild the network from its weights and measure it on images that were held back."""
    weights: dict[str, Tensor] = {}
    for name, shape in WEIGHTS.items():
        array = answers.array(f"weights.{name}")
        if array.shape != shape or array.dtype != np.float32:
            raise Wrong(f"{name} is {array.dtype} of shape {array.shape}; float32 {shape} is asked")
        if not np.isfinite(array).all():
            raise Wrong(f"{name} holds nan or inf", "the run has diverged: a smaller learning rate")
        weights[name] = torch.tensor(array)
    x = torch.tensor(inputs["x_probe"])
    hidden = torch.nn.functional.linear(x, weights["0.weight"], weights["0.bias"])
    hidden = rms_norm(hidden, weights["1.gain"], 1e-6).relu()
    logits = torch.nn.functional.linear(hidden, weights["3.weight"], weights["3.bias"])
    got = answers.array("logits")
    if got.shape != tuple(logits.shape) or not np.allclose(got, logits, rtol=1e-3, atol=1e-3):
        raise Wrong(
            "the network does not compute Linear, RMSNorm, ReLU, Linear with its weights",
            "a layer is missing, in another order, or RMSNorm is not right yet",
        )
    losses = answers.array("step_losses")
    if losses.size == 0:
        raise Wrong("no training step was taken", "call fit, and return what it returns")
    accuracy = float((logits.argmax(1).numpy() == inputs["_labels"]).mean())
    judge_run(weights, losses, accuracy)


def judge_run(weights: dict[str, Any], losses: np.ndarray, accuracy: float) -> None:
    """Judge how the training went, from its traces."""
    low = SMOOTHING / CLASSES
    right = 1 - SMOOTHING + low
    floor = -(right * np.log(right) + (CLASSES - 1) * low * np.log(low))
    if losses.min() < 0.98 * floor:
        raise Wrong(
            f"the training loss falls to {losses.min():.3f}; with smoothing 0.1 it cannot fall "
            f"below {floor:.3f}, the entropy of the targets",
            "give Classifier your smoothed_cross_entropy, with smoothing=0.1, as its loss",
        )
    if losses[0] > 10:
        raise Wrong(
            f"the training loss starts at {losses[0]:.1f}",
            "with ten classes and small weights it starts near log 10 = 2.3: is it a mean?",
        )
    if torch.equal(weights["1.gain"], torch.ones(32)):
        raise Wrong("gain is still 1 everywhere", "it is not among the parameters being trained")
    if accuracy < ACCURACY:
        hint = "train longer, or with another learning rate"
        if losses[-1] > 0.9 * losses[0]:
            hint = f"the loss has hardly fallen, {losses[0]:.2f} to {losses[-1]:.2f}: " + hint
        raise Wrong(
            f"{accuracy:.1%} of the images that were held back are classified rightly; "
            f"{ACCURACY:.0%} are asked for",
            hint,
        )
