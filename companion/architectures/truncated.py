r"""Truncated back-propagation through time: carry the state on, cut the gradient.

A long sequence is cut into windows of W steps. The state at a window's end is the next one's
beginning, so the forward pass is that of the whole sequence; but it is *detached* there, so the
gradient goes back W steps at most, and memory and time of a step do not grow with the sequence:

    state = 0
    for each window:   logits, state = network.advance(window, state)
                       one optimizer step on the window's loss
                       state ← detach(state)

What the network must keep for longer than the window reaches no weight as a gradient: at position
p of a window the gradient sees lags up to p, and from one window to the next nothing.

Source: Williams and Peng, "An efficient gradient-based algorithm for on-line training of recurrent
network trajectories", Neural Computation 2 (1990): their BPTT(h; h') with h = h' = W.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from companion.architectures.clipping import clip_grad_norm_
from companion.arguments import check_integer
from companion.learner import OptimizerFactory
from companion.training import LanguageModel


class TruncatedBPTT(LanguageModel):
    """Train a recurrent language model window by window; logs what LanguageModel does.

    Batches are ``(x, y)`` of ids (N, T) with T a multiple of the window: N streams, read side by
    side. Validation and test run over all T steps at once.

    Args:
        network: with `advance(ids, state) -> (logits, state)`, for instance a CharacterRNN.
        window: steps W that the gradient goes back at most; one optimizer step each.
        max_norm: clip the gradient's norm to this before each step; None leaves it as it is.
        optimizer: as in Learner.

    Raises:
        ValueError: an argument of the wrong kind; in training, T is not a multiple of W.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        window: int,
        max_norm: float | None = 1.0,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(network, optimizer=optimizer)
        check_integer("window", window, minimum=1)
        if not callable(getattr(network, "advance", None)):
            raise ValueError(f"network={type(network).__name__}: it has no method advance")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm={max_norm!r}: a positive number or None is needed")
        self.window, self.max_norm = window, max_norm
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Take one optimizer step a window; return the mean loss of the batch."""
        x, y = batch
        if x.shape[1] % self.window:
            raise ValueError(
                f"window={self.window}: the batch has {x.shape[1]} steps, which must be a "
                "multiple of it"
            )
        optimizer: Any = self.optimizers()
        state, total, counted = None, x.new_zeros((), dtype=self.dtype), 0
        for ids, targets in zip(
            x.split(self.window, dim=1), y.split(self.window, dim=1), strict=True
        ):
            logits, state = self.network.advance(ids, state)
            state = detach(state)
            count = (targets != self.IGNORED).sum()
            summed = F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=self.IGNORED, reduction="sum"
            )
            optimizer.zero_grad()
            self.manual_backward(summed / count.clamp(min=1))
            if self.max_norm is not None:
                clip_grad_norm_(self.network.parameters(), self.max_norm)
            optimizer.step()
            total, counted = total + summed.detach(), counted + count
        loss = total / counted
        self._add("train", {"loss": loss}, counted)
        return loss


def detach(state: Any) -> Any:
    """Return a state, one tensor or several, without the graph that led to it."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
