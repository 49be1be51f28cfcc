"""Checks of the recurrent modules against torch.nn and autograd, as functions of the module.

The ordinary tests call them with the real module, test_rnn_mistakes.py with planted mistakes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from companion.architectures import cells as real_cells

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
KINDS = ("RNN", "LSTM", "GRU")

seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 4)
# No shrinking: the cases are small already, and planted mistakes would wait for it.
one_bug = settings(
    report_multiple_bugs=False, phases=[Phase.explicit, Phase.generate], max_examples=60
)


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def as_tuple(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def random_states(count: int, shape: tuple[int, ...], seed: int) -> tuple[Tensor, ...]:
    return tuple(normal(shape, seed + 100 + i).requires_grad_() for i in range(count))


def single(states: tuple[Tensor, ...]) -> Any:
    return states[0] if len(states) == 1 else states


def randomize(module: nn.Module, seed: int) -> None:
    with torch.no_grad():
        for offset, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(tuple(parameter.shape), seed + offset))


def same_parameter_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, mine), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None, f"{name} has no gradient"
        assert mine.grad.shape == their.grad.shape, name
        assert_close(mine.grad, their.grad, **TIGHT, msg=lambda text, name=name: f"{name}: {text}")


def compare_cell(cells: ModuleType, kind: str, batch: int, f: int, h: int, bias: bool, seed: int):
    ours = getattr(cells, f"{kind}Cell")(f, h, bias).double()
    theirs = getattr(nn, f"{kind}Cell")(f, h, bias).double()
    randomize(theirs, seed)
    ours.load_state_dict(theirs.state_dict())
    x = normal((batch, f), seed + 50).requires_grad_()
    before = random_states(ours.states, (batch, h), seed)
    expected = as_tuple(theirs(x, single(before)))
    grads = tuple(normal((batch, h), seed + 200 + i) for i in range(len(expected)))
    torch.autograd.backward(expected, grads)
    after = as_tuple(ours(x.detach(), single(tuple(b.detach() for b in before))))
    for one, other in zip(after, expected, strict=True):
        assert_close(one.detach(), other.detach(), **TIGHT)
    grad_x, grad_state = ours.backward(single(grads))
    assert_close(grad_x, x.grad, **TIGHT)
    for one, other in zip(as_tuple(grad_state), before, strict=True):
        assert_close(one, other.grad, **TIGHT)
    same_parameter_gradients(ours, theirs)


def check_cell(cells: ModuleType, kind: str) -> None:
    @one_bug
    @given(st.integers(0, 4), sizes, sizes, st.booleans(), seeds)
    def run(batch: int, f: int, h: int, bias: bool, seed: int) -> None:
        compare_cell(cells, kind, batch, f, h, bias, seed)

    run()


def check_elman(bptt: ModuleType) -> None:
    """The five gradients of the page's formulas, against autograd."""

    @one_bug
    @given(sizes, st.integers(1, 6), sizes, sizes, seeds)
    def run(n: int, t: int, f: int, h: int, seed: int) -> None:
        shapes = [(n, t, f), (n, h), (h, f), (h, h), (h,)]
        leaves = [normal(s, seed + i).requires_grad_() for i, s in enumerate(shapes)]
        x, h0, w_ih, w_hh, b = leaves
        state, states = h0, [h0]
        for step in range(t):
            state = torch.tanh(
                nn.functional.linear(x[:, step], w_ih, b) + nn.functional.linear(state, w_hh)
            )
            states.append(state)
        expected = torch.stack(states, 1)
        grad_h = normal((n, t, h), seed + 9)
        gradients = torch.autograd.grad(expected[:, 1:], leaves, grad_h)
        with torch.no_grad():
            found = bptt.elman(x, h0, w_ih, w_hh, b)
            assert_close(found, expected.detach(), **TIGHT)
            ours = bptt.elman_backward(grad_h, x, found, w_ih, w_hh)
        for name, one, other in zip(("x", "h0", "w_ih", "w_hh", "b"), ours, gradients, strict=True):
            assert_close(one, other, **TIGHT, msg=lambda text, name=name: f"{name}: {text}")

    run()


