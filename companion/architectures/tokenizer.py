"""A byte-pair tokenizer: text to token ids and back, for any text and any bytes.

Byte-pair encoding begins with the 256 bytes as tokens. It joins the pair of neighbouring tokens
that is most frequent in a training text to one new token, counts again, and goes on until the
vocabulary is as large as wanted. The list of merges, in the order found, *is* the tokenizer: a
new text is encoded by carrying out the merges in that order.

Merges never cross the border between words: a text is first split into pieces, a word with the
blank before it for instance. That lets the training count each different piece once.

Sources: Gage, "A New Algorithm for Data Compression" (The C Users Journal 12(2), 1994); Sennrich,
Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units" (ACL 2016,
section 3.2); for bytes, the pieces and the numbering of the bytes: Radford et al., "Language
Models are Unsupervised Multitask Learners" (2019, section 2.2) with its published vocabulary.
"""

from __future__ import annotations

import heapq
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from companion.arguments import check_integer

Pair = tuple[int, int]

# What goes together: a contraction; letters, digits or signs, each with a blank before them;
# white space, whose last blank is left to the next word. GPT-2 asks for \p{L} and \p{N} instead
# of letters and digits; in ASCII that is the same.
PIECE = re.compile(
    r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+", re.UNICODE
)
# Token i < 256 is the byte BYTES[i]: those that Latin-1 can print first, as GPT-2 numbers them.
# Ties between equally frequent pairs go to the smaller ids, so the numbering matters.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = bytes(_PRINTABLE + [byte for byte in range(256) if byte not in _PRINTABLE])
ID_OF_BYTE = {byte: index for index, byte in enumerate(BYTES)}


