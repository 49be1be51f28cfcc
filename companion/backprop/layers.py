r"""Layers with their backward passes derived and written by hand: no autograd inside.

With δ = ∂L/∂Y, the gradient that arrives from above, and a batch of rows:

    Linear     Y = X Wᵀ + b      ∂L/∂X = δ W        ∂L/∂W = δᵀ X      ∂L/∂b = Σ_rows δ
    ReLU       Y = max(X, 0)     ∂L/∂X = δ ⊙ [Y > 0]
    Sigmoid    Y = σ(X)          ∂L/∂X = δ ⊙ Y ⊙ (1 − Y)
    Tanh       Y = tanh(X)       ∂L/∂X = δ ⊙ (1 − Y²)
    GELU       Y = X ⊙ Φ(X)      ∂L/∂X = δ ⊙ (Φ(X) + X ⊙ φ(X))
    Dropout    Y = X ⊙ M/(1−p)   ∂L/∂X = δ ⊙ M/(1−p)
    Embedding  Y = W[i]          ∂L/∂W = Σ over each use of a row (scatter-add)

(W is stored as torch.nn stores it, (out, in), so that weights can be exchanged.) As modules,
`forward` keeps `saved` and `backward` spends it: see `companion.backprop.base`. Layer and batch
normalisation are in `companion.backprop.normalization`.

Sources: Rumelhart, Hinton and Williams, Nature 323 (1986); Srivastava et al., JMLR 15 (2014)
sections 4 and 10 for dropout; Hendrycks and Gimpel, arXiv:1606.08415 section 2 for GELU.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from companion.backprop.base import Layer, Pair, require_positive, require_trailing_shape


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias.

    Args:
        x: (..., in), any number of leading dimensions.
        weight: (out, in), the layout of torch.nn.
        bias: (out,) or None.
    """
    y = x @ weight.T
    return y if bias is None else y + bias.to(y.dtype)  # y is bfloat16 under autocast


