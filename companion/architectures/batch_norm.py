r"""Batch normalisation of images, with the running statistics in full view.

For each channel, over all images and pixels of the batch (m = N · H · W values),

    μ = mean(x)    v = mean((x − μ)²)    x̂ = (x − μ) / √(v + ε)    y = γ x̂ + β

and on the side, for later: with the momentum a,

    running_mean ← (1 − a) · running_mean + a · μ
    running_var  ← (1 − a) · running_var  + a · v · m/(m − 1)

The batch is divided by its *biased* variance v; the running variance averages the *unbiased* one.
In evaluation the running statistics take the place of μ and v, and they are constants: y is then
an affine function of x, one slope and one offset a channel, and images no longer see each other.

Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, sections 3 and 3.2, algorithm 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from companion.architectures.im2col import require_image_batch
from companion.arguments import check_integer
from companion.backprop.base import Layer, Pair
from companion.backprop.normalization import moments, normalize_backward, require_eps

DIMS = (0, 2, 3)


class BatchNorm2d(Layer):
    """Normalise each channel over batch and pixels; parameters and buffers of torch.nn's.

    Args:
        num_features: number of channels.
        eps: added to the variance under the root.
        momentum: weight of the newest batch in the running statistics, in [0, 1]; None makes them
            the plain mean over all batches so far.

    Raises:
        ValueError: an argument out of range; in ``forward``, images of another shape, or in
            training a single value a channel, which has no spread.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        check_integer("num_features", num_features, minimum=1)
        require_eps(eps)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum is {momentum}; it must lie between 0 and 1, or be None")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    @staticmethod
    def compute(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float = 1e-5,
        mean: Tensor | None = None,
        variance: Tensor | None = None,
    ) -> Pair:
        """Normalise with the batch's own statistics, or with those given, (C, 1, 1) each."""
        if mean is None or variance is None:
            mean, variance = moments(x, DIMS)
        inv_std = torch.rsqrt(variance + eps)
        x_hat = (x - mean) * inv_std
        return x_hat * on_channels(weight) + on_channels(bias), (x_hat, inv_std, weight)

    @staticmethod
    def vjp(
        grad_output: Tensor, x_hat: Tensor, inv_std: Tensor, weight: Tensor, constant: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Backpropagate; `constant` says that mean and variance did not come from x."""
        grad_x_hat = grad_output * on_channels(weight)
        if constant:
            grad_x = grad_x_hat * inv_std
        else:
            grad_x = normalize_backward(grad_x_hat, x_hat, inv_std, DIMS)
        return grad_x, (grad_output * x_hat).sum(DIMS), grad_output.sum(DIMS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x: (batch, num_features, height, width)."""
        require_image_batch(x, self.num_features)
        count = len(x) * math.prod(x.shape[2:])
        if self.training and count == 1:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; batch normalisation in training needs more than "
                "one value per channel"
            )
        if self.training:
            self.num_batches_tracked += 1
        if self.training and count:  # an empty batch has no statistics of its own
            mean, variance = moments(x, DIMS)
            self.track(mean.flatten(), variance.flatten() * count / (count - 1))
        else:
            mean, variance = on_channels(self.running_mean), on_channels(self.running_var)
        output, saved = self.compute(x, self.weight, self.bias, self.eps, mean, variance)
        return self.keep(output, (*saved, not self.training))

    @torch.no_grad()
    def track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Move the running statistics towards those of a batch, (C,) each."""
        newest = self.momentum
        if newest is None:
            newest = 1 / self.num_batches_tracked.to(self.running_mean.dtype)
        self.running_mean += newest * (mean.to(self.running_mean.dtype) - self.running_mean)
        self.running_var += newest * (
            unbiased_variance.to(self.running_var.dtype) - self.running_var
        )


def on_channels(v: Tensor) -> Tensor:
    """View (C,) as (C, 1, 1), which broadcasts over images and pixels."""
    return v.view(-1, 1, 1)
