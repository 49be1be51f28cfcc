"""Judge of minimal-gated-unit: row by row, without padding, differentiated by torch.autograd."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from companion.homework.architectures.comparing import expect
from companion.homework.backprop.by_hand import each_case
from companion.homework.tasks import Answers, Inputs, Suspects

LEAVES = ("x", "h0", "w_ih", "w_hh", "bias")
Values = dict[str, np.ndarray]


class Case(NamedTuple):
    """Lengths of the rows, time, features, hidden size."""

    lengths: tuple[int, ...]
    time: int
    features: int
    hidden: int


CASES = (
    Case((4, 4), 4, 3, 2),
    Case((1,), 1, 2, 3),
    Case((5, 2, 3), 5, 2, 3),
    Case((1, 4), 4, 1, 4),  # no row is as long as the padded batch at first
    Case((3,), 5, 2, 1),
    Case((2, 1, 2), 2, 4, 2),
)


def draw(rng: np.random.Generator) -> Inputs:
    """Draw sequences, weights and ∂L/∂ both results; padding holds large numbers."""
    inputs: Inputs = {"cases": len(CASES)}
    for i, (lengths, time, features, hidden) in enumerate(CASES):
        rows = len(lengths)
        order = rng.permutation(rows)
        inputs[f"lengths{i}"] = np.array(lengths, dtype=np.int64)[order]
        padding = np.arange(time) >= inputs[f"lengths{i}"][:, None]
        x, delta = (rng.standard_normal((rows, time, n)) for n in (features, hidden))
        inputs[f"x{i}"] = np.where(padding[:, :, None], 50 * x, x)
        inputs[f"grad_output{i}"] = np.where(padding[:, :, None], 50 * delta, delta)
        inputs[f"grad_last{i}"] = rng.standard_normal((rows, hidden))
        inputs[f"h0{i}"] = rng.standard_normal((rows, hidden))
        inputs[f"w_ih{i}"] = rng.standard_normal((2 * hidden, features))
        inputs[f"w_hh{i}"] = rng.standard_normal((2 * hidden, hidden))
        inputs[f"bias{i}"] = rng.standard_normal(2 * hidden)
    return inputs


def step(
    x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, mistake: str = ""
) -> Tensor:
    """Return the next state of one row, x (features,) and h (hidden,); `mistake` spoils it."""
    (w_f, w_h), (u_f, u_h), (b_f, b_h) = (each.chunk(2) for each in (w_ih, w_hh, bias))
    if mistake == "halves":
        w_f, w_h, u_f, u_h, b_f, b_h = w_h, w_f, u_h, u_f, b_h, b_f
    if mistake == "bias":
        b_f, b_h = 0 * b_f, 0 * b_h
    if mistake == "truncated":
        h = h.detach()
    to_gate = h.detach() if mistake == "state to gate" else h
    if mistake == "interleaved":
        (w_f, w_h), (u_f, u_h) = (w_ih[::2], w_ih[1::2]), (w_hh[::2], w_hh[1::2])
    f = gate = torch.sigmoid(w_f @ x + u_f @ to_gate + b_f)
    if mistake == "tanh":
        f = torch.tanh(w_f @ x + u_f @ to_gate + b_f)
    if mistake == "slope of gate":  # the right value, with a slope of 1
        f = straight(w_f @ x + u_f @ to_gate + b_f, gate)
    f_inside, h_inside = f, h
    if mistake == "gate inside":
        f_inside = f.detach()
    if mistake == "state inside":
        h_inside = h.detach()
    if mistake == "product inside":
        f_inside, h_inside = f.detach(), h.detach()
    recurrent = u_h @ (f_inside * h_inside)
    if mistake == "after":
        recurrent = f * (u_h @ h)
    if mistake == "ungated":
        recurrent = u_h @ h
    if mistake == "complement":
        recurrent = u_h @ ((1 - f) * h)
    candidate = torch.tanh(w_h @ x + recurrent + b_h)
    if mistake == "sigmoid":
        candidate = torch.sigmoid(w_h @ x + recurrent + b_h)
    if mistake == "slope of candidate":
        candidate = straight(w_h @ x + recurrent + b_h, candidate)
    if mistake == "gate of slope":
        return (1 - f) * h + f * candidate.detach() + straight(candidate, 0 * candidate)
    if mistake == "exchanged":
        return f * h + (1 - f) * candidate
    f_outside, f_kept = f, f
    if mistake == "gate outside":
        f_outside = f_kept = f.detach()
    if mistake == "gate of candidate":
        f_outside = f.detach()
    if mistake == "gate of state":
        f_kept = f.detach()
    kept = h.detach() if mistake == "state kept" else h
    if mistake == "nothing kept":
        return f * candidate
    return (1 - f_kept) * kept + f_outside * candidate


def straight(inner: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of `inner`."""
    return inner + (value - inner).detach()


