"""Checks of the hand-written convolution, pooling and batch norm, as functions of the module.

The ordinary tests call them with the real module, test_cnn_mistakes.py with planted mistakes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from backprop.layer_checks import TIGHT, normal, one_bug, same_as_torch, seeds
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from companion.architectures.im2col import Window


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


windows = st.builds(Window, pairs(1, 3), pairs(1, 3), pairs(0, 3), pairs(1, 2))


@st.composite
def geometries(draw: st.DrawFn) -> tuple[Window, tuple[int, int]]:
    """A window, and an image that it fits into: often just, often with pixels left over."""
    window = draw(windows)
    size = []
    for kernel, pad, gap in zip(window.kernel_size, window.padding, window.dilation, strict=True):
        least = max(1, gap * (kernel - 1) + 1 - 2 * pad)
        size.append(least + draw(st.integers(0, 4)))
    return window, tuple(size)


# batch, groups, channels in a group, outputs in a group
channels = st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3))


def arguments(window: Window) -> dict[str, tuple[int, int]]:
    return {"stride": window.stride, "padding": window.padding, "dilation": window.dilation}


def check_conv2d(convolution: ModuleType) -> None:
    """Output and all gradients equal torch.nn.Conv2d over random geometries and groups."""

    @one_bug
    @given(geometries(), channels, st.booleans(), seeds)
    def run(geometry: Any, numbers: Any, bias: bool, seed: int) -> None:
        (window, size), (batch, groups, inputs, outputs) = geometry, numbers
        shape = (groups * inputs, groups * outputs, window.kernel_size)
        options = {**arguments(window), "groups": groups, "bias": bias}
        x = normal((batch, groups * inputs, *size), seed)
        ours, theirs = convolution.Conv2d(*shape, **options), nn.Conv2d(*shape, **options)
        same_as_torch(ours, theirs, x, random_parameters=seed)

    run()


def by_autograd(x: Tensor, weight: Tensor, bias: Tensor, window: Window, groups: int) -> Any:
    """torch's output, a random δ and the gradients that autograd makes of it."""
    leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
    y = F.conv2d(*leaves, **arguments(window), groups=groups)
    delta = normal(tuple(y.shape), 4242)
    return y.detach(), delta, torch.autograd.grad(y, leaves, delta)


def draw_case(geometry: Any, numbers: Any, seed: int) -> tuple[Any, ...]:
    (window, size), (batch, groups, inputs, outputs) = geometry, numbers
    x = normal((batch, groups * inputs, *size), seed)
    weight = normal((groups * outputs, inputs, *window.kernel_size), seed + 1)
    return x, weight, normal((groups * outputs,), seed + 2), window, groups


def check_loop(convolution: ModuleType) -> None:
    """The loops, forward and backward, equal torch's convolution."""

    @settings(one_bug, max_examples=60)
    @given(geometries(), channels, seeds)
    def run(geometry: Any, numbers: Any, seed: int) -> None:
        case = draw_case(geometry, numbers, seed)
        y, delta, gradients = by_autograd(*case)
        assume(y.numel() <= 200)
        x, weight, bias, window, groups = case
        assert_close(convolution.conv2d_loop(*case), y, **TIGHT)
        ours = convolution.conv2d_backward_loop(delta, x, weight, window, groups)
        for mine, autograds in zip(ours, gradients, strict=True):
            assert_close(mine, autograds, **TIGHT)

    run()


def check_input_gradient(convolution: ModuleType) -> None:
    """∂L/∂x as a convolution with flipped kernels equals autograd's."""

    @one_bug
    @given(geometries(), channels, seeds)
    def run(geometry: Any, numbers: Any, seed: int) -> None:
        case = draw_case(geometry, numbers, seed)
        _, delta, (grad_x, *_) = by_autograd(*case)
        x, weight, _, window, groups = case
        ours = convolution.input_gradient_as_convolution(
            delta, weight, window, tuple(x.shape[2:]), groups
        )
        assert_close(ours, grad_x, **TIGHT)

    run()


