r"""Layer and batch normalisation: one formula over two different axes.

Both subtract a mean, divide by a standard deviation, then scale and shift:

    μ = mean(x)    v = mean((x − μ)²)    x̂ = (x − μ) / √(v + ε)    y = γ ⊙ x̂ + β

Layer normalisation takes the mean over the features of one sample, batch normalisation over the
samples for one feature. With g = ∂L/∂x̂ = δ ⊙ γ, and all means over those same axes,

    ∂L/∂x = 1/√(v + ε) · ( g − mean(g) − x̂ ⊙ mean(g ⊙ x̂) )

The second term is what flows through μ, the third what flows through v: x cannot move its own mean
or its own spread, so those two directions are taken out of g.

In evaluation, batch normalisation uses running averages of μ and v, which are constants: only the
first term remains. As in torch.nn, the running variance averages the *unbiased* variance
v · n/(n − 1), while the batch itself is divided by the biased one.

Sources: Ioffe and Szegedy, "Batch Normalization", ICML 2015, section 3 (the backward pass is given
there in staged form; the three-term form follows by substitution); Ba, Kiros and Hinton, "Layer
Normalization", arXiv:1607.06450, section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from companion.backprop.base import Layer, Pair, require_positive, require_trailing_shape

Dims = tuple[int, ...]


def moments(x: Tensor, dims: Dims) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of x over `dims`, both kept as dimensions of size 1."""
    mean = x.mean(dims, keepdim=True)
    return mean, (x - mean).square().mean(dims, keepdim=True)


def normalize_backward(grad_x_hat: Tensor, x_hat: Tensor, inv_std: Tensor, dims: Dims) -> Tensor:
    """Return ∂L/∂x for x̂ = (x − μ) · inv_std, where μ and inv_std depend on x over `dims`.

    Args:
        grad_x_hat: ∂L/∂x̂, the shape of x.
        x_hat: the normalised values, the shape of x.
        inv_std: 1/√(v + ε), of size 1 along `dims`.
        dims: the axes that the statistics were taken over.
    """
    through_mean = grad_x_hat.mean(dims, keepdim=True)
    through_variance = x_hat * (grad_x_hat * x_hat).mean(dims, keepdim=True)
    return inv_std * (grad_x_hat - through_mean - through_variance)


class LayerNorm(Layer):
    """Normalise the last dimensions of each sample; parameters of `torch.nn.LayerNorm`."""

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        if not shape:
            raise ValueError("normalized_shape is (); it must name at least one dimension")
        for size in shape:
            require_positive(normalized_shape=size)
        require_eps(eps)
        self.normalized_shape, self.eps = tuple(shape), eps
        self.weight = nn.Parameter(torch.ones(self.normalized_shape))
        self.bias = nn.Parameter(torch.zeros(self.normalized_shape))

    @staticmethod
    def compute(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Pair:
        mean, variance = moments(x, _last(weight.ndim))
        inv_std = torch.rsqrt(variance + eps)
        x_hat = (x - mean) * inv_std
        return x_hat * weight + bias, (x_hat, inv_std, weight)

    @staticmethod
    def vjp(grad_output: Tensor, x_hat: Tensor, inv_std: Tensor, weight: Tensor) -> tuple:
        grad_x = normalize_backward(grad_output * weight, x_hat, inv_std, _last(weight.ndim))
        grad_weight = (grad_output * x_hat).reshape(-1, *weight.shape).sum(0)
        grad_bias = grad_output.reshape(-1, *weight.shape).sum(0)
        return grad_x, grad_weight, grad_bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x: (..., *normalized_shape)."""
        require_trailing_shape(x, self.normalized_shape)
        return self.keep(*self.compute(x, self.weight, self.bias, self.eps))


class BatchNorm1d(Layer):
    """Normalise each feature over the batch; parameters and buffers of `torch.nn.BatchNorm1d`.

    Args:
        num_features: C, the size of axis 1.
        eps: added to the variance under the root.
        momentum: weight of the newest batch in the running averages, in [0, 1]; None makes them
            the plain mean over all batches so far.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        require_positive(num_features=num_features)
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
        """Normalise with the batch's own statistics, or with those given, of size 1 along them."""
        if mean is None or variance is None:
            mean, variance = moments(x, _all_but_channels(x.ndim))
        inv_std = torch.rsqrt(variance + eps)
        x_hat = (x - mean) * inv_std
        y = x_hat * _on_channels(weight, x.ndim) + _on_channels(bias, x.ndim)
        return y, (x_hat, inv_std, weight)

    @staticmethod
    def vjp(
        grad_output: Tensor,
        x_hat: Tensor,
        inv_std: Tensor,
        weight: Tensor,
        constant_statistics: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dims = _all_but_channels(x_hat.ndim)
        grad_x_hat = grad_output * _on_channels(weight, x_hat.ndim)
        if constant_statistics:
            grad_x = grad_x_hat * inv_std
        else:
            grad_x = normalize_backward(grad_x_hat, x_hat, inv_std, dims)
        return grad_x, (grad_output * x_hat).sum(dims), grad_output.sum(dims)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x: (batch, C) or (batch, C, length).

        Raises:
            ValueError: another shape, or one value a channel in training: it has no spread.
        """
        self.require_shape(x)
        values = x.numel() // self.num_features
        if self.training and values == 1:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; batch normalisation in training needs more than "
                "one value per channel"
            )
        if self.training:
            self.num_batches_tracked += 1
        if not self.training or values == 0:  # an empty batch has no statistics of its own
            mean = _on_channels(self.running_mean, x.ndim)
            variance = _on_channels(self.running_var, x.ndim)
        else:
            mean, variance = moments(x, _all_but_channels(x.ndim))
            self._update_running(mean.flatten(), variance.flatten() * values / (values - 1))
        output, saved = self.compute(x, self.weight, self.bias, self.eps, mean, variance)
        return self.keep(output, (*saved, not self.training))

    def require_shape(self, x: Tensor) -> None:
        """Raise ValueError unless x is a batch that this layer normalises."""
        if x.ndim not in (2, 3) or x.shape[1] != self.num_features:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; it must be (batch, {self.num_features}) "
                f"or (batch, {self.num_features}, length)"
            )
        require_trailing_shape(x, tuple(x.shape[1:]))

    @torch.no_grad()
    def _update_running(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        newest = self.momentum
        if newest is None:
            newest = 1 / self.num_batches_tracked.to(self.running_mean.dtype)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), newest)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), newest)


def _last(count: int) -> Dims:
    return tuple(range(-count, 0))


def _all_but_channels(ndim: int) -> Dims:
    return (0, *range(2, ndim))


def _on_channels(v: Tensor, ndim: int) -> Tensor:
    """View (C,) so that it broadcasts along axis 1 of a tensor with `ndim` dimensions."""
    return v.view(-1, *[1] * (ndim - 2))


def require_eps(eps: Any) -> None:
    """Raise ValueError unless eps is a positive number."""
    if not eps > 0:
        raise ValueError(f"eps is {eps}; it must be > 0")
