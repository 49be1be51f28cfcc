"""Judge of sliding-attention: one query and one key at a time, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from companion.homework.architectures.comparing import expect
from companion.homework.tasks import Answers, Inputs, Suspects, Wrong, expect_close

HEADS = (1, 2, 4, 8, 16)


class Case(NamedTuple):
    """Batch, heads, queries, keys, features, features of v, window, size of the scores."""

    batch: int
    heads: int
    queries: int
    keys: int
    features: int
    values: int
    window: int
    size: float = 1.0


CASES = (
    Case(2, 2, 5, 5, 3, 4, 3),
    Case(1, 1, 1, 1, 2, 2, 1),
    Case(1, 4, 4, 4, 2, 3, 1),
    Case(2, 2, 6, 6, 4, 2, 10),
    Case(1, 8, 2, 7, 3, 3, 4),
    Case(2, 4, 1, 6, 2, 3, 3),
    Case(1, 2, 5, 5, 2, 2, 4, 60.0),
)
TEXT = Case(2, 4, 7, 7, 3, 2, 0)
DECODINGS = (
    (3, (1, 1, 1, 1, 1, 1, 1)),
    (3, (2, 1, 4)),
    (1, (1, 1, 3, 1, 1)),
    (20, (3, 1, 1, 2)),
    (4, (6, 1)),
)


def draw(rng: np.random.Generator) -> Inputs:
    """Draw queries, keys and values of every case, and those of a text to decode."""
    inputs: Inputs = {
        "heads": list(HEADS),
        "windows": [case.window for case in CASES],
        "decodings": [[window, list(chunks)] for window, chunks in DECODINGS],
    }
    for name, case in [*((str(i), case) for i, case in enumerate(CASES)), ("_text", TEXT)]:
        batch, heads, queries, keys, features, values, _, size = case
        inputs[f"q{name}"] = size * rng.standard_normal((batch, heads, queries, features))
        inputs[f"k{name}"] = size * rng.standard_normal((batch, heads, keys, features))
        inputs[f"v{name}"] = rng.standard_normal((batch, heads, keys, values))
    return inputs


def slopes(heads: int) -> np.ndarray:
    """Return 2^(−8i/n) for the heads i = 1 … n."""
    return np.array([2.0 ** (-8 * (i + 1) / heads) for i in range(heads)])


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    window: int,
    *,
    root: Callable[[int], float] = lambda features: features**0.5,
    bias: Callable[[int, int, int], float] = lambda head, heads, gap: -slopes(heads)[head] * gap,
    visible: Callable[[int, int], bool] = lambda gap, window: 0 <= gap < window,
    first: bool = False,
    hidden: str = "left out",
) -> np.ndarray:
    """Return what task 4 asks for, position by position; the options spoil it.

    Args:
        q, k, v, window: as in the task.
        root: what a product of a query and a key is divided by.
        bias: of head, number of heads and distance.
        visible: whether a distance may be seen.
        first: count the queries from the first position instead of the last ones.
        hidden: what becomes of a key that may not be seen; it may also get a score or a weight of
            0, ``"zero score"`` and ``"zero weight"``.
    """
    batch, heads, queries, features = q.shape
    keys = k.shape[2]
    y = np.zeros((batch, heads, queries, v.shape[3]))
    for n, h, t in np.ndindex(batch, heads, queries):
        at = t + (0 if first else keys - queries)
        may = [visible(at - s, window) for s in range(keys)]
        kept = [s for s in range(keys) if may[s] or hidden != "left out"]
        scores = [q[n, h, t] @ k[n, h, s] / root(features) + bias(h, heads, at - s) for s in kept]
        if hidden == "zero score":
            scores = [score if may[s] else 0.0 for score, s in zip(scores, kept, strict=True)]
        weights = np.exp(np.array(scores) - max(scores, default=0.0))
        weights /= weights.sum()
        if hidden == "zero weight":
            weights *= may
        y[n, h, t] = sum(w * v[n, h, s] for w, s in zip(weights, kept, strict=True))
    return y


def suspects(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int) -> Suspects:
    """Return what known mistakes give."""
    off = "a query sees `window` positions, its own among them"
    geometric = "the first slope is 2^(−8/n), and each next one that factor smaller"
    variants = [
        ("the scores are divided by the root of the number of features", {"root": lambda d: 1.0}),
        ("the scores are divided by the root of the number of features", {"root": lambda d: d}),
        ("the penalty for distance is left out", {"bias": lambda h, n, gap: 0.0}),
        (
            "distance is a penalty: it is subtracted",
            {"bias": lambda h, n, gap: slopes(n)[h] * gap},
        ),
        (
            "the penalty is added after the division by √D",
            {"bias": lambda h, n, gap: -slopes(n)[h] * gap / q.shape[3] ** 0.5},
        ),
        ("each head has a slope of its own", {"bias": lambda h, n, gap: -slopes(n)[0] * gap}),
        (
            "the first head has the steepest slope",
            {"bias": lambda h, n, gap: -slopes(n)[n - 1 - h] * gap},
        ),
        (geometric, {"bias": lambda h, n, gap: -(2.0 ** (-8 * h / n)) * gap}),
        (geometric, {"bias": lambda h, n, gap: -(2.0 ** -(h + 1)) * gap}),
        ("the penalty is linear in the distance", {"bias": lambda h, n, g: -slopes(n)[h] * g * g}),
        (off, {"visible": lambda gap, window: 0 <= gap <= window}),
        (off, {"visible": lambda gap, window: 0 <= gap < max(window - 1, 1)}),
        (off, {"visible": lambda gap, window: abs(gap) < window}),
        ("no query may see the future", {"visible": lambda gap, window: gap < window}),
        (
            "a query sees no further back than the window",
            {"visible": lambda gap, window: gap >= 0},
        ),
        ("the queries are the last T positions, not the first", {"first": True}),
        ("hide keys before the softmax: a score of −inf", {"hidden": "zero weight"}),
        ("a hidden score is −inf: with 0 it still has weight", {"hidden": "zero score"}),
    ]
    with np.errstate(all="ignore"):
        return [(hint, attend(q, k, v, window, **options)) for hint, options in variants]


def judge(inputs: Inputs, answers: Answers) -> None:
    """Compare the slopes, attention in one go, and decoding bit by bit."""
    for heads in HEADS:
        want = slopes(heads)
        near = "for heads 1 … n the slopes are 2^(−8/n), 2^(−16/n), … 2^(−8)"
        what = f"alibi_slopes({heads})"
        got = answers.array(f"slopes{heads}")
        if got.dtype != np.float64:
            raise Wrong(f"{what} has type {got.dtype}; it must be float64")
        expect_close(what, got, want, otherwise=near)
    for i, case in enumerate(CASES):
        q, k, v = (inputs[f"{name}{i}"] for name in "qkv")
        far = f", scores to {case.size**2:g}" if case.size > 1 else ""
        expect(
            f"attend for {case.queries} queries, {case.keys} keys, {case.heads} heads, window "
            f"{case.window}{far}",
            answers.array(f"y{i}"),
            attend(q, k, v, case.window),
            lambda q=q, k=k, v=v, case=case: suspects(q, k, v, case.window),
            otherwise="exp overflows: take each row's maximum out first" if far else "",
        )
    if (kind := answers.array("single").dtype) != np.float32:
        raise Wrong(f"attend turns float32 into {kind}", "the slopes are float64: convert them")
    q, k, v = (inputs[f"{name}_text"] for name in "qkv")
    for j, (window, chunks) in enumerate(DECODINGS):
        what = f"Decoder({window}) fed {', '.join(map(str, chunks))} positions at a time"
        want = attend(q, k, v, window)
        expect(
            f"the output of {what}",
            answers.array(f"decoded{j}"),
            want,
            lambda window=window, chunks=chunks: decoding_suspects(q, k, v, window, chunks),
            otherwise="attend is right: what does a step keep, and is it this decoder's own?",
        )
        batch, heads, _, _, features, values, _, _ = TEXT
        limit = batch * heads * window * (features + values) + 64
        if (held := answers.integer(f"held{j}")) > limit:
            raise Wrong(
                f"{what} keeps {held} numbers; {limit} are enough",
                "keep the last `window` positions only, and as a clone: a slice keeps the whole "
                "tensor in memory",
            )


def decoding_suspects(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int, chunks: tuple[int, ...]
) -> Suspects:
    """Return what known mistakes of the decoder give."""
    parts: dict[str, list[np.ndarray]] = {}
    start, everything = 0, k.shape[2]
    for size in chunks:
        end = start + size
        seen = {
            "each step forgets the earlier ones": (start, window),
            "the output of a step has no window": (max(start - window, 0), everything),
        }
        if window > 1:
            few = "for the next query `window` − 1 earlier positions must be kept"
            seen[few] = (max(start - window + 2, 0), window)
        for hint, (first, reach) in seen.items():
            part = attend(q[:, :, start:end], k[:, :, first:end], v[:, :, first:end], reach)
            parts.setdefault(hint, []).append(part)
        start = end
    return [(hint, np.concatenate(each, axis=2)) for hint, each in parts.items()]
