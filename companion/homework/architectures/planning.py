"""Judge of plan: shapes and parameters of torch's own layers, and a field measured by gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from companion.homework.tasks import Answers, Inputs, Wrong

LayerPlan = dict[str, Any]
COLUMNS = ("channels", "size", "parameters", "multiplications", "field")
WIDE = 600  # pixels: no field of these stacks is wider


def convolution(
    channels: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> LayerPlan:
    """Return the description of a convolution, as plan is given it."""
    window = pooling(kernel, stride, padding, dilation)
    return {
        **window,
        "kind": "convolution",
        "channels": int(channels),
        "groups": int(groups),
        "bias": bias,
    }


def pooling(kernel: int, stride: int, padding: int = 0, dilation: int = 1) -> LayerPlan:
    """Return the description of a pooling layer, as plan is given it."""
    return {
        "kind": "pooling",
        "kernel": int(kernel),
        "stride": int(stride),
        "padding": int(padding),
        "dilation": int(dilation),
    }


def draw(rng: np.random.Generator) -> Inputs:
    """Draw stacks of layers; the last ones cannot be built."""
    a, b = (int(rng.integers(2, 6)) for _ in range(2))
    size = int(rng.integers(24, 40))
    stacks = [
        (1, size, [convolution(a, 3, padding=2)]),
        (a, size + 1, [convolution(b, 3, 2), convolution(a, 2, 3, 1)]),
        (a, size, [convolution(b, 3, dilation=2), convolution(a, 5, dilation=3, bias=False)]),
        (b, size, [pooling(2, 2), convolution(a, 3), pooling(3, 2, 1), convolution(b, 3, 1, 1)]),
        (2 * a, size, [convolution(2 * a, 3, 1, 1, groups=2 * a, bias=False), convolution(b, 1)]),
        (
            2 * a,
            size + 20,
            [
                convolution(2 * b, 5, 2, 2, groups=2),
                pooling(2, 2),
                convolution(4 * b, 3, 1, 2, 2, groups=2 * b),
                convolution(a, 3, 3, 1),
            ],
        ),
        (a, 1, [convolution(b, 1), convolution(a, 3, 2, 1)]),
        (a, size, []),
        # what does not fit, and groups that do not divide
        (1, 9, [convolution(a, 3), pooling(2, 2), convolution(b, 2, dilation=3)]),
        (1, size, [convolution(2 * a + 1, 3), convolution(2, 3, groups=2)]),
        (2, size, [convolution(2 * a + 1, 3, groups=2)]),
    ]
    return {
        "channels": [channels for channels, _, _ in stacks],
        "sizes": [int(rng.integers(7, 10)) if size == 9 else size for _, size, _ in stacks],
        "stacks": [layers for _, _, layers in stacks],
        "_faults": [None] * 8 + ["layers[2]", "layers[1]", "layers[0]"],
    }


def measured(layers: list[LayerPlan], channels: int, size: int) -> np.ndarray:
    """Return the table of a stack, one row a layer, from torch's layers themselves."""
    x = torch.zeros(1, channels, size, size)
    rows = []
    for count, layer in enumerate(layers, start=1):
        window = [layer[name] for name in ("kernel", "stride", "padding", "dilation")]
        parameters = products = 0
        if layer["kind"] == "convolution":
            module: nn.Module = nn.Conv2d(
                x.shape[1], layer["channels"], *window, groups=layer["groups"], bias=layer["bias"]
            )
            parameters = sum(p.numel() for p in module.parameters())
            x = module(x).detach()
            products = module.weight.numel() * x.shape[2] * x.shape[3]
        else:
            x = nn.MaxPool2d(*window)(x)
        rows.append((x.shape[1], x.shape[2], parameters, products, field(layers[:count])))
    return np.array(rows, dtype=np.int64).reshape(len(layers), len(COLUMNS))


