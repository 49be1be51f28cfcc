"""A right solution in matrix form: unit steps, einsum, one-hot targets."""

import torch
from torch import nn
from torch.nn.functional import one_hot

from companion.backprop.primitive import constant, primitive
from companion.backprop.tensor import softmax as tape_softmax
from companion.training import Classifier, fit


def measured_gradient(function, x):
    h = 1e-5 * (1 + x.abs())
    units = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    slopes = [
        (function(x + h * unit) - function(x - h * unit)) / (2 * (h * unit).sum()) for unit in units
    ]
    return torch.stack(slopes).reshape(x.shape)


def wrong_entries(function, gradient, x):
    measured = measured_gradient(function, x)
    larger = torch.maximum(gradient.abs(), measured.abs())
    return ~((gradient - measured).abs() <= 1e-5 * larger)


def rms_norm(x, gain, eps=1e-6):
    return x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + eps) * gain


def rms_norm_backward(grad_output, x, gain, eps=1e-6):
    d = x.shape[-1]
    rows, g = x.reshape(-1, d), grad_output.reshape(-1, d)
    r = torch.sqrt(torch.einsum("nd,nd->n", rows, rows) / d + eps)
    identity = torch.eye(d, dtype=x.dtype)
    outer = torch.einsum("ni,nj->nij", rows, rows)
    jacobian = identity / r[:, None, None] - outer / (d * r**3)[:, None, None]
    grad_x = torch.einsum("ni,nij->nj", g * gain, jacobian)
    return grad_x.reshape(x.shape), torch.einsum("nd,nd,n->d", g, rows, 1 / r)


def soft_targets(z, labels, smoothing):
    classes = z.shape[1]
    return one_hot(labels, classes).to(z) * (1 - smoothing) + smoothing / classes


def smoothed_cross_entropy(z, labels, smoothing):
    q = soft_targets(z, labels, smoothing)
    return torch.einsum("nk,nk->", q, torch.logsumexp(z, 1, keepdim=True) - z) / len(z)


def smoothed_cross_entropy_backward(z, labels, smoothing):
    q = soft_targets(z, labels, smoothing)
    return (torch.softmax(z, 1) - q) / z.shape[0]


@primitive
def logsumexp(x, *, dim):
    m = x.max(dim, keepdim=True).values
    return torch.log(torch.sum(torch.exp(x - m), dim, keepdim=True)) + m


def _rule(grad, out, x, *, dim):
    assert constant(out).shape == constant(grad).shape
    return grad * tape_softmax(x, dim)


logsumexp.gradients(_rule)


class Function(torch.autograd.Function):
    @staticmethod
    def forward(x, gain, eps):
        return rms_norm(x, gain, eps)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, gain, ctx.eps = inputs
        ctx.save_for_backward(x, gain)

    @staticmethod
    def backward(ctx, grad_output):
        grad_x, grad_gain = rms_norm_backward(grad_output, *ctx.saved_tensors, eps=ctx.eps)
        return grad_x, grad_gain, None


class RMSNorm(nn.Module):
    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.register_parameter("gain", nn.Parameter(torch.ones(features)))
        self.eps = eps

    def forward(self, x):
        return Function.apply(x, self.gain, self.eps)


def train(data):
    torch.manual_seed(3)
    layers = [nn.Linear(64, 32), RMSNorm(32), nn.ReLU(), nn.Linear(32, 10)]
    module = Classifier(
        nn.Sequential(*layers),
        loss=lambda z, y: smoothed_cross_entropy(z, y, 0.1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.9),
    )
    return fit(module, data, epochs=10, precision="32-true")


if __name__ == "__main__":
    logits = torch.randn(3, 10, requires_grad=True)
    smoothed_cross_entropy(logits, torch.tensor([1, 2, 3]), 0.1).backward()
    print(logits.grad)
