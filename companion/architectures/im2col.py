r"""A window that slides over an image, and the two moves behind every convolution and pooling.

    im2col   (N, C, H, W) -> (N, C, kh, kw, H', W')     gather: what each tap of the window sees
    col2im   (N, C, kh, kw, H', W') -> (N, C, H, W)     scatter-add: the way back, its transpose

Output pixel (i, j) sees, through tap (u, v), the pixel (i·s + u·d, j·s + v·d) of the padded
image: stride s, dilation d. So tap (u, v) alone sees a regular grid of pixels, one slice:

    tap (u, v) = padded[u·d : u·d + (H' − 1)·s + 1 : s,  v·d : v·d + (W' − 1)·s + 1 : s]

with as many pixels as fit:  H' = ⌊(H + 2p − d·(kh − 1) − 1) / s⌋ + 1.

Sources: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning",
arXiv:1603.07285, relationships 6 and 15; Chellapilla, Puri and Simard, "High performance
convolutional neural networks for document processing", IWFHR 2006.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from companion.arguments import check_integer

Size = int | tuple[int, int]


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    """Return how many steps of a window fit, in pixels along one axis.

    Raises:
        ValueError: an argument out of range, or a window larger than the padded input.
    """
    check_integer("size", size, minimum=1)
    check_integer("kernel", kernel, minimum=1)
    check_integer("stride", stride, minimum=1)
    check_integer("padding", padding, minimum=0)
    check_integer("dilation", dilation, minimum=1)
    reach = dilation * (kernel - 1) + 1
    if reach > size + 2 * padding:
        raise ValueError(
            f"kernel={kernel} with dilation={dilation} reaches over {reach} pixels; the input has "
            f"{size + 2 * padding} with padding={padding}"
        )
    return (size + 2 * padding - reach) // stride + 1


@dataclass(frozen=True)
class Window:
    """Where a window looks, each entry for (height, width): in pixels of the input.

    Attributes:
        kernel_size: number of taps.
        stride: from one output pixel to the next.
        padding: rows or columns added on *each* side.
        dilation: from one tap to the next.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def of(
        cls, kernel_size: Size, stride: Size = 1, padding: Size = 0, dilation: Size = 1
    ) -> Window:
        """Build a window; a single number holds for both axes.

        Raises:
            ValueError: an argument out of range.
        """
        return cls(
            pair("kernel_size", kernel_size, minimum=1),
            pair("stride", stride, minimum=1),
            pair("padding", padding, minimum=0),
            pair("dilation", dilation, minimum=1),
        )

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (H', W') for an input of (H, W) pixels."""
        height, width = (
            output_size(*numbers)
            for numbers in zip(
                size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return height, width

    def taps(self, output: tuple[int, int]) -> Iterator[tuple[int, int, slice, slice]]:
        """Yield (u, v, rows, columns): where tap (u, v) looks in the padded image."""
        for u in range(self.kernel_size[0]):
            for v in range(self.kernel_size[1]):
                rows = every(u * self.dilation[0], self.stride[0], output[0])
                columns = every(v * self.dilation[1], self.stride[1], output[1])
                yield u, v, rows, columns


def every(start: int, step: int, count: int) -> slice:
    """Return the slice of `count` positions from `start` on, `step` apart."""
    return slice(start, start + step * (count - 1) + 1, step)


def pair(name: str, value: Any, *, minimum: int) -> tuple[int, int]:
    """Return a pair of integers of at least `minimum`, made of one number or of two.

    Raises:
        ValueError: it is neither.
    """
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(values) != 2:
        raise ValueError(f"{name}={value!r}: one integer or a pair (height, width) is needed")
    for one in values:
        check_integer(name, one, minimum=minimum)
    return values


def im2col(x: Tensor, window: Window, fill: float = 0.0) -> Tensor:
    """Gather what every tap sees at every position.

    Args:
        x: (batch, channels, height, width).
        window: kernel size, stride, padding, dilation.
        fill: the value of the padding.

    Returns:
        (batch, channels, kh, kw, H', W'): kh · kw numbers for each output pixel and channel.

    Raises:
        ValueError: x is not a batch of images, or smaller than the window.
    """
    require_image_batch(x)
    output = window.output_size((x.shape[2], x.shape[3]))
    (top, left) = window.padding
    padded = F.pad(x, (left, left, top, top), value=fill) if top or left else x
    taps = [padded[:, :, rows, columns] for _, _, rows, columns in window.taps(output)]
    return torch.stack(taps, 2).unflatten(2, window.kernel_size)


def col2im(columns: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Add every tap's number up where it came from: the transpose of :func:`im2col`.

    Args:
        columns: (batch, channels, kh, kw, H', W').
        window: the window of `im2col`.
        size: (height, width) of the image.

    Returns:
        (batch, channels, height, width). A pixel that m windows saw is a sum of m numbers.
    """
    (height, width), (top, left) = size, window.padding
    batch, channels = columns.shape[:2]
    padded = columns.new_zeros(batch, channels, height + 2 * top, width + 2 * left)
    output = (columns.shape[4], columns.shape[5])
    for u, v, rows, cols in window.taps(output):
        padded[:, :, rows, cols] += columns[:, :, u, v]
    return padded[:, :, top : top + height, left : left + width]


def require_image_batch(x: Tensor, channels: int | None = None) -> None:
    """Raise ValueError unless x is floating point and (batch, channels, height, width)."""
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}; it must be floating point")
    if x.ndim != 4 or (channels is not None and x.shape[1] != channels):
        wanted = "channels" if channels is None else channels
        raise ValueError(f"x has shape {tuple(x.shape)}; (batch, {wanted}, H, W) is needed")
