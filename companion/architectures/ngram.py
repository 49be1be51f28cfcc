r"""n-gram models by counting, smoothed by interpolated Kneser–Ney.

The probability of a token given the n − 1 tokens before it, h, is a discounted share of the counts
plus what the discount took, handed to the model with one token less of context, h':

    p_n(c | h) = max(N(h c) − D, 0) / N(h)  +  D · T(h) / N(h) · p_{n−1}(c | h')

N(h c) counts how often c followed h, N(h) sums that over c, and T(h) is the number of different
tokens that followed h. A context never seen has N(h) = 0 and leaves the work to h'. The recursion
ends at the uniform distribution 1 / V, so no token gets probability 0.

Kneser and Ney's idea concerns the lower orders: there N(h c) does not count occurrences but the
number of *different* tokens seen before h c. "Francisco" may be frequent and still follow nothing
but "San"; as a guess in a new context it deserves little.

Sources: Kneser and Ney, "Improved backing-off for m-gram language modeling" (ICASSP 1995); Chen
and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (Computer Speech
and Language 13, 1999, sections 2.7 and 4.1.6: the interpolated form).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from companion.arguments import check_integer

Tokens = Sequence[int] | np.ndarray | Tensor
START = 0  # stands before the first token as often as a context needs it


def ngram_probability_naive(
    train: Sequence[int], context: Sequence[int], token: int, *, vocab_size: int, discount: float
) -> float:
    """Return p(token | context) straight from the definition, by searching `train` each time.

    The order of the model is ``len(context) + 1``; arguments otherwise as for :class:`NGram`.
    """
    order = len(context) + 1
    stream = [START] * (order - 1) + list(train)
    highest = [tuple(stream[i : i + order]) for i in range(len(train))]
    probability = 1 / vocab_size
    for n in range(1, order + 1):
        h = tuple(context[len(context) - (n - 1) :])
        if n == order:
            followers = [gram[-1] for gram in highest if gram[:-1] == h]
        else:  # of each longer gram only the kind counts: set, not list
            longer = {gram[-(n + 1) :] for gram in highest}
            followers = [gram[-1] for gram in longer if gram[1:-1] == h]
        if followers:
            kept = max(followers.count(token) - discount, 0)
            handed_down = discount * len(set(followers)) * probability
            probability = (kept + handed_down) / len(followers)
    return probability


@dataclass(frozen=True)
class _Table:
    """The grams of one length, as sorted codes, and their contexts."""

    grams: np.ndarray  # (G,), int64, sorted
    counts: np.ndarray  # (G,)
    contexts: np.ndarray  # (H,), int64, sorted: the grams without their last token
    totals: np.ndarray  # (H,), N(h)
    types: np.ndarray  # (H,), T(h)


class NGram:
    """An n-gram model with interpolated Kneser–Ney smoothing.

    A gram of n tokens is one integer, its digits to the base `vocab_size`; counting is sorting.
    Only the longest grams are counted in the text: the shorter ones count their extensions.

    Args:
        order: n, the length of a gram; 1 ignores the context.
        vocab_size: number of different tokens, V; ``V ** order`` must be below 2^63.
        discount: D in (0, 1]; try a few on a validation text.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, order: int, vocab_size: int, *, discount: float = 0.75) -> None:
        check_integer("order", order, minimum=1)
        check_integer("vocab_size", vocab_size, minimum=1)
        if vocab_size**order >= 2**63:
            raise ValueError(
                f"order={order}: with vocab_size={vocab_size} a gram does not fit into 63 bits"
            )
        if not 0 < discount <= 1:
            raise ValueError(f"discount={discount!r}: a number in (0, 1] is needed")
        self.order = order
        self.vocab_size = vocab_size
        self.discount = discount
        self.tables: list[_Table] = []

    def fit(self, tokens: Tokens) -> NGram:
        """Count the grams of a text and return the model.

        Args:
            tokens: ids in ``[0, vocab_size)``, at least one.

        Raises:
            ValueError: no token, or an id out of range.
        """
        grams, counts = np.unique(self._codes(self._checked(tokens)), return_counts=True)
        tables = [self._table(grams, counts)]
        for length in range(self.order - 1, 0, -1):
            shorter = grams % self.vocab_size**length  # without the first token
            grams, counts = np.unique(shorter, return_counts=True)
            tables.append(self._table(grams, counts))
        self.tables = tables[::-1]
        return self

    def log_probabilities(self, tokens: Tokens) -> np.ndarray:
        """Return the natural logarithm of p(token | tokens before it) for each token, ``(N,)``.

        Raises:
            ValueError: no token, an id out of range, or a model that was not fitted.
        """
        return np.log(self._probabilities(self._codes(self._checked(tokens))))

    def loss(self, tokens: Tokens) -> float:
        """Return the mean negative log-likelihood of a text, in nats a token."""
        return -float(self.log_probabilities(tokens).mean())

    def next_probabilities(self, context: Tokens) -> np.ndarray:
        """Return p(c | context) for every token c, ``(vocab_size,)``; it adds up to 1.

        Args:
            context: any number of tokens; the last ``order − 1`` count.

        Raises:
            ValueError: an id out of range, or a model that was not fitted.
        """
        width = self.order - 1
        context = np.asarray(context, dtype=np.int64).reshape(-1)
        if len(context):
            context = self._checked(context)
        padded = [START] * width + context.tolist()
        code = 0
        for token in padded[len(padded) - width :]:
            code = code * self.vocab_size + token
        return self._probabilities(code * self.vocab_size + np.arange(self.vocab_size))

    def _probabilities(self, codes: np.ndarray) -> np.ndarray:
        """Return the probability of the last token of each gram of full length."""
        if not self.tables:
            raise ValueError("model: call fit before asking for probabilities")
        probability = np.full(len(codes), 1 / self.vocab_size)
        for length, table in enumerate(self.tables, start=1):
            grams = codes % self.vocab_size**length
            count = _look_up(table.grams, table.counts, grams)
            contexts = grams // self.vocab_size
            total = _look_up(table.contexts, table.totals, contexts)
            types = _look_up(table.contexts, table.types, contexts)
            kept = np.maximum(count - self.discount, 0)
            mixed = (kept + self.discount * types * probability) / np.maximum(total, 1)
            probability = np.where(total > 0, mixed, probability)
        return probability

    def _codes(self, tokens: np.ndarray) -> np.ndarray:
        """Return for each token the gram that ends with it, ``(N,)``, as an integer."""
        padded = np.concatenate([np.full(self.order - 1, START), tokens])
        codes = np.zeros(len(tokens), dtype=np.int64)
        for start in range(self.order):
            codes = codes * self.vocab_size + padded[start : start + len(tokens)]
        return codes

    def _table(self, grams: np.ndarray, counts: np.ndarray) -> _Table:
        contexts, first, types = np.unique(
            grams // self.vocab_size, return_index=True, return_counts=True
        )
        return _Table(grams, counts, contexts, np.add.reduceat(counts, first), types)

    def _checked(self, tokens: Tokens) -> np.ndarray:
        tokens = np.asarray(tokens, dtype=np.int64).reshape(-1)
        if not len(tokens):
            raise ValueError("tokens is empty: at least one is needed")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"tokens reach from {low} to {high}: ids in [0, {self.vocab_size}) are needed"
            )
        return tokens


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the value of each wanted key, 0 where it is not among the sorted `keys`."""
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[index] == wanted, values[index], 0)
