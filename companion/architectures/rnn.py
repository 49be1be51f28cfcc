r"""Recurrent layers with hand-written gradients, and the two recurrent networks of the course.

`RNN`, `LSTM` and `GRU` unroll the cells of `companion.architectures.cells` over a sequence, layer
over layer: parameters, names, initialisation, input and output as in torch.nn (without its
`bidirectional` and `dropout`), and `backward` beside `forward`. They are for reading and for
checking. `SequenceClassifier` and `CharacterRNN` are for use, on torch.nn's fused kernels:

    SequenceClassifier   (N, T, F) real numbers  → LSTM → last real state → logits (N, classes)
    CharacterRNN         (N, T) ids → embedding → LSTM → every state      → logits (N, T, V)

Sources: as in `companion.architectures.cells`; for the character model Sutskever, Martens and
Hinton, "Generating text with recurrent neural networks", ICML 2011.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from companion.architectures import sequences
from companion.architectures.bptt import unroll, unroll_backward
from companion.architectures.cells import (
    Cell,
    GRUCell,
    LSTMCell,
    RNNCell,
    add_gradients,
    as_given,
    as_states,
    check_features,
    new_weights,
    reset,
)
from companion.arguments import check_fraction, check_integer

LIBRARY = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """A cell unrolled over time, `num_layers` times on top of one another.

    Args:
        input_size: features F of a time step.
        hidden_size: numbers H in each layer's state.
        num_layers: layers L; each reads the outputs of the one below.
        bias: whether the projections have biases.
        batch_first: x is (N, T, F) instead of (T, N, F); the default is torch.nn's.

    Raises:
        ValueError: a size below 1; in `forward`, a wrong shape, a sequence of length zero, or
            lengths beyond the padding.
    """

    cell: type[Cell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        check_integer("input_size", input_size, minimum=1)
        check_integer("hidden_size", hidden_size, minimum=1)
        check_integer("num_layers", num_layers, minimum=1)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.batch_first = num_layers, batch_first
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else hidden_size
            new = new_weights(self.cell.gates, inputs, hidden_size, bias, f"_l{layer}")
            for name, parameter in new.items():
                self.register_parameter(name, parameter)
        reset(self, hidden_size)
        self._tapes: list[Any] | None = None

    def weights(self, layer: int) -> tuple[Any, ...]:
        """Return the two weights and the two biases of a layer."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return tuple(getattr(self, f"{name}_l{layer}") for name in names)

    def forward(
        self, x: Tensor, state: Any = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Return the outputs of the top layer, shaped as x, and the last state of every layer.

        Args:
            x: (N, T, F), or (T, N, F) unless `batch_first`.
            state: (L, N, H), the LSTM's a pair of them; zeros if None.
            lengths: (N,), real steps of each sequence. Beyond them outputs are 0 and the state
                stays, as torch.nn has it with packed sequences.
        """
        check_features("x", x, self.input_size, dims=3)
        x = x if self.batch_first else x.transpose(0, 1)
        if x.shape[1] == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}; a sequence needs at least 1 step")
        mask = None
        if lengths is not None:
            sequences.check_lengths(lengths, x)
            mask = sequences.mask(lengths, x.shape[1])
        shape = (self.num_layers, len(x), self.hidden_size)
        first = as_states(state, self.cell.states, x, shape)
        last, self._tapes = [], []
        for layer in range(self.num_layers):
            start = tuple(part[layer] for part in first)
            x, end, tape = unroll(self.cell, x, start, self.weights(layer), mask)
            last.append(end)
            self._tapes.append(tape)
        output = x if self.batch_first else x.transpose(0, 1)
        return output, as_given(tuple(torch.stack(parts) for parts in zip(*last, strict=True)))

    @torch.no_grad()
    def backward(self, grad_output: Tensor, grad_state: Any = None) -> tuple[Tensor, Any]:
        """Accumulate the gradients of the parameters; return ∂L/∂x and ∂L/∂(first state).

        Args:
            grad_output: ∂L/∂output, in its shape.
            grad_state: ∂L/∂(last state), in its shape; zeros if None.

        Raises:
            RuntimeError: no forward pass came before.
        """
        if self._tapes is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward pass before it")
        tapes, self._tapes = self._tapes, None
        grad = grad_output if self.batch_first else grad_output.transpose(0, 1)
        shape = (self.num_layers, len(grad), self.hidden_size)
        arriving = as_states(grad_state, self.cell.states, grad, shape)
        first: list[Any] = [None] * self.num_layers
        for layer in reversed(range(self.num_layers)):
            end = tuple(part[layer] for part in arriving)
            weights = self.weights(layer)
            grad, first[layer], gradients = unroll_backward(
                self.cell, grad, end, tapes[layer], weights
            )
            add_gradients(weights, gradients)
        grad = grad if self.batch_first else grad.transpose(0, 1)
        return grad, as_given(tuple(torch.stack(parts) for parts in zip(*first, strict=True)))


class RNN(Recurrent):
    """Elman's network; as `torch.nn.RNN` with tanh."""

    cell = RNNCell


class LSTM(Recurrent):
    """Long short-term memory; as `torch.nn.LSTM`. Its state is the pair (h, c)."""

    cell = LSTMCell


class GRU(Recurrent):
    """Gated recurrent units; as `torch.nn.GRU`."""

    cell = GRUCell


class LastOutput(nn.Module):
    """The output of a hand-written recurrent layer at the last step: (N, T, F) to (N, H).

    With `backward`, so that it can stand in a `companion.backprop.layers.Sequential`.
    """

    def __init__(self, recurrent: Recurrent) -> None:
        super().__init__()
        if not (isinstance(recurrent, Recurrent) and recurrent.batch_first):
            raise ValueError("recurrent: an RNN, LSTM or GRU with batch_first=True is needed")
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Tensor:
        """Return the last output, (N, H)."""
        output, _ = self.recurrent(x)
        self._shape = output.shape
        return output[:, -1]

    def backward(self, grad_output: Tensor, *, input_gradient: bool = True) -> Tensor | None:
        """Take ∂L/∂(last output), (N, H), back through time; return ∂L/∂x."""
        everywhere = grad_output.new_zeros(self._shape)
        everywhere[:, -1] = grad_output  # the loss sees no other step
        grad_x, _ = self.recurrent.backward(everywhere)
        return grad_x if input_gradient else None


class SequenceClassifier(nn.Module):
    """Read a sequence, keep one state, name the class.

    Args:
        num_features: features F of a time step.
        num_classes: classes.
        hidden_size: numbers in the state.
        cell: "rnn", "lstm" or "gru".
        num_layers: recurrent layers.
        pool: "last" takes the state after the last real step, "mean" the mean of the states over
            all real steps, which shortens every gradient's way.
        dropout: share of the pooled state that is dropped in training.
        padding_value: trailing steps of which every feature has this value are padding. None:
            all steps are real unless `forward` is told `lengths`.

    Raises:
        ValueError: an argument out of range; in `forward`, a wrong shape, a sequence of length
            zero, or lengths beyond the padding.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        hidden_size: int,
        cell: str = "lstm",
        *,
        num_layers: int = 1,
        pool: str = "last",
        dropout: float = 0.0,
        padding_value: float | None = None,
    ) -> None:
        super().__init__()
        check_integer("num_features", num_features, minimum=1)
        check_integer("num_classes", num_classes, minimum=1)
        if pool not in ("last", "mean"):
            raise ValueError(f"pool={pool!r}: 'last' or 'mean'")
        check_fraction("dropout", dropout)
        self.num_features, self.pool, self.padding_value = num_features, pool, padding_value
        self.recurrent = library_layer(cell, num_features, hidden_size, num_layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map x: (N, T, F), and lengths: (N,) if given, to logits (N, num_classes)."""
        check_features("x", x, self.num_features, dims=3)
        if x.shape[1] == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}; a sequence needs at least 1 step")
        if lengths is not None:
            sequences.check_lengths(lengths, x)
        elif self.padding_value is not None:
            lengths = sequences.lengths_from_padding(x, self.padding_value)
        output, _ = self.recurrent(x)  # what follows a sequence's end cannot change what was before
        if lengths is None:
            pooled = output[:, -1] if self.pool == "last" else output.mean(1)
        elif self.pool == "last":
            pooled = sequences.last_step(output, lengths)
        else:
            pooled = sequences.masked_mean(output, lengths)
        return self.head(self.dropout(pooled))


