r"""Which input pixels an output pixel can see: in closed form, and measured through gradients.

Going through layers with kernel k, stride s, padding p and dilation d, starting from size 1,
jump 1, start 0:

    size ← size + d·(k − 1)·jump      start ← start − p·jump      jump ← jump·s

Output i then sees the `size` pixels from i · jump + start on (below 0 is padding).

Source: Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks",
Distill (2019), section "Single-path networks".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from companion.architectures.batch_norm import BatchNorm2d
from companion.architectures.im2col import Window
from companion.arguments import check_integer
from companion.backprop.base import Layer
from companion.backprop.layers import GELU, Dropout, ReLU, Sigmoid, Tanh

# Layers that map each pixel from that pixel (in evaluation), so they see no further.
POINTWISE = (
    *(nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Dropout, nn.BatchNorm2d),
    *(ReLU, GELU, Tanh, Sigmoid, Dropout, BatchNorm2d),
)


@dataclass(frozen=True)
class ReceptiveField:
    """What output pixel (i, j) sees, in pixels of the input, entries for (height, width).

    Attributes:
        size: extent of the field.
        jump: distance between the fields of neighbouring outputs.
        start: first pixel that output (0, 0) sees; negative where that is padding.
    """

    size: tuple[int, int] = (1, 1)
    jump: tuple[int, int] = (1, 1)
    start: tuple[int, int] = (0, 0)

    def through(self, window: Window) -> ReceptiveField:
        """Return the field after one more layer with this window."""
        axes = []
        for axis in (0, 1):
            size, jump, start = self.size[axis], self.jump[axis], self.start[axis]
            reach = window.dilation[axis] * (window.kernel_size[axis] - 1)
            step, pad = window.stride[axis], window.padding[axis]
            axes.append((size + reach * jump, jump * step, start - pad * jump))
        return ReceptiveField(*zip(*axes, strict=True))

    def pixels(self, i: int, j: int, image: tuple[int, int]) -> tuple[range, range]:
        """Return the rows and columns that output (i, j) sees of an image (height, width)."""
        ranges = []
        for place, size, jump, start, limit in zip(
            (i, j), self.size, self.jump, self.start, image, strict=True
        ):
            first = place * jump + start
            ranges.append(range(max(first, 0), min(first + size, limit)))
        rows, columns = ranges
        return rows, columns


def receptive_field(layers: Iterable[nn.Module]) -> ReceptiveField:
    """Return the receptive field of layers in a row: convolutions, poolings, pointwise layers.

    Raises:
        ValueError: a layer of another kind, or padding given in words.
    """
    field = ReceptiveField()
    for place, layer in enumerate(layers):
        if not isinstance(layer, POINTWISE):
            field = field.through(_window(place, layer))
    return field


def _window(place: int, layer: nn.Module) -> Window:
    window = getattr(layer, "window", None)
    if isinstance(layer, Layer) and isinstance(window, Window):
        return window
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        dilation = getattr(layer, "dilation", 1)
        return Window.of(layer.kernel_size, layer.stride, layer.padding, dilation)
    raise ValueError(
        f"layers[{place}] is {type(layer).__name__}; a convolution, a pooling or a layer that "
        "works on each pixel alone is needed"
    )


def influence(
    network: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
    position: tuple[int, int],
    images: int = 32,
    seed: int = 0,
) -> Tensor:
    """Measure how strongly each input pixel moves the outputs at `position`.

    The mean of |∂y/∂x| over random images, summed over channels: what autograd can still see from
    there. A single image would not do, since a ReLU or a maximum lets nothing through at places.

    Args:
        network: maps (images, channels, height, width) to (images, out_channels, H', W').
        shape: (channels, height, width) of an image.
        position: (i, j) of the output pixel.
        images: how many random images to try.
        seed: of the images.

    Returns:
        (height, width), float64.

    Raises:
        ValueError: `images` is no positive integer, or no output pixel has that position.
    """
    check_integer("images", images, minimum=1)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, *shape, generator=generator, dtype=torch.float64).requires_grad_()
    y = network(x)
    i, j = position
    if not (0 <= i < y.shape[2] and 0 <= j < y.shape[3]):
        raise ValueError(f"position={position}: the output has {tuple(y.shape[2:])} pixels")
    picked = y[:, :, i, j]
    signs = torch.randn(picked.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(picked, x, signs)
    return gradient.abs().mean(0).sum(0)
