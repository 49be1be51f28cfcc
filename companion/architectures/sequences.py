r"""Sequences of unequal length: padding, masks, packing.

A batch of sequences with lengths ℓ_1 … ℓ_N becomes one tensor (N, T, F), T the longest, filled up
with a padding value. What is padding must not count. Three ways to say which steps are real:

    lengths   (N,)      how many steps of each row are real
    mask      (N, T)    mask[i, t] = (t < ℓ_i)
    packed    (Σ ℓ, F)  time step by time step, only the rows that are still there, longest first

Packing does Σ ℓ_i steps of work instead of N·T. Rows must stand in the order of falling length, so
that the rows still there at time t are the first `batch_sizes[t]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """A packed batch: data (Σ ℓ, F), and how many rows are still there at each time step (T,)."""

    data: Tensor
    batch_sizes: Tensor


def pad(sequences: Sequence[Tensor], *, value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Stack sequences of shape (ℓ_i, F) into (N, T, F), filled up with `value` at the end.

    Returns:
        The padded batch and the lengths (N,), int64.

    Raises:
        ValueError: no sequence, one of length zero, one with NaN or with other features.
    """
    if not sequences:
        raise ValueError("sequences is empty; at least one sequence is needed")
    for index, sequence in enumerate(sequences):
        name = f"sequences[{index}]"
        if sequence.dim() != 2 or sequence.shape[1] != sequences[0].shape[-1]:
            features = sequences[0].shape[-1]
            raise ValueError(
                f"{name} has shape {tuple(sequence.shape)}; it must be (time, {features}), "
                "the same number of features in all"
            )
        if len(sequence) == 0:
            raise ValueError(f"{name} has length 0; a sequence must have at least 1 step")
        if sequence.is_floating_point() and bool(sequence.isnan().any()):
            step = int(sequence.isnan().any(1).nonzero()[0])
            raise ValueError(f"{name} holds NaN at step {step}; every number must be known")
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    shape = (len(sequences), int(lengths.max()), sequences[0].shape[1])
    padded = sequences[0].new_full(shape, value)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded, lengths


def mask(lengths: Tensor, steps: int) -> Tensor:
    """Return the mask (N, steps), boolean: True where a step is real."""
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(1)


def lengths_from_padding(x: Tensor, value: float = 0.0) -> Tensor:
    """Return lengths (N,): the steps of x: (N, T, F) up to the last that is not all `value`.

    A row that is padding throughout counts as one step. No number leaves the device.
    """
    real = (x != value).any(dim=2)  # (N, T)
    places = torch.arange(1, x.shape[1] + 1, device=x.device)
    return (real * places).amax(dim=1).clamp(min=1)


def last_step(output: Tensor, lengths: Tensor) -> Tensor:
    """Return output: (N, T, H) at the last real step of each row, (N, H)."""
    index = (lengths - 1).reshape(-1, 1, 1).expand(-1, 1, output.shape[2])
    return output.gather(1, index).squeeze(1)


def masked_mean(output: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean of output: (N, T, H) over the real steps of each row, (N, H)."""
    real = mask(lengths, output.shape[1]).unsqueeze(2).to(output.dtype)
    return (output * real).sum(1) / lengths.unsqueeze(1).to(output.dtype)


def pack(x: Tensor, lengths: Tensor) -> Packed:
    """Pack x: (N, T, F), rows in the order of falling length.

    Raises:
        ValueError: lengths that `check_lengths` refuses, or that are not sorted.
    """
    check_lengths(lengths, x)
    if bool((lengths.diff() > 0).any()):
        raise ValueError(
            f"lengths={lengths.tolist()} are not sorted; packing needs them in falling order: "
            "index x and lengths with lengths.argsort(descending=True)"
        )
    real = mask(lengths, int(lengths.max()))
    return Packed(x[:, : real.shape[1]].transpose(0, 1)[real.T], real.sum(0))


def unpack(packed: Packed, *, value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Take `pack` back: return (N, T, F), filled up with `value`, and the lengths (N,)."""
    rows = torch.arange(int(packed.batch_sizes[0]))
    real = rows < packed.batch_sizes.unsqueeze(1)  # (T, N)
    padded = packed.data.new_full((*real.shape, packed.data.shape[1]), value)
    padded[real] = packed.data
    return padded.transpose(0, 1), real.sum(0)


def check_lengths(lengths: Tensor, x: Tensor) -> None:
    """Raise ValueError unless `lengths` are integers (N,) between 1 and T for x: (N, T, …)."""
    if lengths.is_floating_point() or lengths.dim() != 1 or len(lengths) != len(x):
        raise ValueError(
            f"lengths has shape {tuple(lengths.shape)} and dtype {lengths.dtype}; integers of "
            f"shape ({len(x)},) are needed, one a sequence"
        )
    if len(lengths) and int(lengths.min()) < 1:
        raise ValueError(f"lengths={lengths.tolist()}: a sequence must have at least 1 step")
    if len(lengths) and int(lengths.max()) > x.shape[1]:
        raise ValueError(
            f"lengths reach {int(lengths.max())}; x is padded to {x.shape[1]} steps, and none "
            "can be longer"
        )
