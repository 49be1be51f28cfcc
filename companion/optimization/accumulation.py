r"""Gradient accumulation: a large batch's gradient from micro-batches that fit in memory.

The loss is a mean, so the gradient of n samples is a weighted sum over the micro-batches,

    ∇L = Σ_k (n_k / n) ∇L_k,   n = Σ_k n_k,

which equals the large batch's gradient exactly. With micro-batches of one size the weights are
all 1/K; a shorter last one must count for less. Where samples of a batch meet (batch
normalisation) the micro-batches compute another function, and nothing can be exact.

Source: the identity is the linearity of the derivative; Goyal et al., arXiv:1706.02677,
section 3, list ways of getting the weights wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from companion.arguments import check_integer
from companion.training import Classifier

Loss = Callable[[Tensor, Tensor], Tensor]


def accumulate_gradients(
    network: nn.Module, loss: Loss, x: Tensor, y: Tensor, *, micro_batch_size: int
) -> Tensor:
    """Add to each parameter's ``.grad`` the gradient of the mean loss over all of x, y.

    Activations are kept for one micro-batch at a time.

    Args:
        loss: ``(prediction, target) -> mean over its samples``.
        x, y: n samples and their targets.
        micro_batch_size: samples at a time; the last micro-batch may be smaller.

    Returns:
        The mean loss over all n samples, detached.

    Raises:
        ValueError: micro_batch_size below 1, no samples, or x and y of different lengths.
    """
    check_integer("micro_batch_size", micro_batch_size, minimum=1)
    if len(x) != len(y) or not len(x):
        raise ValueError(f"x has {len(x)} samples and y has {len(y)}: equal and at least 1")
    total = x.new_zeros(())
    pairs = zip(x.split(micro_batch_size), y.split(micro_batch_size), strict=True)
    for micro_x, micro_y in pairs:
        share = len(micro_x) / len(x)
        part = loss(network(micro_x), micro_y) * share
        part.backward()
        total = total + part.detach()
    return total


class MicroBatchClassifier(Classifier):
    """A Classifier that takes each batch in micro-batches and steps once: same result, less memory.

    Lightning's ``accumulate_grad_batches=K`` divides every loss by K, whatever its size, so a
    short micro-batch counts as much as a whole one; here each sample weighs the same. The
    precision ``"auto"`` is float32 here, as for every module that steps by itself.

    Args:
        network: as in `Classifier`, like the other arguments.
        micro_batch_size: samples at a time.

    Raises:
        ValueError: micro_batch_size below 1, or as `Classifier`.
    """

    def __init__(self, network: nn.Module, *, micro_batch_size: int, **options: Any) -> None:
        super().__init__(network, **options)
        check_integer("micro_batch_size", micro_batch_size, minimum=1)
        self.micro_batch_size = micro_batch_size
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Step once for the whole batch; return its mean loss."""
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        total = x.new_zeros(())
        size = self.micro_batch_size
        for micro in zip(x.split(size), y.split(size), strict=True):
            metrics, samples = self.measure(micro)
            part = metrics["loss"] * (samples / len(x))
            self.manual_backward(part)
            total = total + part.detach()
        optimizer.step()
        self._add("train", {"loss": total}, len(x))
        if self.scheduler_interval == "step":
            self._advance_schedule()
        return total

    def on_train_epoch_end(self) -> None:
        """Log `train_loss`; advance a schedule that counts epochs."""
        super().on_train_epoch_end()
        if self.scheduler_interval == "epoch":
            self._advance_schedule()

    def _advance_schedule(self) -> None:
        """Under manual optimization the Trainer leaves this to the module."""
        scheduler: Any = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(self.trainer.callback_metrics["val_loss"])
        elif scheduler is not None:
            scheduler.step()
