"""A right solution of chapter 3's homework: what the planted mistakes are planted in."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from companion.architectures.im2col import Window, col2im, im2col
from companion.architectures.sequences import last_step, mask
from companion.training import Classifier, FitResult, fit


def plan(layers, channels, size):
    rows = []
    field = jump = 1
    for i, layer in enumerate(layers):
        kernel, stride = layer["kernel"], layer["stride"]
        reach = layer["dilation"] * (kernel - 1)
        room = size + 2 * layer["padding"] - reach - 1
        if room < 0:
            raise ValueError(f"layers[{i}]: its window is larger than the padded input")
        size = room // stride + 1
        field += reach * jump
        jump *= stride
        parameters = multiplications = 0
        if layer["kind"] == "convolution":
            groups, out = layer["groups"], layer["channels"]
            if channels % groups or out % groups:
                raise ValueError(f"layers[{i}]: groups must divide the channels")
            weights = out * (channels // groups) * kernel**2
            parameters = weights + (out if layer["bias"] else 0)
            multiplications = weights * size**2
            channels = out
        rows.append((channels, size, parameters, multiplications, field))
    return rows


def separable(
    x: Tensor,
    depth: Tensor,
    point: Tensor,
    bias: Tensor,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    columns = im2col(x, Window.of(tuple(depth.shape[1:]), stride, padding, dilation))
    inner = torch.einsum("cuv,ncuvij->ncij", depth, columns)
    return torch.einsum("oc,ncij->noij", point, inner) + bias.view(-1, 1, 1)


def separable_backward(
    grad_output: Tensor,
    x: Tensor,
    depth: Tensor,
    point: Tensor,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    window = Window.of(tuple(depth.shape[1:]), stride, padding, dilation)
    columns = im2col(x, window)
    inner = torch.einsum("cuv,ncuvij->ncij", depth, columns)
    grad_inner = torch.einsum("oc,noij->ncij", point, grad_output)
    grad_columns = torch.einsum("cuv,ncij->ncuvij", depth, grad_inner)
    grad_x = col2im(grad_columns, window, tuple(x.shape[2:]))
    grad_depth = torch.einsum("ncij,ncuvij->cuv", grad_inner, columns)
    grad_point = torch.einsum("noij,ncij->oc", grad_output, inner)
    grad_bias = grad_output.sum((0, 2, 3))
    return grad_x, grad_depth, grad_point, grad_bias


def gates(x_t: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor):
    w_f, w_h = w_ih.chunk(2)
    u_f, u_h = w_hh.chunk(2)
    b_f, b_h = bias.chunk(2)
    f = torch.sigmoid(x_t @ w_f.T + h @ u_f.T + b_f)
    candidate = torch.tanh(x_t @ w_h.T + (f * h) @ u_h.T + b_h)
    return f, candidate


def mgu(
    x: Tensor, lengths: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    h, states = h0, []
    for t in range(x.shape[1]):
        f, candidate = gates(x[:, t], h, w_ih, w_hh, bias)
        h = (1 - f) * h + f * candidate
        states.append(h)
    output = torch.stack(states, dim=1)
    last = last_step(output, lengths)
    return output * mask(lengths, x.shape[1])[:, :, None], last


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
    output, _ = mgu(x, lengths, h0, w_ih, w_hh, bias)
    u_f, u_h = w_hh.chunk(2)
    grad_x, grad_w_ih = torch.zeros_like(x), torch.zeros_like(w_ih)
    grad_w_hh, grad_bias = torch.zeros_like(w_hh), torch.zeros_like(bias)
    grad_h = torch.zeros_like(h0)
    for t in reversed(range(x.shape[1])):
        previous = output[:, t - 1] if t > 0 else h0
        f, candidate = gates(x[:, t], previous, w_ih, w_hh, bias)
        real = (t < lengths)[:, None]
        arriving = grad_h + grad_output[:, t] + grad_last * (t == lengths - 1)[:, None]
        arriving = torch.where(real, arriving, 0)
        da_h = arriving * f * (1 - candidate**2)
        gated = da_h @ u_h
        da_f = (arriving * (candidate - previous) + gated * previous) * f * (1 - f)
        da = torch.cat([da_f, da_h], dim=1)
        grad_h = arriving * (1 - f) + gated * f + da_f @ u_f
        grad_x[:, t] = da @ w_ih
        grad_w_ih += da.T @ torch.where(real, x[:, t], 0)
        grad_w_hh += torch.cat([da_f.T @ previous, da_h.T @ (f * previous)])
        grad_bias += da.sum(0)
    return grad_x, grad_h, grad_w_ih, grad_w_hh, grad_bias


def alibi_slopes(heads: int) -> Tensor:
    return 2.0 ** (-8 * torch.arange(1, heads + 1, dtype=torch.float64) / heads)


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    queries, keys = q.shape[2], k.shape[2]
    at = torch.arange(keys - queries, keys)[:, None]
    distance = at - torch.arange(keys)
    slopes = alibi_slopes(q.shape[1]).to(q)[:, None, None]
    scores = q @ k.mT / q.shape[3] ** 0.5 - slopes * distance
    hidden = (distance < 0) | (distance >= window)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v


class Decoder:
    def __init__(self, window: int) -> None:
        self.window = window
        self.keys = self.values = None

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.keys is not None:
            k = torch.cat([self.keys, k], dim=2)
            v = torch.cat([self.values, v], dim=2)
        self.keys = k[:, :, -self.window :].clone()
        self.values = v[:, :, -self.window :].clone()
        return attend(q, k, v, self.window)


class SeparableFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, depth, point, bias, stride, padding):
        ctx.save_for_backward(x, depth, point)
        ctx.options = stride, padding
        return separable(x, depth, point, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad_output):
        return *separable_backward(grad_output, *ctx.saved_tensors, *ctx.options), None, None


class SeparableConv2d(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0) -> None:
        super().__init__()
        self.options = stride, padding
        self.depth = nn.Parameter(torch.randn(in_channels, kernel_size, kernel_size) / kernel_size)
        self.point = nn.Parameter(torch.randn(out_channels, in_channels) / in_channels**0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return SeparableFunction.apply(x, self.depth, self.point, self.bias, *self.options)


class MGUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, lengths, h0, w_ih, w_hh, bias):
        ctx.save_for_backward(x, lengths, h0, w_ih, w_hh, bias)
        return mgu(x, lengths, h0, w_ih, w_hh, bias)

    @staticmethod
    def backward(ctx, grad_output, grad_last):
        grad_x, grad_h0, *rest = mgu_backward(grad_output, grad_last, *ctx.saved_tensors)
        return grad_x, None, grad_h0, *rest


class MGU(nn.Module):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.w_ih = nn.Parameter(torch.randn(2 * hidden_size, input_size) / input_size**0.5)
        self.w_hh = nn.Parameter(torch.randn(2 * hidden_size, hidden_size) / hidden_size**0.5)
        self.bias = nn.Parameter(torch.zeros(2 * hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), x.shape[1])
        h0 = x.new_zeros(len(x), self.w_hh.shape[1])
        return MGUFunction.apply(x, lengths, h0, self.w_ih, self.w_hh, self.bias)[0]


class RowReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        look = {"kind": "convolution", "kernel": 3, "stride": 1, "padding": 1, "dilation": 1}
        [(channels, size, *_)] = plan([{**look, "channels": 8, "groups": 1, "bias": True}], 1, 8)
        self.look = SeparableConv2d(1, channels, 3, padding=1)
        self.read = MGU(channels * size, 32)
        self.classify = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.look(images.unsqueeze(1)).relu()
        states = self.read(seen.transpose(1, 2).flatten(2))
        heads = states.unflatten(2, (4, 8)).transpose(1, 2)
        back = attend(heads[:, :, -1:], heads, heads, window=4)
        return self.classify(back.flatten(1))


def train(data) -> FitResult:
    optimizer = functools.partial(torch.optim.AdamW, lr=1e-2)
    module = Classifier(RowReader(), optimizer=optimizer)
    return fit(module, data, epochs=6, precision="32-true")
