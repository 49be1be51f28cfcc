r"""One time step of the three classic recurrent cells, forward and backward by hand.

Every cell first forms two projections, of the input and of the state before,

    a = x W_ihᵀ + b_ih          b = h W_hhᵀ + b_hh          (N, G·H) each, G gates

and then does, elementwise, with σ the sigmoid (a_k is the k-th block of H columns):

    RNN    h' = tanh(a + b)
    LSTM   i, f, o = σ(a + b)      g = tanh(a_g + b_g)      gates in the order i, f, g, o
           c' = f ⊙ c + i ⊙ g      h' = o ⊙ tanh(c')
    GRU    r, z = σ(a + b)         n = tanh(a_n + r ⊙ b_n)  gates in the order r, z, n
           h' = (1 − z) ⊙ n + z ⊙ h

`step` does this second part and `step_backward` takes it back; the two projections are linear
layers, which `companion.architectures.bptt` handles for all time steps at once. Weights have the
names and the layout of torch.nn: (G·H, F) and (G·H, H).

The GRU is the variant of cuDNN and torch.nn: the reset gate r multiplies the *product* h W_hhᵀ + b.
In the paper it multiplies h itself, before the product, tanh(a_n + (r ⊙ h) W_hhᵀ). (Some later
papers also write z where this one has 1 − z.)

Sources: Elman, "Finding structure in time", Cognitive Science 14 (1990); Hochreiter and
Schmidhuber, "Long short-term memory", Neural Computation 9 (1997), with the forget gate of Gers,
Schmidhuber and Cummins, Neural Computation 12 (2000); Cho et al., "Learning phrase representations
using RNN encoder-decoder for statistical machine translation", EMNLP 2014, section 2.3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from companion.arguments import check_integer
from companion.backprop.layers import linear_backward, linear_forward

State = tuple[Tensor, ...]


class Cell(nn.Module):
    """A recurrent cell: `step` and `step_backward`, and a module around them.

    `forward(x, state)` maps x: (N, F) and the state before to the state after, as torch.nn's
    cells do; `backward` takes the gradient of the state after back to x and the state before, and
    adds to `.grad` of the parameters. The state is a tensor (N, H), the LSTM's a pair of them;
    None stands for zeros.

    Args:
        input_size: features F of a time step.
        hidden_size: numbers H in the state.
        bias: whether the projections have biases.

    Raises:
        ValueError: a size below 1; in `forward`, an input or a state of another shape.
    """

    gates = 1
    states = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        check_integer("input_size", input_size, minimum=1)
        check_integer("hidden_size", hidden_size, minimum=1)
        self.input_size, self.hidden_size = input_size, hidden_size
        for name, parameter in new_weights(self.gates, input_size, hidden_size, bias).items():
            self.register_parameter(name, parameter)
        reset(self, hidden_size)
        self._saved: tuple[Any, ...] | None = None

    @staticmethod
    def step(a: Tensor, b: Tensor, *state: Tensor) -> tuple[State, tuple[Tensor, ...]]:
        """Return the state after, h first, and what `step_backward` needs.

        Args:
            a, b: (N, G·H), the projections of the input and of the state before.
            state: tensors (N, H), the state before.
        """
        raise NotImplementedError

    @staticmethod
    def step_backward(saved: tuple[Tensor, ...], *grad: Tensor) -> tuple[Tensor, Tensor, State]:
        """Return ∂L/∂a, ∂L/∂b, and the part of ∂L/∂state that does not come through b.

        Args:
            saved: what `step` kept.
            grad: ∂L/∂state after, one tensor (N, H) for each of `step`'s.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, state: Any = None) -> Any:
        """Map x: (N, input_size) and the state before to the state after."""
        check_features("x", x, self.input_size, dims=2)
        before = as_states(state, self.states, x, (len(x), self.hidden_size))
        a = linear_forward(x, self.weight_ih, self.bias_ih)
        b = linear_forward(before[0], self.weight_hh, self.bias_hh)
        after, kept = self.step(a, b, *before)
        self._saved = (x.detach(), before[0].detach(), tuple(k.detach() for k in kept))
        return as_given(after)

    @torch.no_grad()
    def backward(self, grad_state: Any) -> tuple[Tensor, Any]:
        """Accumulate the gradients of the parameters; return ∂L/∂x and ∂L/∂state before.

        Raises:
            RuntimeError: no forward pass came before.
        """
        if self._saved is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward pass before it")
        (x, h, kept), self._saved = self._saved, None
        grad = grad_state if isinstance(grad_state, tuple) else (grad_state,)
        grad_a, grad_b, (direct, *others) = self.step_backward(kept, *grad)
        grad_x, grad_w_ih, grad_b_ih = linear_backward(grad_a, x, self.weight_ih)
        grad_h, grad_w_hh, grad_b_hh = linear_backward(grad_b, h, self.weight_hh)
        add_gradients(self.parameters_of(), (grad_w_ih, grad_w_hh, grad_b_ih, grad_b_hh))
        return grad_x, as_given((direct + grad_h, *others))

    def parameters_of(self) -> tuple[nn.Parameter | None, ...]:
        """Return the two weights and the two biases."""
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh


class RNNCell(Cell):
    """Elman's state update h' = tanh(x W_ihᵀ + b_ih + h W_hhᵀ + b_hh)."""

    @staticmethod
    def step(a: Tensor, b: Tensor, *state: Tensor) -> tuple[State, tuple[Tensor, ...]]:
        h = torch.tanh(a + b)
        return (h,), (h,)

    @staticmethod
    def step_backward(saved: tuple[Tensor, ...], *grad: Tensor) -> tuple[Tensor, Tensor, State]:
        (h,), (grad_h,) = saved, grad
        delta = grad_h * (1 - h * h)  # the slope of tanh
        return delta, delta, (torch.zeros_like(grad_h),)


class LSTMCell(Cell):
    """Long short-term memory: a cell state c that is added to, behind three gates.

    A forget-gate bias of 1 or more (both biases add up) keeps c from the start; torch.nn and this
    class begin at random near 0, which forgets half of it at every step.
    """

    gates = 4
    states = 2

    @staticmethod
    def step(a: Tensor, b: Tensor, *state: Tensor) -> tuple[State, tuple[Tensor, ...]]:
        _, c = state
        i, f, g, o = (a + b).chunk(4, dim=1)  # (N, H) each
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c_new = f * c + i * g
        squashed = torch.tanh(c_new)
        return (o * squashed, c_new), (i, f, g, o, c, squashed)

    @staticmethod
    def step_backward(saved: tuple[Tensor, ...], *grad: Tensor) -> tuple[Tensor, Tensor, State]:
        (i, f, g, o, c, squashed), (grad_h, grad_c) = saved, grad
        grad_c = grad_c + grad_h * o * (1 - squashed * squashed)  # c' is used twice
        delta = torch.cat(
            (
                grad_c * g * i * (1 - i),
                grad_c * c * f * (1 - f),
                grad_c * i * (1 - g * g),
                grad_h * squashed * o * (1 - o),
            ),
            dim=1,
        )
        return delta, delta, (torch.zeros_like(grad_h), grad_c * f)


class GRUCell(Cell):
    """Gated recurrent unit, in torch.nn's variant: reset gate after the matrix product."""

    gates = 3

    @staticmethod
    def step(a: Tensor, b: Tensor, *state: Tensor) -> tuple[State, tuple[Tensor, ...]]:
        (h,) = state
        (a_r, a_z, a_n), (b_r, b_z, b_n) = a.chunk(3, dim=1), b.chunk(3, dim=1)
        r, z = torch.sigmoid(a_r + b_r), torch.sigmoid(a_z + b_z)
        n = torch.tanh(a_n + r * b_n)
        return ((1 - z) * n + z * h,), (r, z, n, b_n, h)

    @staticmethod
    def step_backward(saved: tuple[Tensor, ...], *grad: Tensor) -> tuple[Tensor, Tensor, State]:
        (r, z, n, b_n, h), (grad_h,) = saved, grad
        delta_n = grad_h * (1 - z) * (1 - n * n)
        delta_r = delta_n * b_n * r * (1 - r)
        delta_z = grad_h * (h - n) * z * (1 - z)
        grad_a = torch.cat((delta_r, delta_z, delta_n), dim=1)
        grad_b = torch.cat((delta_r, delta_z, delta_n * r), dim=1)
        return grad_a, grad_b, (grad_h * z,)


def new_weights(
    gates: int, input_size: int, hidden_size: int, bias: bool, suffix: str = ""
) -> dict[str, nn.Parameter | None]:
    """Return empty parameters under torch.nn's names, which end in `suffix`."""
    rows = gates * hidden_size
    shapes = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size)}
    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    return {
        name + suffix: nn.Parameter(torch.empty(shape)) if bias or "weight" in name else None
        for name, shape in shapes.items()
    }


@torch.no_grad()
def reset(module: nn.Module, hidden_size: int) -> None:
    """Draw every parameter uniformly within ±1/√H, as torch.nn does."""
    bound = 1 / math.sqrt(hidden_size)
    for parameter in module.parameters():
        parameter.uniform_(-bound, bound)


def add_gradients(
    parameters: tuple[nn.Parameter | None, ...], gradients: tuple[Tensor, ...]
) -> None:
    """Add each gradient to `.grad` of its parameter, in the parameter's type."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter is not None and parameter.requires_grad:
            gradient = gradient.to(parameter.dtype)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def check_features(name: str, x: Tensor, features: int, *, dims: int) -> None:
    """Raise ValueError unless x has `dims` dimensions, the last of `features`, and is real."""
    axes = "(batch, features)" if dims == 2 else "(batch, time, features)"
    if x.dim() != dims:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be {axes}")
    if x.shape[-1] != features:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; its last dimension must be {features}, the "
            "number of features"
        )
    if not x.is_floating_point():
        raise ValueError(f"{name} has dtype {x.dtype}; it must be floating point")


def as_states(state: Any, count: int, like: Tensor, shape: tuple[int, ...]) -> State:
    """Return the state as a tuple of `count` tensors of `shape`; zeros for None.

    Raises:
        ValueError: too many or too few tensors, or one of another shape.
    """
    if state is None:
        return (like.new_zeros(shape),) * count
    found = tuple(state) if isinstance(state, tuple | list) else (state,)
    if len(found) != count or (count == 1 and isinstance(state, tuple | list)):
        needed = "one tensor, h" if count == 1 else "a pair of tensors, (h, c)"
        raise ValueError(f"state holds {len(found)} tensors in a {type(state).__name__}; {needed}")
    for part in found:
        if tuple(part.shape) != shape:
            raise ValueError(f"state has shape {tuple(part.shape)}; it must be {shape}")
    return found


def as_given(states: State) -> Any:
    """Return a single state as a tensor and several as a tuple, as torch.nn does."""
    return states[0] if len(states) == 1 else states