def linear_backward_loop(grad_output: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """The backward pass one sample at a time, as the derivation writes it: ∂L/∂W = Σᵢ δᵢ xᵢᵀ.

    Args and result: as in `linear_backward`, with x and grad_output of two dimensions.
    """
    grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
    grad_bias = weight.new_zeros(weight.shape[0])
    for row, (delta, sample) in enumerate(zip(grad_output, x, strict=True)):
        grad_x[row] = weight.T @ delta  # (in, out) @ (out,)
        grad_weight += torch.outer(delta, sample)  # (out, in)
        grad_bias += delta  # (out,)
    return grad_x, grad_weight, grad_bias


def linear_backward(grad_output: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Return (∂L/∂x, ∂L/∂weight, ∂L/∂bias): the loop's three sums as matrix products.

    Args:
        grad_output: (..., out), ∂L/∂y.
        x: (..., in), what the forward pass was given.
        weight: (out, in).
    """
    return grad_output @ weight, *linear_parameter_gradients(grad_output, x)


def linear_parameter_gradients(grad_output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (∂L/∂weight, ∂L/∂bias) alone: all that the first layer of a network needs."""
    delta = grad_output.reshape(-1, grad_output.shape[-1])  # (rows, out)
    rows = x.reshape(-1, x.shape[-1])  # (rows, in)
    return delta.T @ rows, delta.sum(0)


class Linear(Layer):
    """y = x Wᵀ + b; parameters, layout and initialisation of `torch.nn.Linear`."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        require_positive(in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        offset = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None
        self.register_parameter("bias", offset)

    @staticmethod
    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Pair:
        return linear_forward(x, weight, bias), (x, weight)

    @staticmethod
    def vjp(grad_output: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return linear_backward(grad_output, x, weight)

    def parameter_vjp(self, grad_output: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return linear_parameter_gradients(grad_output, x)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (..., in_features) to (..., out_features)."""
        require_trailing_shape(x, (self.in_features,))
        return super().forward(x)


class ReLU(Layer):
    """y = max(x, 0). Only the output is kept, which the next layer keeps anyway."""

    @staticmethod
    def compute(x: Tensor) -> Pair:
        y = x.clamp(min=0)
        return y, (y,)

    @staticmethod
    def vjp(grad_output: Tensor, y: Tensor) -> tuple[Tensor]:
        # y >= 0, so its sign is the mask [y > 0] in y's own dtype: no detour through booleans.
        return (grad_output * y.sign(),)


class Sigmoid(Layer):
    """y = 1 / (1 + exp(−x)), whose slope y (1 − y) is at most 1/4."""

    @staticmethod
    def compute(x: Tensor) -> Pair:
        y = torch.sigmoid(x)
        return y, (y,)

    @staticmethod
    def vjp(grad_output: Tensor, y: Tensor) -> tuple[Tensor]:
        return (grad_output * y * (1 - y),)


class Tanh(Layer):
    """y = tanh(x), whose slope is 1 − y²."""

    @staticmethod
    def compute(x: Tensor) -> Pair:
        y = torch.tanh(x)
        return y, (y,)

    @staticmethod
    def vjp(grad_output: Tensor, y: Tensor) -> tuple[Tensor]:
        return (grad_output * (1 - y * y),)


class GELU(Layer):
    """y = x Φ(x), Φ the standard normal distribution function and φ = Φ' its density."""

    @staticmethod
    def compute(x: Tensor) -> Pair:
        return x * normal_cdf(x), (x,)

    @staticmethod
    def vjp(grad_output: Tensor, x: Tensor) -> tuple[Tensor]:
        density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return (grad_output * (normal_cdf(x) + x * density),)


def normal_cdf(x: Tensor) -> Tensor:
    """Return Φ(x) = ½ erfc(−x/√2): unlike ½ (1 + erf(x/√2)) it keeps its digits for x ≪ 0."""
    return torch.special.erfc(-x / math.sqrt(2)) / 2


class Dropout(Layer):
    """Zero each entry with probability p in training and scale the rest by 1/(1 − p).

    With the scale in training ("inverted dropout") the mean of the output is x, and evaluation
    needs no correction: the layer then passes x through.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p}; it must be a probability, 0 <= p <= 1")
        self.p = p

    @staticmethod
    def compute(x: Tensor, mask: Tensor, p: float) -> Pair:
        """Drop where `mask` (boolean, the shape of x) is False."""
        scale = 1 / (1 - p) if p < 1 else 0.0
        return x * mask * scale, (mask, scale)

    @staticmethod
    def vjp(grad_output: Tensor, mask: Tensor, scale: float) -> tuple[Tensor]:
        return (grad_output * mask * scale,)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with a fresh random mask on it (training), or x (evaluation)."""
        if not self.training or self.p == 0:
            return self.keep(x, (True, 1.0))
        mask = torch.empty_like(x).bernoulli_(1 - self.p).bool()
        return self.keep(*self.compute(x, mask, self.p))


class Embedding(Layer):
    """Look up rows of `weight`; their gradients add up wherever an index is repeated."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        require_positive(num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.weight = nn.Parameter(torch.randn(num_embeddings, embedding_dim))

    @staticmethod
    def compute(indices: Tensor, weight: Tensor) -> Pair:
        try:
            rows = weight.index_select(0, indices.reshape(-1))
        except IndexError as error:
            raise ValueError(
                f"indices holds a number outside 0 to {weight.shape[0] - 1}, the rows of weight"
            ) from error
        return rows.reshape(*indices.shape, weight.shape[1]), (indices, weight.shape)

    @staticmethod
    def vjp(grad_output: Tensor, indices: Tensor, shape: torch.Size) -> tuple[None, Tensor]:
        rows = grad_output.reshape(-1, shape[1])
        return None, grad_output.new_zeros(shape).index_add(0, indices.reshape(-1), rows)

    def forward(self, indices: Tensor) -> Tensor:
        """Map whole numbers of any shape to (*shape, embedding_dim)."""
        if indices.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"indices has dtype {indices.dtype}; it must be int32 or int64")
        return super().forward(indices)


class Sequential(nn.Sequential):
    """Layers in a row; the backward pass goes through them in reverse.

    Raises:
        ValueError: a member has no `backward` method.
    """

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        for name, layer in self.named_children():
            if not callable(getattr(layer, "backward", None)):
                raise ValueError(
                    f"layers[{name}] is {type(layer).__name__}, which has no backward method; "
                    "use the layers of companion.backprop"
                )

    def backward(self, grad_output: Tensor, *, input_gradient: bool = True) -> Tensor | None:
        """Backpropagate; arguments, result and errors as in `Layer.backward`."""
        layers: list[Any] = list(self)
        for layer in reversed(layers[1:]):
            grad_output = layer.backward(grad_output)
        if not layers:
            return grad_output
        return layers[0].backward(grad_output, input_gradient=input_gradient)
