"""Recipes of the page `cnn`: hand-written layers against autograd, and four networks that learn.

As in `companion.backprop.layer_recipes`: module, data, the arguments of `companion.training.fit`,
and a check that raises AssertionError unless the technique did its work.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.architectures.batch_norm import BatchNorm2d
from companion.architectures.cnn import LeNet5, LeNet300100, ResNet, SmallCNN
from companion.architectures.convolution import Conv2d
from companion.architectures.im2col import Window, im2col
from companion.architectures.pooling import AvgPool2d, Flatten, MaxPool2d
from companion.architectures.receptive_field import influence, receptive_field
from companion.backprop.layer_recipes import against_autograd
from companion.backprop.layers import Linear, ReLU, Sequential
from companion.data.arrays import Arrays, InMemory
from companion.data.digits import Digits
from companion.techniques import Recipe
from companion.training import Classifier, FitResult

ADAM = partial(torch.optim.AdamW, lr=3e-3)


def images() -> Digits:
    """Images (batch, 1, 8, 8); no smaller last batch, which would compile once more on a TPU."""
    return Digits(drop_last=True)


def enlarged() -> InMemory:
    """The same digits with 28 x 28 pixels, the size that both LeNets take."""
    small = images()
    small.setup()

    def enlarge(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return F.interpolate(part[0], size=(28, 28), mode="bilinear"), part[1]

    return Arrays(enlarge(small.train), test=enlarge(small.test), batch_size=64, drop_last=True)


def learns(network: nn.Module, data: InMemory, accuracy: float, epochs: int) -> Recipe:
    """Train `network` with AdamW; the check asks for an accuracy on images it has not seen."""

    def check(result: FitResult) -> None:
        reached = result.metrics["test_accuracy"]
        assert reached >= accuracy, f"test accuracy {reached:.3f}, at least {accuracy} is needed"

    options = {"epochs": epochs, "precision": "32-true", "test": True}
    return Recipe(Classifier(network, optimizer=ADAM), data, options, check)


def convolution() -> Recipe:
    """Stride, padding, dilation and groups, forward and backward by hand, against autograd."""
    hand = Sequential(
        *(Conv2d(1, 4, 3, stride=2, padding=1), ReLU()),
        *(Conv2d(4, 8, 3, padding=2, dilation=2, groups=2), ReLU(), Flatten(), Linear(128, 10)),
    )
    twin = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU()),
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)),
    )
    return against_autograd(hand, twin, images)


class MatrixConvolution(nn.Module):
    """A convolution as one matrix product of `im2col`'s columns; autograd does its backward."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.window = Window.of(kernel_size)
        self.dense = nn.Linear(in_channels * kernel_size**2, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, H, W) to (batch, out_channels, H', W')."""
        columns = im2col(x, self.window)
        rows = columns.flatten(1, 3).permute(0, 2, 3, 1)  # (batch, H', W', C · kh · kw)
        return self.dense(rows).permute(0, 3, 1, 2)


def im2col_convolution() -> Recipe:
    """A dense layer on the columns learns, and what it learnt is a convolution's kernel."""
    layer = MatrixConvolution(1, 8, 3)
    network = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    recipe = learns(network, images(), accuracy=0.9, epochs=5)

    def check(result: FitResult) -> None:
        recipe.check(result)
        trained, x = result.module.network.cpu()[0], recipe.data.test[0]
        with torch.no_grad():
            kernel = trained.dense.weight.view(8, 1, 3, 3)
            torch.testing.assert_close(trained(x), F.conv2d(x, kernel, trained.dense.bias))

    return Recipe(recipe.module, recipe.data, recipe.trainer_options, check)


def around(layer: nn.Module, theirs: nn.Module, outputs: int) -> Recipe:
    """A network by hand with `layer` after its convolution, and its twin in torch.nn."""
    hand = Sequential(Conv2d(1, 8, 3, bias=False), layer, ReLU(), Flatten(), Linear(outputs, 10))
    twin = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, bias=False), theirs, nn.ReLU()),
        *(nn.Flatten(), nn.Linear(outputs, 10)),
    )
    return against_autograd(hand, twin, images)


def max_pooling() -> Recipe:
    """The gradient goes to the largest of four."""
    return around(MaxPool2d(2), nn.MaxPool2d(2), 8 * 3 * 3)


def average_pooling() -> Recipe:
    """The gradient is shared among overlapping windows."""
    return around(AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1), 8 * 3 * 3)


def batch_norm_2d() -> Recipe:
    """Each channel normalised over batch and pixels; running statistics as in torch.nn."""
    ours, theirs = BatchNorm2d(8), nn.BatchNorm2d(8)
    recipe = around(ours, theirs, 8 * 6 * 6)

    def check(result: FitResult) -> None:
        recipe.check(result)  # trains the twin
        for name, expected in theirs.named_buffers():
            mine = ours.get_buffer(name).cpu()
            torch.testing.assert_close(mine, expected.cpu(), rtol=0.02, atol=0.02)

    return Recipe(recipe.module, recipe.data, recipe.trainer_options, check)


def field_of_view() -> Recipe:
    """After training as before it, gradients reach the closed form's pixels and no others."""
    features = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
    )
    network = nn.Sequential(features, nn.Flatten(), nn.Linear(128, 10))
    recipe = learns(network, images(), accuracy=0.85, epochs=4)

    def check(result: FitResult) -> None:
        recipe.check(result)
        trained = result.module.network.cpu()[0].double()
        rows, columns = receptive_field(trained).pixels(1, 2, (8, 8))
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[rows.start : rows.stop, columns.start : columns.stop] = True
        assert torch.equal(influence(trained, (1, 8, 8), (1, 2), images=100) > 0, expected)
        trained.float()

    return Recipe(recipe.module, recipe.data, recipe.trainer_options, check)


def lenet_300_100() -> Recipe:
    """Two dense layers on enlarged digits."""
    return learns(LeNet300100(), enlarged(), accuracy=0.9, epochs=3)


def lenet_5() -> Recipe:
    """Convolutions and means in turn, on enlarged digits."""
    return learns(LeNet5(), enlarged(), accuracy=0.85, epochs=3)


def small_cnn() -> Recipe:
    """Two convolutions and one dense layer."""
    return learns(SmallCNN(image_size=8, width=16), images(), accuracy=0.9, epochs=4)


def residual_network() -> Recipe:
    """Fourteen layers that learn, and shortcuts that let a block be skipped altogether."""
    network = ResNet(widths=(8, 16, 32), blocks_per_stage=2)
    recipe = learns(network, images(), accuracy=0.9, epochs=4)

    def check(result: FitResult) -> None:
        recipe.check(result)
        trained = result.module.network.cpu().eval()
        block, x = trained.blocks[1], recipe.data.test[0]
        with torch.no_grad():
            before = trained.blocks[0](trained.stem(x))
            scale, shift = block.body[-1].weight.clone(), block.body[-1].bias.clone()
            for parameter in (block.body[-1].weight, block.body[-1].bias):
                parameter.zero_()  # f(x) = 0
            assert torch.equal(block(before), before), "without f, the block must pass x through"
            block.body[-1].weight.copy_(scale)
            block.body[-1].bias.copy_(shift)

    return Recipe(recipe.module, recipe.data, recipe.trainer_options, check)
