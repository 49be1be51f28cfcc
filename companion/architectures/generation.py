"""Writing text with a language model: one token at a time, each drawn from the model's own guess.

    logits (V,) → / temperature → keep top k → keep top p → softmax → draw → append → again

Reading a sequence of T tokens anew for each token costs 1 + 2 + … + T positions; with a key–value
cache each pass reads one.

Letters: B batch, T time, V vocabulary size.

Sources: temperature: Ackley, Hinton and Sejnowski, "A Learning Algorithm for Boltzmann Machines"
(Cognitive Science 9, 1985); top-k: Fan, Lewis and Dauphin, "Hierarchical Neural Story Generation"
(ACL 2018, section 5.4); top-p: Holtzman et al., "The Curious Case of Neural Text Degeneration"
(ICLR 2020, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from companion.arguments import check_integer


def scale_by_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Return ``logits / temperature``: p_i becomes proportional to p_i^(1 / temperature).

    Below 1 likely tokens gain, above 1 unlikely ones do; towards 0 it becomes the argmax.

    Args:
        logits: (..., V).
        temperature: above 0.

    Raises:
        ValueError: a temperature that is not a positive number.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature={temperature!r}: a number above 0 is needed (top_k=1 is greedy)"
        )
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Return `logits` with all but the k largest set to −∞; of equal ones the first stay.

    Args:
        logits: (..., V).
        k: at least 1; a k above V keeps everything.

    Raises:
        ValueError: k below 1.
    """
    check_integer("top_k", k, minimum=1)
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return _remove(logits, order, torch.ones_like(order).cumsum(-1) > k)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Return `logits` with all but the *nucleus* set to −∞.

    The nucleus is the smallest set of most likely tokens whose probabilities add up to at least
    p. The token that crosses p belongs to it, so at least one token always stays.

    Args:
        logits: (..., V).
        p: in (0, 1]; 1 keeps everything.

    Raises:
        ValueError: p outside (0, 1].
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p!r}: a number in (0, 1] is needed")
    if p == 1:
        return logits
    order = logits.argsort(dim=-1, descending=True, stable=True)
    probabilities = logits.softmax(dim=-1).gather(-1, order)
    before = probabilities.cumsum(dim=-1) - probabilities  # what the likelier tokens have
    return _remove(logits, order, before >= p)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token a row by walking along the probabilities until `uniform` is used up.

    Token i is drawn if ``p_0 + … + p_{i−1} ≤ uniform < p_0 + … + p_i``. The random numbers come
    from outside, so the same ones give the same tokens on every device.

    Args:
        logits: (B, V).
        uniform: (B,), float64, in [0, 1).

    Returns:
        Token ids (B,), int64; never one whose logit is −∞.
    """
    ends = logits.double().softmax(dim=-1).cumsum(dim=-1)  # (B, V)
    position = uniform.to(ends.device).unsqueeze(-1) * ends[:, -1:]
    return (ends <= position).sum(dim=-1)


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt_ids: Sequence[int] | Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    use_cache: bool = True,
    seed: int = 0,
) -> Tensor:
    """Continue a prompt.

    A model with a ``config.context_length`` sees no more tokens than that. When its context is
    full it forgets the older half and goes on, whether with a cache or without: both give the
    same tokens. Dropout is off meanwhile.

    Args:
        model: ids (B, T) → logits (B, T, V); for a cache also ``new_cache()`` and
            ``model(ids, cache)``, as :class:`companion.architectures.transformer.GPT` has.
        prompt_ids: (T,) or (B, T), at least one token, at most the context length.
        max_new_tokens: how many to add, at least 1.
        temperature: above 0, see :func:`scale_by_temperature`.
        top_k: see :func:`keep_top_k`; 1 is greedy decoding. Applied after the temperature.
        top_p: see :func:`keep_top_p`. Applied after `top_k`.
        use_cache: read each token once; False reads the whole context for each new token.
        seed: of the draws.

    Returns:
        Prompt and new tokens, (T + max_new_tokens,) or (B, T + max_new_tokens), int64.

    Raises:
        ValueError: an argument out of range, an empty or too long prompt, an id that the model
            does not know, or a model without a cache and `use_cache`.
    """
    check_integer("max_new_tokens", max_new_tokens, minimum=1)
    check_integer("seed", seed, minimum=0)
    if use_cache and not hasattr(model, "new_cache"):
        raise ValueError(f"use_cache=True: {type(model).__name__} has no new_cache()")
    limit = getattr(getattr(model, "config", None), "context_length", None)
    ids = _checked_prompt(prompt_ids, limit, getattr(model, "config", None))
    flat, ids = ids.dim() == 1, torch.atleast_2d(ids)
    ids = ids.to(next(model.parameters()).device)
    generator = torch.Generator().manual_seed(seed)
    start, cache = 0, None  # the model sees ids[:, start:]
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            if limit is not None and ids.shape[1] - start > limit:
                start, cache = ids.shape[1] - max(1, limit // 2), None
            if not use_cache:
                logits = model(ids[:, start:])
            elif cache is None:
                cache = model.new_cache()
                logits = model(ids[:, start:], cache)  # the prompt, in one pass
            else:
                logits = model(ids[:, -1:], cache)
            scores = choose_from(logits[:, -1], temperature, top_k, top_p)
            uniform = torch.rand(len(ids), generator=generator, dtype=torch.float64)
            ids = torch.cat([ids, draw(scores, uniform).unsqueeze(1)], dim=1)
    finally:
        model.train(was_training)
    return ids[0] if flat else ids


def choose_from(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Return the logits (..., V) that tokens are drawn from; errors as the three parts."""
    logits = scale_by_temperature(logits, temperature)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    return logits if top_p is None else keep_top_p(logits, top_p)


def _remove(logits: Tensor, order: Tensor, removed: Tensor) -> Tensor:
    """Set logits to −∞ where `removed`, which goes along `order`, is True."""
    mask = torch.zeros_like(logits, dtype=torch.bool)
    return logits.masked_fill(mask.scatter(-1, order, removed.expand_as(order)), -torch.inf)


def _checked_prompt(prompt_ids: Any, limit: int | None, config: Any) -> Tensor:
    """Return the prompt as a tensor; ValueError for one that the model cannot continue."""
    ids = torch.as_tensor(prompt_ids)
    if ids.dim() not in (1, 2) or ids.numel() == 0:
        raise ValueError(
            f"prompt_ids has shape {tuple(ids.shape)}: (time,) or (batch, time) with at least one "
            "token is needed"
        )
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"prompt_ids has type {ids.dtype}: token ids are integers")
    if limit is not None and ids.shape[-1] > limit:
        raise ValueError(
            f"prompt_ids has {ids.shape[-1]} tokens; context_length={limit} is the most"
        )
    size = getattr(config, "vocab_size", None)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (size is not None and high >= size):
        rule = "[0, ∞)" if size is None else f"[0, {size})"
        raise ValueError(f"prompt_ids reach from {low} to {high}: ids in {rule} are needed")
    return ids.long()
