"""Homework of chapter 2, Backpropagation. Fill in the functions, then grade this file with

    companion check backprop THIS_FILE.py

The page book/backprop/homework says what each task asks for, and which names it must do without.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from companion.backprop.primitive import primitive
from companion.training import FitResult


# Task 1, gradient-check (15 points)
def wrong_entries(function: Callable[[Tensor], Tensor], gradient: Tensor, x: Tensor) -> Tensor:
    """Return a boolean tensor shaped like x: True where `gradient` is wrong.

    Args:
        function: takes a float64 tensor shaped like x, returns a single number.
        gradient: what somebody claims the gradient of `function` at x to be.
        x: float64, any shape; it must be the same afterwards.
    """
    raise NotImplementedError


# Task 2, rms-norm (20 points)
def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    """Return gain · x / r, with r the root of the mean square of each row, plus eps inside.

    Args:
        x: (..., features).
        gain: (features,).
    """
    raise NotImplementedError


def rms_norm_backward(
    grad_output: Tensor, x: Tensor, gain: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Return (∂L/∂x, ∂L/∂gain), in the shapes of x and gain, by hand."""
    raise NotImplementedError


# Task 3, smoothed-cross-entropy (20 points)
def smoothed_cross_entropy(z: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of softmax(z) against smoothed targets, a scalar.

    Args:
        z: (batch, classes) logits.
        labels: (batch,), int64.
        smoothing: α in [0, 1].
    """
    raise NotImplementedError


def smoothed_cross_entropy_backward(z: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return ∂L/∂z, shape (batch, classes), by hand."""
    raise NotImplementedError


# Task 4, logsumexp (15 points)
@primitive
def logsumexp(x: Tensor, *, dim: int) -> Tensor:
    """Return log Σ exp(x) along `dim`, which stays as an axis of size 1."""
    raise NotImplementedError


# logsumexp.gradients(...)


# Task 5, rms-norm-layer (15 points)
class RMSNormFunction(torch.autograd.Function):
    """The functions of task 2, for torch's autograd to call."""

    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        raise NotImplementedError


class RMSNorm(nn.Module):
    """rms_norm as a layer with one parameter, `gain`, all ones at first."""

    def __init__(self, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return RMSNormFunction.apply(x, self.gain, self.eps)


# Task 6, train (15 points)
def train(data: LightningDataModule) -> FitResult:
    """Train Linear(64, 32), RMSNorm(32), ReLU, Linear(32, 10) with smoothing 0.1 on `data`.

    Args:
        data: flattened Digits, a training and a validation set.

    Returns:
        What `companion.training.fit` returned.
    """
    raise NotImplementedError
