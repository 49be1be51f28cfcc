r"""Floating-point operations of single layers, forward and backward, in closed form.

One multiply-add is *two* operations, as in a datasheet's FLOP/s. Two kinds are kept apart,

    products   matrix products and convolutions: 2 for each multiply-add
    other      everything that goes number by number: a bias, a norm, a softmax, an activation

since hardware runs the first at full speed and the second at the speed of its memory. The
products are exact, and are what ``torch.utils.flop_counter`` counts; of `other` each addition,
multiplication, division, comparison, root, exponential and activation counts 1.

The backward pass of a product ``Y = X W`` is two products of the same size, ``δ Wᵀ`` and
``Xᵀ δ``. The first falls away if the input needs no gradient (the first layer), the second if
the weights are frozen.

Legend: n samples (or tokens), T time steps, H heads, d size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from companion.arguments import check_integer


@dataclass(frozen=True)
class Flops:
    """A number of floating-point operations: ``products`` plus ``other``, see the module."""

    products: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """Both kinds together."""
        return self.products + self.other

    def __add__(self, more: Flops) -> Flops:
        return Flops(self.products + more.products, self.other + more.other)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.products * times, self.other * times)


@dataclass(frozen=True)
class Cost:
    """What a layer does in its forward and in its backward pass."""

    forward: Flops = Flops()
    backward: Flops = Flops()

    def __add__(self, more: Cost) -> Cost:
        return Cost(self.forward + more.forward, self.backward + more.backward)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.forward * times, self.backward * times)


def _check(minimum: int = 1, **values: int) -> None:
    for name, value in values.items():
        check_integer(name, value, minimum=minimum)


def linear(
    rows: int,
    in_features: int,
    out_features: int,
    *,
    bias: bool = True,
    input_gradient: bool = True,
    weight_gradient: bool = True,
) -> Cost:
    """``Y = X Wᵀ + b`` for X of shape (rows, in_features).

    Raises:
        ValueError: a size below 1 (or fewer than 0 rows).
    """
    _check(0, rows=rows)
    _check(in_features=in_features, out_features=out_features)
    product = 2 * rows * in_features * out_features
    added = rows * out_features if bias else 0
    backward = product * (input_gradient + weight_gradient)
    return Cost(Flops(product, added), Flops(backward, added if weight_gradient else 0))


def convolution(
    batch: int,
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    output_size: Sequence[int],
    *,
    groups: int = 1,
    bias: bool = True,
    input_gradient: bool = True,
    weight_gradient: bool = True,
) -> Cost:
    """A convolution of any dimension; stride, padding, dilation show in `output_size` alone.

    Each of the ``out_channels · prod(output_size)`` outputs is a dot product over
    ``in_channels / groups`` channels and the kernel. The padding's zeros are multiplied too.

    Raises:
        ValueError: a size below 1, or `groups` that does not divide the channels.
    """
    _check(0, batch=batch)
    _check(in_channels=in_channels, out_channels=out_channels, groups=groups)
    for name, count in (("in_channels", in_channels), ("out_channels", out_channels)):
        if count % groups:
            raise ValueError(f"groups={groups}: it must divide {name}={count}")
    if len(kernel_size) != len(output_size):
        raise ValueError(
            f"kernel_size={tuple(kernel_size)}, output_size={tuple(output_size)}: "
            "one length for both is needed"
        )
    outputs = batch * out_channels * prod(output_size)
    product = 2 * outputs * (in_channels // groups) * prod(kernel_size)
    added = outputs if bias else 0
    backward = product * (input_gradient + weight_gradient)
    return Cost(Flops(product, added), Flops(backward, added if weight_gradient else 0))


@dataclass(frozen=True)
class _Cell:
    """`gates` rows of weights a unit; `forward`, `backward`: work number by number a unit."""

    gates: int
    forward: int
    backward: int


# A unit's own work: add the two halves of each gate, squash them, form the new state. A LSTM's
# 4 sums, 4 squashings, c = f·c + i·g (3), tanh c (1), o·tanh c (1) make 13.
CELLS = {"rnn": _Cell(1, 2, 3), "lstm": _Cell(4, 13, 24), "gru": _Cell(3, 11, 22)}


def recurrent(
    cell: str,
    batch: int,
    steps: int,
    input_size: int,
    hidden_size: int,
    *,
    bias: bool = True,
    input_gradient: bool = True,
    state_gradient: bool = False,
) -> Cost:
    """One layer, in one direction, of an RNN, LSTM or GRU over `steps` time steps.

    A gate has weights for the input and for the state (and, as in torch.nn, a bias for each).
    Back in time, the first state needs no gradient unless `state_gradient`: one product
    ``δ W_h`` fewer than there are steps.

    Raises:
        ValueError: an unknown cell, or a size below 1.
    """
    if cell not in CELLS:
        raise ValueError(f"cell={cell!r}: one of {', '.join(CELLS)} is needed")
    _check(0, batch=batch)
    _check(steps=steps, input_size=input_size, hidden_size=hidden_size)
    kind = CELLS[cell]
    units = batch * hidden_size
    from_input = 2 * units * kind.gates * input_size
    from_state = 2 * units * kind.gates * hidden_size
    biases = 2 * kind.gates * units if bias else 0
    forward = Flops(from_input + from_state, biases + kind.forward * units) * steps
    products = from_input * (1 + input_gradient) + 2 * from_state
    backward = Flops(products, biases + kind.backward * units) * steps
    if not state_gradient:
        backward += Flops(-from_state)
    return Cost(forward, backward)


def attention(
    batch: int,
    num_heads: int,
    queries: int,
    keys: int,
    head_dim: int,
    *,
    value_dim: int | None = None,
    causal: bool = False,
    recompute: bool = False,
) -> Cost:
    r"""``softmax(Q Kᵀ / √d) V`` without its projections: two products forward, four backward.

    Args:
        queries, keys: positions that look, and positions that are looked at.
        value_dim: size of a value, by default `head_dim`.
        causal: count the pairs that the mask leaves, i.e. what a kernel that skips masked blocks
            must compute: the last query sees all keys, each one before it a key fewer. A kernel
            that computes all pairs and then masks does the work of ``causal=False``.
        recompute: the backward pass forms ``Q Kᵀ`` once more instead of keeping it, as flash
            attention does (Dao et al. 2022, section 3.1): five products.

    Raises:
        ValueError: a size below 1; causal with more queries than keys.
    """
    _check(0, batch=batch)
    _check(num_heads=num_heads, queries=queries, keys=keys, head_dim=head_dim)
    value_dim = head_dim if value_dim is None else value_dim
    _check(value_dim=value_dim)
    if causal and queries > keys:
        raise ValueError(f"queries={queries}: with causal=True at most keys={keys} are possible")
    pairs = queries * (keys - queries) + queries * (queries + 1) // 2 if causal else queries * keys
    pairs *= batch * num_heads
    scores, mixing = 2 * pairs * head_dim, 2 * pairs * value_dim
    forward = Flops(scores + mixing, 6 * pairs)  # scale; maximum, subtract, exp, sum, divide
    backward = Flops(2 * (scores + mixing) + (scores if recompute else 0), 5 * pairs)
    return Cost(forward, backward)


def normalization(numbers: int, *, kind: str = "layer", affine: bool = True) -> Cost:
    """LayerNorm, RMSNorm or BatchNorm (in training) of that many `numbers`.

    Forward: mean, difference, square, sum, times 1/σ (RMS: without mean and difference), then
    scale and shift (RMS: scale). Backward: the three terms of the chapter on back-propagation.

    Raises:
        ValueError: an unknown kind.
    """
    _check(0, numbers=numbers)
    if kind not in ("layer", "batch", "rms"):
        raise ValueError(f"kind={kind!r}: 'layer', 'batch' or 'rms' is needed")
    rms = kind == "rms"
    forward = (3 if rms else 5) + ((1 if rms else 2) if affine else 0)
    backward = (5 if rms else 7) + ((3 if rms else 4) if affine else 0)
    return Cost(Flops(0, forward * numbers), Flops(0, backward * numbers))


def embedding(tokens: int, embed_dim: int) -> Cost:
    """Looking rows up is free; their gradients are added row by row."""
    _check(0, tokens=tokens)
    _check(embed_dim=embed_dim)
    return Cost(Flops(), Flops(0, tokens * embed_dim))


def elementwise(numbers: int, *, forward: int = 1, backward: int = 1) -> Cost:
    """Anything that does `forward` operations for each number and `backward` on the way back."""
    _check(0, numbers=numbers)
    return Cost(Flops(0, forward * numbers), Flops(0, backward * numbers))


def feed_forward(
    tokens: int, embed_dim: int, hidden_dim: int, *, bias: bool = True, gated: bool = False
) -> Cost:
    """Two linear maps with an activation between (GELU); `gated`: three maps (SwiGLU)."""
    up = linear(tokens, embed_dim, hidden_dim, bias=bias) * (2 if gated else 1)
    between = elementwise(tokens * hidden_dim, forward=2 if gated else 1, backward=2)
    return up + between + linear(tokens, hidden_dim, embed_dim, bias=bias)


def mixture_of_experts(
    tokens: int,
    embed_dim: int,
    hidden_dim: int,
    num_experts: int,
    top_k: int,
    *,
    bias: bool = True,
    gated: bool = False,
) -> Cost:
    """A router, and `top_k` of `num_experts` feed-forward networks for each token.

    The number of experts enters through the router and its softmax alone.

    Raises:
        ValueError: ``top_k > num_experts``, or a size below 1.
    """
    _check(num_experts=num_experts, top_k=top_k)
    if top_k > num_experts:
        raise ValueError(f"top_k={top_k}: at most num_experts={num_experts} are possible")
    router = linear(tokens, embed_dim, num_experts, bias=False)
    softmax = elementwise(tokens * num_experts, forward=5, backward=4)
    expert = feed_forward(tokens, embed_dim, hidden_dim, bias=bias, gated=gated)
    mix = elementwise(tokens * top_k * embed_dim, forward=2, backward=3)
    return router + softmax + expert * top_k + mix
