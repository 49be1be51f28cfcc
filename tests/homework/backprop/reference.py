"""A right solution of chapter 2's homework: what the planted mistakes are planted in."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from companion.backprop.losses import log_softmax, softmax
from companion.backprop.primitive import primitive
from companion.training import Classifier, FitResult, fit


def wrong_entries(function: Callable[[Tensor], Tensor], gradient: Tensor, x: Tensor) -> Tensor:
    wrong = torch.zeros(x.shape, dtype=torch.bool)
    for i in range(x.numel()):
        step = 6e-6 * max(1.0, x.view(-1)[i].abs().item())
        ahead, behind = x.clone(), x.clone()
        ahead.view(-1)[i] += step
        behind.view(-1)[i] -= step
        measured = (float(function(ahead)) - float(function(behind))) / (2 * step)
        claimed = gradient.reshape(-1)[i].item()
        close = abs(claimed - measured) <= 1e-5 * max(abs(claimed), abs(measured))
        wrong.view(-1)[i] = not close
    return wrong


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    r = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x / r * gain


def rms_norm_backward(
    grad_output: Tensor, x: Tensor, gain: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    inverse = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    x_hat = x * inverse
    u = grad_output * gain
    grad_x = inverse * (u - x_hat * (u * x_hat).mean(-1, keepdim=True))
    grad_gain = (grad_output * x_hat).reshape(-1, x.shape[-1]).sum(0)
    return grad_x, grad_gain


def smoothed_targets(z: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    targets = torch.full_like(z, smoothing / z.shape[1])
    rows = torch.arange(len(labels), device=z.device)
    targets[rows, labels] += 1 - smoothing
    return targets


def smoothed_cross_entropy(z: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    per_row = (smoothed_targets(z, labels, smoothing) * log_softmax(z)).sum(1)
    return -per_row.mean()


def smoothed_cross_entropy_backward(z: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return (softmax(z) - smoothed_targets(z, labels, smoothing)) / len(z)


@primitive
def logsumexp(x: Tensor, *, dim: int) -> Tensor:
    largest = x.amax(dim, keepdim=True)
    return largest + (x - largest).exp().sum(dim, keepdim=True).log()


logsumexp.gradients(lambda grad, out, x, dim: grad * (x - out).exp())


class RMSNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, gain)
        ctx.eps = eps
        return rms_norm(x, gain, eps)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain = ctx.saved_tensors
        return *rms_norm_backward(grad_output, x, gain, ctx.eps), None


class RMSNorm(nn.Module):
    def __init__(self, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return RMSNormFunction.apply(x, self.gain, self.eps)


def train(data) -> FitResult:
    network = nn.Sequential(nn.Linear(64, 32), RMSNorm(32), nn.ReLU(), nn.Linear(32, 10))
    module = Classifier(
        network,
        loss=functools.partial(smoothed_cross_entropy, smoothing=0.1),
        optimizer=functools.partial(torch.optim.AdamW, lr=1e-2),
    )
    return fit(module, data, epochs=8)
