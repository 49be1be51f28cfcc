"""Small helpers of the scenarios: fetch a name, check what comes back, turn it into an array."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import torch
from torch import Tensor

from companion.homework.child import Misuse


def need(student: types.ModuleType, name: str) -> Any:
    """Return what the submission calls `name`."""
    value = getattr(student, name, None)
    if value is None:
        raise Misuse(f"{name} is not defined in your file")
    if not callable(value):
        raise Misuse(f"{name} must be something to call, not {type(value).__name__}")
    return value


def tensor(array: np.ndarray) -> Tensor:
    """Return a tensor with memory of its own."""
    return torch.from_numpy(array.copy())


def returned_tensor(what: str, value: Any) -> np.ndarray:
    """Return the array of a tensor that the submission returned."""
    if not isinstance(value, Tensor):
        raise Misuse(f"{what} must be a tensor, not {type(value).__name__}")
    return value.detach().cpu().resolve_conj().numpy()


def returned_pair(what: str, value: Any) -> tuple[Any, Any]:
    """Return the two members of what must be a pair."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        kind = f"{len(value)} values" if isinstance(value, tuple | list) else type(value).__name__
        raise Misuse(f"{what} must return a pair, not {kind}")
    return value[0], value[1]


def unchanged(what: str, **pairs: tuple[Tensor, np.ndarray]) -> None:
    """Complain if a tensor that was handed to the submission is no longer what it was."""
    for name, (now, before) in pairs.items():
        if not np.array_equal(now.detach().numpy(), before, equal_nan=True):
            raise Misuse(f"{what} changes its argument {name} in place")
