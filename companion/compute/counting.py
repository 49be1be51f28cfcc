"""Count what a model has and does: parameters, and operations layer by layer, by forward hooks.

    counted = count(model, x)
    counted.parameters, counted.forward.products, counted.backward.total
    print(counted)

Each module that :mod:`companion.compute.counting_rules` knows is counted by the closed form of
:mod:`companion.compute.operations`; a container is the sum of what it calls. A network of shapes
only, made under ``torch.device("meta")``, is counted as exactly and costs neither memory nor time.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from companion.compute.counting_rules import RULES, Rule
from companion.compute.operations import Cost, Flops


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """Return how many numbers the parameters of `module` hold; a shared one counts once.

    Args:
        trainable: leave out those with ``requires_grad=False``.

    Raises:
        ValueError: a lazy parameter that has no shape yet.
    """
    total = 0
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"{name}: a lazy parameter has no shape before the first forward pass")
        if parameter.requires_grad or not trainable:
            total += parameter.numel()
    return total


@dataclass(frozen=True)
class Row:
    """One call of one module.

    Attributes:
        name: path of the module within the model, ``""`` for the model itself.
        kind: name of its class.
        parameters: of its own, without those of the modules inside.
        cost: its operations, forward and backward.
        output_shape: shape of its (first) output, None if that is no tensor.
    """

    name: str
    kind: str
    parameters: int
    cost: Cost
    output_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Count:
    """What :func:`count` found: a row for each call, and the sums.

    Attributes:
        rows: in the order of the calls; a module that is called twice has two.
        parameters: of the whole model, a shared one once, used or not.
    """

    rows: tuple[Row, ...]
    parameters: int

    @property
    def forward(self) -> Flops:
        """Operations of the forward pass."""
        return sum((row.cost.forward for row in self.rows), Flops())

    @property
    def backward(self) -> Flops:
        """Operations of the backward pass."""
        return sum((row.cost.backward for row in self.rows), Flops())

    def __str__(self) -> str:
        head = f"{'module':24s} {'parameters':>12s} {'forward':>15s} {'backward':>15s}"
        lines = [
            f"{row.name or '(itself)':24s} {row.parameters:12,} "
            f"{row.cost.forward.total:15,} {row.cost.backward.total:15,}"
            for row in self.rows
        ]
        total = f"{'in all':24s} {self.parameters:12,} {self.forward.total:15,} "
        return "\n".join([head, *lines, total + f"{self.backward.total:15,}"])


def count(
    module: nn.Module, *inputs: Any, rules: Mapping[type[nn.Module], Rule] | None = None
) -> Count:
    """Run `module` on `inputs` once and count the operations of that pass and of its backward pass.

    Nothing is differentiated: the backward pass follows from what needs a gradient. Under
    ``torch.no_grad()`` there is none.

    Args:
        inputs: what the module's ``forward`` takes.
        rules: how to count further types: ``rule(module, inputs, output) -> Cost`` gives what the
            module does itself, without the modules that it calls; `inputs` maps the names of
            ``forward``'s arguments to what was passed. They go before :data:`RULES`.

    Raises:
        ValueError: a module that is no container and has no rule; parameters of a container
            itself that no rule counts; a lazy parameter.
    """
    known = {**RULES, **(rules or {})}
    rows: list[Row] = []
    handles = []
    for name, part in module.named_modules():
        rule = _find(known, part)
        own = sum(p.numel() for p in part.parameters(recurse=False))
        if rule is None:
            has_children = next(part.children(), None) is not None
            if own or not (has_children or isinstance(part, nn.ModuleList | nn.ModuleDict)):
                raise ValueError(
                    f"{name or '(the module itself)'}: {type(part).__name__} has no counting rule; "
                    f"pass rules={{{type(part).__name__}: rule}}"
                )
            continue
        if isinstance(part, nn.MultiheadAttention):
            own = count_parameters(part)  # it uses its output projection without calling it

        def note(
            part: nn.Module,
            positional: tuple[Any, ...],
            keywords: dict[str, Any],
            output: Any,
            name: str = name,
            rule: Rule = rule,
            own: int = own,
        ) -> None:
            inputs = inspect.signature(part.forward).bind(*positional, **keywords).arguments
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            cost = rule(part, inputs, output)
            if not torch.is_grad_enabled():
                cost = Cost(cost.forward)
            rows.append(Row(name, type(part).__name__, own, cost, shape))

        handles.append(part.register_forward_hook(note, with_kwargs=True))
    parameters = count_parameters(module)
    try:
        module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Count(tuple(rows), parameters)


def _find(rules: Mapping[type[nn.Module], Rule], part: nn.Module) -> Rule | None:
    """Return the rule of the nearest class that `part` descends from."""
    return next((rules[kind] for kind in type(part).__mro__ if kind in rules), None)
