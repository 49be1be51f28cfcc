r"""Two-dimensional convolution, forward and backward: loops, then matrix products.

For one image and one group, with the padded input x (C, H, W) and the weights w (O, C, kh, kw),

    y[o, i, j] = b[o] + Σ_{c,u,v} w[o, c, u, v] · x[c, i·s + u·d, j·s + v·d]

which mathematics calls cross-correlation; convolution proper has w[o, c, −u, −v]. With
δ = ∂L/∂y the gradients follow from reading the sum once for each letter in it:

    ∂L/∂b[o]          = Σ_{i,j}   δ[o, i, j]
    ∂L/∂w[o, c, u, v] = Σ_{i,j}   δ[o, i, j] · x[c, i·s + u·d, j·s + v·d]
    ∂L/∂x[c, a, b]    = Σ         δ[o, i, j] · w[o, c, u, v]  where i·s + u·d = a, j·s + v·d = b

each summed over the batch where x does not appear. With `im2col` the three sums are matrix
products. With G groups, outputs o of group g see the inputs c of group g alone.

Sources: LeCun et al., Proc. IEEE 86 (1998), section II.A; Dumoulin and Visin, arXiv:1603.07285,
chapter 4 for the transposed convolution; Chellapilla, Puri and Simard (2006).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.architectures.im2col import Size, Window, col2im, im2col, require_image_batch
from companion.arguments import check_integer
from companion.backprop.base import Layer, Pair


def cross_correlation(x: Tensor, kernel: Tensor) -> Tensor:
    """Return y[i, j] = Σ_{u,v} kernel[u, v] · x[i + u, j + v], where the kernel fits inside x.

    Args:
        x: (height, width).
        kernel: (kh, kw).

    Returns:
        (height − kh + 1, width − kw + 1).
    """
    columns = im2col(x[None, None], Window.of(tuple(kernel.shape)))[0, 0]  # (kh, kw, H', W')
    return torch.einsum("uv,uvij->ij", kernel, columns)


def convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """Return the convolution of mathematics: the cross-correlation with the kernel turned by 180°.

    Args and result as in :func:`cross_correlation`.
    """
    return cross_correlation(x, kernel.flip(0, 1))


def conv2d_loop(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int = 1
) -> Tensor:
    """The definition: one output number at a time, a patch of the image times a kernel.

    Args and result: as in :func:`conv2d_forward`.
    """
    padded = _pad(x, window)
    height, width = window.output_size((x.shape[2], x.shape[3]))
    y = x.new_zeros(len(x), len(weight), height, width)
    for n, o, i, j in _positions(y):
        y[n, o, i, j] = (padded[_patch(n, o, i, j, weight, window, groups)] * weight[o]).sum()
        if bias is not None:
            y[n, o, i, j] += bias[o]
    return y


def conv2d_backward_loop(
    grad_output: Tensor, x: Tensor, weight: Tensor, window: Window, groups: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass over the same loops: every product of the forward pass sends back two.

    Args and result: as in :func:`conv2d_backward`.
    """
    padded = _pad(x, window)
    grad_padded, grad_weight = torch.zeros_like(padded), torch.zeros_like(weight)
    grad_bias = weight.new_zeros(len(weight))
    for n, o, i, j in _positions(grad_output):
        delta, patch = grad_output[n, o, i, j], _patch(n, o, i, j, weight, window, groups)
        grad_weight[o] += delta * padded[patch]
        grad_padded[patch] += delta * weight[o]
        grad_bias[o] += delta
    (top, left), (height, width) = window.padding, x.shape[2:]
    return grad_padded[:, :, top : top + height, left : left + width], grad_weight, grad_bias


def _pad(x: Tensor, window: Window) -> Tensor:
    top, left = window.padding
    return F.pad(x, (left, left, top, top))


def _positions(y: Tensor) -> list[list[int]]:
    return torch.cartesian_prod(*(torch.arange(size) for size in y.shape)).tolist()


def _patch(n: int, o: int, i: int, j: int, weight: Tensor, window: Window, groups: int) -> tuple:
    """Index of what output (n, o, i, j) sees: its group's channels, its rows, its columns."""
    _, channels, kernel_height, kernel_width = weight.shape
    group = o // (len(weight) // groups)
    (row_step, column_step), (row_gap, column_gap) = window.stride, window.dilation
    top, left = i * row_step, j * column_step
    return (
        n,
        slice(group * channels, (group + 1) * channels),
        slice(top, top + row_gap * (kernel_height - 1) + 1, row_gap),
        slice(left, left + column_gap * (kernel_width - 1) + 1, column_gap),
    )


def conv2d_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int = 1
) -> Tensor:
    """Convolve by one matrix product for each image and group.

    Args:
        x: (batch, channels, height, width).
        weight: (out_channels, channels / groups, kh, kw), the layout of torch.nn.
        bias: (out_channels,) or None.
        window: kernel size, stride, padding, dilation.
        groups: parts that the channels fall into, each with its own outputs.

    Returns:
        (batch, out_channels, H', W').
    """
    columns = im2col(x, window)
    height, width = columns.shape[-2:]
    y = _rows(weight, groups) @ _matrices(columns, groups)  # (G, O/G, K) @ (N, G, K, P)
    y = y.reshape(len(x), len(weight), height, width)
    return y if bias is None else y + bias.view(-1, 1, 1)


