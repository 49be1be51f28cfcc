"""Judge of separable-convolution: values and gradients against torch's convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from companion.homework.architectures.comparing import expect
from companion.homework.backprop.by_hand import each_case
from companion.homework.tasks import Answers, Inputs, Suspects

NAMES = ("x", "depth", "point", "bias")
GRADIENTS = ("grad_x", "grad_depth", "grad_point", "grad_bias")


class Case(NamedTuple):
    """Shape of x, output channels, kernel size, stride, padding, dilation."""

    shape: tuple[int, int, int, int]
    out: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: int = 0
    dilation: int = 1


CASES = (
    Case((2, 3, 6, 5), 4, (3, 3), padding=1),
    Case((1, 2, 8, 6), 3, (3, 2), stride=2),  # a row and no column of pixels is left over
    Case((2, 2, 7, 8), 2, (2, 3), padding=2, dilation=2),
    Case((1, 1, 1, 1), 1, (1, 1)),
    Case((2, 3, 6, 7), 5, (3, 3), stride=3, padding=1),
    Case((3, 4, 3, 4), 2, (1, 1)),
)
Forward = Callable[..., Tensor]


def draw(rng: np.random.Generator) -> Inputs:
    """Draw images, weights and ∂L/∂y of every case."""
    options = [[case.stride, case.padding, case.dilation] for case in CASES]
    inputs: Inputs = {"options": options}
    for i, case in enumerate(CASES):
        inputs[f"x{i}"] = rng.standard_normal(case.shape)
        inputs[f"depth{i}"] = rng.standard_normal((case.shape[1], *case.kernel))
        inputs[f"point{i}"] = rng.standard_normal((case.out, case.shape[1]))
        inputs[f"bias{i}"] = rng.standard_normal(case.out)
        y = separable(*(torch.tensor(inputs[f"{name}{i}"]) for name in NAMES), *options[i])
        inputs[f"grad_output{i}"] = rng.standard_normal(tuple(y.shape))
    return inputs


def separable(
    x: Tensor,
    depth: Tensor,
    point: Tensor,
    bias: Tensor,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """Return the convolution that task 2 asks for, by torch's."""
    inner = F.conv2d(x, depth[:, None], None, stride, padding, dilation, groups=len(depth))
    return F.conv2d(inner, point[:, :, None, None], bias)


def gradients(
    forward: Forward, leaves: list[np.ndarray], grad_output: np.ndarray, options: list[int]
) -> dict[str, np.ndarray]:
    """Return ``y`` and the gradients of the four arguments, none if the shapes do not meet."""
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
    try:
        y = forward(*tensors, *options)
    except (RuntimeError, ValueError):
        return {}
    found = {"y": y.detach().numpy()}
    if y.shape == grad_output.shape:
        grads = torch.autograd.grad(y, tensors, torch.tensor(grad_output), allow_unused=True)
        for name, leaf, grad in zip(GRADIENTS, tensors, grads, strict=True):
            found[name] = (torch.zeros_like(leaf) if grad is None else grad).numpy()
    return found


def _full(x: Tensor, depth: Tensor, point: Tensor, bias: Tensor, *options: int) -> Tensor:
    channels = len(depth)
    inner = F.conv2d(x, depth[None].expand(channels, -1, -1, -1), None, *options)
    return F.conv2d(inner, point[:, :, None, None], bias)


def _same(x: Tensor, depth: Tensor, point: Tensor, bias: Tensor, *options: int) -> Tensor:
    inner = F.conv2d(x, depth[:, None].expand(-1, len(depth), -1, -1), None, *options)
    return F.conv2d(inner, point[:, :, None, None], bias)


