"""The convolutional networks: published sizes, hand-made references, shapes, bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from companion.architectures.cnn import LeNet5, LeNet300100, ResidualBlock, ResNet, SmallCNN

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def images(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_lenet_300_100_has_the_parameters_of_its_name():
    assert count(LeNet300100()) == 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10 == 266_610


def test_lenet_5_has_the_papers_60_000_parameters_and_the_deviations_that_it_states():
    """LeCun et al. (1998), II.B, layer by layer: 156, 12, 1516, 32, 48120, 10164."""
    paper = {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48_120, "F6": 10_164}
    assert sum(paper.values()) == 60_000
    full_table = 16 * (6 * 25 + 1)  # instead of C3's 1516
    expected = sum(paper.values()) - paper["S2"] - paper["S4"] - paper["C3"] + full_table
    assert count(LeNet5()) == expected + 10 * 85  # a linear output instead of fixed bitmaps
    sizes = [count(part) for part in LeNet5().features if count(part)]
    assert sizes == [paper["C1"], full_table, paper["C5"], paper["F6"]]


@pytest.mark.parametrize(
    ("blocks_per_stage", "depth", "millions"),
    [(3, 20, 0.27), (5, 32, 0.46), (7, 44, 0.66), (9, 56, 0.85), (18, 110, 1.7)],
)
def test_resnet_has_the_depth_and_size_of_table_6_of_the_paper(blocks_per_stage, depth, millions):
    network = ResNet(in_channels=3, blocks_per_stage=blocks_per_stage)
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    digits = 2 if millions < 1 else 1
    assert round(count(network) / 1e6, digits) == millions


def test_shortcuts_have_no_parameters_of_their_own():
    with_them, without = ResNet(), ResNet(shortcuts=False)
    shapes = [
        {name: tuple(value.shape) for name, value in network.state_dict().items()}
        for network in (with_them, without)
    ]
    assert shapes[0] == shapes[1]


def test_small_cnn_equals_the_same_written_with_functions():
    network = SmallCNN(7, in_channels=3, image_size=12, width=4).double().eval()
    x = images(0, 5, 3, 12, 12)
    first, second = (part for part in network.features if isinstance(part, nn.Conv2d))
    y = F.max_pool2d(F.conv2d(x, first.weight, first.bias, padding=1).relu(), 2)
    y = F.max_pool2d(F.conv2d(y, second.weight, second.bias, padding=1).relu(), 2)
    expected = y.reshape(5, 8 * 3 * 3) @ network.classifier.weight.T + network.classifier.bias
    assert_close(network(x), expected, **TIGHT)


def test_small_cnn_drops_features_in_training_only():
    network, x = SmallCNN(dropout=0.5), torch.randn(4, 1, 28, 28)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("new", [0, 3])
def test_a_residual_block_whose_body_is_zero_is_the_relu_of_its_shortcut(stride, new):
    block = ResidualBlock(2, 2 + new, stride).double()
    nn.init.zeros_(block.body[-1].weight)  # the last batch norm's scale: f(x) = 0
    x = images(1, 3, 2, 7, 8)
    y = block(x)
    assert_close(y[:, :2], x[:, :, ::stride, ::stride].relu(), **TIGHT)
    assert not y[:, 2:].any()


def test_the_block_with_a_shortcut_is_the_plain_one_plus_x_before_the_relu():
    block = ResidualBlock(3, 3).double().eval()
    x = images(2, 2, 3, 6, 6)
    assert_close(block(x), (block.body(x) + x).relu(), **TIGHT)
    block.shortcut = False
    assert_close(block(x), block.body(x).relu(), **TIGHT)


def test_shortcuts_carry_the_gradient_through_sixty_blocks():
    """Without them, in evaluation (no batch statistics), a small gain a layer multiplies up."""
    ratios = {}
    for shortcuts in (True, False):
        torch.manual_seed(0)
        network = ResNet(widths=(4,), blocks_per_stage=60, shortcuts=shortcuts).double().eval()
        with torch.no_grad():
            for part in network.modules():
                if isinstance(part, nn.Conv2d):
                    part.weight.mul_(0.5)
        x = images(3, 2, 1, 8, 8).requires_grad_()
        network(x).square().sum().backward()
        ratios[shortcuts] = x.grad.norm().item()
    assert ratios[True] > 1e6 * ratios[False]


@settings(max_examples=20)
@given(st.integers(0, 3), st.integers(1, 3), st.integers(4, 13), st.integers(1, 12))
def test_every_size_and_batch_gives_logits(batch, channels, size, classes):
    x = torch.zeros(batch, channels, size, size)
    for network in (
        SmallCNN(classes, channels, size, width=2),
        ResNet(classes, channels, widths=(2, 3)),
    ):
        assert network.eval()(x).shape == (batch, classes)


@pytest.mark.parametrize("network", [LeNet300100(6), LeNet5(6), SmallCNN(6), ResNet(6)])
def test_networks_map_fashion_mnist_shapes_and_reach_every_parameter(network):
    logits = network(torch.randn(3, 1, 28, 28))
    assert logits.shape == (3, 6)
    logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_lenet_300_100_takes_flat_images_too():
    network, x = LeNet300100(), torch.randn(2, 1, 28, 28)
    assert torch.equal(network(x), network(x.flatten(1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeNet300100(0), "num_classes=0: an integer of at least 1"),
        (lambda: LeNet5(True), "num_classes=True"),
        (lambda: SmallCNN(0), "num_classes=0"),
        (lambda: SmallCNN(in_channels=0), "in_channels=0"),
        (lambda: SmallCNN(image_size=3), "image_size=3: an integer of at least 4"),
        (lambda: SmallCNN(width=0.5), "width=0.5"),
        (lambda: SmallCNN(dropout=1.0), r"dropout=1.0: a number in \[0, 1\)"),
        (lambda: ResNet(widths=()), r"widths=\(\): at least one stage"),
        (lambda: ResNet(widths=16), "widths=16"),
        (lambda: ResNet(widths=(16, 0)), "widths=0"),
        (lambda: ResNet(widths=(16, 8)), r"widths=\(16, 8\): no stage can be narrower"),
        (lambda: ResNet(blocks_per_stage=0), "blocks_per_stage=0"),
        (lambda: ResNet(in_channels=0), "in_channels=0"),
        (lambda: ResidualBlock(4, 3), "out_channels=3: an integer of at least 4"),
        (lambda: ResidualBlock(4, 4, 0), "stride=0"),
        (lambda: LeNet300100()(torch.zeros(2, 28, 28)), r"x has shape \(2, 28, 28\); \(batch, 1"),
        (lambda: LeNet5()(torch.zeros(2, 1, 32, 32)), r"x has shape \(2, 1, 32, 32\)"),
        (lambda: LeNet5()(torch.zeros(1, 28, 28)), r"x has shape \(1, 28, 28\)"),
        (lambda: SmallCNN()(torch.zeros(2, 3, 28, 28)), r"\(batch, 1, 28, 28\) is needed"),
        (lambda: SmallCNN(image_size=8)(torch.zeros(2, 1, 8, 9)), r"\(batch, 1, 8, 8\) is"),
        (lambda: ResNet()(torch.zeros(2, 1, 3, 9)), "at least 4 x 4 pixels is needed"),
        (lambda: ResNet()(torch.zeros(2, 2, 9, 9)), r"\(batch, 1, height, width\)"),
        (lambda: ResNet()(torch.zeros(1, 9, 9)), r"x has shape \(1, 9, 9\)"),
    ],
)
def test_bad_input_is_refused_by_name_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
