"""Wrong solutions of chapter 3's homework: the reference with one classic mistake each."""

from __future__ import annotations

from homework.proving import Mistake


def _of(task: str, *mistakes: tuple[str, str, str]) -> tuple[Mistake, ...]:
    return tuple(Mistake(task, *mistake) for mistake in mistakes)


REACH = 'reach = layer["dilation"] * (kernel - 1)'
ROOM = 'room = size + 2 * layer["padding"] - reach - 1'
FIELD = """        field += reach * jump
        jump *= stride
"""
WEIGHTS = "weights = out * (channels // groups) * kernel**2"
BIAS = 'parameters = weights + (out if layer["bias"] else 0)'
PRODUCTS = "multiplications = weights * size**2"
DIVIDES = "if channels % groups or out % groups:"
APPEND = "rows.append((channels, size, parameters, multiplications, field))"

COLUMNS = "columns = im2col(x, Window.of(tuple(depth.shape[1:]), stride, padding, dilation))"
INNER = 'inner = torch.einsum("cuv,ncuvij->ncij", depth, columns)\n    return'
OUTER = 'torch.einsum("oc,ncij->noij", point, inner) + bias.view(-1, 1, 1)'
GRAD_INNER = 'grad_inner = torch.einsum("oc,noij->ncij", point, grad_output)'
GRAD_COLUMNS = 'grad_columns = torch.einsum("cuv,ncij->ncuvij", depth, grad_inner)'
GRAD_DEPTH = 'grad_depth = torch.einsum("ncij,ncuvij->cuv", grad_inner, columns)'
GRAD_POINT = 'grad_point = torch.einsum("noij,ncij->oc", grad_output, inner)'
GRAD_BIAS = "grad_bias = grad_output.sum((0, 2, 3))"
WINDOW = "window = Window.of(tuple(depth.shape[1:]), stride, padding, dilation)\n    columns"
FOUR = "return grad_x, grad_depth, grad_point, grad_bias"

SIGMOID = "f = torch.sigmoid(x_t @ w_f.T + h @ u_f.T + b_f)"
CANDIDATE = "candidate = torch.tanh(x_t @ w_h.T + (f * h) @ u_h.T + b_h)"
UPDATE = "h = (1 - f) * h + f * candidate"
START = "h, states = h0, []"
MASKED = "return output * mask(lengths, x.shape[1])[:, :, None], last"
LAST = "last = last_step(output, lengths)"
ARRIVING = "arriving = grad_h + grad_output[:, t] + grad_last * (t == lengths - 1)[:, None]"
REAL = "arriving = torch.where(real, arriving, 0)"
DA_H = "da_h = arriving * f * (1 - candidate**2)"
GATED = "gated = da_h @ u_h"
DA_F = "da_f = (arriving * (candidate - previous) + gated * previous) * f * (1 - f)"
GRAD_H = "grad_h = arriving * (1 - f) + gated * f + da_f @ u_f"
GRAD_X = "grad_x[:, t] = da @ w_ih"
GRAD_W_HH = "grad_w_hh += torch.cat([da_f.T @ previous, da_h.T @ (f * previous)])"
PREVIOUS = "previous = output[:, t - 1] if t > 0 else h0"
FIVE = "return grad_x, grad_h, grad_w_ih, grad_w_hh, grad_bias"

SLOPES = "return 2.0 ** (-8 * torch.arange(1, heads + 1, dtype=torch.float64) / heads)"
SCORES = "scores = q @ k.mT / q.shape[3] ** 0.5 - slopes * distance"
HIDDEN = "hidden = (distance < 0) | (distance >= window)"
AT = "at = torch.arange(keys - queries, keys)[:, None]"
CAST = "slopes = alibi_slopes(q.shape[1]).to(q)[:, None, None]"
SOFTMAX = "scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v"
KEPT = """        self.keys = k[:, :, -self.window :].clone()
        self.values = v[:, :, -self.window :].clone()
"""
DECODER = f"""        self.keys = self.values = None

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.keys is not None:
            k = torch.cat([self.keys, k], dim=2)
            v = torch.cat([self.values, v], dim=2)
{KEPT}"""
STEP = "return attend(q, k, v, self.window)"