def check_transpose(im2col: ModuleType) -> None:
    """⟨im2col(x), c⟩ = ⟨x, col2im(c)⟩, and im2col holds torch's unfold."""

    @one_bug
    @given(geometries(), st.integers(0, 3), st.integers(1, 3), seeds)
    def run(geometry: Any, batch: int, count: int, seed: int) -> None:
        window, size = geometry
        # The module's own Window, so that a mistake planted in it takes part.
        own = im2col.Window(window.kernel_size, window.stride, window.padding, window.dilation)
        x = normal((batch, count, *size), seed)
        columns = im2col.im2col(x, own)
        if batch:
            unfolded = F.unfold(x, window.kernel_size, **arguments(window))
            assert_close(columns.flatten(4).flatten(1, 3), unfolded, **TIGHT)
        other = normal(tuple(columns.shape), seed + 1)
        image = im2col.col2im(other, own, size)
        assert image.shape == x.shape
        if batch:
            folded = F.fold(
                other.flatten(4).flatten(1, 3), size, window.kernel_size, **arguments(window)
            )
            assert_close(image, folded, **TIGHT)
        assert_close((columns * other).sum(), (x * image).sum(), rtol=1e-10, atol=1e-10)

    run()


@st.composite
def pool_geometries(draw: st.DrawFn) -> tuple[Window, tuple[int, int]]:
    kernel, stride = draw(pairs(1, 3)), draw(pairs(1, 3))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = tuple(
        max(1, k - 2 * pad) + draw(st.integers(0, 4))
        for k, pad in zip(kernel, padding, strict=True)
    )
    return Window(kernel, stride, padding), size


def check_max_pool(pooling: ModuleType) -> None:
    """Random numbers and small whole ones, of which many are equal: ties must go the same way."""

    @one_bug
    @given(pool_geometries(), st.integers(1, 3), st.integers(1, 3), st.booleans(), seeds)
    def run(geometry: Any, batch: int, count: int, ties: bool, seed: int) -> None:
        window, size = geometry
        x = normal((batch, count, *size), seed)
        x = x.round() if ties else x
        options = {"stride": window.stride, "padding": window.padding}
        ours = pooling.MaxPool2d(window.kernel_size, **options)
        theirs = nn.MaxPool2d(window.kernel_size, **options)
        same_as_torch(ours, theirs, x)

    run()


def check_average_pool(pooling: ModuleType) -> None:
    @one_bug
    @given(pool_geometries(), st.integers(1, 3), st.integers(1, 3), seeds)
    def run(geometry: Any, batch: int, count: int, seed: int) -> None:
        window, size = geometry
        options = {"stride": window.stride, "padding": window.padding}
        ours = pooling.AvgPool2d(window.kernel_size, **options)
        theirs = nn.AvgPool2d(window.kernel_size, **options)
        same_as_torch(ours, theirs, normal((batch, count, *size), seed))

    run()


def check_batch_norm(batch_norm: ModuleType) -> None:
    """Three batches in training, so that the buffers move, then evaluation."""

    @settings(one_bug, max_examples=100)
    @given(
        st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
        st.sampled_from((0.0, 10.0, 1000.0)),
        st.one_of(st.none(), st.floats(0, 1)),
        seeds,
    )
    def run(shape: tuple[int, ...], offset: float, momentum: float | None, seed: int) -> None:
        ours = batch_norm.BatchNorm2d(shape[1], momentum=momentum)
        theirs = nn.BatchNorm2d(shape[1], momentum=momentum)
        if shape[0] * shape[2] * shape[3] > 1:
            for step in range(3):
                for layer in (ours, theirs):
                    layer.zero_grad()
                x = normal(shape, seed + step) * (1 + step) + offset
                same_as_torch(ours, theirs, x, random_parameters=seed)
        for layer in (ours, theirs):
            layer.eval()
            layer.zero_grad()
        same_as_torch(ours, theirs, normal(shape, seed + 9) + offset, random_parameters=seed)

    run()