lengths_of_rows = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def check_unroll(bptt: ModuleType, kind: str) -> None:
    """Random lengths: with them torch.nn runs on packed sequences, without on all steps."""

    @one_bug
    @given(lengths_of_rows, st.booleans(), sizes, sizes, st.booleans(), seeds)
    def run(rows: list[int], ragged: bool, f: int, h: int, bias: bool, seed: int) -> None:
        cell = getattr(real_cells, f"{kind}Cell")
        theirs = getattr(nn, kind)(f, h, bias=bias, batch_first=True).double()
        randomize(theirs, seed)
        n, t = len(rows), max(rows)
        lengths = torch.tensor(rows) if ragged else torch.full((n,), t)
        x = normal((n, t, f), seed + 50).requires_grad_()
        before = random_states(cell.states, (n, h), seed)
        expected, last = run_library(theirs, x, before, lengths if ragged else None)
        grad_output = normal((n, t, h), seed + 300)
        grads = tuple(normal((n, h), seed + 200 + i) for i in range(len(last)))
        torch.autograd.backward((expected, *last), (grad_output, *grads))
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights = tuple(getattr(theirs, name, None) for name in names)
        with torch.no_grad():
            mask = torch.arange(t) < lengths.unsqueeze(1) if ragged else None
            state = tuple(b.detach() for b in before)
            output, end, tape = bptt.unroll(cell, x.detach(), state, weights, mask)
            assert_close(output, expected.detach(), **TIGHT)
            for one, other in zip(end, last, strict=True):
                assert_close(one, other.detach(), **TIGHT)
            grad_x, first, gradients = bptt.unroll_backward(cell, grad_output, grads, tape, weights)
        assert_close(grad_x, x.grad, **TIGHT)
        for one, other in zip(first, before, strict=True):
            assert_close(one, other.grad, **TIGHT)
        for weight, gradient in zip(weights, gradients, strict=True):
            if weight is not None:
                assert_close(gradient, weight.grad, **TIGHT)

    run()


def run_library(
    layer: nn.RNNBase, x: Tensor, before: tuple[Tensor, ...], lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run torch.nn's layer, on packed sequences if there are lengths; states (N, H)."""
    start = single(tuple(b.unsqueeze(0) for b in before))
    if lengths is None:
        output, last = layer(x, start)
    else:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        output, last = layer(packed, start)
        output, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
    return output, tuple(part.squeeze(0) for part in as_tuple(last))


def check_layers(rnn: ModuleType, kind: str) -> None:
    """Random depth, lengths, layout: output, last states and every gradient as in torch.nn."""

    @one_bug
    @given(lengths_of_rows, st.booleans(), sizes, sizes, sizes, st.booleans(), st.booleans(), seeds)
    def run(rows, ragged, f, h, layers, bias, batch_first, seed) -> None:
        ours = getattr(rnn, kind)(f, h, layers, bias, batch_first).double()
        options = {"bias": bias, "batch_first": batch_first}
        theirs = getattr(nn, kind)(f, h, layers, **options).double()
        randomize(theirs, seed)
        ours.load_state_dict(theirs.state_dict())
        n, t = len(rows), max(rows)
        lengths = torch.tensor(rows) if ragged else None
        x = normal((n, t, f) if batch_first else (t, n, f), seed + 50).requires_grad_()
        before = random_states(ours.cell.states, (layers, n, h), seed)
        inputs = x
        if ragged:
            inputs = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first, False)
        expected, last = theirs(inputs, single(before))
        if ragged:
            expected, _ = nn.utils.rnn.pad_packed_sequence(expected, batch_first)
        last = as_tuple(last)
        grad_output = normal(tuple(expected.shape), seed + 300)
        grads = tuple(normal(tuple(s.shape), seed + 200 + i) for i, s in enumerate(last))
        torch.autograd.backward((expected, *last), (grad_output, *grads))

        start = single(tuple(b.detach() for b in before))
        output, end = ours(x.detach(), start, lengths)
        assert_close(output.detach(), expected.detach(), **TIGHT)
        for one, other in zip(as_tuple(end), last, strict=True):
            assert_close(one.detach(), other.detach(), **TIGHT)
        grad_x, first = ours.backward(grad_output, single(grads))
        assert_close(grad_x, x.grad, **TIGHT)
        for one, other in zip(as_tuple(first), before, strict=True):
            assert_close(one, other.grad, **TIGHT)
        same_parameter_gradients(ours, theirs)

    run()


