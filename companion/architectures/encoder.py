r"""An encoder in the manner of BERT: every position sees all others; it learns to fill in blanks.

Of the tokens of a text 15 % are chosen. Of these 80 % are replaced by a mask token, 10 % by a
token at random, 10 % stay as they are; the network must say what stood there,

    loss = mean over the chosen positions of  −log p(original | corrupted text).

The mask token never occurs when the network is used later: the two times 10 % are there so that
it must have an opinion about ordinary tokens too. Afterwards a small head on the mean of the
hidden vectors classifies whole sequences, with all weights trained on (fine-tuned).

Legend: N batch, T time, C embedding size, V vocabulary size.

Source: Devlin et al., "BERT", NAACL 2019, sections 3.1 and A.1. The blocks here are pre-norm, as
in GPT-2, and a sequence is summarised by its mean instead of by a [CLS] token.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.architectures.transformer import GPT, TransformerConfig, check_ids
from companion.arguments import check_integer
from companion.training import LanguageModel

IGNORED = LanguageModel.IGNORED


def choose_and_corrupt(
    ids: Tensor,
    mask_id: int,
    num_tokens: int,
    *,
    mask_fraction: float = 0.15,
    candidates: Tensor | None = None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the corrupted ids and the targets, -100 where nothing is asked; both (N, T).

    Args:
        ids: (N, T), int64.
        mask_id: the id that hides a token.
        num_tokens: replacements are drawn from ``[0, num_tokens)``.
        mask_fraction: share of the tokens that is chosen, in (0, 1).
        candidates: boolean, (N, T), False where nothing may be chosen (padding).
        noise: (3, N, T), uniform in [0, 1): which tokens, what happens to them, with what they
            are replaced. Drawn if None.

    Raises:
        ValueError: an argument out of range, or shapes that differ.
    """
    check_mask_fraction(mask_fraction)
    check_integer("num_tokens", num_tokens, minimum=1)
    check_integer("mask_id", mask_id, minimum=0)
    for name, value, shape in (
        ("candidates", candidates, tuple(ids.shape)),
        ("noise", noise, (3, *ids.shape)),
    ):
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be {shape}")
    if noise is None:
        noise = torch.rand(3, *ids.shape, device=ids.device)
    chosen = noise[0] < mask_fraction
    if candidates is not None:
        chosen = chosen & candidates
    hidden = chosen & (noise[1] < 0.8)
    replaced = chosen & (noise[1] >= 0.8) & (noise[1] < 0.9)
    anything = (noise[2] * num_tokens).long().clamp(max=num_tokens - 1)
    corrupted = torch.where(replaced, anything, ids).masked_fill(hidden, mask_id)
    return corrupted, ids.masked_fill(~chosen, IGNORED)


class Encoder(nn.Module):
    """Token ids (N, T) in, a vector for each that knows both sides, (N, T, C).

    Args:
        config: sizes and choices of the blocks; ``causal`` is taken as False whatever it says.
        pad_id: the id that fills short sequences up; nobody attends to it. None: no padding.

    Raises:
        ValueError: a `pad_id` outside the vocabulary.
    """

    def __init__(self, config: TransformerConfig, pad_id: int | None = None) -> None:
        super().__init__()
        if pad_id is not None and not 0 <= pad_id < config.vocab_size:
            raise ValueError(f"pad_id={pad_id}: an id in [0, {config.vocab_size}) is needed")
        self.config = replace(config, causal=False)
        self.pad_id = pad_id
        self.body = GPT(self.config)

    def real(self, ids: Tensor) -> Tensor | None:
        """Return which tokens are no padding, boolean (N, T); None if padding is unknown here."""
        return None if self.pad_id is None else ids != self.pad_id

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return hidden vectors (N, T, C) of ids (N, T).

        Args:
            mask: boolean (N, T), True for real tokens; by default whatever is not `pad_id`.
        """
        return self.body.hidden(ids, self.real(ids) if mask is None else mask)

    def logits(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return scores (N, T, V) for what stands at each position."""
        return self.body.head(self(ids, mask))


