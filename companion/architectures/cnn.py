"""Four convolutional and dense networks: LeNet-300-100, LeNet-5, the course's SmallCNN, a ResNet.

    LeNet300100   784 → 300 → 100 → 10, dense
    LeNet5        conv5·6 → pool → conv5·16 → pool → conv5·120 → 84 → 10
    SmallCNN      conv3·32 → pool → conv3·64 → pool → dropout → 10
    ResNet        conv3 → stages of blocks  y = relu(x + f(x))  → mean over the image → 10

All map images (batch, channels, height, width) to logits (batch, num_classes): no softmax at the
end, which the loss contains.

Sources: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
recognition", Proc. IEEE 86 (1998), sections II.B and III.C; He, Zhang, Ren and Sun, "Deep residual
learning for image recognition", CVPR 2016, sections 3.3 and 4.2; Ioffe and Szegedy, ICML 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.arguments import check_fraction, check_integer


class LeNet300100(nn.Module):
    """Two hidden layers of 300 and 100 units on images of 28 x 28 pixels.

    As in LeCun et al. (1998), section III.C, but with ReLU where they used a scaled tanh, and
    logits for a cross-entropy where they fitted target values by least squares.

    Args:
        num_classes: number of logits.

    Raises:
        ValueError: `num_classes` is no positive integer; in ``forward``, images of another size.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        check_integer("num_classes", num_classes, minimum=1)
        self.layers = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU())
        self.classifier = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (batch, 1, 28, 28) or (batch, 784) to logits (batch, num_classes)."""
        if tuple(x.shape[1:]) not in ((1, 28, 28), (784,)):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; (batch, 1, 28, 28) or (batch, 784) is needed"
            )
        return self.classifier(self.layers(x.flatten(1)))


class LeNet5(nn.Module):
    """LeNet-5 on images of 28 x 28 pixels, with the layer sizes of LeCun et al. (1998), II.B.

    Where it deviates from the paper, as nearly everybody's LeNet-5 does: every map of the second
    convolution sees all six maps below (there: a table of chosen ones); the pooling layers have no
    weights and no squashing of their own; tanh is not scaled by 1.7159; the output is linear
    (there: distances to fixed 7 x 12 bitmaps); and the frame of two pixels that makes 28 x 28 into
    32 x 32 is padding of the first convolution, with zeros.

    Args:
        num_classes: number of logits.

    Raises:
        ValueError: `num_classes` is no positive integer; in ``forward``, images of another size.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        check_integer("num_classes", num_classes, minimum=1)
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),  # C1: (6, 28, 28)
            nn.Tanh(),
            nn.AvgPool2d(2),  # S2: (6, 14, 14)
            nn.Conv2d(6, 16, 5),  # C3: (16, 10, 10)
            nn.Tanh(),
            nn.AvgPool2d(2),  # S4: (16, 5, 5)
            nn.Conv2d(16, 120, 5),  # C5: (120, 1, 1)
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(120, 84),  # F6
            nn.Tanh(),
        )
        self.classifier = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (batch, 1, 28, 28) to logits (batch, num_classes)."""
        require_images(x, 1, 28)
        return self.classifier(self.features(x))


class SmallCNN(nn.Module):
    """The course's fast network: two convolutions, two poolings, one dense layer.

    The pooling stands before the ReLU. A maximum and a ReLU may change places without any effect
    on the result, and after the pooling the ReLU has a quarter of the numbers to go through.

    Args:
        num_classes: number of logits.
        in_channels: channels of an image.
        image_size: its height and width, at least 4; two poolings leave a quarter, rounded down.
        width: channels of the first convolution; the second has twice as many.
        dropout: share of the features dropped before the dense layer in training, in [0, 1).

    Raises:
        ValueError: an argument out of range; in ``forward``, images of another shape.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
        width: int = 32,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        check_integer("num_classes", num_classes, minimum=1)
        check_integer("in_channels", in_channels, minimum=1)
        check_integer("image_size", image_size, minimum=4)
        check_integer("width", width, minimum=1)
        check_fraction("dropout", dropout)
        self.in_channels, self.image_size = in_channels, image_size
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * width * (image_size // 4) ** 2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (batch, in_channels, image_size, image_size) to logits (batch, num_classes)."""
        require_images(x, self.in_channels, self.image_size)
        return self.classifier(self.dropout(self.features(x).flatten(1)))


class ResidualBlock(nn.Module):
    """y = relu(x + f(x)), f being two 3 x 3 convolutions with batch normalisation.

    With ``stride=2`` or more channels out than in, the shortcut takes every second pixel and adds
    channels of zeros (option A of the paper): it has no weights, so a network has the same
    parameters with and without shortcuts.

    Args:
        in_channels: channels of x.
        out_channels: channels of y, not fewer.
        stride: of the first convolution.
        shortcut: False leaves x out: y = relu(f(x)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, shortcut: bool = True
    ) -> None:
        super().__init__()
        check_integer("in_channels", in_channels, minimum=1)
        check_integer("out_channels", out_channels, minimum=in_channels)
        check_integer("stride", stride, minimum=1)
        self.stride, self.shortcut = stride, shortcut
        self.new_channels = out_channels - in_channels
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (batch, in_channels, H, W) to (batch, out_channels, ⌈H/stride⌉, ⌈W/stride⌉)."""
        y = self.body(x)
        if not self.shortcut:
            return torch.relu(y)
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return torch.relu(x + y)


class ResNet(nn.Module):
    """The residual network for small images: He et al. (2016), section 4.2.

    One convolution, then a stage of `blocks_per_stage` blocks for each width; from the second
    stage on, the first block halves height and width. The mean over the image goes into a dense
    layer. With three widths the depth is 6 · `blocks_per_stage` + 2 layers with weights.

    Args:
        num_classes: number of logits.
        in_channels: channels of an image; height and width are free, 2^(stages − 1) and more.
        widths: channels of each stage, none smaller than the one before.
        blocks_per_stage: residual blocks in each stage.
        shortcuts: False gives the plain network, same layers and same parameters.

    Raises:
        ValueError: an argument out of range; in ``forward``, images of another shape.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32, 64),
        blocks_per_stage: int = 1,
        shortcuts: bool = True,
    ) -> None:
        super().__init__()
        check_integer("num_classes", num_classes, minimum=1)
        check_integer("in_channels", in_channels, minimum=1)
        check_integer("blocks_per_stage", blocks_per_stage, minimum=1)
        check_widths(widths)
        self.in_channels = in_channels
        self.min_size = 2 ** (len(widths) - 1)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        blocks, channels = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks_per_stage):
                stride = 2 if stage and not block else 1
                blocks.append(ResidualBlock(channels, width, stride, shortcuts))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, num_classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):  # He et al. (2015): the size that ReLUs keep
                fan_out = part.out_channels * math.prod(part.kernel_size)
                nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (batch, in_channels, height, width) to logits (batch, num_classes)."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; (batch, {self.in_channels}, height, width) with "
                f"at least {self.min_size} x {self.min_size} pixels is needed"
            )
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


def require_images(x: Tensor, channels: int, size: int) -> None:
    """Raise ValueError unless x is (batch, channels, size, size)."""
    if tuple(x.shape[1:]) != (channels, size, size) or x.ndim != 4:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; (batch, {channels}, {size}, {size}) is needed"
        )


def check_widths(widths: Sequence[int]) -> None:
    """Raise ValueError unless `widths` holds positive integers, none smaller than the last."""
    if not isinstance(widths, Sequence) or isinstance(widths, str) or not widths:
        raise ValueError(f"widths={widths!r}: at least one stage is needed, for instance (16, 32)")
    for width in widths:
        check_integer("widths", width, minimum=1)
    if list(widths) != sorted(widths):
        raise ValueError(
            f"widths={tuple(widths)!r}: no stage can be narrower than the one before, as the "
            "shortcut adds channels and drops none"
        )