def split_pieces(text: str | bytes) -> list[bytes]:
    """Split a text into the pieces that no merge crosses; joined they are the text again.

    Bytes that are not UTF-8 count as signs.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
        return [piece.encode("utf-8", "surrogateescape") for piece in PIECE.findall(text)]
    return [piece.encode("utf-8") for piece in PIECE.findall(text)]


def merge(ids: Sequence[int], pair: Pair, new: int) -> list[int]:
    """Return `ids` with each `pair`, from left to right, replaced by the token `new`."""
    merged, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


class Vocabulary:
    """Token id -> bytes, and back; grows by one merge at a time."""

    def __init__(self, merges: Iterable[Pair] = ()) -> None:
        self.tokens = [bytes([byte]) for byte in BYTES]
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        for pair in merges:
            self.add(pair)

    def add(self, pair: Pair) -> int:
        """Return the id of the two tokens joined; two different pairs can spell one token."""
        token = self.tokens[pair[0]] + self.tokens[pair[1]]
        if token not in self.ids:
            self.ids[token] = len(self.tokens)
            self.tokens.append(token)
        return self.ids[token]


def learn_merges_naive(text: str | bytes, vocab_size: int, min_count: int = 2) -> list[Pair]:
    """Find the merges by counting all pairs anew for each of them.

    Cost: (number of merges) x (size of all different pieces).

    Args:
        text: to learn from, not empty.
        vocab_size: number of tokens to stop at, at least 256.
        min_count: pairs that occur less often are not merged, so there may be fewer tokens.

    Returns:
        The merges as pairs of ids, in the order in which they were found.

    Raises:
        ValueError: an argument out of range.
    """
    _check(text, vocab_size, min_count)
    pieces = Counter(split_pieces(text))
    words = [([ID_OF_BYTE[byte] for byte in piece], n) for piece, n in pieces.items()]
    vocabulary, merges = Vocabulary(), []
    while len(vocabulary.tokens) < vocab_size:
        counts: Counter[Pair] = Counter()
        for ids, n in words:
            for pair in zip(ids, ids[1:], strict=False):
                counts[pair] += n
        # The most frequent pair; of several, the one with the smallest ids.
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < min_count:
            break
        new = vocabulary.add(best)
        words = [(merge(ids, best, new), n) for ids, n in words]
        merges.append(best)
    return merges


def learn_merges(text: str | bytes, vocab_size: int, min_count: int = 2) -> list[Pair]:
    """Find the same merges by touching only the words that each merge changes.

    It keeps the count of every pair, the words that each pair occurs in, and a heap whose top is
    the most frequent pair. A heap entry may be out of date: its count is compared with the true
    one when it comes up. Arguments, result and errors: as :func:`learn_merges_naive`.
    """
    _check(text, vocab_size, min_count)
    pieces = Counter(split_pieces(text))
    words = [[ID_OF_BYTE[byte] for byte in piece] for piece in pieces]
    times = list(pieces.values())
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, ids in enumerate(words):
        for pair in zip(ids, ids[1:], strict=False):
            counts[pair] += times[index]
            places[pair].add(index)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    vocabulary, merges = Vocabulary(), []
    while heap and len(vocabulary.tokens) < vocab_size:
        count, best = heapq.heappop(heap)
        if -count != counts[best]:
            continue  # out of date; the true count was pushed when it changed
        if -count < min_count:
            break
        new = vocabulary.add(best)
        merges.append(best)
        changed = set()
        for index in places.pop(best):
            before = words[index]
            after = words[index] = merge(before, best, new)
            for ids, sign in ((before, -1), (after, 1)):
                for pair in zip(ids, ids[1:], strict=False):
                    counts[pair] += sign * times[index]
                    changed.add(pair)
                    if sign > 0:
                        places[pair].add(index)
        for pair in changed:
            heapq.heappush(heap, (-counts[pair], pair))
    return merges


class BytePairTokenizer:
    """Text to ids and back by a list of merges; ids below 256 are single bytes.

    Args:
        merges: pairs of ids; each may use the tokens before it.

    Attributes:
        merges: as given.
        tokens: the bytes of each token.
        vocab_size: number of tokens.

    Raises:
        ValueError: a merge of a token that does not exist yet.
    """

    def __init__(self, merges: Iterable[Pair] = ()) -> None:
        self.merges = [(int(first), int(second)) for first, second in merges]
        vocabulary = Vocabulary()
        self._ranks: dict[Pair, int] = {}
        self._joined: dict[Pair, int] = {}
        for rank, pair in enumerate(self.merges):
            if not 0 <= min(pair) <= max(pair) < len(vocabulary.tokens):
                raise ValueError(
                    f"merges[{rank}]={pair}: ids in [0, {len(vocabulary.tokens)}) are needed"
                )
            self._ranks[pair] = rank
            self._joined[pair] = vocabulary.add(pair)
        self.tokens = vocabulary.tokens
        self._cache: dict[bytes, list[int]] = {}

    @classmethod
    def train(cls, text: str | bytes, vocab_size: int, *, min_count: int = 2) -> BytePairTokenizer:
        """Return the tokenizer learnt from `text`; see :func:`learn_merges`."""
        return cls(learn_merges(text, vocab_size, min_count))

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def encode(self, text: str | bytes) -> list[int]:
        """Return the token ids of any text, or of any bytes, UTF-8 or not."""
        ids = []
        for piece in split_pieces(text):
            if piece not in self._cache:
                self._cache[piece] = self._encode_piece(piece)
            ids += self._cache[piece]
        return ids

    def _encode_piece(self, piece: bytes) -> list[int]:
        """Carry out, as long as there is one, the merge that was learnt first."""
        ids = [ID_OF_BYTE[byte] for byte in piece]
        while len(ids) > 1:
            pairs = zip(ids, ids[1:], strict=False)
            best = min(pairs, key=lambda pair: self._ranks.get(pair, math.inf))
            if best not in self._ranks:
                break
            ids = merge(ids, best, self._joined[best])
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of token ids: exactly what was encoded.

        Raises:
            ValueError: an id that no token has.
        """
        ids = list(ids)
        for index in ids:
            if not 0 <= index < len(self.tokens):
                raise ValueError(f"ids hold {index}: an id in [0, {len(self.tokens)}) is needed")
        return b"".join(self.tokens[index] for index in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; bytes that are not UTF-8 become U+FFFD.

        A model can stop in the middle of a character. :meth:`decode_bytes` loses nothing.

        Raises:
            ValueError: an id that no token has.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, path: str | Path) -> None:
        """Write the merges as JSON."""
        Path(path).write_text(json.dumps({"merges": self.merges}), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> BytePairTokenizer:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            merges = json.loads(Path(path).read_text(encoding="utf-8"))["merges"]
            return cls((first, second) for first, second in merges)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path={str(path)!r}: not a saved tokenizer ({error})") from error


def bits_per_byte(loss: float, tokens: int, size: int) -> float:
    """Return a loss in nats a token as bits a byte of text, which no tokenizer changes.

    Args:
        loss: mean negative log-likelihood of the `tokens` tokens, in nats.
        tokens: number of tokens that were predicted.
        size: number of bytes that these tokens spell.

    Raises:
        ValueError: `tokens` or `size` below 1.
    """
    check_integer("tokens", tokens, minimum=1)
    check_integer("size", size, minimum=1)
    return loss * tokens / (size * math.log(2))


def _check(text: str | bytes, vocab_size: int, min_count: int) -> None:
    check_integer("vocab_size", vocab_size, minimum=256)
    check_integer("min_count", min_count, minimum=1)
    if not text:
        raise ValueError("text is empty: at least one character is needed")
