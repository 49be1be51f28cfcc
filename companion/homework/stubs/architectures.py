"""Homework of chapter 3, Architectures. Fill in the functions, then grade this file with

    companion check architectures THIS_FILE.py

The page book/architectures/homework says what each task asks for, and which names it must do
without.
"""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from companion.training import FitResult


# Task 1, plan (15 points)
def plan(
    layers: list[dict[str, Any]], channels: int, size: int
) -> list[tuple[int, int, int, int, int]]:
    """Return (channels, size, parameters, multiplications, field) after each layer.

    Args:
        layers: convolutions and poolings in a row. Each has "kind", "kernel", "stride", "padding",
            "dilation"; where the kind is "convolution", also "channels" (those that go out),
            "groups" and "bias" (True or False).
        channels: of the image.
        size: height and width of the image.

    Raises:
        ValueError: layers[i] cannot be built; the message names it so, "layers[i]".
    """
    raise NotImplementedError


# Task 2, separable-convolution (25 points)
def separable(
    x: Tensor,
    depth: Tensor,
    point: Tensor,
    bias: Tensor,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """Return a depthwise convolution followed by a pointwise one, (batch, outputs, H', W').

    Args:
        x: (batch, channels, height, width).
        depth: (channels, kernel height, kernel width): each channel's own kernel.
        point: (outputs, channels).
        bias: (outputs,), added at the end.
    """
    raise NotImplementedError


def separable_backward(
    grad_output: Tensor,
    x: Tensor,
    depth: Tensor,
    point: Tensor,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ∂L/∂x, ∂L/∂depth, ∂L/∂point and ∂L/∂bias, by hand."""
    raise NotImplementedError


# Task 3, minimal-gated-unit (25 points)
def mgu(
    x: Tensor, lengths: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the minimal gated unit over a padded batch.

    Args:
        x: (batch, time, features); row n is real up to step lengths[n], the rest is padding.
        lengths: (batch,), int64, from 1 to time.
        h0: (batch, hidden), the state before the first step.
        w_ih: (2·hidden, features), the rows of the gate first, then those of the candidate.
        w_hh: (2·hidden, hidden), likewise.
        bias: (2·hidden,), likewise.

    Returns:
        The states, (batch, time, hidden), 0 at padding; and each row's last real state,
        (batch, hidden).
    """
    raise NotImplementedError


def mgu_backward(
    grad_output: Tensor,
    grad_last: Tensor,
    x: Tensor,
    lengths: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return ∂L/∂x, ∂L/∂h0, ∂L/∂w_ih, ∂L/∂w_hh and ∂L/∂bias, by hand.

    Args:
        grad_output: ∂L/∂ the states, (batch, time, hidden); any numbers may stand at padding.
        grad_last: ∂L/∂ the last states, (batch, hidden).
    """
    raise NotImplementedError


# Task 4, sliding-attention (20 points)
def alibi_slopes(heads: int) -> Tensor:
    """Return the slope of each head, (heads,), float64."""
    raise NotImplementedError


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Return what each query gathers from the last `window` positions up to its own.

    Args:
        q: (batch, heads, T, features): the last T of the S positions.
        k: (batch, heads, S, features).
        v: (batch, heads, S, E).

    Returns:
        (batch, heads, T, E), in the type of q.
    """
    raise NotImplementedError


class Decoder:
    """attend for a text that arrives bit by bit; keeps no more than `window` positions."""

    def __init__(self, window: int) -> None:
        raise NotImplementedError

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output at the new positions: all arguments (batch, heads, new, features)."""
        raise NotImplementedError


# Task 5, train (15 points)
class SeparableConv2d(nn.Module):
    """separable as a layer; parameters depth, point and bias, a backward pass of its own."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, H', W')."""
        raise NotImplementedError


class MGU(nn.Module):
    """mgu from h0 = 0, all steps real; parameters w_ih, w_hh and bias, a backward of its own."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, input_size) to the states, (batch, time, hidden_size)."""
        raise NotImplementedError


class RowReader(nn.Module):
    """Sees strokes, reads an image row by row, and looks back at the last rows. Leave it as it is.

    Maps images (batch, 8, 8) to logits (batch, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        look = {"kind": "convolution", "kernel": 3, "stride": 1, "padding": 1, "dilation": 1}
        [(channels, size, *_)] = plan([{**look, "channels": 8, "groups": 1, "bias": True}], 1, 8)
        self.look = SeparableConv2d(1, channels, 3, padding=1)
        self.read = MGU(channels * size, 32)
        self.classify = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.look(images.unsqueeze(1)).relu()  # (batch, channels, rows, columns)
        states = self.read(seen.transpose(1, 2).flatten(2))  # (batch, rows, hidden)
        heads = states.unflatten(2, (4, 8)).transpose(1, 2)  # (batch, heads, rows, features)
        back = attend(heads[:, :, -1:], heads, heads, window=4)  # (batch, heads, 1, features)
        return self.classify(back.flatten(1))


def train(data: LightningDataModule) -> FitResult:
    """Train a RowReader on `data`, digits as (batch, 8, 8) images.

    Returns:
        What `companion.training.fit` returned.
    """
    raise NotImplementedError
