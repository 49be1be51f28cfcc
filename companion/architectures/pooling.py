r"""Pooling, forward and backward, and the flattening that follows it.

    MaxPool2d   y = max over the window     δ goes to the pixel that was the maximum
    AvgPool2d   y = mean over the window    δ / (kh · kw) goes to each pixel
    Flatten     (N, C, H, W) → (N, C·H·W)   δ gets its shape back

Where windows overlap, a pixel adds up what it receives. Of several equal maxima the first one, row
by row, takes all: a choice that torch.nn makes as well.

Source: LeCun et al., Proc. IEEE 86 (1998), section II.A, for pooling by means ("sub-sampling");
Dumoulin and Visin, arXiv:1603.07285, chapter 3, for its arithmetic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from companion.architectures.im2col import Size, Window, col2im, im2col, require_image_batch
from companion.backprop.base import Layer, Pair


class _Pool(Layer):
    """Arguments and shapes that both kinds of pooling share."""

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        step = kernel_size if stride is None else stride
        self.window = Window.of(kernel_size, step, padding)
        for pad, kernel in zip(self.window.padding, self.window.kernel_size, strict=True):
            if 2 * pad > kernel:
                raise ValueError(
                    f"padding={padding!r}: at most half of kernel_size={kernel_size!r}, or a "
                    "window may see nothing but padding"
                )

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (batch, channels, height, width) to (batch, channels, H', W')."""
        require_image_batch(x)
        return self.keep(*self.compute(x, self.window))


class MaxPool2d(_Pool):
    """The largest number under each window; arguments of `torch.nn.MaxPool2d`.

    Args:
        kernel_size, stride, padding: one number, or a pair for (height, width). The stride is the
            kernel size if None: windows side by side. Padding never wins.

    Raises:
        ValueError: an argument out of range; in ``forward``, no batch of images.
    """

    @staticmethod
    def compute(x: Tensor, window: Window) -> Pair:
        columns = im2col(x, window, fill=-math.inf)
        y, winner = columns.flatten(2, 3).max(2)  # (N, C, H', W'), the first of equals
        return y, (winner, window, (x.shape[2], x.shape[3]))

    @staticmethod
    def vjp(
        grad_output: Tensor, winner: Tensor, window: Window, size: tuple[int, int]
    ) -> tuple[Tensor]:
        batch, channels, *output = grad_output.shape
        taps = grad_output.new_zeros(batch, channels, math.prod(window.kernel_size), *output)
        taps = taps.scatter(2, winner.unsqueeze(2), grad_output.unsqueeze(2))
        return (col2im(taps.unflatten(2, window.kernel_size), window, size),)


class AvgPool2d(_Pool):
    """The mean under each window, padding counted as zeros; arguments of `torch.nn.AvgPool2d`.

    Args:
        kernel_size, stride, padding: as in :class:`MaxPool2d`.

    Raises:
        ValueError: an argument out of range; in ``forward``, no batch of images.
    """

    @staticmethod
    def compute(x: Tensor, window: Window) -> Pair:
        return im2col(x, window).mean((2, 3)), (window, (x.shape[2], x.shape[3]))

    @staticmethod
    def vjp(grad_output: Tensor, window: Window, size: tuple[int, int]) -> tuple[Tensor]:
        share = grad_output / math.prod(window.kernel_size)
        batch, channels, *output = share.shape
        taps = share[:, :, None, None].expand(batch, channels, *window.kernel_size, *output)
        return (col2im(taps, window, size),)


class Flatten(Layer):
    """Lay each image out as one row: (batch, ...) to (batch, product of the rest)."""

    @staticmethod
    def compute(x: Tensor) -> Pair:
        return x.reshape(len(x), math.prod(x.shape[1:])), (x.shape,)

    @staticmethod
    def vjp(grad_output: Tensor, shape: torch.Size) -> tuple[Tensor]:
        return (grad_output.reshape(shape),)
