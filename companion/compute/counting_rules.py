"""How each kind of layer of torch.nn is counted: from its sizes and what went in and came out.

A rule is a function ``rule(module, inputs, output) -> Cost``; `inputs` maps the names of the
arguments of the module's ``forward`` to what was passed. It counts what the module does itself,
without the modules that it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

from torch import Tensor, nn

from companion.compute import operations
from companion.compute.operations import Cost

Rule = Callable[[Any, Mapping[str, Any], Any], Cost]


def gradients(part: nn.Module, inputs: Mapping[str, Any]) -> dict[str, bool]:
    """Tell which of the two products of a backward pass are needed, as keyword arguments."""
    weight = getattr(part, "weight", None)
    first = next(iter(inputs.values()))
    return {
        "input_gradient": isinstance(first, Tensor) and first.requires_grad,
        "weight_gradient": weight is None or weight.requires_grad,
    }


def _linear(part: nn.Linear, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    return operations.linear(
        prod(output.shape[:-1]),
        part.in_features,
        part.out_features,
        bias=part.bias is not None,
        **gradients(part, inputs),
    )


def _convolution(part: Any, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    dims = len(part.kernel_size)
    return operations.convolution(
        prod(output.shape[: -dims - 1]),
        part.in_channels,
        part.out_channels,
        part.kernel_size,
        output.shape[-dims:],
        groups=part.groups,
        bias=part.bias is not None,
        **gradients(part, inputs),
    )


def _recurrent(part: nn.RNNBase, inputs: Mapping[str, Any], output: Any) -> Cost:
    if getattr(part, "proj_size", 0):
        raise ValueError(f"proj_size={part.proj_size}: an LSTM with a projection has no rule")
    x = inputs["input"]
    if not isinstance(x, Tensor):
        raise ValueError(f"{type(part).__name__}: packed sequences have no rule; pass padded ones")
    batch = 1 if x.dim() == 2 else x.shape[0 if part.batch_first else 1]
    steps = x.shape[0] if x.dim() == 2 else x.shape[1 if part.batch_first else 0]
    state = inputs.get("hx")
    first = state[0] if isinstance(state, tuple) else state
    directions = 2 if part.bidirectional else 1
    cost = Cost()
    for layer in range(part.num_layers):
        cost += operations.recurrent(
            part.mode.split("_")[0].lower(),
            batch,
            steps,
            part.input_size if layer == 0 else part.hidden_size * directions,
            part.hidden_size,
            bias=part.bias,
            input_gradient=layer > 0 or x.requires_grad,
            state_gradient=first is not None and first.requires_grad,
        )
    return cost * directions


def _multi_head(part: nn.MultiheadAttention, inputs: Mapping[str, Any], output: Any) -> Cost:
    query, key = inputs["query"], inputs["key"]
    if query.dim() != 3:
        raise ValueError("MultiheadAttention: a batch is needed, inputs of three dimensions")
    batch, time = (0, 1) if part.batch_first else (1, 0)
    n, queries, keys = query.shape[batch], query.shape[time], key.shape[time]
    bias = part.in_proj_bias is not None
    cost = operations.attention(n, part.num_heads, queries, keys, part.head_dim)
    for rows, size, value in (
        (n * queries, part.embed_dim, query),
        (n * keys, part.kdim, key),
        (n * keys, part.vdim, inputs["value"]),
    ):
        needed = value.requires_grad
        cost += operations.linear(rows, size, part.embed_dim, bias=bias, input_gradient=needed)
    out = operations.linear(n * queries, part.embed_dim, part.embed_dim, bias=bias)
    return cost + out


def normalization_rule(kind: str) -> Rule:
    """Make the rule of a norm; in evaluation BatchNorm scales and shifts, no more."""

    def rule(part: Any, inputs: Mapping[str, Any], output: Tensor) -> Cost:
        if kind == "batch" and not part.training and part.running_mean is not None:
            return operations.elementwise(output.numel(), forward=2, backward=3)
        affine = next(part.parameters(recurse=False), None) is not None
        return operations.normalization(output.numel(), kind=kind, affine=affine)

    return rule


def elementwise_rule(forward: int = 1, backward: int = 1) -> Rule:
    """Make the rule of a module that does so many operations for each number of its output."""

    def rule(part: nn.Module, inputs: Mapping[str, Any], output: Tensor) -> Cost:
        return operations.elementwise(output.numel(), forward=forward, backward=backward)

    return rule


def _embedding(part: nn.Embedding, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    return operations.embedding(inputs["input"].numel(), part.embedding_dim)


def _pooling(part: Any, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    size = part.kernel_size
    window = prod(size) if isinstance(size, tuple) else size ** int(type(part).__name__[-2])
    return operations.elementwise(output.numel(), forward=window, backward=window)


def _global_pooling(part: Any, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    return operations.elementwise(inputs["input"].numel())


def _dropout(part: Any, inputs: Mapping[str, Any], output: Tensor) -> Cost:
    return operations.elementwise(output.numel() if part.training and part.p > 0 else 0)


def _each(kinds: Iterable[type[nn.Module]], rule: Rule) -> dict[type[nn.Module], Rule]:
    return dict.fromkeys(kinds, rule)


#: How to count a module of each type. The nearest base class decides.
RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.LayerNorm: normalization_rule("layer"),
    nn.RMSNorm: normalization_rule("rms"),
    nn.MultiheadAttention: _multi_head,
    **_each((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **_each((nn.RNN, nn.LSTM, nn.GRU), _recurrent),
    **_each((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), normalization_rule("batch")),
    **_each((nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d), _pooling),
    **_each((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _global_pooling),
    **_each((nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh), elementwise_rule()),
    **_each((nn.Dropout, nn.Dropout1d, nn.Dropout2d), _dropout),
    nn.Softmax: elementwise_rule(5, 4),
    **_each((nn.Identity, nn.Flatten, nn.Unflatten), elementwise_rule(0, 0)),
}