def check_classifier(rnn: ModuleType, cell: str, pool: str) -> None:
    """Whatever stands in the padding, each row's logits are those of the row on its own."""

    @one_bug
    @given(lengths_of_rows, seeds)
    def run(rows: list[int], seed: int) -> None:
        torch.manual_seed(seed)
        network = rnn.SequenceClassifier(3, 4, 5, cell, pool=pool).double()
        lengths = torch.tensor(rows)
        x = normal((len(rows), max(rows) + 2, 3), seed)
        with torch.no_grad():
            together = network(x, lengths)
            alone = [network(row[:n].unsqueeze(0)) for row, n in zip(x, rows, strict=True)]
        assert_close(together, torch.cat(alone), **TIGHT)

    run()


def check_clipping(clipping: ModuleType) -> None:
    @one_bug
    @given(st.lists(sizes, min_size=1, max_size=4), st.floats(-4, 4), st.floats(0.01, 10), seeds)
    def run(widths: list[int], exponent: float, max_norm: float, seed: int) -> None:
        ours = [nn.Parameter(torch.zeros(3, w).double()) for w in widths]
        theirs = [nn.Parameter(torch.zeros(3, w).double()) for w in widths]
        for offset, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = normal((3, widths[offset]), seed + offset) * 10**exponent
            other.grad = one.grad.clone()
        norm = clipping.clip_grad_norm_(ours, max_norm)
        assert_close(norm, nn.utils.clip_grad_norm_(theirs, max_norm), **TIGHT)
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one.grad, other.grad, rtol=1e-10, atol=0)

    run()


def check_lags(lags: ModuleType) -> None:
    """‖∂h_T/∂h_t‖ against autograd's Jacobian of the whole stretch."""

    @one_bug
    @given(st.integers(1, 2), st.integers(1, 5), sizes, st.floats(0.1, 2), seeds)
    def run(n: int, t: int, h: int, scale: float, seed: int) -> None:
        w, inputs = normal((h, h), seed) * scale, normal((n, t, h), seed + 1)
        states = [normal((n, h), seed + 2)]
        for step in range(t):
            states.append(torch.tanh(inputs[:, step] + states[-1] @ w.T))
        found = lags.jacobian_norms(torch.stack(states, 1), w)
        assert found.shape == (n, t + 1)
        for row in range(n):
            for lag in range(t + 1):

                def rest(start: Tensor, row: int = row, lag: int = lag) -> Tensor:
                    for step in range(t - lag, t):
                        start = torch.tanh(inputs[row, step] + w @ start)
                    return start

                jacobian = torch.autograd.functional.jacobian(rest, states[t - lag][row])
                norm = torch.linalg.svdvals(jacobian)[0]
                assert_close(found[row, lag], norm, rtol=1e-9, atol=1e-12)

    run()


def check_mask(sequences: ModuleType) -> None:
    found = sequences.mask(torch.tensor([2, 4, 1]), 4)
    assert found.tolist() == [[True, True, False, False], [True] * 4, [True] + [False] * 3]