class CharacterRNN(nn.Module):
    """A language model over ids: embedding, recurrent layers, logits of the next id.

    Args:
        vocab_size: number of ids V.
        embed_dim: numbers in an id's embedding.
        hidden_size: numbers in the state.
        cell: "rnn", "lstm" or "gru".
        num_layers: recurrent layers.
        dropout: share of the top states that is dropped in training.

    Raises:
        ValueError: an argument out of range; in `forward`, ids of a wrong shape or type.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        embed_dim: int = 64,
        hidden_size: int = 256,
        cell: str = "lstm",
        num_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_integer("vocab_size", vocab_size, minimum=1)
        check_integer("embed_dim", embed_dim, minimum=1)
        check_fraction("dropout", dropout)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.recurrent = library_layer(cell, embed_dim, hidden_size, num_layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids: (N, T), int64, to the logits (N, T, V) of the id that comes after each."""
        return self.advance(ids)[0]

    def advance(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Go on from `state`: return the logits (N, T, V) and the state after the last id."""
        if ids.dim() != 2 or ids.shape[1] == 0 or ids.is_floating_point():
            raise ValueError(
                f"ids has shape {tuple(ids.shape)} and dtype {ids.dtype}; integers of shape "
                "(batch, time) with at least 1 step are needed"
            )
        output, state = self.recurrent(self.embedding(ids), state)
        return self.head(self.dropout(output)), state

    @torch.no_grad()
    def sample(self, ids: Tensor, count: int, *, temperature: float = 1.0, seed: int = 0) -> Tensor:
        """Return ids: (N, T) with `count` more, drawn one by one; the state carries the past.

        Raises:
            ValueError: `count` below 0 or a temperature that is not positive.
        """
        check_integer("count", count, minimum=0)
        if not temperature > 0:
            raise ValueError(f"temperature={temperature!r}: a positive number is needed")
        generator = torch.Generator(ids.device).manual_seed(seed)
        was_training, parts, state = self.training, [ids], None
        self.eval()
        for _ in range(count):
            logits, state = self.advance(parts[-1], state)
            chances = (logits[:, -1].float() / temperature).softmax(-1)
            parts.append(torch.multinomial(chances, 1, generator=generator))
        self.train(was_training)
        return torch.cat(parts, dim=1)


def library_layer(cell: str, inputs: int, hidden_size: int, num_layers: int) -> nn.RNNBase:
    """Return torch.nn's fused layer for `cell`, batch first; ValueError if it is unknown."""
    if cell not in LIBRARY:
        raise ValueError(f"cell={cell!r}: one of {', '.join(map(repr, LIBRARY))} is needed")
    check_integer("hidden_size", hidden_size, minimum=1)
    check_integer("num_layers", num_layers, minimum=1)
    return LIBRARY[cell](inputs, hidden_size, num_layers, batch_first=True)
