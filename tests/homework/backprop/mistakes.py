"""Wrong solutions of chapter 2's homework: the reference with one classic mistake each."""

from __future__ import annotations

from homework.proving import Mistake


def _of(task: str, *mistakes: tuple[str, str, str]) -> tuple[Mistake, ...]:
    return tuple(Mistake(task, *mistake) for mistake in mistakes)


MEASURED = "(float(function(ahead)) - float(function(behind))) / (2 * step)"
STEP = "6e-6 * max(1.0, x.view(-1)[i].abs().item())"
CLOSE = "abs(claimed - measured) <= 1e-5 * max(abs(claimed), abs(measured))"
RMS_R = "r = (x.square().mean(-1, keepdim=True) + eps).sqrt()"
INVERSE = "inverse = (x.square().mean(-1, keepdim=True) + eps).rsqrt()"
GRAD_X = "grad_x = inverse * (u - x_hat * (u * x_hat).mean(-1, keepdim=True))"
GRAD_GAIN = "(grad_output * x_hat).reshape(-1, x.shape[-1]).sum(0)"
TARGETS = "torch.full_like(z, smoothing / z.shape[1])"
HIT = "targets[rows, labels] += 1 - smoothing"
BACKWARD_CE = "(softmax(z) - smoothed_targets(z, labels, smoothing)) / len(z)"
PER_ROW = "(smoothed_targets(z, labels, smoothing) * log_softmax(z)).sum(1)"
LSE = "largest + (x - largest).exp().sum(dim, keepdim=True).log()"
LARGEST = "largest = x.amax(dim, keepdim=True)"
RULE = "lambda grad, out, x, dim: grad * (x - out).exp()"
PRIMITIVE = f"""@primitive
def logsumexp(x: Tensor, *, dim: int) -> Tensor:
    {LARGEST}
    return {LSE}


logsumexp.gradients({RULE})"""
APPLY = "RMSNormFunction.apply(x, self.gain, self.eps)"
SAVE = "ctx.save_for_backward(x, gain)"
SAVE_AND_LOAD = f"""{SAVE}
        ctx.eps = eps
        return rms_norm(x, gain, eps)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain = ctx.saved_tensors"""
NORM = "return rms_norm(x, gain, eps)"
PAIR = "rms_norm_backward(grad_output, x, gain, ctx.eps)"
VJP = f"*{PAIR}, None"
GAIN = "self.gain = nn.Parameter(torch.ones(features))"
LAYERS = "nn.Linear(64, 32), RMSNorm(32), nn.ReLU(), nn.Linear(32, 10)"
LOSS = "loss=functools.partial(smoothed_cross_entropy, smoothing=0.1),"
FIT = "return fit(module, data, epochs=8)"
OPTIMIZER = "functools.partial(torch.optim.AdamW, lr=1e-2)"