def field(layers: list[LayerPlan]) -> int:
    """Return the extent of what the first output number depends on, in one dimension."""
    x = torch.ones(1, 1, WIDE, dtype=torch.float64, requires_grad=True)
    y = x
    for layer in layers:
        kernel = x.new_ones(1, 1, layer["kernel"])
        y = F.conv1d(y, kernel, stride=layer["stride"], dilation=layer["dilation"])
    (grad,) = torch.autograd.grad(y[0, 0, 0], x)
    seen = grad[0, 0].nonzero()
    return int(seen.max() - seen.min()) + 1


def by_formula(
    layers: list[LayerPlan],
    channels: int,
    size: int,
    *,
    rounding: Callable[[float], int] = lambda steps: int(np.floor(steps)),
    padding: int = 2,
    jump: Callable[[int, int], int] = lambda jump, stride: jump * stride,
    **overrides: int,
) -> np.ndarray:
    """Return what plan gives with a known mistake in it: the arguments say which."""
    rows, extent, distance = [], 1, 1
    for given in layers:
        layer = {**given, **{name: value for name, value in overrides.items() if name in given}}
        reach = layer["dilation"] * (layer["kernel"] - 1)
        steps = (size + padding * layer["padding"] - reach - 1) / layer["stride"]
        size = rounding(steps) + 1
        extent, distance = extent + reach * distance, jump(distance, layer["stride"])
        parameters = products = 0
        if layer["kind"] == "convolution":
            each = channels // layer["groups"] * layer["kernel"] ** 2
            channels = layer["channels"]
            parameters, products = channels * (each + layer["bias"]), channels * each * size**2
        rows.append((channels, size, parameters, products, extent))
    return np.array(rows, dtype=np.int64).reshape(len(layers), len(COLUMNS))


