r"""Muon: momentum whose matrix is replaced by the nearest one with all singular values alike.

    B ← μ B + (1 − μ) G
    O ← NewtonSchulz(μ B + (1 − μ) G)         (Nesterov; without it, of B)
    W ← W − η λ W − η s O                     s = √max(1, rows / columns)

If M = U diag(σ) Vᵀ is a singular value decomposition, the nearest semi-orthogonal matrix is
U Vᵀ: the same directions, each with weight 1. Newton and Schulz come near it with matrix
products alone. An odd polynomial of X = M / ‖M‖,

    X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X,

maps every singular value σ to aσ + bσ³ + cσ⁵ and leaves U and V alone. Jordan's coefficients are
chosen to lift small values fast; five rounds bring most of them to between about 0.7 and 1.2.

Sources: Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024); Liu et
al., Muon is Scalable for LLM Training, arXiv:2502.16982, section 2.2, for the other scale
0.2 √max(rows, columns) and the weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from companion.arguments import check_integer
from companion.optimization.adam import adam_update
from companion.optimization.base import (
    NOT_NEGATIVE,
    RULES,
    ForeachOptimizer,
    Group,
    State,
    buffers,
)

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's a, b, c
SCALES = ("original", "match_rms_adamw")


def muon_step(
    W: Tensor,
    G: Tensor,
    B: Tensor,
    eta: float = 0.02,
    mu: float = 0.95,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return (W, B) after one step with exact orthogonalization, U Vᵀ by decomposition.

    Args:
        W, G: a matrix of weights and its gradient, (rows, columns).
        B: the momentum before this step, zeros at first.
        eta, mu, weight_decay: η, μ and the decoupled λ.
    """
    B = mu * B + (1 - mu) * G
    U, _, Vt = torch.linalg.svd(mu * B + (1 - mu) * G, full_matrices=False)
    scale = math.sqrt(max(1.0, W.shape[0] / W.shape[1]))
    return W - eta * weight_decay * W - eta * scale * U @ Vt, B


def orthogonalize(
    matrix: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    eps: float = 1e-7,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Return `matrix` with its singular values brought near 1 by Newton–Schulz iterations.

    Args:
        matrix: (rows, columns).
        steps: iterations, each of three matrix products on the smaller side.
        coefficients: a, b, c of the polynomial aσ + bσ³ + cσ⁵.
        eps: the least norm that is divided by, so that zeros stay zeros.
        dtype: in which to calculate, and of the result. bfloat16 is enough: nobody needs the
            singular values more exactly than the polynomial brings them to 1.
    """
    a, b, c = coefficients
    x = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / x.norm().clamp(min=eps)  # the Frobenius norm is at least the largest singular value
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(ForeachOptimizer):
    """Muon, equal to `torch.optim.Muon`; for hidden matrices only (:func:`split_parameters`).

    Args:
        params: matrices or groups of them.
        lr: η, above 0.
        weight_decay: λ ≥ 0, decoupled; not multiplied by the scale of the shape.
        momentum: μ in [0, 1).
        nesterov: look one step ahead with the momentum.
        ns_coefficients, eps, ns_steps, ns_dtype: as in :func:`orthogonalize`.
        adjust_lr_fn: ``"original"`` (or None) scales the update by √max(1, rows/columns);
            ``"match_rms_adamw"`` by 0.2 √max(rows, columns), after which the numbers move about
            as far as under AdamW and its `lr` can be kept.

    Raises:
        ValueError: a parameter that is not a matrix, `ns_steps` below 1 or above 99, coefficients
            that are not three numbers, an unknown `adjust_lr_fn`, or as
            :class:`companion.optimization.base.ForeachOptimizer`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        ns_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
            ns_dtype=ns_dtype,
        )

    def check(self, group: Group) -> None:
        """Raise ValueError unless the group's options and parameters meet the rules."""
        super().check(group)
        check_integer("ns_steps", group["ns_steps"], minimum=1)
        if group["ns_steps"] > 99:
            raise ValueError(f"ns_steps={group['ns_steps']}: at most 99 is needed")
        if len(group["ns_coefficients"]) != 3:
            raise ValueError(f"ns_coefficients={group['ns_coefficients']!r}: three are needed")
        if group["adjust_lr_fn"] not in (None, *SCALES):
            raise ValueError(
                f"adjust_lr_fn={group['adjust_lr_fn']!r}: None, {' or '.join(map(repr, SCALES))} "
                "is needed"
            )
        for parameter in group["params"]:
            if parameter.ndim != 2:
                raise ValueError(
                    f"params: one of shape {tuple(parameter.shape)}; Muon needs matrices (two "
                    "dimensions), give the others to AdamW (see split_parameters)"
                )

    def update(
        self, params: list[Tensor], grads: list[Tensor], states: list[State], group: Group
    ) -> None:
        """Change `params` and `states` in place."""
        momentum, lr = group["momentum"], group["lr"]
        moving = buffers(states, params, "momentum_buffer")
        torch._foreach_lerp_(moving, grads, 1 - momentum)
        directions = torch._foreach_lerp(grads, moving, momentum) if group["nesterov"] else moving
        if group["weight_decay"] > 0:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        options = group["ns_steps"], group["ns_coefficients"], group["eps"], group["ns_dtype"]
        for parameter, direction in zip(params, directions, strict=True):
            scale = _scale(parameter, group["adjust_lr_fn"])
            parameter.add_(orthogonalize(direction, *options), alpha=-lr * scale)


