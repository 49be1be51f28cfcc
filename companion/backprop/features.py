"""Features for a linear model: powers, categories, standard scores, and an honest split.

A linear model is linear in its *weights*; what it is fed may be any function of the raw columns.
Whatever is estimated from data on the way (a mean, a scale) must come from the training rows
alone, or the test rows have already been seen.

Source: Hastie, Tibshirani, Friedman, *The Elements of Statistical Learning*, 2nd ed., sections
5.1 (basis expansions) and 7.10.2 (the wrong and the right way to use data that is held out).
Letters in shapes: n rows, p features.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Part(NamedTuple):
    """Rows that stay together: ``x`` (n, p) and ``y`` (n,) or (n, outputs)."""

    x: Tensor
    y: Tensor


class Split(NamedTuple):
    """Three disjoint parts of one data set."""

    train: Part
    validation: Part
    test: Part


def _check_matrix(name: str, x: Tensor) -> None:
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} and dtype {x.dtype}: "
            "it must be a floating-point matrix (rows, features)"
        )
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: it needs a row and a feature")


def polynomial_features(x: Tensor, degree: int) -> Tensor:
    """All products of at most `degree` columns of x, without the constant 1.

    Args:
        x: (n, p).
        degree: 1 returns the columns themselves, 2 adds squares and pairwise products, ...

    Returns:
        (n, C(p + degree, degree) − 1), by rising degree, then in lexicographic order of columns.
    """
    _check_matrix("x", x)
    if degree < 1:
        raise ValueError(f"degree={degree}: it must be at least 1")
    columns = [
        x[:, list(chosen)].prod(dim=1)
        for d in range(1, degree + 1)
        for chosen in combinations_with_replacement(range(x.shape[1]), d)
    ]
    return torch.stack(columns, dim=1)


def one_hot(labels: Tensor, num_classes: int, *, drop_first: bool = False) -> Tensor:
    """One 0/1 column a category.

    With an intercept in the model the full set of columns adds up to the column of ones, so the
    weights are not unique; `drop_first` leaves category 0 out and makes it the baseline.

    Args:
        labels: (n,), integers from 0 to ``num_classes − 1``.

    Returns:
        (n, num_classes), or (n, num_classes − 1) with `drop_first`; default floating-point dtype.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}: "
            "it must be one integer a row"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels runs from {int(labels.min())} to {int(labels.max())}: "
            f"it must lie between 0 and num_classes − 1 = {num_classes - 1}"
        )
    first = 1 if drop_first else 0
    classes = torch.arange(first, num_classes, device=labels.device)
    return (labels[:, None] == classes).to(torch.get_default_dtype())


class Standardizer(nn.Module):
    """``(x − mean) / scale`` with the statistics of the rows it was made from.

    A module, so that the statistics move to the device and into the checkpoint together with the
    network that relies on them. A column that does not vary has scale 1 and becomes 0.

    Args:
        x: (n, p), the *training* rows. The scale is the population one (divisor n).
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        _check_matrix("x", x)
        mean = x.mean(dim=0)
        scale = x.var(dim=0, correction=0).sqrt()
        # What rounding alone can leave of a constant column is not a scale.
        noise = 10 * torch.finfo(x.dtype).eps * x.abs().amax(dim=0)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.where(scale <= noise, torch.ones_like(scale), scale))

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, p) -> (n, p)."""
        if x.shape[-1] != self.mean.numel():
            raise ValueError(
                f"x has {x.shape[-1]} features: the training rows had {self.mean.numel()}"
            )
        return (x - self.mean) / self.scale

    def inverse(self, z: Tensor) -> Tensor:
        """Back to the original units: (n, p) -> (n, p)."""
        return z * self.scale + self.mean


def standardize(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Scale every argument with the mean and the scale of the first one, the training rows."""
    scaler = Standardizer(train)
    return tuple(scaler(x) for x in (train, *others))


def train_validation_test_split(
    x: Tensor,
    y: Tensor,
    *,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Split:
    """Shuffle the rows once and cut them in three.

    Args:
        x: (n, p).
        y: (n,) or (n, outputs).
        validation_fraction, test_fraction: shares of the rows, rounded to whole rows.

    Raises:
        ValueError: lengths differ, or a part would be empty.
    """
    if len(x) != len(y):
        raise ValueError(f"y has {len(y)} rows: it must have as many as x, {len(x)}")
    n = len(x)
    held_out = round(n * validation_fraction), round(n * test_fraction)
    if min(held_out) < 1 or sum(held_out) >= n:
        raise ValueError(
            f"validation_fraction={validation_fraction} and test_fraction={test_fraction} "
            f"of {n} rows leave a part empty"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(x.device)
    validation, test, train = order.split([*held_out, n - sum(held_out)])
    return Split(*(Part(x[rows], y[rows]) for rows in (train, validation, test)))
