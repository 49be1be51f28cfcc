r"""Back-propagation through time: a recurrent cell unrolled over a sequence, and taken back.

Shapes: N sequences, T steps, F features, H hidden units, G gates. For Elman's cell, with the loss
reading every state, δ_t the gradient at the pre-activation of step t:

    h_t = tanh(x_t W_ihᵀ + h_{t-1} W_hhᵀ + b)                             (N, H)
    ∂L/∂h_t = (what the loss sends to step t) + δ_{t+1} W_hh              (N, H), two paths
    δ_t = ∂L/∂h_t ⊙ (1 − h_t²)                                            (N, H)
    ∂L/∂W_hh = Σ_t δ_tᵀ h_{t-1}   ∂L/∂W_ih = Σ_t δ_tᵀ x_t   ∂L/∂b = Σ_t Σ_n δ_t

The weights are *shared* by all steps, so their gradients are sums over the steps. First as it
reads, for one cell, one step after the other (`elman`, `elman_backward`); then for any cell of
`companion.architectures.cells`, with the work that does not depend on the order done for all steps
in one matrix product (`unroll`, `unroll_backward`).

Sources: Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the
IEEE 78 (1990); Elman, "Finding structure in time", Cognitive Science 14 (1990).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from companion.architectures.cells import Cell, State
from companion.backprop.layers import linear_forward, linear_parameter_gradients

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def elman(x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, b: Tensor) -> Tensor:
    """Return the states h_0 … h_T, (N, T + 1, H), of Elman's network.

    Args:
        x: (N, T, F). h0: (N, H). w_ih: (H, F). w_hh: (H, H). b: (H,).
    """
    states = [h0]
    for t in range(x.shape[1]):
        states.append(torch.tanh(x[:, t] @ w_ih.T + states[-1] @ w_hh.T + b))
    return torch.stack(states, dim=1)


def elman_backward(
    grad_h: Tensor, x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor
) -> tuple[Tensor, ...]:
    """Return ∂L/∂x, ∂L/∂h_0, ∂L/∂W_ih, ∂L/∂W_hh, ∂L/∂b, step by step from the last to the first.

    Args:
        grad_h: (N, T, H), what the loss sends to each of h_1 … h_T directly.
        h: (N, T + 1, H), what `elman` returned.
    """
    grad_x, grad_w_ih, grad_w_hh = map(torch.zeros_like, (x, w_ih, w_hh))
    grad_b, arriving = torch.zeros_like(w_hh[0]), torch.zeros_like(h[:, 0])
    for t in reversed(range(x.shape[1])):
        total = grad_h[:, t] + arriving  # from the loss, and from the step after
        delta = total * (1 - h[:, t + 1] ** 2)  # (N, H)
        grad_w_ih += delta.T @ x[:, t]
        grad_w_hh += delta.T @ h[:, t]
        grad_b += delta.sum(0)
        grad_x[:, t] = delta @ w_ih
        arriving = delta @ w_hh
    return grad_x, arriving, grad_w_ih, grad_w_hh, grad_b


class Tape(NamedTuple):
    """What `unroll` keeps: x (N, T, F), h_0 … h_{T-1} (N, T, H), each step's own, the mask."""

    x: Tensor
    before: Tensor
    steps: list[tuple[Tensor, ...]]
    mask: Tensor | None


def unroll(
    cell: type[Cell], x: Tensor, state: State, weights: Weights, mask: Tensor | None = None
) -> tuple[Tensor, State, Tape]:
    """Run `cell` over x: (N, T, F) from `state`, tensors (N, H).

    Args:
        weights: W_ih (G·H, F), W_hh (G·H, H) and the two biases (G·H,), or None for a bias.
        mask: (N, T), boolean. Where it is False the state stays as it was and the output is 0,
            which is what torch.nn computes on packed sequences.

    Returns:
        The outputs (N, T, H), the last state, and the tape for `unroll_backward`.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    a = linear_forward(x, w_ih, b_ih)  # (N, T, G·H): the input's share, for all steps at once
    outputs, before, steps = [], [], []
    for t in range(x.shape[1]):
        before.append(state[0])
        after, kept = cell.step(a[:, t], linear_forward(state[0], w_hh, b_hh), *state)
        if mask is None:
            state, output = after, after[0]
        else:
            real = mask[:, t].unsqueeze(1)  # (N, 1)
            state = tuple(
                torch.where(real, new, old) for new, old in zip(after, state, strict=True)
            )
            output = after[0] * real
        outputs.append(output)
        steps.append(tuple(k.detach() for k in kept))
    tape = Tape(x.detach(), torch.stack(before, 1).detach(), steps, mask)
    return torch.stack(outputs, 1), state, tape


def unroll_backward(
    cell: type[Cell], grad_output: Tensor, grad_state: State, tape: Tape, weights: Weights
) -> tuple[Tensor, State, tuple[Tensor, ...]]:
    """Take `unroll` back.

    Args:
        grad_output: (N, T, H), ∂L/∂outputs.
        grad_state: ∂L/∂last state, tensors (N, H).

    Returns:
        ∂L/∂x (N, T, F), ∂L/∂first state, and the gradients of the four weights.
    """
    w_ih, w_hh, *_ = weights
    grads_a, grads_b, grad = [], [], grad_state
    for t in reversed(range(len(tape.steps))):
        passed_by: State = tuple(torch.zeros_like(g) for g in grad)
        grad_h = grad_output[:, t]
        if tape.mask is not None:
            real = tape.mask[:, t].unsqueeze(1)
            passed_by = tuple(g * ~real for g in grad)  # a padded step hands its state on
            grad, grad_h = tuple(g * real for g in grad), grad_h * real
        grad_a, grad_b, direct = cell.step_backward(tape.steps[t], grad[0] + grad_h, *grad[1:])
        through = (direct[0] + grad_b @ w_hh, *direct[1:])
        grad = tuple(g + p for g, p in zip(through, passed_by, strict=True))
        grads_a.append(grad_a)
        grads_b.append(grad_b)
    grad_a, grad_b = torch.stack(grads_a[::-1], 1), torch.stack(grads_b[::-1], 1)  # (N, T, G·H)
    grad_w_ih, grad_b_ih = linear_parameter_gradients(grad_a, tape.x)
    grad_w_hh, grad_b_hh = linear_parameter_gradients(grad_b, tape.before)
    return grad_a @ w_ih, grad, (grad_w_ih, grad_w_hh, grad_b_ih, grad_b_hh)
