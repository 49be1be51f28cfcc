"""A right solution in loops over single pixels, rows and positions, as the formulas are written."""

import math

import torch
from torch import nn

from companion import training


def one_layer(i, layer, channels, size):
    window = (layer["kernel"] - 1) * layer["dilation"] + 1
    padded = size + layer["padding"] + layer["padding"]
    if window > padded:
        raise ValueError(f"a window of {window} pixels does not fit {padded}, at layers[{i}]")
    starts = [at for at in range(padded) if at % layer["stride"] == 0 and at + window <= padded]
    if layer["kind"] == "pooling":
        return channels, len(starts), 0, 0
    for number in (channels, layer["channels"]):
        if number % layer["groups"] != 0:
            raise ValueError(f"layers[{i}]: {layer['groups']} groups of {number} channels")
    one_kernel = channels // layer["groups"] * layer["kernel"] * layer["kernel"]
    parameters = layer["channels"] * (one_kernel + int(layer["bias"]))
    return layer["channels"], len(starts), parameters, layer["channels"] * one_kernel * len(starts)


def plan(layers, channels, size):
    table = []
    for i, layer in enumerate(layers):
        channels, size, parameters, row = one_layer(i, layer, channels, size)
        seen = 1
        for earlier in reversed(layers[: i + 1]):  # from the last layer back to the image
            seen = (
                (seen - 1) * earlier["stride"] + earlier["dilation"] * (earlier["kernel"] - 1) + 1
            )
        table.append((channels, size, parameters, row * size, seen))
    return table


def positions(x, depth, stride, padding, dilation):
    """Yield where an output pixel and an input pixel of it stand, and through which tap."""
    height, width = x.shape[2:]
    rows, columns = depth.shape[1:]
    for i in range((height + 2 * padding - dilation * (rows - 1) - 1) // stride + 1):
        for j in range((width + 2 * padding - dilation * (columns - 1) - 1) // stride + 1):
            for u in range(rows):
                for v in range(columns):
                    a, b = i * stride + u * dilation - padding, j * stride + v * dilation - padding
                    if 0 <= a < height and 0 <= b < width:
                        yield i, j, u, v, a, b


def output_shape(x, depth, stride, padding, dilation):
    return [
        (x.shape[axis + 1] + 2 * padding - dilation * (depth.shape[axis] - 1) - 1) // stride + 1
        for axis in (1, 2)
    ]


def depthwise(x, depth, stride, padding, dilation):
    y = x.new_zeros(x.shape[0], x.shape[1], *output_shape(x, depth, stride, padding, dilation))
    for i, j, u, v, a, b in positions(x, depth, stride, padding, dilation):
        y[:, :, i, j] += depth[:, u, v] * x[:, :, a, b]
    return y


def separable(x, depth, point, bias, stride=1, padding=0, dilation=1):
    inner = depthwise(x, depth, stride, padding, dilation)
    return (point @ inner.flatten(2)).unflatten(2, inner.shape[2:]) + bias[None, :, None, None]


def separable_backward(grad_output, x, depth, point, stride=1, padding=0, dilation=1):
    inner = depthwise(x, depth, stride, padding, dilation)
    delta = (point.T @ grad_output.flatten(2)).unflatten(2, inner.shape[2:])
    grad_x, grad_depth = torch.zeros_like(x), torch.zeros_like(depth)
    for i, j, u, v, a, b in positions(x, depth, stride, padding, dilation):
        grad_x[:, :, a, b] += depth[:, u, v] * delta[:, :, i, j]
        grad_depth[:, u, v] += (x[:, :, a, b] * delta[:, :, i, j]).sum(0)
    grad_point = sum(d.flatten(1) @ i.flatten(1).T for d, i in zip(grad_output, inner, strict=True))
    return [grad_x, grad_depth, grad_point, grad_output.sum(dim=3).sum(dim=2).sum(dim=0)]


def forward_row(x, h, w_ih, w_hh, bias):
    n = len(h)
    trace = []
    for x_t in x:
        f = 1 / (1 + torch.exp(-(w_ih[:n] @ x_t + w_hh[:n] @ h + bias[:n])))
        new = torch.tanh(w_ih[n:] @ x_t + w_hh[n:] @ (f * h) + bias[n:])
        trace.append((x_t, h, f, new))
        h = h + f * (new - h)
    return h, trace


def mgu(x, lengths, h0, w_ih, w_hh, bias):
    output, last = x.new_zeros(*x.shape[:2], h0.shape[1]), torch.empty_like(h0)
    for row, length in enumerate(lengths.tolist()):
        last[row], trace = forward_row(x[row, :length], h0[row], w_ih, w_hh, bias)
        states = [step[1] for step in trace[1:]] + [last[row]]
        output[row, :length] = torch.stack(states)
    return output, last


def mgu_backward(grad_output, grad_last, x, lengths, h0, w_ih, w_hh, bias):
    n = h0.shape[1]
    gradients = [torch.zeros_like(each) for each in (x, h0, w_ih, w_hh, bias)]
    grad_x, grad_h0, grad_w_ih, grad_w_hh, grad_bias = gradients
    for row, length in enumerate(lengths.tolist()):
        _, trace = forward_row(x[row, :length], h0[row], w_ih, w_hh, bias)
        back = grad_last[row]
        for t in range(length - 1, -1, -1):
            x_t, h, f, new = trace[t]
            back = back + grad_output[row, t]
            to_new = back * f * (1 - new * new)
            into = w_hh[n:].T @ to_new
            to_gate = (back * (new - h) + into * h) * f * (1 - f)
            both = torch.cat((to_gate, to_new))
            grad_x[row, t] = w_ih.T @ both
            grad_w_ih += torch.outer(both, x_t)
            grad_w_hh[:n] += torch.outer(to_gate, h)
            grad_w_hh[n:] += torch.outer(to_new, f * h)
            grad_bias += both
            back = back - back * f + into * f + w_hh[:n].T @ to_gate
        grad_h0[row] = back
    return tuple(gradients)


def alibi_slopes(heads):
    ratio = math.pow(2, -8 / heads)
    found = [ratio]
    while len(found) < heads:
        found.append(found[-1] * ratio)
    return torch.tensor(found, dtype=torch.float64)


def attend(q, k, v, window):
    slopes = alibi_slopes(q.shape[1]).to(q.dtype)[None, :, None]
    shift = k.shape[2] - q.shape[2]
    outputs = []
    for t in range(q.shape[2]):
        start, end = max(0, shift + t - window + 1), shift + t + 1
        scores = (q[:, :, t, None] * k[:, :, start:end]).sum(-1) / math.sqrt(q.shape[-1])
        scores = scores - slopes * torch.arange(end - start - 1, -1, -1)
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        weights = weights / weights.sum(-1, keepdim=True)
        outputs.append((weights[..., None] * v[:, :, start:end]).sum(-2))
    return torch.stack(outputs, dim=2)


class Decoder:
    def __init__(self, window):
        self.window, self.past = window, []

    def step(self, q, k, v):
        self.past += [(k[:, :, t].clone(), v[:, :, t].clone()) for t in range(k.shape[2])]
        keys, values = (torch.stack(each, dim=2) for each in zip(*self.past, strict=True))
        self.past = self.past[-self.window :]
        return attend(q, keys, values, self.window)


class ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, depth, point, bias, stride, padding):
        ctx.stride, ctx.padding = stride, padding
        ctx.save_for_backward(x, depth, point)
        return separable(x, depth, point, bias, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx, grad):
        x, depth, point = ctx.saved_tensors
        found = separable_backward(grad, x, depth, point, stride=ctx.stride, padding=ctx.padding)
        return (*found, None, None)


class SeparableConv2d(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0):
        super().__init__()
        self.stride, self.padding = stride, padding
        taps = torch.empty(in_channels, kernel_size, kernel_size).uniform_(-1, 1)
        self.depth = nn.Parameter(taps)
        self.point = nn.Parameter(torch.empty(out_channels, in_channels).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-0.1, 0.1))

    def forward(self, x):
        return ByHand.apply(x, self.depth, self.point, self.bias, self.stride, self.padding)