def run(case: Values, mistake: str = "") -> Values:
    """Return both results and the five gradients, with a known mistake if one is named."""
    leaves = {name: torch.tensor(case[name], requires_grad=True) for name in LEAVES}
    x, h0, *weights = leaves.values()
    output_rows, last_rows, weighted = [], [], []
    for n, length in enumerate(case["lengths"].tolist()):
        steps = x.shape[1]
        real = steps if mistake in ("lengths", "lengths for last") else length
        h, states = (0 * h0[n] if mistake == "h0" else h0[n]), []
        for t in range(steps):
            if t < real:
                h = step(x[n, t], h, *weights, mistake)
                states.append(h)
            else:
                states.append(h if mistake == "repeated" else torch.zeros_like(h))
        shown = torch.stack(states)
        if mistake == "lengths for last":
            shown = shown * (torch.arange(steps) < length)[:, None]
        output_rows.append(shown)
        last_rows.append(h)
        delta, grad_last = (torch.tensor(case[name][n]) for name in ("grad_output", "grad_last"))
        if mistake == "padded delta":
            weighted.append((h * delta[length:].sum(0)).sum())
        if mistake != "grad_output":
            weighted.append((shown * delta).sum())
        if mistake == "last at all":
            weighted += [earlier @ grad_last for earlier in states[: length - 1]]
        if mistake != "grad_last":
            weighted.append(h @ grad_last)
    output, last = torch.stack(output_rows), torch.stack(last_rows)
    total = torch.stack(weighted).sum() + 0 * sum(leaf.sum() for leaf in leaves.values())
    grads = torch.autograd.grad(total, list(leaves.values()))
    found = {"output": output.detach().numpy(), "last": last.detach().numpy()}
    for name, grad in zip(leaves, grads, strict=True):
        found[f"grad_{name}"] = grad.numpy()
    return found


MISTAKES = {
    "halves": "the first half of the rows belongs to the gate, the second to the candidate",
    "bias": "the bias is left out",
    "tanh": "the gate is a sigmoid",
    "sigmoid": "the candidate is a tanh",
    "interleaved": "the first half of the rows belongs to the gate, the second to the candidate",
    "slope of gate": "the slope of the sigmoid, f (1 − f), is left out",
    "slope of candidate": "the slope of tanh, 1 − h̃², is left out",
    "gate of slope": "the gate multiplies what reaches the candidate, going back as well",
    "last at all": "grad_last arrives at each row's last real step alone",
    "h0": "the first step begins from h0",
    "after": "the gate multiplies the state before the matrix does: U_h (f ⊙ h)",
    "ungated": "the candidate sees the gated state, f ⊙ h",
    "complement": "the candidate sees f ⊙ h, not (1 − f) ⊙ h",
    "exchanged": "f takes from the candidate, 1 − f from the old state",
    "nothing kept": "the part that is kept, (1 − f) ⊙ h, is missing",
    "lengths": "steps beyond a row's length must not count",
    "lengths for last": "the last state is that of the row's last real step",
    "repeated": "the states are 0 at padding",
    "truncated": "the gradient does not reach earlier steps: ∂L/∂h is carried back through time",
    "state to gate": "a way back to h is missing: through the gate, U_f",
    "state inside": "a way back to h is missing: through the candidate, U_h",
    "product inside": "the way back through the candidate's f ⊙ h is missing",
    "state kept": "a way back to h is missing: the part that is kept, 1 − f",
    "gate inside": "a way back to f is missing: f also multiplies h inside the candidate",
    "gate outside": "a way back to f is missing: (1 − f) ⊙ h + f ⊙ h̃ gives h̃ − h",
    "gate of candidate": "f is in the new state twice, with h̃ and with h: its gradient has h̃ − h",
    "gate of state": "f is in the new state twice, with h̃ and with h: its gradient has h̃ − h",
    "grad_output": "grad_output is left out: it arrives at every real step",
    "grad_last": "grad_last is left out: it arrives at each row's last real step",
    "padded delta": "what arrives at padding must not count",
}


def suspects(name: str, case: Values) -> Suspects:
    """Return what known mistakes give for the answer called `name`."""
    found = [(hint, run(case, mistake)[name]) for mistake, hint in MISTAKES.items()]
    right = run(case)
    if name == "output":
        whole, last = run(case, "lengths")["output"], right["last"]
        found.append(("the states are 0 at padding", whole))
        found.append(("the first result holds the states of all steps", last))
        found.append(("time is the second axis", right["output"].swapaxes(0, 1)))
    if name == "last":
        found.append(("the last state is that of the row's last real step", right["output"][:, -1]))
    if name == "grad_h0":
        found.append(("the gradient of h0 is what leaves the first step", 0 * right[name]))
    return found


def judge(inputs: Inputs, answers: Answers) -> None:
    """Compare both results and all gradients of every case."""

    def check(i: int) -> None:
        names = ("grad_output", "grad_last", "lengths", *LEAVES)
        case = {name: inputs[f"{name}{i}"] for name in names}
        lengths = case["lengths"].tolist()
        for name, want in run(case).items():
            expect(
                f"{name} for lengths {lengths} in {CASES[i].time} steps, hidden {CASES[i].hidden}",
                answers.array(f"{name}{i}"),
                want,
                lambda name=name: suspects(name, case),
                factors=[("a sum over the batch is asked for, not a mean", 1 / len(lengths))],
                otherwise=_guess(name, lengths, CASES[i].time),
            )

    each_case(len(CASES), lambda i: len(CASES[i].lengths), check)


def _guess(name: str, lengths: list[int], time: int) -> str:
    if min(lengths) < time and name.startswith("grad_"):
        return "rows without padding are right: does a step beyond a row's length change anything?"
    if min(lengths) < time:
        return "rows without padding are right: look at what happens at the end of a short row"
    return ""
