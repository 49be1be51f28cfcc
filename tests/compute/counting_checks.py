"""What a count must meet: the library's counter, multiplications done one by one, closed forms.

Each check takes the module under test, so that planted mistakes can be put through it as well.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def library_counts(module: nn.Module, *inputs: Tensor) -> tuple[int, int]:
    """Return what torch's counter sees of a forward and of its backward pass."""
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            output = module(*inputs)
        output = output[0] if isinstance(output, tuple) else output
        with FlopCounterMode(display=False) as backward:
            output.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def assert_equal_to_library(counting: ModuleType, module: nn.Module, *inputs: Tensor) -> None:
    counted = counting.count(module.double(), *inputs)
    forward, backward = library_counts(module, *inputs)
    assert counted.forward.products == forward
    assert counted.backward.products == backward


def numbers(*shape: int, gradient: bool = False) -> Tensor:
    return torch.ones(shape, dtype=torch.float64).requires_grad_(gradient)


def check_linear(operations: ModuleType) -> None:
    """Two operations a multiply-add, one for each bias; and twice the products back."""
    cost = operations.linear(7, 3, 5)
    assert cost.forward.products == 2 * 7 * 3 * 5
    assert cost.forward.other == 7 * 5
    assert cost.backward.products == 2 * cost.forward.products
    assert cost.backward.other == 7 * 5
    assert operations.linear(7, 3, 5, bias=False).forward.other == 0


def multiply_adds_of_convolution(x: Tensor, conv: nn.Conv2d) -> int:
    """Multiply each patch with each kernel, group by group, and count the products."""
    patches = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    rows = patches.unflatten(1, (conv.groups, -1))  # (N, groups, in/groups · kernel, places)
    weight = conv.weight.unflatten(0, (conv.groups, -1)).flatten(2)  # (groups, out/groups, …)
    products = weight[None, :, :, :, None] * rows[:, :, None]
    sums = products.sum(3).flatten(1, 2).view(len(x), conv.out_channels, -1)
    torch.testing.assert_close(
        sums,
        F.conv2d(
            x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups
        ).flatten(2),
    )
    return products.numel()


def check_convolution(
    operations: ModuleType, groups: int = 2, stride: int = 2, padding: int = 1, dilation: int = 1
) -> None:
    conv = nn.Conv2d(
        4, 6, (3, 2), stride=stride, padding=padding, dilation=dilation, groups=groups
    ).double()
    x = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0)).double()
    output = conv(x)
    cost = operations.convolution(2, 4, 6, (3, 2), output.shape[2:], groups=groups)
    assert cost.forward.products == 2 * multiply_adds_of_convolution(x, conv)
    assert cost.forward.other == output.numel()
    assert cost.backward.products == 2 * cost.forward.products


class Attention(nn.Module):
    """Attention alone, for the library's counter."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value)


def check_attention(operations: ModuleType) -> None:
    """Two products forward and four back, as the library counts its plain kernel."""
    inputs = [numbers(2, 3, t, d, gradient=True) for t, d in ((5, 4), (7, 4), (7, 6))]
    cost = operations.attention(2, 3, 5, 7, 4, value_dim=6)
    assert (cost.forward.products, cost.backward.products) == library_counts(Attention(), *inputs)
    again = operations.attention(2, 3, 5, 7, 4, value_dim=6, recompute=True)
    assert again.backward.products - cost.backward.products == 2 * (2 * 3 * 5 * 7) * 4


def check_causal_attention(operations: ModuleType) -> None:
    for queries, keys in ((1, 1), (5, 5), (3, 8)):
        mask = torch.ones(queries, keys).tril(keys - queries)
        cost = operations.attention(1, 1, queries, keys, 4, causal=True)
        assert cost.forward.products == 2 * 2 * 4 * int(mask.sum())


def check_experts(operations: ModuleType) -> None:
    """k experts and the router's products; the number of experts enters through the router."""
    few, many = (operations.mixture_of_experts(10, 8, 32, e, 2) for e in (2, 64))
    dense = operations.feed_forward(10, 8, 32)
    assert few.forward.products == 2 * dense.forward.products + 2 * 10 * 8 * 2
    assert many.forward.products - few.forward.products == 2 * 10 * 8 * 62


def check_recurrent(operations: ModuleType) -> None:
    """A cell step by step: gates · units · (inputs + units) multiply-adds, twice as many FLOPs."""
    for cell, kind in (("rnn", nn.RNNCell), ("lstm", nn.LSTMCell), ("gru", nn.GRUCell)):
        one = kind(3, 4)
        weights = one.weight_ih.numel() + one.weight_hh.numel()
        cost = operations.recurrent(cell, 2, 5, 3, 4)
        assert cost.forward.products == 2 * weights * 2 * 5
        first_state = 2 * one.weight_hh.numel() * 2
        assert cost.backward.products == 2 * cost.forward.products - first_state
