"""Checks of the hand-written layers against torch.nn and autograd, as functions of the module.

The ordinary tests call them with the real module, test_layers_mistakes.py with planted mistakes.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
ACTIVATIONS = ("ReLU", "Sigmoid", "Tanh", "GELU")

seeds = st.integers(0, 2**31 - 1)
leading = st.lists(st.integers(0, 4), min_size=0, max_size=3).map(tuple)
# No shrinking: the cases are small already, and planted mistakes would wait for it.
one_bug = settings(report_multiple_bugs=False, phases=[Phase.explicit, Phase.generate])


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def same_as_torch(ours: Any, theirs: nn.Module, x: Tensor, *, random_parameters: int = 0) -> None:
    """Output, input gradient and parameter gradients of one pass, bit by bit of the interface."""
    ours, theirs = ours.double(), theirs.double()
    with torch.no_grad():
        for offset, parameter in enumerate(theirs.parameters()):
            parameter.copy_(normal(tuple(parameter.shape), random_parameters + offset))
    ours.load_state_dict(theirs.state_dict())
    leaf = x.clone().requires_grad_(x.is_floating_point())
    expected = theirs(leaf)
    grad_output = normal(tuple(expected.shape), 12345)
    expected.backward(grad_output)

    x_before, grad_before = x.clone(), grad_output.clone()
    output = ours(x)
    assert_close(output.detach(), expected.detach(), **TIGHT)
    grad_input = ours.backward(grad_output)
    if x.is_floating_point():
        assert_close(grad_input, leaf.grad, **TIGHT)
    else:
        assert grad_input is None
    assert torch.equal(x, x_before), "forward or backward wrote into the input"
    assert torch.equal(grad_output, grad_before), "backward wrote into grad_output"
    for (name, mine), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None, f"{name} has no gradient"
        assert_close(mine.grad, their.grad, **TIGHT)
    for (name, mine), their in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert_close(mine, their, **TIGHT, msg=lambda text, name=name: f"{name}: {text}")


def check_linear(layers: ModuleType) -> None:
    @one_bug
    @given(leading, st.integers(1, 5), st.integers(1, 5), st.booleans(), seeds)
    def run(batch: tuple[int, ...], inputs: int, outputs: int, bias: bool, seed: int) -> None:
        x = normal((*batch, inputs), seed)
        ours, theirs = layers.Linear(inputs, outputs, bias), nn.Linear(inputs, outputs, bias)
        same_as_torch(ours, theirs, x, random_parameters=seed)

    run()


def check_linear_loop(layers: ModuleType) -> None:
    @one_bug
    @given(st.integers(0, 5), st.integers(1, 5), st.integers(1, 5), seeds)
    def run(batch: int, inputs: int, outputs: int, seed: int) -> None:
        x, weight = normal((batch, inputs), seed), normal((outputs, inputs), seed + 1)
        grad_output = normal((batch, outputs), seed + 2)
        loop = layers.linear_backward_loop(grad_output, x, weight)
        for one_by_one, at_once in zip(
            loop, layers.linear_backward(grad_output, x, weight), strict=True
        ):
            assert_close(one_by_one, at_once, **TIGHT)

    run()


def check_activation(layers: ModuleType, name: str) -> None:
    """Also saturated: at |x| = 1000 nothing may be NaN."""

    @one_bug
    @given(leading, st.sampled_from((1e-3, 1.0, 5.0, 40.0, 1000.0)), seeds)
    def run(shape: tuple[int, ...], scale: float, seed: int) -> None:
        same_as_torch(getattr(layers, name)(), getattr(nn, name)(), normal(shape, seed) * scale)

    run()


def check_dropout(layers: ModuleType) -> None:
    """With a mask that is given, against autograd on x * mask / (1 - p)."""

    @one_bug
    @given(leading, st.floats(0, 0.95), seeds)
    def run(shape: tuple[int, ...], p: float, seed: int) -> None:
        x = normal(shape, seed).requires_grad_()
        mask = normal(shape, seed + 1) > 0
        expected = x * mask / (1 - p)
        grad_output = normal(shape, seed + 2)
        (grad_x,) = torch.autograd.grad(expected, x, grad_output)
        output, saved = layers.Dropout.compute(x.detach(), mask, p)
        assert_close(output, expected.detach(), **TIGHT)
        assert_close(layers.Dropout.vjp(grad_output, *saved)[0], grad_x, **TIGHT)

    run()


def check_dropout_module(layers: ModuleType) -> None:
    """Ones in and ones back must meet the same mask and scale; the mean stays 1."""
    layer = layers.Dropout(0.25)
    x = torch.ones(200, 200, dtype=torch.float64)
    torch.manual_seed(0)
    output = layer(x)
    assert torch.equal(layer.backward(x), output)
    assert set(output.unique().tolist()) == {0.0, 1 / 0.75}
    assert abs(output.mean().item() - 1) < 5 * (0.25 / 0.75 / x.numel()) ** 0.5


def check_embedding(layers: ModuleType) -> None:
    """Few rows and many indices: most rows are used more than once, some never."""

    @one_bug
    @given(leading, st.integers(1, 4), st.integers(1, 4), seeds)
    def run(shape: tuple[int, ...], rows: int, width: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        indices = torch.randint(rows, shape, generator=generator)
        same_as_torch(layers.Embedding(rows, width), nn.Embedding(rows, width), indices)

    run()


def check_layer_norm(normalization: ModuleType) -> None:
    @one_bug
    @given(
        leading,
        st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple),
        st.sampled_from((0.01, 1.0, 1000.0)),
        seeds,
    )
    def run(batch: tuple[int, ...], shape: tuple[int, ...], scale: float, seed: int) -> None:
        x = normal((*batch, *shape), seed) * scale
        # torch computes x·s − μ·s, which for one feature is 0 only up to the rounding of x.
        if math.prod(shape) == 1:
            x = x / scale
        ours, theirs = normalization.LayerNorm(shape), nn.LayerNorm(shape)
        same_as_torch(ours, theirs, x, random_parameters=seed)

    run()


batch_shapes = st.one_of(
    st.tuples(st.integers(0, 6), st.integers(1, 4)),
    st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4)),
)


def check_batch_norm(normalization: ModuleType) -> None:
    """Two batches in training, so that the running statistics are used, then evaluation."""

    @one_bug
    @given(batch_shapes, st.sampled_from((0.0, 10.0, 1000.0)), st.floats(0, 1), seeds)
    def run(shape: tuple[int, ...], offset: float, momentum: float, seed: int) -> None:
        channels = shape[1]
        ours = normalization.BatchNorm1d(channels, momentum=momentum)
        theirs = nn.BatchNorm1d(channels, momentum=momentum)
        if shape[0] * (shape[2] if len(shape) == 3 else 1) != 1:
            for step in (0, 1):
                x = normal(shape, seed + step) + offset
                for layer in (ours, theirs):
                    layer.zero_grad()
                same_as_torch(ours, theirs, x, random_parameters=seed)
        for layer in (ours, theirs):
            layer.eval()
            layer.zero_grad()
        same_as_torch(ours, theirs, normal(shape, seed + 2) + offset, random_parameters=seed)

    run()


def check_accumulation(base: ModuleType) -> None:
    """Two passes leave the sum of their gradients, as autograd does."""

    class Scale(base.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64))

        @staticmethod
        def compute(x: Tensor, weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            return x * weight, (x, weight)

        @staticmethod
        def vjp(grad_output: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            return grad_output * weight, (grad_output * x).sum(0)

    layer, twin = Scale(), nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64))
    for seed in (0, 1):
        x, grad_output = normal((4, 3), seed), normal((4, 3), seed + 10)
        layer(x)
        layer.backward(grad_output)
        (x * twin).backward(grad_output)
    assert_close(layer.weight.grad, twin.grad, **TIGHT)


def reference_function(name: str) -> Any:
    """torch.nn.functional's version of a pair, over the same differentiable inputs."""
    return {
        "Linear": F.linear,
        "ReLU": F.relu,
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "GELU": F.gelu,
        "LayerNorm": lambda x, w, b: F.layer_norm(x, w.shape, w, b),
        "BatchNorm1d": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    }[name]