APPLY = "SeparableFunction.apply(x, self.depth, self.point, self.bias, *self.options)"
BACK = "return *separable_backward(grad_output, *ctx.saved_tensors, *ctx.options), None, None"
SAVE = "ctx.save_for_backward(x, depth, point)"
SAVE_AND_LOAD = f"""{SAVE}
        ctx.options = stride, padding
        return separable(x, depth, point, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad_output):
        {BACK}"""
READ = "MGUFunction.apply(x, lengths, h0, self.w_ih, self.w_hh, self.bias)[0]"
BACK_MGU = "return grad_x, None, grad_h0, *rest"
SAVE_MGU = "ctx.save_for_backward(x, lengths, h0, w_ih, w_hh, bias)"
LOOK = "self.look = SeparableConv2d(1, channels, 3, padding=1)"
OPTIMIZER = "optimizer = functools.partial(torch.optim.AdamW, lr=1e-2)"
FIT = 'return fit(module, data, epochs=6, precision="32-true")'
MODULE = "module = Classifier(RowReader(), optimizer=optimizer)"

MISTAKES = (
    *_of(
        "plan",
        ("dilation left out", REACH, "reach = kernel - 1"),
        ("dilation times kernel", REACH, 'reach = layer["dilation"] * kernel - 1'),
        ("padding on one side", ROOM, ROOM.replace("2 * ", "")),
        ("padding left out", ROOM, "room = size - reach - 1"),
        ("the window counts once too little", ROOM, ROOM.replace(" - 1", "")),
        ("rounds up", "size = room // stride + 1", "size = -(-room // stride) + 1"),
        ("one step too few", "size = room // stride + 1", "size = room // stride"),
        ("stride left out", "size = room // stride + 1", "size = room + 1"),
        ("divides first", "size = room // stride + 1", "size = (room + 1) // stride"),
        ("strides do not spread the field", FIELD, FIELD.replace(" * jump", "")),
        (
            "a layer's own stride spreads its field",
            FIELD,
            "        jump *= stride\n        field += reach * jump\n",
        ),
        ("only the last stride counts", FIELD, FIELD.replace("jump *= ", "jump = ")),
        ("strides are added", FIELD, FIELD.replace("jump *= stride", "jump += stride - 1")),
        ("the field starts at 0", "field = jump = 1", "field, jump = 0, 1"),
        ("kernels are added to the field", FIELD, FIELD.replace("reach *", "kernel *")),
        ("groups left out", WEIGHTS, WEIGHTS.replace(" // groups", "")),
        ("kernel not squared", WEIGHTS, WEIGHTS.replace("**2", "")),
        ("always a bias", BIAS, "parameters = weights + out"),
        ("never a bias", BIAS, "parameters = weights"),
        ("one bias for all", BIAS, BIAS.replace("(out if", "(1 if")),
        ("biases multiply", PRODUCTS, "multiplications = parameters * size**2"),
        ("products of one pixel", PRODUCTS, "multiplications = weights"),
        ("products of one row", PRODUCTS, "multiplications = weights * size"),
        ("channels stay", "channels = out\n", "pass\n"),
        (
            "poolings are left out of the field",
            FIELD,
            '        if layer["kind"] == "convolution":\n            field += reach * jump\n'
            "        jump *= stride\n",
        ),
        ("nothing is refused for size", "if room < 0:", "if False:"),
        ("an exact fit is refused", "if room < 0:", "if room < 1:"),
        ("groups are not checked", DIVIDES, "if False:"),
        ("groups are checked against inputs only", DIVIDES, "if channels % groups:"),
        ("groups are checked against outputs only", DIVIDES, "if out % groups:"),
        ("returns the last row alone", "    return rows\n", "    return rows[-1:]\n"),
        ("floats", APPEND, APPEND.replace("size,", "float(size),")),
        (
            "counts layers from 1",
            "for i, layer in enumerate(layers):",
            "for i, layer in enumerate(layers, 1):",
        ),
    ),
    *_of(
        "separable-convolution",
        ("kernel turned", INNER, INNER.replace("depth,", "depth.flip(1, 2),")),
        ("bias left out", OUTER, OUTER.replace(" + bias.view(-1, 1, 1)", "")),
        ("stride left out", COLUMNS, COLUMNS.replace("stride", "1")),
        ("padding left out", COLUMNS, COLUMNS.replace("padding", "0")),
        ("dilation left out", COLUMNS, COLUMNS.replace("dilation", "1")),
        (
            "stride and dilation exchanged",
            COLUMNS,
            COLUMNS.replace("stride, padding, dilation", "dilation, padding, stride"),
        ),
        ("sees all channels", INNER, INNER.replace('"cuv,ncuvij->ncij"', '"cuv,nduvij->ncij"')),
        ("a ReLU in between", OUTER, OUTER.replace("inner)", "inner.relu())")),
        ("mean over taps", INNER, INNER.replace("\n", " / depth[0].numel()\n")),
        (
            "options ignored on the way back",
            WINDOW,
            WINDOW.replace("stride, padding, dilation", "1, padding, 1"),
        ),
        ("dilation ignored on the way back", WINDOW, WINDOW.replace(", dilation", "")),
        (
            "point forgotten on the way back",
            GRAD_INNER,
            GRAD_INNER.replace("point,", "torch.ones_like(point),"),
        ),
        (
            "depth forgotten on the way back",
            GRAD_COLUMNS,
            GRAD_COLUMNS.replace("depth,", "torch.ones_like(depth),"),
        ),
        ("mean over the batch", GRAD_DEPTH, GRAD_DEPTH + " / len(x)"),
        ("mean over the batch for point", GRAD_POINT, GRAD_POINT + " / len(x)"),
        (
            "first image only",
            GRAD_DEPTH,
            GRAD_DEPTH.replace("grad_inner,", "grad_inner[:1],").replace(
                "columns)", "columns[:1])"
            ),
        ),
        ("one kernel gradient an image", GRAD_DEPTH, GRAD_DEPTH.replace("->cuv", "->ncuv")),
        ("bias summed over the batch only", GRAD_BIAS, "grad_bias = grad_output.sum(0)"),
        ("bias averaged", GRAD_BIAS, "grad_bias = grad_output.mean((0, 2, 3))"),
        ("point transposed", GRAD_POINT, GRAD_POINT.replace("->oc", "->co")),
        ("wrong order", FOUR, "return grad_x, grad_point, grad_depth, grad_bias"),
        ("float32 inside", GRAD_INNER, GRAD_INNER + ".float().double()"),
        ("changes x", WINDOW, "x.mul_(2).div_(3)\n    " + WINDOW),
        ("torch's convolution", OUTER, "torch.conv2d(inner, point[:, :, None, None], bias)"),
    ),
    *_of(
        "minimal-gated-unit",
        ("keeps what it should take", UPDATE, "h = f * h + (1 - f) * candidate"),
        ("keeps nothing", UPDATE, "h = f * candidate"),
        (
            "gate after the matrix",
            CANDIDATE,
            CANDIDATE.replace("(f * h) @ u_h.T", "f * (h @ u_h.T)"),
        ),
        ("state not gated", CANDIDATE, CANDIDATE.replace("(f * h)", "h")),
        ("gated by 1 − f", CANDIDATE, CANDIDATE.replace("(f * h)", "((1 - f) * h)")),
        ("tanh for the gate", SIGMOID, SIGMOID.replace("sigmoid", "tanh")),
        ("sigmoid for the candidate", CANDIDATE, CANDIDATE.replace("tanh", "sigmoid")),
        ("bias of the gate left out", SIGMOID, SIGMOID.replace(" + b_f", "")),
        ("halves exchanged", "return f, candidate", "return candidate, f"),
        ("rows interleaved", "w_f, w_h = w_ih.chunk(2)", "w_f, w_h = w_ih[::2], w_ih[1::2]"),
        ("starts from 0", START, "h, states = torch.zeros_like(h0), []"),
        ("padding is not blanked", MASKED, "return output, last"),
        ("last state of the padded row", LAST, "last = output[:, -1]"),
        ("last state one too early", LAST, "last = last_step(output, (lengths - 1).clamp(min=1))"),
        ("lengths ignored on the way back", REAL, "pass"),
        (
            "gradient at padding counts",
            "arriving = torch.where(real, arriving, 0)",
            "arriving = torch.where(real, arriving, grad_output[:, t])",
        ),
        (
            "last state's gradient at the padded end",
            ARRIVING,
            ARRIVING.replace("(t == lengths - 1)[:, None]", "(t == x.shape[1] - 1)"),
        ),
        ("last state's gradient left out", ARRIVING, "arriving = grad_h + grad_output[:, t]"),
        (
            "last state's gradient at every step",
            ARRIVING,
            "arriving = grad_h + grad_output[:, t] + grad_last",
        ),
        ("output's gradient left out", ARRIVING, ARRIVING.replace(" + grad_output[:, t]", "")),
        ("not through time", ARRIVING, ARRIVING.replace("grad_h + ", "")),
        ("path that is kept left out", GRAD_H, "grad_h = gated * f + da_f @ u_f"),
        ("path through the candidate left out", GRAD_H, GRAD_H.replace(" + gated * f", "")),
        ("path through the gate left out", GRAD_H, GRAD_H.replace(" + da_f @ u_f", "")),
        ("gate inside is a constant", DA_F, DA_F.replace(" + gated * previous", "")),
        (
            "gate outside is a constant",
            DA_F,
            DA_F.replace("arriving * (candidate - previous) + ", ""),
        ),
        ("gate without the old state", DA_F, DA_F.replace("candidate - previous", "candidate")),
        ("slope of the sigmoid left out", DA_F, DA_F.replace(" * f * (1 - f)", "")),
        ("slope of tanh left out", DA_H, "da_h = arriving * f"),
        ("f left out of the candidate's gradient", DA_H, DA_H.replace(" * f", "")),
        ("matrix transposed", GATED, "gated = da_h @ u_h.T"),
        (
            "state not gated in the weights' gradient",
            GRAD_W_HH,
            GRAD_W_HH.replace("(f * previous)", "previous"),
        ),
        ("weights of the last step only", "grad_w_ih += ", "grad_w_ih = "),
        ("the present state for the former", PREVIOUS, "previous = output[:, t]"),
        (
            "the former state of step 0 is 0",
            PREVIOUS,
            PREVIOUS.replace("else h0", "else torch.zeros_like(h0)"),
        ),
        ("mean over the batch", "grad_bias += da.sum(0)", "grad_bias += da.mean(0)"),
        ("no gradient of h0", FIVE, FIVE.replace("grad_h,", "torch.zeros_like(h0),")),
        ("gradient of x of one step", GRAD_X, "grad_x[:, 0] = da @ w_ih"),
        ("changes grad_output", REAL, REAL + "\n        grad_output[:, t] = arriving"),
    ),
    *_of(
        "sliding-attention",
        ("slopes start at 1", SLOPES, SLOPES.replace("(1, heads + 1,", "(heads,")),
        ("slopes of eight heads", SLOPES, "return 2.0 ** -torch.arange(1, heads + 1).double()"),
        ("slopes grow", SLOPES, SLOPES + ".flip(0)"),
        ("slopes in float32", SLOPES, SLOPES.replace("float64", "float32")),
        ("distance rewarded", SCORES, SCORES.replace("- slopes", "+ slopes")),
        ("no penalty", SCORES, SCORES.replace(" - slopes * distance", "")),
        ("not scaled", SCORES, SCORES.replace(" / q.shape[3] ** 0.5", "")),
        ("divided by D", SCORES, SCORES.replace(" ** 0.5", "")),
        (
            "penalty scaled as well",
            SCORES,
            "scores = (q @ k.mT - slopes * distance) / q.shape[3] ** 0.5",
        ),
        ("penalty of squares", SCORES, SCORES + "**2"),
        ("one slope for all heads", CAST, CAST.replace("[:, None, None]", "[0]")),
        ("window one too wide", HIDDEN, HIDDEN.replace(">= window", "> window")),
        (
            "window one too narrow",
            HIDDEN,
            "hidden = (distance < 0) | (distance >= max(window - 1, 1))",
        ),
        ("sees the future", HIDDEN, "hidden = distance >= window"),
        ("sees both ways", HIDDEN, "hidden = distance.abs() >= window"),
        ("no window", HIDDEN, "hidden = distance < 0"),
        ("does not see itself", HIDDEN, HIDDEN.replace("< 0", "< 1")),
        ("queries are the first positions", AT, "at = torch.arange(queries)[:, None]"),
        (
            "softmax over the queries",
            SOFTMAX,
            "scores.masked_fill(hidden, -torch.inf).softmax(-2).nan_to_num() @ v",
        ),
        ("masked after the softmax", SOFTMAX, "scores.softmax(-1).masked_fill(hidden, 0) @ v"),
        ("masked with 0", SOFTMAX, SOFTMAX.replace("-torch.inf", "0.0")),
        (
            "overflows",
            SOFTMAX,
            "(lambda e: e / e.sum(-1, True))(scores.masked_fill(hidden, -torch.inf).exp()) @ v",
        ),
        ("turns to float64", CAST, CAST.replace(".to(q)", "")),
        ("the decoder forgets", KEPT, "        pass\n"),
        ("the decoder keeps everything", KEPT, "        self.keys, self.values = k, v\n"),
        ("the decoder keeps the storage", KEPT, KEPT.replace(".clone()", "")),
        (
            "the decoder keeps one too few",
            KEPT,
            KEPT.replace("-self.window :", "max(k.shape[2] - self.window + 2, 0) :"),
        ),
        ("the decoder keeps the first ones", KEPT, KEPT.replace("-self.window :", ": self.window")),
        (
            "two decoders share what they keep",
            DECODER,
            DECODER.replace("self.keys", "Decoder.keys").replace("self.values", "Decoder.values"),
        ),
        ("the decoder has no window", STEP, "return attend(q, k, v, k.shape[2])"),
        (
            "torch's attention",
            SOFTMAX,
            "torch.nn.functional.scaled_dot_product_attention(q, k, v, "
            "(-slopes * distance).masked_fill(hidden, -torch.inf))",
        ),
    ),
    *_of(
        "train",
        (
            "depth is no parameter",
            "self.depth = nn.Parameter(torch.randn(in_channels, kernel_size, "
            "kernel_size) / kernel_size)",
            "self.depth = torch.randn(in_channels, kernel_size, kernel_size) / kernel_size",
        ),
        (
            "torch differentiates the convolution",
            APPLY,
            "separable(x, self.depth, self.point, self.bias, *self.options)",
        ),
        (
            "torch differentiates the cell",
            READ,
            "mgu(x, lengths, h0, self.w_ih, self.w_hh, self.bias)[0]",
        ),
        (
            "bias outside the Function",
            APPLY,
            "SeparableFunction.apply(x, self.depth, self.point, "
            "0 * self.bias, *self.options) + self.bias.view(-1, 1, 1)",
        ),
        ("weights are detached", READ, READ.replace("self.w_hh", "self.w_hh.detach()")),
        ("options left out on the way back", BACK, BACK.replace("*ctx.options", "1, 1")),
        ("options left out on the way there", APPLY, APPLY.replace("*self.options", "1, 1")),
        ("one None too few", BACK, BACK.replace(", None, None", ", None")),
        ("the gradient goes to lengths", BACK_MGU, "return None, grad_x, grad_h0, *rest"),
        ("no gradient for x", BACK_MGU, "return None, None, grad_h0, *rest"),
        (
            "saved on the class",
            SAVE_AND_LOAD,
            SAVE_AND_LOAD.replace("ctx.save_for_backward", "SeparableFunction.saved =").replace(
                "ctx.saved_tensors", "SeparableFunction.saved"
            ),
        ),
        ("the wrong state is returned", READ, READ.replace("[0]", "[1]")),
        ("states with time first", READ, READ + ".transpose(0, 1)"),
        (
            "rows of the gates only",
            "torch.randn(2 * hidden_size, input_size)",
            "torch.randn(hidden_size, input_size)",
        ),
        (
            "torch's convolution in the reader",
            LOOK,
            LOOK.replace(
                "SeparableConv2d(1, channels, 3, padding=1)", "nn.Conv2d(1, channels, 3, padding=1)"
            ),
        ),
        ("no ReLU in the reader", ".relu()", ""),
        ("the reader looks back at all rows", "window=4)", "window=8)"),
        ("returns nothing", FIT, FIT.replace("return ", "")),
        ("one step", FIT, FIT.replace("epochs=6", "max_steps=1")),
        ("learning rate too small", OPTIMIZER, OPTIMIZER.replace("1e-2", "1e-6")),
        ("learning rate too large", OPTIMIZER, OPTIMIZER.replace("1e-2", "30.0")),
        (
            "climbs the loss",
            OPTIMIZER,
            "optimizer = functools.partial(torch.optim.SGD, lr=0.1, maximize=True)",
        ),
        (
            "trains the last layer alone",
            MODULE,
            "network = RowReader()\n"
            "    network.look.requires_grad_(False)\n    network.read.requires_grad_(False)\n"
            "    network.classify.weight.requires_grad_(False)\n"
            "    module = Classifier(network, optimizer=optimizer)",
        ),
        (
            "weights start at 0",
            MODULE,
            "network = RowReader()\n"
            "    for parameter in network.parameters():\n        nn.init.zeros_(parameter)\n"
            "    module = Classifier(network, optimizer=optimizer)",
        ),
    ),
)