def known_mistakes(
    layers: list[LayerPlan], channels: int, size: int, want: np.ndarray
) -> list[tuple[str, str, np.ndarray]]:
    """Return hints, the column each belongs to, and what the mistake puts there."""
    variants = [
        ("a window that does not fit whole is left out: round down", "size", {"rounding": _ceil}),
        ("the first position counts as well: ⌊steps⌋ + 1", "size", {"rounding": _one_less}),
        ("padding is added on both sides", "size", {"padding": 1}),
        ("padding is left out", "size", {"padding": 0}),
        ("stride is left out", "size", {"stride": 1}),
        ("a dilated window reaches over dilation · (kernel − 1) + 1 pixels", "size", _PLAIN),
        ("weights connect an output to the inputs of its own group alone", "parameters", _WHOLE),
        ("not every convolution has a bias", "parameters", {"bias": 1}),
        ("the biases count: one number an output channel", "parameters", {"bias": 0}),
        ("weights connect an output to the inputs of its own group", "multiplications", _WHOLE),
        ("a dilated window reaches over dilation · (kernel − 1) + 1 pixels", "field", _PLAIN),
        (
            "strides of earlier layers spread the taps of later ones: the jump",
            "field",
            {"stride": 1},
        ),
        ("the jump is the product of the strides", "field", {"jump": lambda jump, step: step}),
        (
            "the jump is the product of the strides",
            "field",
            {"jump": lambda jump, step: jump + step - 1},
        ),
    ]
    found = []
    for hint, column, options in variants:
        table = by_formula(layers, channels, size, **options)
        found.append((hint, column, table[:, COLUMNS.index(column)]))
    sizes, kernels = want[:, 1], np.array([layer["kernel"] for layer in layers])
    strides = np.cumprod([layer["stride"] for layer in layers])
    reaches = np.array([layer["dilation"] * (layer["kernel"] - 1) for layer in layers])
    before = strides // np.array([layer["stride"] for layer in layers])
    convolves = np.array([layer["kind"] == "convolution" for layer in layers])
    biases = np.array([layer.get("bias", False) * layer.get("channels", 0) for layer in layers])
    taps = 1 + np.cumsum(kernels * before)
    own = "a layer's own stride spreads the taps of the layers after it, not its own"
    found += [
        (own, "field", 1 + np.cumsum(reaches * strides)),
        ("one tap of a kernel is the pixel itself: kernel − 1 are added", "field", taps),
        ("a pooling's window counts as well", "field", 1 + np.cumsum(reaches * before * convolves)),
        ("the field of the first pixel is 1 before any layer", "field", want[:, 4] - 1),
        ("the channels that go out are those of the next layer", "channels", 0 * sizes + channels),
        ("a kernel has kernel² taps", "parameters", (want[:, 2] - biases) // kernels + biases),
        ("each output channel has a bias", "parameters", want[:, 2] - biases + (biases > 0)),
        ("every output pixel has its own products", "multiplications", want[:, 3] // sizes**2),
        ("the output has size² pixels", "multiplications", want[:, 3] // sizes),
        ("a kernel has kernel² taps", "multiplications", want[:, 3] // kernels),
        ("biases are added, not multiplied", "multiplications", want[:, 2] * sizes**2),
    ]
    return found


def _ceil(steps: float) -> int:
    return int(np.ceil(steps))


def _one_less(steps: float) -> int:
    return int(np.floor(steps)) - 1


_PLAIN: dict[str, Any] = {"dilation": 1}
_WHOLE: dict[str, Any] = {"groups": 1}


def judge(inputs: Inputs, answers: Answers) -> None:
    """Compare every table with the measured one, column by column."""
    for i, fault in enumerate(inputs["_faults"]):
        layers, channels, size = (inputs[name][i] for name in ("stacks", "channels", "sizes"))
        if fault is not None:
            expect_refusal(fault, layers, answers.text(f"outcome{i}"))
            continue
        outcome = answers.text(f"outcome{i}")
        told = f"plan for {describe(layers)}, {channels} channels, size {size}"
        if outcome != "table":
            raise Wrong(f"{told} ends with {outcome}", "these layers fit")
        got, want = answers.array(f"table{i}"), measured(layers, channels, size)
        if got.shape != want.shape:
            raise Wrong(
                f"{told} gives a table of shape {got.shape}; it must be {want.shape}",
                "one row a layer, with five whole numbers each",
            )
        for column, name in enumerate(COLUMNS):
            if np.array_equal(got[:, column], want[:, column]):
                continue
            known = known_mistakes(layers, channels, size, want)
            hints = [
                hint
                for hint, where, wrong in known
                if where == name and np.array_equal(got[:, column], wrong)
            ]
            row = int(np.flatnonzero(got[:, column] != want[:, column])[0])
            raise Wrong(
                f"{told}: {name} of layers[{row}] is {got[row, column]}; "
                f"it must be {want[row, column]}",
                next(iter(hints), ""),
            )


def expect_refusal(fault: str, layers: list[LayerPlan], outcome: str) -> None:
    """Raise Wrong unless `outcome` is a ValueError that names the layer `fault`."""
    layer = layers[int(fault[7:-1])]
    if not outcome.startswith("ValueError"):
        result = "returns a table" if outcome == "table" else f"ends with {outcome}"
        raise Wrong(
            f"plan {result}, though {fault}, {describe([layer])}, cannot be built",
            "raise ValueError where the window is larger than the padded input, or groups does "
            "not divide the channels that come in or go out",
        )
    if fault not in outcome:
        raise Wrong(
            f"the ValueError of plan does not name {fault}: {outcome[:200]}",
            "count the layers from 0, and write layers[i] into the message",
        )


def describe(layers: list[LayerPlan]) -> str:
    """Return a stack in a few words."""
    words = []
    for layer in layers:
        names = [name for name in ("stride", "padding", "dilation", "groups") if name in layer]
        usual = {"padding": 0}
        odd = [f"{name} {layer[name]}" for name in names if layer[name] != usual.get(name, 1)]
        size = f"{layer['kernel']}×{layer['kernel']}"
        words.append(" ".join([f"{layer['kind']} {size}", *odd]))
    return " → ".join(words) or "no layer"