class MaskedLanguageModel(LanguageModel):
    """Train an :class:`Encoder` to fill in blanks; logs ``…_loss`` (nats a blank).

    Batches are ids ``x`` (N, T) or pairs whose first part they are. Training draws new blanks
    for each batch; validation and test always have the same.

    Args:
        encoder: the network; its vocabulary holds `mask_id`.
        mask_id: the id that hides a token.
        num_tokens: the ids below are ordinary; `mask_id` by default.
        mask_fraction: share of the tokens that is asked for, in (0, 1).
        options: ``optimizer``, ``scheduler`` … of :class:`companion.training.LanguageModel`.

    Raises:
        ValueError: an argument out of range; at the first batch, ids that are no ordinary token.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_id: int,
        num_tokens: int | None = None,
        mask_fraction: float = 0.15,
        **options: Any,
    ) -> None:
        super().__init__(encoder, **options)
        check_mask_fraction(mask_fraction)
        vocab_size = encoder.config.vocab_size
        if isinstance(mask_id, bool) or not 0 <= mask_id < vocab_size:
            raise ValueError(f"mask_id={mask_id}: an id in [0, {vocab_size}) is needed")
        self.mask_id, self.mask_fraction = mask_id, mask_fraction
        self.num_tokens = mask_id if num_tokens is None else num_tokens
        check_integer("num_tokens", self.num_tokens, minimum=1)

    def measure(self, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss of a batch and its number of blanks."""
        ids = batch[0] if isinstance(batch, tuple | list) else batch
        candidates = self.network.real(ids)
        if not self._checked:
            check_ids(ids, self.network.config.vocab_size)
            self._checked = True
        noise = None
        if not self.training:
            generator = torch.Generator().manual_seed(0)
            noise = torch.rand(3, *ids.shape, generator=generator).to(ids.device)
        corrupted, targets = choose_and_corrupt(
            ids,
            self.mask_id,
            self.num_tokens,
            mask_fraction=self.mask_fraction,
            candidates=candidates,
            noise=noise,
        )
        logits = self.network.logits(corrupted, candidates)
        blanks = (targets != IGNORED).sum()
        # A sum, as the mean of a batch that happens to have no blank would be 0/0.
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return {"loss": total / blanks.clamp(min=1)}, blanks


class EncoderClassifier(nn.Module):
    """An encoder, the mean of its vectors, and a linear layer: ids (N, T) to logits (N, classes).

    Args:
        encoder: fresh or pre-trained; it is trained on.
        num_classes: number of outputs.
        dropout: on the mean, in training.
    """

    def __init__(self, encoder: Encoder, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        check_integer("num_classes", num_classes, minimum=2)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.embed_dim, num_classes)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (N, classes); padding takes no part in the mean."""
        mask = self.encoder.real(ids) if mask is None else mask
        hidden = self.encoder(ids, mask)  # (N, T, C)
        if mask is None:
            return self.head(self.dropout(hidden.mean(1)))
        share = mask.to(hidden.dtype)[..., None]
        mean = (hidden * share).sum(1) / share.sum(1).clamp(min=1)
        return self.head(self.dropout(mean))


def pad_sequences(sequences: list[list[int]], pad_id: int, length: int | None = None) -> Tensor:
    """Fill lists of ids up to one length, (N, T), int64; longer ones are cut.

    Raises:
        ValueError: no sequence, an empty one, or a length below 1.
    """
    if not sequences or not all(sequences):
        raise ValueError("sequences: at least one is needed, and none of length zero")
    length = max(map(len, sequences)) if length is None else length
    check_integer("length", length, minimum=1)
    rows = [row[:length] + [pad_id] * (length - len(row)) for row in sequences]
    return torch.tensor(rows, dtype=torch.int64)


def check_mask_fraction(value: Any) -> None:
    """Raise ValueError unless `value` lies strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < 1:
        raise ValueError(f"mask_fraction={value!r}: a number in (0, 1) is needed")
