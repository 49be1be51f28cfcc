r"""Double descent: test error against the number of random features, in closed form.

    features     φ(x) = relu(x W) / √k,   W of shape (inputs, k) drawn once and never trained
    fit          θ = argmin ‖Φ θ − Y‖² + λ ‖θ‖²;  for λ = 0 the solution of least norm, Φ⁺ Y

With k < n features the fit is ordinary least squares. At k = n it passes through all n targets,
their noise included, and there is only one way to do so. With k > n there are many, and the one of
least norm is taken: more features leave it a smaller norm.

Sources: Belkin, Hsu, Ma and Mandal, PNAS 116, 2019 (the curve, with random features); Hastie,
Montanari, Rosset and Tibshirani, Annals of Statistics 50, 2022 (its theory; ridge).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from companion.arguments import check_fraction, check_integer, check_rule
from companion.optimization.base import is_not_negative


def random_features(x: Tensor, W: Tensor) -> Tensor:
    """Return relu(x W) / √k, (samples, k), from x: (samples, inputs) and W: (inputs, k)."""
    return (x @ W).relu() / W.shape[1] ** 0.5


def least_norm(features: Tensor, targets: Tensor, ridge: float = 0.0) -> Tensor:
    """Return θ of the fit: (features, outputs).

    From the singular value decomposition Φ = U S Vᵀ, θ = V · S / (S² + λ) · Uᵀ Y; singular values
    below max(shape) · ε · S_max count as 0, where λ = 0.

    Args:
        features: Φ, (samples, features).
        targets: Y, (samples, outputs).
        ridge: λ ≥ 0.

    Raises:
        ValueError: a negative `ridge`, shapes that do not belong together.
    """
    check_rule("ridge", ridge, is_not_negative, "a finite number of at least 0")
    if features.dim() != 2 or targets.dim() != 2 or len(features) != len(targets):
        raise ValueError(
            f"features of shape {tuple(features.shape)} and targets of shape "
            f"{tuple(targets.shape)}: (samples, features) and (samples, outputs) are needed"
        )
    U, S, Vt = torch.linalg.svd(features, full_matrices=False)
    if ridge > 0:
        factors = S / (S.square() + ridge)
    else:
        smallest = max(features.shape) * torch.finfo(S.dtype).eps * S.amax()
        factors = torch.where(smallest < S, 1 / S, 0.0)
    return Vt.T @ (factors.unsqueeze(1) * (U.T @ targets))


def noisy_labels(y: Tensor, share: float, num_classes: int, generator: torch.Generator) -> Tensor:
    """Return y with exactly round(share · n) labels replaced by another class.

    Raises:
        ValueError: `share` outside [0, 1), fewer than 2 classes.
    """
    check_fraction("share", share)
    check_integer("num_classes", num_classes, minimum=2)
    chosen = torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    shift = torch.randint(1, num_classes, (len(chosen),), generator=generator)
    noisy = y.clone()
    noisy[chosen] = (y[chosen] + shift) % num_classes
    return noisy


@dataclass(frozen=True)
class Curve:
    """Squared errors and norms, one row a draw, one column a number of features.

    Attributes:
        counts: numbers of features.
        train, test: mean squared errors, (draws, counts).
        norm: ‖θ‖, (draws, counts).
    """

    counts: tuple[int, ...]
    train: Tensor
    test: Tensor
    norm: Tensor


def double_descent(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    counts: Sequence[int],
    *,
    draws: int = 5,
    ridge: float = 0.0,
    seed: int = 0,
) -> Curve:
    """Fit random features of every number in `counts`, for several draws of W.

    Args:
        train, test: pairs (samples, inputs), (samples, outputs), float64 for a sharp peak.
        counts: numbers of features, each at least 1.
        draws: of W; within a draw a smaller set of features is the beginning of a larger one.
        ridge: λ ≥ 0, as in :func:`least_norm`.
        seed: of the first draw.

    Raises:
        ValueError: no or impossible counts, and as :func:`least_norm`.
    """
    if not counts:
        raise ValueError("counts: there are none")
    for count in counts:
        check_integer("counts", count, minimum=1)
    check_integer("draws", draws, minimum=1)
    (x, y), (x_test, y_test) = train, test
    rows: list[list[list[float]]] = []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(seed + draw)
        inputs, most = x.shape[1], max(counts)
        W = torch.randn(most, inputs, generator=generator, dtype=torch.float64).T.to(x)
        row = []
        for count in counts:
            part = W[:, :count] / inputs**0.5
            features = random_features(x, part)
            theta = least_norm(features, y, ridge)
            errors = (features @ theta - y, random_features(x_test, part) @ theta - y_test)
            row.append([e.square().mean().item() for e in errors] + [theta.norm().item()])
        rows.append(row)
    values = torch.tensor(rows, dtype=torch.float64)  # (draws, counts, 3)
    return Curve(tuple(counts), *(values[..., i] for i in range(3)))
