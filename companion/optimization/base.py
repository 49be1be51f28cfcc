"""What the optimizers of this chapter share: checks, state, and steps over lists of tensors.

A subclass writes one method, ``update``, for all parameters of a group at once. There it calls
``torch._foreach_*`` functions: ``torch._foreach_mul_(tensors, 0.9)`` is a loop over the tensors
which, on a GPU, runs as a few kernels instead of one a tensor.

State has the names of `torch.optim`, so that its checkpoints can be read here and ours there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]
Group = dict[str, Any]


def is_real(value: Any) -> bool:
    """Say whether `value` is a number (and no boolean) that is neither infinite nor NaN."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_positive(value: Any) -> bool:
    """Say whether `value` is a finite number above 0."""
    return is_real(value) and value > 0


def is_not_negative(value: Any) -> bool:
    """Say whether `value` is a finite number, 0 or above."""
    return is_real(value) and value >= 0


def is_fraction(value: Any) -> bool:
    """Say whether `value` lies in [0, 1)."""
    return is_real(value) and 0 <= value < 1


def is_pair_of_fractions(value: Any) -> bool:
    """Say whether `value` is two numbers in [0, 1)."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(is_fraction, value))


Rule = tuple[Callable[[Any], bool], str]
POSITIVE: Rule = (is_positive, "a finite number above 0 is needed")
NOT_NEGATIVE: Rule = (is_not_negative, "a finite number of at least 0 is needed")
FRACTION: Rule = (is_fraction, "a number in [0, 1) is needed")
FRACTIONS: Rule = (is_pair_of_fractions, "two numbers in [0, 1) are needed")

RULES: dict[str, Rule] = {
    "lr": POSITIVE,
    "lr_decay": NOT_NEGATIVE,
    "initial_accumulator_value": NOT_NEGATIVE,
    "eps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "momentum": FRACTION,
    "dampening": FRACTION,
    "alpha": FRACTION,
    "betas": FRACTIONS,
}


class ForeachOptimizer(torch.optim.Optimizer):
    """An optimizer whose subclass says in :meth:`update` how one group moves.

    Args:
        params: parameters, or groups of them: dictionaries with ``"params"`` and any of the
            `options`, as in `torch.optim`.
        options: the values that hold where a group gives none.

    Raises:
        ValueError: an option that breaks its rule in ``RULES`` (all groups are checked, also
            those added later), or a parameter that is not floating-point.
    """

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        super().__init__(params, options)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, with the optimizer's options where it has none of its own."""
        super().add_param_group(param_group)
        try:
            self.check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def check(self, group: Group) -> None:
        """Raise ValueError unless the group's options and parameters meet the rules."""
        for name, value in group.items():
            accepts, rule = RULES.get(name, (None, ""))
            if accepts is not None and not accepts(value):
                raise ValueError(f"{name}={value!r}: {rule}")
        for parameter in group["params"]:
            if not parameter.is_floating_point():
                raise ValueError(
                    f"params: one of type {parameter.dtype}; floating-point ones are needed"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss.

        Raises:
            ValueError: a gradient in a sparse layout.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in params]
            if any(grad.layout != torch.strided for grad in grads):
                raise ValueError("params: a gradient is sparse; use Embedding(..., sparse=False)")
            if params:
                self.update(params, grads, [self.state[p] for p in params], group)
        return loss

    def update(
        self, params: list[Tensor], grads: list[Tensor], states: list[State], group: Group
    ) -> None:
        """Change `params` and `states` in place; `grads` must stay as they are."""
        raise NotImplementedError


def count_steps(states: list[State]) -> list[int]:
    """Add 1 to each parameter's own step counter and return them; the first step is step 1.

    They may differ: a parameter without a gradient takes no step.
    """
    for state in states:
        state["step"] = int(state.get("step", 0)) + 1  # torch.optim keeps it as a tensor
    return [state["step"] for state in states]


def buffers(
    states: list[State], params: list[Tensor], name: str, start: float = 0.0
) -> list[Tensor]:
    """Return the tensors kept under `name`, one a parameter and of its shape, made at need."""
    for state, parameter in zip(states, params, strict=True):
        if name not in state:
            state[name] = torch.full_like(
                parameter, start, memory_format=torch.preserve_format, requires_grad=False
            )
    return [state[name] for state in states]


def coupled_decay(grads: list[Tensor], params: list[Tensor], weight_decay: float) -> list[Tensor]:
    """Return g + λθ, the gradient with that of the penalty λ/2 ‖θ‖² added; new lists if λ > 0."""
    if weight_decay == 0:
        return grads
    return list(torch._foreach_add(grads, params, alpha=weight_decay))


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors in the optimizer's `state_dict` but mere counters.

    A counter is a tensor without dimensions, one number a parameter.
    """
    states = optimizer.state_dict()["state"].values()
    tensors = [v for state in states for v in state.values() if isinstance(v, Tensor) and v.ndim]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
