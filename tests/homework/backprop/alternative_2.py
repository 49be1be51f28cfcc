"""A right solution in loops, over single entries and rows, with the mathematics spelt out."""

import math
from functools import partial

import torch
from torch.optim import Adam

from companion.backprop.base import Layer, ManualFunction
from companion.backprop.losses import CROSS_ENTROPY, log_softmax, softmax
from companion.backprop.primitive import Primitive
from companion.training import Classifier, fit


def wrong_entries(function, gradient, x):
    answer = []
    for index in range(x.numel()):
        position = tuple(int(i) for i in torch.unravel_index(torch.tensor(index), x.shape))
        old = x[position].item()
        h = 1e-5 * max(abs(old), 1)
        values = []
        for moved in (old + h, old - h):
            x[position] = moved
            values.append(function(x).item())
        x[position] = old
        number = (values[0] - values[1]) / (2 * h)
        claim = gradient[position].item()
        answer.append(not math.isclose(claim, number, rel_tol=1e-5))
    return torch.tensor(answer).view(x.shape)


def root(row, eps):
    return math.sqrt(sum(v * v for v in row.tolist()) / len(row) + eps)


def rms_norm(x, gain, eps=1e-6):
    rows = [row / root(row, eps) * gain for row in x.reshape(-1, x.shape[-1])]
    return torch.stack(rows).view(x.shape) if rows else torch.zeros_like(x)


def rms_norm_backward(grad_output, x, gain, eps=1e-6):
    grad_x, grad_gain = torch.zeros_like(x), torch.zeros_like(gain)
    width = x.shape[-1]
    flat = grad_x.view(-1, width)
    deltas = grad_output.reshape(-1, width)
    for i, (delta, row) in enumerate(zip(deltas, x.reshape(-1, width), strict=True)):
        r = root(row, eps)
        grad_gain += delta * row / r
        dot = torch.dot(delta * gain, row)
        flat[i] = delta * gain / r - row * dot / (width * r**3)
    return grad_x, grad_gain


def smoothed_cross_entropy(z, labels, smoothing):
    log_p = log_softmax(z)
    plain = CROSS_ENTROPY.forward(z, labels)
    return (1 - smoothing) * plain - smoothing * log_p.mean(1).mean()


def smoothed_cross_entropy_backward(z, labels, smoothing):
    uniform = (softmax(z) - 1 / z.shape[1]) / z.shape[0]
    return (1 - smoothing) * CROSS_ENTROPY.backward(z, labels) + smoothing * uniform


def _forward(x, *, dim):
    top = torch.amax(x, dim=dim, keepdim=True)
    return torch.log1p(torch.exp(x - top).sum(dim, keepdim=True) - 1) + top


logsumexp = Primitive(_forward)
logsumexp.gradients(lambda grad, out, x, dim: (x - out).exp() * grad)


class Pair(Layer):
    @staticmethod
    def compute(x, gain, eps):
        return x / x.square().mean(-1, True).add(eps).sqrt() * gain, (x, gain, eps)

    @staticmethod
    def vjp(grad_output, x, gain, eps):
        return rms_norm_backward(grad_output.contiguous(), x, gain, eps)


class RMSNorm(torch.nn.Module):
    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(features))
        self.eps = eps

    def forward(self, x):
        return ManualFunction.apply(Pair, x, self.gain, self.eps)


def train(data):
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 32), RMSNorm(32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    )
    loss = partial(smoothed_cross_entropy, smoothing=0.1)
    module = Classifier(network, loss=loss, optimizer=partial(Adam, lr=0.02))
    return fit(module, data, epochs=4, precision="32-true")
