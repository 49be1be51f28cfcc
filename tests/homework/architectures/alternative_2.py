"""A right solution in NumPy where it can be, with slices, one large matrix, and a ring of keys."""

import numpy as np
import torch
from torch import Tensor, nn

from companion.training import Classifier, fit


def plan(layers, channels, size):
    layers = [dict(layer, number=i) for i, layer in enumerate(layers)]
    return list(_walk(layers, channels, size, 1, 1))


def _walk(layers, channels, size, jump, field):
    if not layers:
        return
    layer, *rest = layers
    k, s, p, d = (layer[name] for name in ("kernel", "stride", "padding", "dilation"))
    out = layer.get("channels", channels)
    groups = layer.get("groups", 1)
    span = d * (k - 1) + 1
    if span > size + 2 * p or channels % groups or out % groups:
        raise ValueError(f"layers[{layer['number']}] cannot be built")
    size = (size + 2 * p - span + s) // s
    weights = out * channels * k * k // groups if layer["kind"] == "convolution" else 0
    offsets = out if layer.get("bias") else 0
    field += (span - 1) * jump
    yield out, size, weights + offsets, weights * size * size, field
    yield from _walk(rest, out, size, jump * s, field)


class Taps:
    """Each tap of the kernels as a slice of the padded images."""

    def __init__(self, x, kernel, stride, padding, dilation):
        self.padding, self.size = padding, x.shape[2:]
        edge = ((0, 0), (0, 0), (padding, padding), (padding, padding))
        self.padded = np.pad(x, edge)
        reach = [dilation * (k - 1) for k in kernel]
        ends = [n - r for n, r in zip(self.padded.shape[2:], reach, strict=True)]
        self.slices = {
            (u, v): (
                ...,
                slice(u * dilation, u * dilation + ends[0], stride),
                slice(v * dilation, v * dilation + ends[1], stride),
            )
            for u in range(kernel[0])
            for v in range(kernel[1])
        }

    def forward(self, depth):
        return sum(self.padded[s] * depth[:, u, v, None, None] for (u, v), s in self.slices.items())

    def backward(self, delta, depth):
        grad_padded, grad_depth = np.zeros_like(self.padded), np.zeros_like(depth)
        for (u, v), place in self.slices.items():
            grad_padded[place] += delta * depth[:, u, v, None, None]
            grad_depth[:, u, v] = np.einsum("ncij,ncij->c", delta, self.padded[place])
        (height, width), p = self.size, self.padding
        return grad_padded[:, :, p : p + height, p : p + width], grad_depth


def arrays(*tensors):
    return [each.detach().numpy() for each in tensors]


def separable(x, depth, point, bias, stride=1, padding=0, dilation=1) -> Tensor:
    x, depth, point, bias = arrays(x, depth, point, bias)
    inner = Taps(x, depth.shape[1:], stride, padding, dilation).forward(depth)
    y = np.tensordot(inner, point, axes=(1, 1)) + bias
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(y, 3, 1)))


def separable_backward(grad_output, x, depth, point, stride=1, padding=0, dilation=1):
    delta, x, depth, point = arrays(grad_output, x, depth, point)
    taps = Taps(x, depth.shape[1:], stride, padding, dilation)
    inner = taps.forward(depth)
    grad_point = np.tensordot(delta, inner, axes=((0, 2, 3), (0, 2, 3)))
    through = np.moveaxis(np.tensordot(delta, point, axes=(1, 0)), 3, 1)
    grad_x, grad_depth = taps.backward(through, depth)
    grads = (grad_x, grad_depth, grad_point, delta.sum(axis=(0, 2, 3)))
    return tuple(torch.from_numpy(np.ascontiguousarray(grad)) for grad in grads)


def logistic(a):
    return 0.5 * (1 + np.tanh(0.5 * a))


class Run:
    """All steps of a batch; rows that have ended keep their state."""

    def __init__(self, x, lengths, h0, w_ih, w_hh, bias):
        self.x, self.w_ih, self.w_hh = x, w_ih, w_hh
        self.n = n = h0.shape[1]
        self.real = np.arange(x.shape[1])[:, None] < lengths  # (time, batch)
        inputs = x @ w_ih.T + bias
        self.h, self.f, self.new = [h0], [], []
        for t, real in enumerate(self.real):
            f = logistic(inputs[:, t, :n] + self.h[-1] @ w_hh[:n].T)
            new = np.tanh(inputs[:, t, n:] + (f * self.h[-1]) @ w_hh[n:].T)
            f = np.where(real[:, None], f, 0)  # a gate of 0: the state stays
            self.f.append(f)
            self.new.append(new)
            self.h.append(self.h[-1] + f * (new - self.h[-1]))

    def backward(self, grad_output, grad_last):
        n, back = self.n, grad_last.copy()
        into_steps = np.zeros((*self.x.shape[:2], 2 * n), dtype=self.x.dtype)
        grad_hh = np.zeros_like(self.w_hh)
        for t in range(self.x.shape[1] - 1, -1, -1):
            h, f, new = self.h[t], self.f[t], self.new[t]
            back = back + grad_output[:, t] * self.real[t][:, None]
            da = back * f * (1 - new**2)
            gated = da @ self.w_hh[n:]
            db = (back * (new - h) + gated * h) * f * (1 - f)
            into_steps[:, t] = np.hstack([db, da])
            grad_hh += np.vstack([db.T @ h, da.T @ (f * h)])
            back = back * (1 - f) + gated * f + db @ self.w_hh[:n]
        grad_x = into_steps @ self.w_ih
        x = np.where(self.real.T[:, :, None], self.x, 0)
        grad_ih = np.einsum("nta,ntb->ab", into_steps, x)
        return grad_x, back, grad_ih, grad_hh, into_steps.sum((0, 1))