def conv2d_backward(
    grad_output: Tensor, x: Tensor, weight: Tensor, window: Window, groups: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (∂L/∂x, ∂L/∂weight, ∂L/∂bias): two matrix products and a sum.

    Args:
        grad_output: (batch, out_channels, H', W'), ∂L/∂y.
        x, weight, window, groups: what the forward pass was given.
    """
    delta = grad_output.flatten(2).unflatten(1, (groups, -1))  # (N, G, O/G, P)
    grad_matrices = _rows(weight, groups).mT @ delta  # (N, G, K, P)
    shape = (len(x), x.shape[1], *window.kernel_size, *grad_output.shape[2:])
    grad_x = col2im(grad_matrices.reshape(shape), window, (x.shape[2], x.shape[3]))
    return grad_x, *conv2d_parameter_gradients(grad_output, x, weight, window, groups)


def conv2d_parameter_gradients(
    grad_output: Tensor, x: Tensor, weight: Tensor, window: Window, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Return (∂L/∂weight, ∂L/∂bias) alone: all that the first layer of a network needs.

    The columns are gathered again: they hold kh · kw times as many numbers as x, too many to keep.
    """
    delta = grad_output.flatten(2).unflatten(1, (groups, -1))  # (N, G, O/G, P)
    products = delta @ _matrices(im2col(x, window), groups).mT  # (N, G, O/G, K)
    return products.sum(0).reshape(weight.shape), grad_output.sum((0, 2, 3))


def input_gradient_as_convolution(
    grad_output: Tensor, weight: Tensor, window: Window, size: tuple[int, int], groups: int = 1
) -> Tensor:
    """Return ∂L/∂x as a convolution once more: δ spread out by the stride, the kernel flipped.

    The sum for ∂L/∂x[a, b] runs over i·s = a − u·d. So put s − 1 zeros between the numbers of δ,
    pad it by d·(k − 1) − p, and correlate it with the kernels turned by 180° and their channels
    swapped: outputs become inputs.

    Args:
        grad_output: (batch, out_channels, H', W').
        weight: (out_channels, channels / groups, kh, kw).
        window, groups: as in the forward pass.
        size: (height, width) of x.
    """
    (height, width), (step_down, step_right) = grad_output.shape[2:], window.stride
    spread = grad_output.new_zeros(
        *grad_output.shape[:2], (height - 1) * step_down + 1, (width - 1) * step_right + 1
    )
    spread[:, :, ::step_down, ::step_right] = grad_output
    borders: list[int] = []
    for axis in (1, 0):  # F.pad begins with the last axis; negative padding cuts
        before = window.dilation[axis] * (window.kernel_size[axis] - 1) - window.padding[axis]
        reach = window.dilation[axis] * (window.kernel_size[axis] - 1)
        after = size[axis] + reach - spread.shape[2 + axis] - before
        borders += [before, after]
    turned = weight.flip(2, 3).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    plain = Window(window.kernel_size, dilation=window.dilation)
    return conv2d_forward(F.pad(spread, borders), turned, None, plain, groups)


def _rows(weight: Tensor, groups: int) -> Tensor:
    """Each kernel as a row: (groups, out / groups, channels / groups · kh · kw)."""
    return weight.reshape(groups, len(weight) // groups, -1)


def _matrices(columns: Tensor, groups: int) -> Tensor:
    """Each image and group as a matrix: (batch, groups, channels / groups · kh · kw, H' · W')."""
    return columns.flatten(4).reshape(
        len(columns), groups, math.prod(columns.shape[1:4]) // groups, math.prod(columns.shape[4:])
    )


class Conv2d(Layer):
    """Convolution with a bias; parameters, layout and initialisation of `torch.nn.Conv2d`.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        kernel_size, stride, padding, dilation: one number, or a pair for (height, width).
        groups: divides both numbers of channels; ``groups=in_channels`` is depthwise.
        bias: add one number to each output channel.

    Raises:
        ValueError: an argument out of range; in ``forward``, images of another shape.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_integer("in_channels", in_channels, minimum=1)
        check_integer("out_channels", out_channels, minimum=1)
        check_integer("groups", groups, minimum=1)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"groups={groups}: it must divide {name}={channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.window = Window.of(kernel_size, stride, padding, dilation)
        fan_in = in_channels // groups * math.prod(self.window.kernel_size)
        bound = 1 / math.sqrt(fan_in)
        shape = (out_channels, in_channels // groups, *self.window.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        offset = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None
        self.register_parameter("bias", offset)

    @staticmethod
    def compute(
        x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int = 1
    ) -> Pair:
        return conv2d_forward(x, weight, bias, window, groups), (x, weight, window, groups)

    @staticmethod
    def vjp(
        grad_output: Tensor, x: Tensor, weight: Tensor, window: Window, groups: int
    ) -> tuple[Tensor, ...]:
        return conv2d_backward(grad_output, x, weight, window, groups)

    def parameter_vjp(
        self, grad_output: Tensor, x: Tensor, weight: Tensor, window: Window, groups: int
    ) -> tuple[Tensor, ...]:
        return conv2d_parameter_gradients(grad_output, x, weight, window, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (batch, in_channels, height, width) to (batch, out_channels, H', W')."""
        require_image_batch(x, self.in_channels)
        return self.keep(*self.compute(x, self.weight, self.bias, self.window, self.groups))
