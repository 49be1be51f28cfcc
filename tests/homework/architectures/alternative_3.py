"""A right solution that takes from the companion and from torch what the tasks leave open."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from companion.architectures.attention import masked_softmax
from companion.architectures.masks import causal_mask
from companion.architectures.sequences import mask
from companion.training import Classifier, fit

TAPS = ["kernel", "stride", "padding", "dilation"]


def plan(layers, channels, size):
    rows, jumps, reaches = [], [1], []
    for i, layer in enumerate(layers):
        kernel, stride, padding, dilation = (layer[name] for name in TAPS)
        reaches.append(dilation * (kernel - 1))
        count, extra = divmod(size + 2 * padding - reaches[-1] - 1, stride)
        if count < 0:
            raise ValueError(f"layers[{i}] does not fit")
        size, ins = count + 1, channels
        weights = bias = 0
        if "groups" in layer:
            channels, groups = layer["channels"], layer["groups"]
            if any(n // groups * groups != n for n in (ins, channels)):
                raise ValueError(f"layers[{i}] has groups that do not divide")
            per_group = (ins // groups) * (channels // groups) * kernel**2
            weights, bias = groups * per_group, channels * layer["bias"]
        seen = 1 + sum(reach * jump for reach, jump in zip(reaches, jumps, strict=True))
        jumps.append(jumps[-1] * stride)
        rows.append((channels, size, weights + bias, weights * size**2, seen))
    return rows


def unfolded(x, kernel, options):
    """Return (batch, channels, taps, pixels)."""
    return F.unfold(x, kernel, **options).unflatten(1, (x.shape[1], -1))


def separable(x, depth, point, bias, stride=1, padding=0, dilation=1):
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    height = (x.shape[2] + 2 * padding - dilation * (depth.shape[1] - 1) - 1) // stride + 1
    taps = unfolded(x, depth.shape[1:], options)
    # one matrix for both steps: what output o takes from tap u of channel c
    both = point[:, :, None] * depth.flatten(1)
    y = torch.tensordot(both, taps, dims=([1, 2], [1, 2])).movedim(1, 0) + bias[:, None]
    return y.unflatten(2, (height, -1))


def separable_backward(grad_output, x, depth, point, stride=1, padding=0, dilation=1):
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    kernel, taps = depth.shape[1:], unfolded(x, depth.shape[1:], options)
    delta, flat = grad_output.flatten(2), depth.flatten(1)
    both = point[:, :, None] * flat
    grad_taps = torch.tensordot(delta, both, dims=([1], [0])).permute(0, 2, 3, 1)
    grad_x = F.fold(grad_taps.flatten(1, 2), x.shape[2:], kernel, **options)
    grad_both = torch.tensordot(delta, taps, dims=([0, 2], [0, 3]))  # (outputs, channels, taps)
    grad_depth = (grad_both * point[:, :, None]).sum(0).reshape(depth.shape)
    return grad_x, grad_depth, (grad_both * flat).sum(2), delta.sum(2).sum(0)


def mgu(x, lengths, h0, w_ih, w_hh, bias):
    keep, h, states = mask(lengths, x.shape[1]), h0, []
    for t, x_t in enumerate(x.unbind(1)):
        f, new = both_parts(x_t, h, w_ih, w_hh, bias)
        h = torch.where(keep[:, t, None], torch.lerp(h, new, f), h)
        states.append(h)
    return torch.stack(states, 1).masked_fill(~keep[..., None], 0), h


def both_parts(x_t, h, w_ih, w_hh, bias):
    at_gate, at_new = F.linear(x_t, w_ih, bias).chunk(2, dim=-1)
    u_f, u_h = w_hh.chunk(2)
    f = (at_gate + F.linear(h, u_f)).sigmoid()
    return f, (at_new + F.linear(f * h, u_h)).tanh()


def mgu_backward(grad_output, grad_last, x, lengths, h0, w_ih, w_hh, bias):
    """Pack: at step t only the rows that are still there, longest first."""
    order = lengths.argsort(descending=True)
    x, h, steps = x[order], h0[order], []
    alive = [int((lengths > t).sum()) for t in range(x.shape[1])]
    for t, count in enumerate(alive):
        before = h[:count]
        f, new = both_parts(x[:count, t], before, w_ih, w_hh, bias)
        steps.append((before, f, new))
        h = torch.lerp(before, new, f)
    u_f, u_h = w_hh.chunk(2)
    back, delta = grad_last[order].clone(), grad_output[order]
    grads = {name: torch.zeros_like(w) for name, w in (("ih", w_ih), ("hh", w_hh), ("b", bias))}
    grad_x = torch.zeros_like(x)
    for t, count in reversed(list(enumerate(alive))):
        before, f, new = steps[t]
        here = back[:count] + delta[:count, t]
        at_new = here * f * (1 - new.square())
        gated = at_new @ u_h
        at_gate = torch.addcmul(here * (new - before), gated, before) * (f - f.square())
        back[:count] = here * (1 - f) + gated * f + at_gate @ u_f
        at_both = torch.hstack([at_gate, at_new])
        grad_x[:count, t] = at_both @ w_ih
        grads["ih"].addmm_(at_both.T, x[:count, t])
        grads["hh"] += torch.vstack([at_gate.T @ before, at_new.T @ (before * f)])
        grads["b"] += at_both.sum(0)
    undo = order.argsort()
    return grad_x[undo], back[undo], grads["ih"], grads["hh"], grads["b"]


def alibi_slopes(heads):
    return torch.full((heads,), 2 ** (-8 / heads), dtype=torch.float64).cumprod(0)


def attend(q, k, v, window):
    # The penalty is linear in the key's position, and what depends on the query alone drops out.
    queries, keys = q.shape[2], k.shape[2]
    slopes = alibi_slopes(q.shape[1]).to(q.dtype)[:, None, None]
    far = torch.arange(1 - keys, 1, dtype=q.dtype)
    scores = torch.matmul(q, k.transpose(2, 3)).div(q.shape[3] ** 0.5) + slopes * far
    seen = causal_mask(queries, keys).triu(keys - queries - window + 1)
    return torch.matmul(masked_softmax(scores, seen), v)


class Decoder:
    def __init__(self, window):
        self.window, self.held = window, None

    def step(self, q, k, v):
        both = torch.cat([k, v], dim=-1)
        both = both if self.held is None else torch.cat([self.held, both], dim=2)
        self.held = both[:, :, max(0, both.shape[2] - self.window + 1) :].clone()
        return attend(q, *both.split([k.shape[-1], v.shape[-1]], dim=-1), self.window)


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, options, *tensors):
        ctx.options = options
        ctx.save_for_backward(*tensors)
        return separable(*tensors, **options)

    @staticmethod
    def backward(ctx, delta):
        return None, *separable_backward(delta, *ctx.saved_tensors[:3], **ctx.options)


class Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *tensors):
        ctx.save_for_backward(*tensors)
        return mgu(*tensors)[0]

    @staticmethod
    def backward(ctx, delta):
        x, lengths, h0, *weights = ctx.saved_tensors
        found = mgu_backward(delta, torch.zeros_like(h0), x, lengths, h0, *weights)
        return found[0], None, *found[1:]


class SeparableConv2d(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0):
        super().__init__()
        self.options = {"stride": stride, "padding": padding}
        self.register_parameter("bias", nn.Parameter(torch.rand(out_channels) / 10))
        self.register_parameter("point", nn.Parameter(torch.randn(out_channels, in_channels)))
        depth = torch.randn(in_channels, kernel_size, kernel_size) / kernel_size
        self.register_parameter("depth", nn.Parameter(depth))

    def forward(self, x):
        return Step.apply(self.options, x, self.depth, self.point, self.bias)


class MGU(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        made = nn.GRU(input_size, hidden_size).state_dict()
        self.w_ih = nn.Parameter(made["weight_ih_l0"][hidden_size:].clone())
        self.w_hh = nn.Parameter(made["weight_hh_l0"][hidden_size:].clone())
        self.bias = nn.Parameter(made["bias_ih_l0"][hidden_size:].clone())

    def forward(self, x):
        lengths, h0 = torch.tensor([x.shape[1]] * len(x)), x.new_zeros(len(x), self.w_hh.shape[1])
        return Through.apply(x, lengths, h0, self.w_ih, self.w_hh, self.bias)


class RowReader(nn.Module):
    def __init__(self):
        super().__init__()
        look = {"kind": "convolution", "kernel": 3, "stride": 1, "padding": 1, "dilation": 1}
        [(channels, size, *_)] = plan([{**look, "channels": 8, "groups": 1, "bias": True}], 1, 8)
        self.look = SeparableConv2d(1, channels, 3, padding=1)
        self.read = MGU(channels * size, 32)
        self.classify = nn.Linear(32, 10)

    def forward(self, images):
        seen = self.look(images.unsqueeze(1)).relu()
        states = self.read(seen.transpose(1, 2).flatten(2))
        heads = states.unflatten(2, (4, 8)).transpose(1, 2)
        back = attend(heads[:, :, -1:], heads, heads, window=4)
        return self.classify(back.flatten(1))


def train(data):
    optimizer = partial(torch.optim.NAdam, lr=1e-2)
    return fit(Classifier(RowReader(), optimizer=optimizer), data, epochs=6, precision="32-true")