VARIANTS: tuple[tuple[str, Forward], ...] = (
    ("the kernel is not turned: y[i, j] takes depth[u, v] · x[i + u, j + v]", lambda x, d, *rest: (
        separable(x, d.flip(1, 2), *rest)
    )),
    ("rows and columns of the kernel have changed places", lambda x, d, *rest: (
        separable(x, d.mT, *rest)
    )),
    ("the bias is left out", lambda x, d, p, b, *rest: separable(x, d, p, 0 * b, *rest)),
    ("the bias is added once", lambda x, d, p, b, *rest: separable(x, d, p, 2 * b, *rest)),
    ("stride is left out", lambda x, d, p, b, s, *rest: separable(x, d, p, b, 1, *rest)),
    ("padding is left out", lambda x, d, p, b, s, q, r: separable(x, d, p, b, s, 0, r)),
    ("dilation is left out", lambda x, d, p, b, s, q, r: separable(x, d, p, b, s, q, 1)),
    ("stride and dilation have changed places", lambda x, d, p, b, s, q, r: (
        separable(x, d, p, b, r, q, s)
    )),
    ("each kernel sees its own channel, not the sum over all channels", _full),
    ("each kernel sees its own channel, not the sum over all channels", _same),
    ("a ReLU stands between the two steps", lambda x, d, p, b, *rest: (
        F.conv2d(F.conv2d(x, d[:, None], None, *rest, groups=len(d)).relu(), p[:, :, None, None], b)
    )),
    ("point is (outputs, channels): it is used transposed", lambda x, d, p, *rest: (
        separable(x, d, p.T, *rest)
    )),
    ("point is left out on the way back", lambda x, d, p, *rest: (
        separable(x, d, torch.ones_like(p) + 0 * p, *rest)
    )),
    ("depth is left out on the way back", lambda x, d, *rest: (
        separable(x, torch.ones_like(d) + 0 * d, *rest)
    )),
)  # fmt: skip


def suspects(
    name: str, leaves: list[np.ndarray], grad_output: np.ndarray, options: list[int]
) -> Suspects:
    """Return what known mistakes give for the answer called `name`."""
    found = []
    for hint, forward in VARIANTS:
        wrong = gradients(forward, leaves, grad_output, options)
        if name in wrong:
            found.append((hint, wrong[name]))
    delta = grad_output
    if name == "grad_bias":
        shared = "the bias is used at every pixel of every image: sum over both"
        found += [
            (shared, delta.sum(0)),
            (shared, delta.sum((2, 3))),
            (shared, delta.sum(0)[:, 0, 0]),
        ]
    if name in ("grad_depth", "grad_point"):
        order = "the four gradients come in the order x, depth, point, bias"
        other = "grad_point" if name == "grad_depth" else "grad_depth"
        found.append((order, gradients(separable, leaves, delta, options)[other]))
    if name == "grad_depth":
        shared = "a kernel serves all images: sum over the batch"
        parts = [
            gradients(separable, [leaves[0][n : n + 1], *leaves[1:]], delta[n : n + 1], options)
            for n in range(len(delta))
        ]
        found += [(shared, parts[0][name]), (shared, np.stack([part[name] for part in parts]))]
    return found


def judge(inputs: Inputs, answers: Answers) -> None:
    """Compare y and the four gradients of every case with torch."""

    def check(i: int) -> None:
        case, options = CASES[i], inputs["options"][i]
        leaves, delta = [inputs[f"{name}{i}"] for name in NAMES], inputs[f"grad_output{i}"]
        said = f"stride {case.stride}, padding {case.padding}, dilation {case.dilation}"
        pixels = delta.shape[2] * delta.shape[3]
        factors = [
            ("a sum over the batch is asked for, not a mean", 1 / len(delta)),
            ("a sum over the pixels is asked for, not a mean", 1 / pixels),
            ("a sum over images and pixels is asked for, not a mean", 1 / (pixels * len(delta))),
        ]
        for name, want in gradients(separable, leaves, delta, options).items():
            what = f"{name} for x of shape {case.shape}, kernel {case.kernel}, {said}"
            got = answers.array(f"{name}{i}")
            expect(
                what,
                got,
                want,
                lambda name=name: suspects(name, leaves, delta, options),
                factors=factors if name != "y" else (),
                otherwise="pixels at the border that no window reaches get a gradient of 0"
                if name == "grad_x" and case.stride > 1
                else "",
            )

    each_case(len(CASES), lambda i: CASES[i].shape[0], check)
