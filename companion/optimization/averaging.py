r"""Averages of the weights along the training, as Lightning callbacks.

    exponential moving average (EMA), after each step t = 1, 2, …
        a ← β a + (1 − β) w
    stochastic weight averaging (SWA), at the end of the n-th epoch that counts
        a ← a + (w − a) / n

Both are a ← a + share · (w − a). Where does the EMA begin? From a = 0, divided by 1 − βᵗ as in
Adam, it is a weighted mean of w₁ … wₜ; that is the same as the share (1 − β) / (1 − βᵗ) from the
first step on. torch's AveragedModel begins with a = w₁ and never forgets it: its weight is βᵗ⁻¹.

A network with the average's weights has never run: batch normalization's running statistics belong
to other weights, and are estimated anew.

Sources: Polyak and Juditsky, SIAM J. Control Optim. 30, 1992 (averages of iterates); Izmailov et
al., UAI 2018, algorithm 1 (SWA); Kingma and Ba, ICLR 2015, section 7.2 (bias-corrected EMA).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from companion.arguments import check_fraction, check_integer

STARTS = ("corrected", "first", "warmup")


def ema_naive(values: Sequence[Tensor], decay: float) -> Tensor:
    """Return the bias-corrected exponential moving average of `values`, at least one.

    Raises:
        ValueError: `decay` outside [0, 1), no values.
    """
    check_fraction("decay", decay)
    if not values:
        raise ValueError("values: there are none")
    average = torch.zeros_like(values[0])
    for value in values:
        average = decay * average + (1 - decay) * value
    return average / (1 - decay ** len(values))


def ema_share(step: int, decay: float, start: str = "corrected") -> float:
    """Return how far step `step` (from 1) moves the average towards the weights.

    Args:
        start: ``"corrected"``: (1 − β)/(1 − βᵗ), equal to :func:`ema_naive`; ``"first"``: 1, then
            1 − β, as torch's AveragedModel; ``"warmup"``: β grows, min(β, (1 + t)/(10 + t)).

    Raises:
        ValueError: an argument out of range.
    """
    check_integer("step", step, minimum=1)
    check_fraction("decay", decay)
    if start not in STARTS:
        raise ValueError(f"start={start!r}: one of {STARTS} is needed")
    if start == "corrected":
        return (1 - decay) / (1 - decay**step)
    if step == 1:
        return 1.0
    if start == "warmup":
        decay = min(decay, (1 + step) / (10 + step))
    return 1 - decay


class WeightAverage(Callback):
    """What both averages share; a subclass says with :meth:`share` when and how far to move.

    In ``fit`` each validation pass sees the average, training and checkpoints the raw weights.
    When training ends the module gets the average for good, so the test measures it. The
    average itself is in the checkpoint, and a resumed run goes on with it. Not to be used
    together with `EarlyStopping`, which puts other weights in at the end.

    Attributes:
        average: one tensor for each parameter; empty before the first move.
        count: moves so far.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.average: list[Tensor] = []
        self.count = 0
        self._raw: list[Tensor] = []
        self._steps = 0

    def share(self, trainer: pl.Trainer) -> float | None:
        """Return how far to move now (1 = to the weights), None for not at all."""
        raise NotImplementedError

    @torch.no_grad()
    def move(self, parameters: list[Tensor], share: float) -> None:
        """Move the average by `share` of its distance to `parameters`."""
        self.count += 1
        if not self.average:
            self.average = [torch.zeros_like(p) for p in parameters]
        self.average = [a.to(p.device) for a, p in zip(self.average, parameters, strict=True)]
        # A number that changes in every step would be a new program on XLA; a tensor is not.
        weight = torch.tensor(share, dtype=parameters[0].dtype).to(parameters[0].device)
        way = torch._foreach_sub(parameters, self.average)
        torch._foreach_mul_(way, weight)
        torch._foreach_add_(self.average, way)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start anew with each training; a checkpoint's state comes after this."""
        if stage == "fit":
            self._reset()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where the optimizer stands."""
        self._steps = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the average if it is time."""
        share = self.share(trainer)
        self._steps = trainer.global_step
        if share is not None:
            self.move([p.detach() for p in pl_module.parameters()], share)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in."""
        if trainer.state.fn == "fit" and self.average:
            self._raw = [*_copies(pl_module.parameters()), *_copies(pl_module.buffers())]
            self._install(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the raw weights and buffers back."""
        if self._raw:
            _fill([*pl_module.parameters(), *pl_module.buffers()], self._raw)
            self._raw = []

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Put the raw weights back if a validation pass ended in an error."""
        self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in for good."""
        if self.average:
            self._install(trainer, pl_module)

    def _install(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        _fill(list(module.parameters()), self.average)
        if any(isinstance(part, _BatchNorm) for part in module.modules()):
            batches = trainer.train_dataloader
            inputs = (trainer.strategy.batch_to_device(batch) for batch in batches)
            update_batch_norm(module, (b[0] if isinstance(b, tuple | list) else b for b in inputs))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"average": list(self.average), "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self.average, self.count = list(state_dict["average"]), state_dict["count"]


class ExponentialMovingAverage(WeightAverage):
    """Average the weights of all steps, the latest most: the one k steps ago weighs β^k as much.

    Args:
        decay: β in [0, 1); about 1/(1 − β) steps count.
        start: see :func:`ema_share`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, decay: float = 0.99, *, start: str = "corrected") -> None:
        super().__init__()
        ema_share(1, decay, start)  # checks both
        self.decay = decay
        self.start = start

    def share(self, trainer: pl.Trainer) -> float | None:
        """Move after every optimizer step (not after every accumulated batch)."""
        if trainer.global_step == self._steps:
            return None
        return ema_share(self.count + 1, self.decay, self.start)


class StochasticWeightAverage(WeightAverage):
    """Average the weights at the ends of the epochs from `start_epoch` on, all alike.

    It needs a learning rate that stays high or is cyclic, so that those weights differ.

    Args:
        start_epoch: the first epoch that counts, from 0.

    Raises:
        ValueError: a negative `start_epoch`.
    """

    def __init__(self, start_epoch: int) -> None:
        super().__init__()
        check_integer("start_epoch", start_epoch, minimum=0)
        self.start_epoch = start_epoch

    def share(self, trainer: pl.Trainer) -> float | None:
        """Move at the end of an epoch that counts."""
        if trainer.current_epoch < self.start_epoch or not trainer.is_last_batch:
            return None
        return 1 / (self.count + 1)


@torch.no_grad()
def update_batch_norm(network: nn.Module, inputs: Iterator[Tensor] | Sequence[Tensor]) -> None:
    """Estimate the running statistics of all batch normalizations anew.

    They become the plain mean over the batches. Everything else runs as in evaluation (torch's
    update_bn leaves dropout on), and all modes are as before afterwards.

    Args:
        network: maps a batch of inputs to something.
        inputs: batches.
    """
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    with _modes_restored(network):
        network.eval()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean
            norm.train()
        try:
            for x in inputs:
                network(x)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


@contextmanager
def _modes_restored(network: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in network.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _copies(tensors: Iterator[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _fill(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
