"""Judge of train: both layers against autograd, then the trained network on images held back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from companion.homework.architectures.looking import attend
from companion.homework.architectures.recurrence import step
from companion.homework.architectures.separating import separable
from companion.homework.backprop.in_frameworks import REARRANGING
from companion.homework.tasks import Answers, Inputs, Wrong, agree, expect_close

ACCURACY = 0.85
CLASSES, CHANNELS, HIDDEN, HEADS, WINDOW = 10, 8, 32, 4, 4
WEIGHTS = {
    "look.depth": (1, 3, 3),
    "look.point": (CHANNELS, 1),
    "look.bias": (CHANNELS,),
    "read.w_ih": (2 * HIDDEN, 8 * CHANNELS),
    "read.w_hh": (2 * HIDDEN, HIDDEN),
    "read.bias": (2 * HIDDEN,),
    "classify.weight": (CLASSES, HIDDEN),
    "classify.bias": (CLASSES,),
}
SHAPES = {
    "convolved": {"x": (2, 2, 5, 6), "depth": (2, 3, 3), "point": (3, 2), "bias": (3,)},
    "read": {"x": (2, 3, 3), "w_ih": (8, 3), "w_hh": (8, 4), "bias": (8,)},
}
DELTAS = {"convolved": (2, 3, 3, 3), "read": (2, 3, 4)}
NAMES = {"convolved": "SeparableConv2d", "read": "MGU"}
# Nodes that only pick, copy or rearrange, besides those of chapter 2.
PICKING = {"SelectBackward0", "SliceBackward0", "StackBackward0", "UnbindBackward0"}


def draw(rng: np.random.Generator) -> Inputs:
    """Draw the weights of two layers, and a split of Digits with its classes renumbered."""
    from sklearn.datasets import load_digits

    inputs: Inputs = {}
    for prefix, shapes in SHAPES.items():
        for name, shape in shapes.items():
            inputs[f"{prefix}_{name}"] = rng.standard_normal(shape)
            inputs[f"{prefix}_other_{name}"] = rng.standard_normal(shape)
        inputs[f"{prefix}_delta"] = rng.standard_normal(DELTAS[prefix])
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    pixels = digits.images[order] / 16
    labels = rng.permutation(CLASSES)[digits.target[order]].astype(np.int64)
    x = ((pixels - pixels[:1200].mean()) / pixels[:1200].std()).astype(np.float32)
    return {
        **inputs,
        "seed": int(rng.integers(2**31)),
        "x_train": x[:1200],
        "y_train": labels[:1200],
        "x_validation": x[1200:1397],
        "y_validation": labels[1200:1397],
        "x_probe": x[1397:],
        "_labels": labels[1397:],
    }


def states(x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor) -> Tensor:
    """Return the states of the minimal gated unit, row by row, from h = 0."""
    rows = []
    for row in x:
        h, found = x.new_zeros(w_hh.shape[1]), []
        for at_t in row:
            h = step(at_t, h, w_ih, w_hh, bias)
            found.append(h)
        rows.append(torch.stack(found))
    return torch.stack(rows)


def judge(inputs: Inputs, answers: Answers) -> None:
    """Compare both layers with autograd, rebuild the network, and measure it."""
    for prefix in SHAPES:
        judge_layer(prefix, inputs, answers)
    weights: dict[str, Tensor] = {}
    for name, shape in WEIGHTS.items():
        value = answers.array(f"weights.{name}")
        if value.shape != shape or not np.isfinite(value).all():
            raise Wrong(
                f"{name} of the trained network has shape {value.shape} or is not finite; "
                f"a finite {shape} is needed",
                "RowReader is to be left as it is; if the weights are nan, the step is too large",
            )
        weights[name] = torch.tensor(value).double()
    logits = rebuilt(torch.tensor(inputs["x_probe"]).double(), weights)
    if not agree(answers.array("logits").astype(np.float64), logits, 1e-3, 1.0):
        raise Wrong(
            "the trained network's logits are not those of a RowReader with its weights",
            "is RowReader as it is in the empty file, and do both layers keep their type?",
        )
    losses = answers.array("step_losses")
    if len(losses) < 2:
        raise Wrong("fewer than two steps were trained", "give fit epochs or max_steps")
    if np.median(losses[-5:]) > 0.8 * losses[0]:
        raise Wrong(
            f"the training loss hardly falls: {losses[0]:.2f} at first, {losses[-1]:.2f} at last",
            "another learning rate, or weights that do not start at 0",
        )
    accuracy = float((logits.argmax(1) == inputs["_labels"]).mean())
    if accuracy < ACCURACY:
        raise Wrong(
            f"{accuracy:.1%} of the images that were held back are classified rightly; "
            f"{ACCURACY:.0%} are asked for",
            "train longer, with another learning rate, or from smaller weights",
        )


def judge_layer(prefix: str, inputs: Inputs, answers: Answers) -> None:
    """Compare a layer's result and gradients; its backward pass must be its own."""
    kind = NAMES[prefix]
    nodes = set(answers.text(f"{prefix}_graph").split())
    strange = nodes - {*REARRANGING, *PICKING}
    if "custom" not in nodes or strange:
        found = ", ".join(sorted(strange))[:200] or "nothing"
        raise Wrong(
            f"the backward pass of {kind} is not yours alone: torch differentiates {found}",
            "put the whole of it into the forward of one autograd Function",
        )
    leaves = {
        name: torch.tensor(inputs[f"{prefix}_{name}"], requires_grad=True)
        for name in SHAPES[prefix]
    }
    values = tuple(leaves.values())
    y = separable(*values, 2, 1) if prefix == "convolved" else states(*values)
    what = "the result of " + kind
    expect_close(what, answers.array(f"{prefix}_y"), y.detach().numpy())
    grads = torch.autograd.grad(y, values, torch.tensor(inputs[f"{prefix}_delta"]))
    for name, want in zip(leaves, grads, strict=True):
        expect_close(
            f"the gradient of {name} through {kind}",
            answers.array(f"{prefix}_grad_{name}"),
            want.numpy(),
            otherwise="does backward use what its own call saved, with its stride and padding, "
            "and return one gradient for each argument of forward, in their order?",
        )


def rebuilt(images: Tensor, weights: dict[str, Tensor]) -> np.ndarray:
    """Return the logits of a RowReader with these weights, in float64."""
    look = [weights[f"look.{name}"] for name in ("depth", "point", "bias")]
    seen = separable(images[:, None], *look, 1, 1).relu().transpose(1, 2).flatten(2)
    read = [weights[f"read.{name}"] for name in ("w_ih", "w_hh", "bias")]
    heads = batched_states(seen, *read).unflatten(2, (HEADS, -1)).transpose(1, 2).numpy()
    back = attend(heads[:, :, -1:], heads, heads, WINDOW)
    flat = torch.tensor(back).flatten(1)
    return F.linear(flat, weights["classify.weight"], weights["classify.bias"]).numpy()


def batched_states(x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor) -> Tensor:
    """Return :func:`states`, all rows at once."""
    over_rows = torch.vmap(step, in_dims=(0, 0, None, None, None))
    h, found = x.new_zeros(len(x), w_hh.shape[1]), []
    for at_t in x.unbind(1):
        h = over_rows(at_t, h, w_ih, w_hh, bias)
        found.append(h)
    return torch.stack(found, dim=1)
