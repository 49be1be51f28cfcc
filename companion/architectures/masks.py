r"""Masks: which query may look at which key. Boolean, True where it *may*.

    causal     query t may look at the keys 0 … t           (T, S), the same for all
    padding    no query may look at padding                 (B, S), one row a sequence
    any        what the caller decides                      (B, T, S)

Letters: B batch, H heads, T queries, S keys.

Source: Vaswani et al., NeurIPS 2017, section 3.2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from companion.arguments import check_integer


def causal_mask(queries: int, keys: int | None = None) -> Tensor:
    """Return the mask that hides the future, (queries, keys), boolean.

    The queries are the *last* positions: query t stands at position keys − queries + t and may look
    at every key up to there, itself included. For queries = keys: the lower triangle.

    Raises:
        ValueError: a length below 1, or more queries than keys.
    """
    keys = queries if keys is None else keys
    check_integer("queries", queries, minimum=1)
    check_integer("keys", keys, minimum=queries)
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


def mask_on_heads(mask: Tensor, batch: int, queries: int, keys: int) -> Tensor:
    """View a (B, S) or (B, T, S) mask so that it broadcasts over (B, H, T, S).

    Raises:
        ValueError: the mask is not boolean or has another shape.
    """
    _check_boolean(mask)
    if tuple(mask.shape) == (batch, keys):
        return mask[:, None, None, :]
    if mask.dim() == 3 and mask.shape[0] in (1, batch) and mask.shape[1:] == (queries, keys):
        return mask[:, None]
    raise ValueError(
        f"mask has shape {tuple(mask.shape)}; it must be {(batch, keys)}, padding, "
        f"or {(batch, queries, keys)}"
    )


def full_mask(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
) -> Tensor | None:
    """Check the shapes and join `mask` with the causal one.

    Args:
        query: (..., T, D).
        key: (..., S, D).
        value: (..., S, E).
        mask: boolean, broadcastable to (..., T, S), or None.
        causal: hide the future as well; the queries are the last T of the S positions.

    Returns:
        The mask, or None if everything may be seen.

    Raises:
        ValueError: shapes that do not meet, or a mask that is not boolean.
    """
    check_shapes(query, key, value)
    queries, keys = query.shape[-2], key.shape[-2]
    if mask is not None:
        _check_boolean(mask)
        if mask.dim() < 2 or mask.shape[-2] not in (1, queries) or mask.shape[-1] not in (1, keys):
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}; its last dimensions must be {(queries, keys)}"
            )
    if not causal or queries == 1:  # the newest position may look at all before it
        return mask
    if queries > keys:
        raise ValueError(f"causal: {queries} queries cannot be the last of {keys} keys")
    past = query.new_ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    return past if mask is None else mask & past


def check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise ValueError unless queries meet keys, and keys meet values."""
    if min(query.dim(), key.dim(), value.dim()) < 2 or 0 in query.shape[-2:] + key.shape[-2:]:
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}: "
            "(..., time, features) with at least one of each is needed"
        )
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query has {query.shape[-1]} features and key {key.shape[-1]}; they must be equal"
        )
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"key has {key.shape[-2]} positions and value {value.shape[-2]}; they must be equal"
        )


def _check_boolean(mask: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}; it must be boolean, True: may look")