MISTAKES = (
    *_of(
        "gradient-check",
        (
            "forward difference",
            MEASURED,
            "(float(function(ahead)) - float(function(x))) / step",
        ),
        ("divides by h instead of 2h", MEASURED, MEASURED.replace("(2 * step)", "step")),
        ("step far too small", STEP, "1e-12"),
        ("step of 1e-8 whatever the size of x", STEP, "1e-8"),
        ("step too large", STEP, "1e-2"),
        ("step of 1e-3", STEP, "1e-3"),
        ("absolute tolerance", CLOSE, "abs(claimed - measured) <= 1e-5"),
        (
            "no absolute value",
            CLOSE,
            CLOSE.replace("abs(claimed - measured)", "claimed - measured"),
        ),
        ("tolerance of the claim's sign", CLOSE, "abs(claimed - measured) <= 1e-5 * measured"),
        ("loose tolerance", CLOSE, CLOSE.replace("1e-5", "1e-1")),
        ("too tight a tolerance", CLOSE, CLOSE.replace("1e-5", "1e-15")),
        (
            "nan passes",
            "not close",
            "abs(claimed - measured) > 1e-5 * max(abs(claimed), abs(measured))",
        ),
        (
            "relative to the largest entry",
            CLOSE,
            "abs(claimed - measured) <= 1e-5 * gradient.abs().max().item()",
        ),
        ("all entries moved at once", "ahead.view(-1)[i] += step", "ahead += step"),
        ("only the first entry", "range(x.numel())", "range(1)"),
        ("the last entry is left out", "range(x.numel())", "range(x.numel() - 1)"),
        ("x is changed", "ahead, behind = x.clone(), x.clone()", "ahead, behind = x, x.clone()"),
        (
            "computes in float32",
            "ahead, behind = x.clone(), x.clone()",
            "ahead, behind = x.float(), x.float()",
        ),
        ("one verdict for all", "return wrong\n", "return wrong.any()\n"),
        ("True means right", "= not close", "= close"),
        (
            "reads the gradient in another order",
            "gradient.reshape(-1)",
            "gradient.permute(*reversed(range(x.ndim))).reshape(-1)",
        ),
    ),
    *_of(
        "rms-norm",
        ("eps outside the root", RMS_R, "r = x.square().mean(-1, keepdim=True).sqrt() + eps"),
        ("eps left out", RMS_R, "r = x.square().mean(-1, keepdim=True).sqrt()"),
        ("sum instead of mean", RMS_R, "r = (x.square().sum(-1, keepdim=True) + eps).sqrt()"),
        ("mean over the batch", RMS_R, "r = (x.square().mean(0, keepdim=True) + eps).sqrt()"),
        ("mean over everything", RMS_R, "r = (x.square().mean() + eps).sqrt()"),
        ("subtracts the mean", RMS_R, "r = (x.var(-1, correction=0, keepdim=True) + eps).sqrt()"),
        ("no root", RMS_R, "r = x.square().mean(-1, keepdim=True) + eps"),
        ("gain left out in the forward pass", "return x / r * gain", "return x / r"),
        ("1 + gain", "return x / r * gain", "return x / r * (1 + gain)"),
        ("r is a constant", GRAD_X, "grad_x = inverse * u"),
        ("the sign of the projection", GRAD_X, GRAD_X.replace("u - x_hat", "u + x_hat")),
        ("sum in the projection", GRAD_X, GRAD_X.replace(".mean(", ".sum(")),
        ("projection over the batch", GRAD_X, GRAD_X.replace("mean(-1", "mean(0")),
        ("1/r left out", GRAD_X, GRAD_X.replace("inverse * (", "(")),
        ("1/r twice", GRAD_X, GRAD_X.replace("inverse * (", "inverse * inverse * (")),
        ("x instead of x / r", "x_hat = x * inverse", "x_hat = x"),
        ("gain left out in the backward pass", "u = grad_output * gain", "u = grad_output"),
        ("LayerNorm's backward", GRAD_X, GRAD_X.replace("(u -", "(u - u.mean(-1, keepdim=True) -")),
        ("eps left out in the backward pass", INVERSE, INVERSE.replace(" + eps", "")),
        ("eps fixed in the backward pass", INVERSE, INVERSE.replace("eps", "1e-6")),
        ("gradient of gain not summed", GRAD_GAIN, "grad_output * x_hat"),
        ("gradient of gain summed over axis 0 only", GRAD_GAIN, "(grad_output * x_hat).sum(0)"),
        ("gradient of gain averaged", GRAD_GAIN, GRAD_GAIN.replace(".sum(0)", ".mean(0)")),
        ("gradient of gain from x", GRAD_GAIN, GRAD_GAIN.replace("x_hat", "x")),
        ("gradient of gain times gain", GRAD_GAIN, GRAD_GAIN.replace("grad_output", "u")),
        ("the pair the other way round", "return grad_x, grad_gain", "return grad_gain, grad_x"),
        ("changes grad_output", "u = grad_output * gain", "u = grad_output.mul_(gain)"),
        ("the forward pass changes x", "return x / r * gain", "return x.div_(r) * gain"),
    ),
    *_of(
        "smoothed-cross-entropy",
        (
            "α over the wrong classes only",
            TARGETS,
            TARGETS.replace("z.shape[1]", "(z.shape[1] - 1)"),
        ),
        ("α not divided by K", TARGETS, "torch.full_like(z, smoothing)"),
        ("targets in float32", TARGETS, "torch.full(z.shape, smoothing / z.shape[1])"),
        ("right class gets 1", HIT, "targets[rows, labels] = 1.0"),
        ("right class gets 1 − α", HIT, "targets[rows, labels] = 1 - smoothing"),
        ("right class gets 1 more", HIT, "targets[rows, labels] += 1"),
        ("α and 1 − α exchanged", HIT, "targets[rows, labels] += smoothing"),
        ("not smoothed", TARGETS, "torch.zeros_like(z)"),
        ("divides by the batch for K", TARGETS, TARGETS.replace("z.shape[1]", "z.shape[0]")),
        ("sum over the batch", "return -per_row.mean()", "return -per_row.sum()"),
        ("mean over the classes too", PER_ROW, PER_ROW.replace(".sum(1)", ".mean(1)")),
        ("sign of the loss", "return -per_row.mean()", "return per_row.mean()"),
        ("loss for each row", "return -per_row.mean()", "return -per_row"),
        ("softmax over the batch", PER_ROW, PER_ROW.replace("log_softmax(z)", "log_softmax(z, 0)")),
        ("log of softmax", PER_ROW, PER_ROW.replace("log_softmax(z)", "softmax(z).log()")),
        (
            "log with a floor",
            PER_ROW,
            PER_ROW.replace("log_softmax(z)", "(softmax(z) + 1e-12).log()"),
        ),
        (
            "log softmax that overflows",
            PER_ROW,
            PER_ROW.replace("log_softmax(z)", "(z - z.exp().sum(1, keepdim=True).log())"),
        ),
        (
            "one maximum for the whole batch",
            PER_ROW,
            PER_ROW.replace(
                "log_softmax(z)", "(z - z.max() - (z - z.max()).exp().sum(1, keepdim=True).log())"
            ),
        ),
        ("backward without 1/n", BACKWARD_CE, BACKWARD_CE.replace(" / len(z)", "")),
        ("backward divides by n K", BACKWARD_CE, BACKWARD_CE.replace("len(z)", "z.numel()")),
        ("backward divides by K", BACKWARD_CE, BACKWARD_CE.replace("len(z)", "z.shape[1]")),
        ("sign of the gradient", BACKWARD_CE, f"-{BACKWARD_CE}"),
        (
            "backward without smoothing",
            BACKWARD_CE,
            BACKWARD_CE.replace("labels, smoothing", "labels, 0.0"),
        ),
        (
            "backward softmax over the batch",
            BACKWARD_CE,
            BACKWARD_CE.replace("softmax(z)", "softmax(z, 0)"),
        ),
        (
            "backward softmax overflows",
            BACKWARD_CE,
            BACKWARD_CE.replace("softmax(z)", "z.exp() / z.exp().sum(1, keepdim=True)"),
        ),
        ("backward from z instead of p", BACKWARD_CE, BACKWARD_CE.replace("softmax(z)", "z")),
        ("writes the targets into z", TARGETS, "z.fill_(smoothing / z.shape[1])"),
    ),
    *_of(
        "logsumexp",
        ("overflows", LSE, "x.exp().sum(dim, keepdim=True).log()"),
        ("maximum not added again", LSE, LSE.replace("largest + ", "", 1)),
        ("mean instead of sum", LSE, LSE.replace(".sum(", ".mean(")),
        ("always the last axis", LSE, LSE.replace("sum(dim", "sum(-1")),
        ("sum over everything", LSE, LSE.replace(".sum(dim, keepdim=True)", ".sum()")),
        ("axis dropped", LSE, f"({LSE}).squeeze(dim)"),
        ("minimum instead of maximum", LARGEST, "largest = x.amin(dim, keepdim=True)"),
        ("one maximum for all", LARGEST, "largest = x.max()"),
        ("logarithm to base 2", LSE, LSE.replace(".log()", ".log2()")),
        ("rule forgets grad", RULE, "lambda grad, out, x, dim: (x - out).exp()"),
        ("rule forgets the softmax", RULE, "lambda grad, out, x, dim: grad + 0 * x"),
        ("rule with the wrong sign", RULE, RULE.replace("x - out", "out - x")),
        ("rule without exp", RULE, "lambda grad, out, x, dim: grad * (x - out)"),
        ("rule that overflows", RULE, "lambda grad, out, x, dim: grad * x.exp() / out.exp()"),
        ("rule sums grad", RULE, "lambda grad, out, x, dim: grad.sum() * (x - out).exp()"),
        ("rule of plain arrays", RULE, RULE.replace("(x - out)", "(x - out).value")),
        ("out is a constant in the rule", RULE, RULE.replace("out).exp", "out.detach()).exp")),
        ("x is a constant in the rule", RULE, RULE.replace("(x -", "(x.detach() -")),
        (
            "rule normalises again along the last axis",
            RULE,
            RULE + " / (x - out).exp().sum(-1, True)",
        ),
        ("rule divides by the length", RULE, RULE + " / x.shape[dim]"),
        ("no rule at all", f"logsumexp.gradients({RULE})", "pass"),
        ("not one operation", PRIMITIVE, PRIMITIVE.removeprefix("@primitive\n").split("\n\n\n")[0]),
    ),
    *_of(
        "rms-norm-layer",
        ("gain is no parameter", GAIN, "self.gain = torch.ones(features)"),
        ("gain is a buffer", GAIN, 'self.register_buffer("gain", torch.ones(features))'),
        ("gain starts at 0", GAIN, "self.gain = nn.Parameter(torch.zeros(features))"),
        ("gain is random", GAIN, "self.gain = nn.Parameter(torch.rand(features))"),
        ("gain is float64", GAIN, GAIN.replace("features)", "features, dtype=torch.float64)")),
        ("gain is a single number", GAIN, "self.gain = nn.Parameter(torch.ones(()))"),
        ("gain is frozen", GAIN, GAIN.replace("features))", "features), requires_grad=False)")),
        ("eps is not stored", "self.eps = eps", "self.eps = 1e-6"),
        ("eps is not used going back", VJP, VJP.replace(", ctx.eps", "")),
        (
            "eps is not used going forward",
            NORM,
            "return rms_norm(x, gain)",
        ),
        ("no Function: torch differentiates", APPLY, "rms_norm(x, self.gain, self.eps)"),
        (
            "gain outside the Function",
            APPLY,
            "RMSNormFunction.apply(x, torch.ones_like(self.gain), self.eps) * self.gain",
        ),
        ("the input is detached", APPLY, APPLY.replace("(x,", "(x.detach(),")),
        ("gain is detached", APPLY, APPLY.replace("self.gain", "self.gain.detach()")),
        ("gain's data are passed", APPLY, APPLY.replace("self.gain", "self.gain.data")),
        (
            "gradients in the wrong order",
            VJP,
            f"*reversed({PAIR}), None",
        ),
        (
            "no gradient for gain",
            VJP,
            f"{PAIR}[0], None, None",
        ),
        ("one None too few", VJP, PAIR),
        ("the pair is not unpacked", VJP, VJP.replace("*", "")),
        (
            "the gradient is passed on as it is",
            VJP,
            f"grad_output, {PAIR}[1], None",
        ),
        (
            "what is saved hangs on the class",
            SAVE_AND_LOAD,
            SAVE_AND_LOAD.replace(SAVE, "RMSNormFunction.saved = (x, gain)").replace(
                "ctx.saved_tensors", "RMSNormFunction.saved"
            ),
        ),
        ("ones are saved for gain", SAVE, "ctx.save_for_backward(x, torch.ones_like(gain))"),
        ("the output is saved for x", SAVE, "ctx.save_for_backward(rms_norm(x, gain, eps), gain)"),
        (
            "x is normalised in place",
            NORM,
            "return x.copy_(rms_norm(x, gain, eps))",
        ),
        (
            "computes in float32",
            NORM,
            "return rms_norm(x.float(), gain.float(), eps).to(x.dtype)",
        ),
    ),
    *_of(
        "train",
        ("does not train", FIT, "return None"),
        ("one step", "epochs=8", "max_steps=1"),
        (
            "returns the module",
            FIT,
            FIT.replace("return ", "") + "\n    return module",
        ),
        ("learning rate far too small", "lr=1e-2", "lr=1e-6"),
        ("learning rate far too large", "lr=1e-2", "lr=1e3"),
        ("plain SGD with a tiny step", OPTIMIZER, "functools.partial(torch.optim.SGD, lr=1e-3)"),
        (
            "climbs the loss",
            OPTIMIZER,
            "functools.partial(torch.optim.SGD, lr=1e-1, maximize=True)",
        ),
        ("no smoothing", LOSS, ""),
        ("smoothing left at 0", LOSS, LOSS.replace("0.1", "0.0")),
        ("smoothing of 1", LOSS, LOSS.replace("0.1", "1.0")),
        ("no normalisation", LAYERS, "nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)"),
        ("LayerNorm instead", LAYERS, LAYERS.replace("RMSNorm(32)", "nn.LayerNorm(32)")),
        ("torch's RMSNorm instead", LAYERS, LAYERS.replace("RMSNorm(32)", "nn.RMSNorm(32)")),
        ("no activation", LAYERS, LAYERS.replace("nn.ReLU()", "nn.Identity()")),
        ("another activation", LAYERS, LAYERS.replace("nn.ReLU()", "nn.Tanh()")),
        ("wrong order", LAYERS, "nn.Linear(64, 32), nn.ReLU(), RMSNorm(32), nn.Linear(32, 10)"),
        ("too few classes", LAYERS, LAYERS.replace("(32, 10)", "(32, 9)")),
        ("another width", LAYERS, "nn.Linear(64, 48), RMSNorm(48), nn.ReLU(), nn.Linear(48, 10)"),
        ("softmax in the network", LAYERS, LAYERS + ", nn.Softmax(-1)"),
        (
            "loss summed over the batch",
            LOSS,
            "loss=lambda z, y: len(y) * smoothed_cross_entropy(z, y, 0.1),",
        ),
        (
            "starts anew after training",
            FIT,
            FIT.replace("return", "result =") + "\n"
            "    for layer in result.module.network:\n"
            '        getattr(layer, "reset_parameters", lambda: None)()\n'
            "    return result",
        ),
        (
            "gain is not trained",
            "    module = Classifier(",
            "    network[1].gain.requires_grad_(False)\n    module = Classifier(",
        ),
        (
            "weights of zero",
            "    module = Classifier(",
            "    for parameter in network.parameters():\n"
            "        nn.init.zeros_(parameter)\n"
            "    module = Classifier(",
        ),
    ),
)