def mgu(x, lengths, h0, w_ih, w_hh, bias):
    run = Run(*arrays(x, lengths, h0, w_ih, w_hh, bias))
    output = np.stack(run.h[1:], axis=1) * run.real.T[:, :, None]
    return torch.from_numpy(output), torch.from_numpy(run.h[-1])


def mgu_backward(grad_output, grad_last, x, lengths, h0, w_ih, w_hh, bias):
    run = Run(*arrays(x, lengths, h0, w_ih, w_hh, bias))
    return tuple(torch.from_numpy(g) for g in run.backward(*arrays(grad_output, grad_last)))


def alibi_slopes(heads: int) -> Tensor:
    return torch.exp2(torch.linspace(-8 / heads, -8, heads, dtype=torch.float64))


def attend(q, k, v, window):
    at_keys = torch.arange(k.size(2), dtype=q.dtype)
    at_queries = at_keys[k.size(2) - q.size(2) :]
    gap = at_queries.unsqueeze(1) - at_keys.unsqueeze(0)
    allowed = torch.logical_and(gap >= 0, gap < window)
    bias = torch.where(allowed, -gap, -torch.inf)
    scores = torch.einsum("bhtd,bhsd->bhts", q * q.size(-1) ** -0.5, k)
    slopes = alibi_slopes(q.size(1)).to(q.dtype).view(-1, 1, 1)
    weights = torch.softmax(scores + slopes * bias, dim=3)
    return torch.einsum("bhts,bhse->bhte", weights, v)


class Decoder:
    """A ring of `window` places; position t stands at t modulo window."""

    def __init__(self, window):
        self.window, self.count = window, 0

    def step(self, q, k, v):
        return torch.cat(
            [self.single(*(e[:, :, t] for e in (q, k, v))) for t in range(q.size(2))], 2
        )

    def single(self, q, k, v):
        if self.count == 0:
            batch, heads, features = k.shape
            self.keys = k.new_zeros(batch, heads, self.window, features)
            self.values = v.new_zeros(batch, heads, self.window, v.size(-1))
        place = self.count % self.window
        self.keys[:, :, place], self.values[:, :, place] = k, v
        self.count += 1
        held = min(self.count, self.window)
        order = torch.arange(self.count - held, self.count) % self.window
        return attend(q[:, :, None], self.keys[:, :, order], self.values[:, :, order], self.window)


class Convolve(torch.autograd.Function):
    @staticmethod
    def forward(x, depth, point, bias, stride, padding):
        return separable(x, depth, point, bias, stride, padding)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        x, depth, point, _ = ctx.saved_tensors
        grads = separable_backward(grad, x, depth, point, ctx.stride, ctx.padding)
        return *grads, None, None


class Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w_ih, w_hh, bias):
        lengths = np.full(len(x), x.shape[1])
        h0 = np.zeros((len(x), w_hh.shape[1]), dtype=x.detach().numpy().dtype)
        x, w_ih, w_hh, bias = arrays(x, w_ih, w_hh, bias)
        ctx.run = Run(x, lengths, h0, w_ih, w_hh, bias)
        return torch.from_numpy(np.stack(ctx.run.h[1:], axis=1))

    @staticmethod
    def backward(ctx, grad):
        delta = grad.numpy()
        grad_x, _, *rest = ctx.run.backward(delta, np.zeros_like(delta[:, 0]))
        return tuple(torch.from_numpy(each) for each in (grad_x, *rest))


class SeparableConv2d(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0):
        super().__init__()
        self.options = (stride, padding)
        self.depth = nn.Parameter(0.5 * torch.randn(in_channels, kernel_size, kernel_size))
        self.point = nn.Parameter(torch.randn(out_channels, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x):
        return Convolve.apply(x, *self.parameters(), *self.options)


class MGU(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.w_ih = nn.Parameter(nn.init.xavier_uniform_(torch.empty(2 * hidden_size, input_size)))
        self.w_hh = nn.Parameter(nn.init.orthogonal_(torch.empty(2 * hidden_size, hidden_size)))
        self.bias = nn.Parameter(torch.zeros(2 * hidden_size))

    def forward(self, x):
        return Read.apply(x, self.w_ih, self.w_hh, self.bias)


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
    def optimizer(parameters):
        return torch.optim.RMSprop(parameters, lr=4e-3)

    return fit(Classifier(RowReader(), optimizer=optimizer), data, epochs=9, precision="32-true")