def _scale(parameter: Tensor, name: str | None) -> float:
    rows, columns = parameter.shape
    if name == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return (hidden matrices, everything else): what to give to Muon, and to AdamW.

    Hidden matrices are the two-dimensional weights of all modules but embeddings, the first
    module that has a weight of two or more dimensions, and the last: input and output layer.
    Modules count in the order in which they are registered; a shared weight counts where it
    stands first, and belongs to everything else if any of its modules does.
    """
    owners = [
        (module, weight)
        for module in network.modules()
        for weight in module.parameters(recurse=False)
        if weight.ndim >= 2
    ]
    outer = {id(weight) for module, weight in owners if isinstance(module, nn.Embedding)}
    if owners:
        outer |= {id(w) for module, w in owners if module in (owners[0][0], owners[-1][0])}
    hidden = {id(weight) for _, weight in owners if weight.ndim == 2} - outer
    matrices, rest = [], []
    for parameter in network.parameters():
        if parameter.requires_grad:
            (matrices if id(parameter) in hidden else rest).append(parameter)
    return matrices, rest


class MuonWithAdamW(Muon):
    """Muon for hidden matrices and AdamW for the rest, in one optimizer with two groups.

    One optimizer, because one is what Lightning's automatic optimization, a scheduler and a
    checkpoint expect. The second group has the key ``"adamw"`` set to True.

    Args:
        matrices: for Muon; may be empty.
        rest: for AdamW; may be empty.
        lr: Muon's η.
        adamw_lr: AdamW's α.
        weight_decay: λ of both.
        betas, adamw_eps: of AdamW.
        muon: further options of :class:`Muon`.

    Raises:
        ValueError: as :class:`Muon`, or `adamw_lr` or `adamw_eps` out of range.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        rest: Iterable[nn.Parameter],
        lr: float = 0.02,
        adamw_lr: float = 3e-4,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        **muon: Any,
    ) -> None:
        for name, value, (accepts, rule) in (
            ("adamw_lr", adamw_lr, RULES["lr"]),
            ("adamw_eps", adamw_eps, NOT_NEGATIVE),
        ):
            if not accepts(value):
                raise ValueError(f"{name}={value!r}: {rule}")
        adamw = {"adamw": True, "betas": betas, "amsgrad": False}
        groups = [
            {"params": list(matrices), "adamw": False},
            {"params": list(rest), "lr": adamw_lr, "eps": adamw_eps, **adamw},
        ]
        groups = [group for group in groups if group["params"]]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, **muon)

    def check(self, group: Group) -> None:
        """Raise ValueError unless the group's options and parameters meet its method's rules."""
        (ForeachOptimizer if group.get("adamw") else Muon).check(self, group)

    def update(
        self, params: list[Tensor], grads: list[Tensor], states: list[State], group: Group
    ) -> None:
        """Change `params` and `states` in place."""
        if group.get("adamw"):
            adam_update(params, grads, states, group, decoupled=True)
        else:
            super().update(params, grads, states, group)