def steps(x, w_ih, w_hh, bias):
    h, states, n = x.new_zeros(len(x), w_hh.shape[1]), [], w_hh.shape[1]
    for t in range(x.shape[1]):
        f = torch.sigmoid(x[:, t] @ w_ih[:n].T + h @ w_hh[:n].T + bias[:n])
        new = torch.tanh(x[:, t] @ w_ih[n:].T + (f * h) @ w_hh[n:].T + bias[n:])
        states.append((h, f, new))
        h = h + f * (new - h)
    return h, states


class Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w_ih, w_hh, bias):
        ctx.save_for_backward(x, w_ih, w_hh, bias)
        h, states = steps(x, w_ih, w_hh, bias)
        return torch.stack([state[0] for state in states[1:]] + [h], dim=1)

    @staticmethod
    def backward(ctx, grad):
        x, w_ih, w_hh, bias = ctx.saved_tensors
        n = w_hh.shape[1]
        _, states = steps(x, w_ih, w_hh, bias)
        back, grads = 0, []
        grad_hh = torch.zeros_like(w_hh)
        for t in reversed(range(x.shape[1])):
            h, f, new = states[t]
            back = back + grad[:, t]
            to_new = back * f * (1 - new.square())
            into = to_new @ w_hh[n:]
            to_gate = (back * (new - h) + into * h) * f * (1 - f)
            grad_hh += torch.cat((to_gate.T @ h, to_new.T @ (f * h)))
            grads.insert(0, torch.cat((to_gate, to_new), dim=1))
            back = back * (1 - f) + into * f + to_gate @ w_hh[:n]
        both = torch.stack(grads, dim=1)
        grad_ih = both.flatten(0, 1).T @ x.flatten(0, 1)
        return both @ w_ih, grad_ih, grad_hh, both.sum((0, 1))


class MGU(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        bound = hidden_size**-0.5
        self.w_ih, self.w_hh, self.bias = (
            nn.Parameter(torch.empty(2 * hidden_size, *shape).uniform_(-bound, bound))
            for shape in ((input_size,), (hidden_size,), ())
        )

    def forward(self, x):
        return Recurrence.apply(x, self.w_ih, self.w_hh, self.bias)


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
        return torch.optim.Adam(parameters, lr=1e-2)

    module = training.Classifier(RowReader(), optimizer=optimizer)
    return training.fit(module, data, epochs=6, precision="32-true")
