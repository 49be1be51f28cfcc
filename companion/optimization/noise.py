r"""How noisy a mini-batch's gradient is, and from which batch size on the noise matters little.

With per-sample gradients gᵢ of mean G and covariance Σ, the gradient of B random samples is

    ĝ = G + noise,   E|ĝ|² = |G|² + tr(Σ)/B

The *simple noise scale* B_simple = tr(Σ)/|G|² is the batch size at which noise and signal weigh
the same. Two batch sizes b < B give two equations, so both unknowns have unbiased estimates:

    |G|²  ≈ (B |ĝ_B|² − b |ĝ_b|²) / (B − b)
    tr(Σ) ≈ (|ĝ_b|² − |ĝ_B|²) / (1/b − 1/B)

Their ratio is not unbiased, so average both over many steps and divide last. No per-sample
gradient is needed: whoever accumulates micro-batches has ĝ_b and ĝ_B at hand already.

Source: McCandlish, Kaplan, Amodei et al., arXiv:1812.06162, sections 2.2 and appendix A.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from companion.arguments import check_integer

Loss = Callable[[Tensor, Tensor], Tensor]


class NoiseScale(NamedTuple):
    """signal = |G|², noise = tr(Σ); `scale` is their ratio, in samples."""

    signal: float
    noise: float

    @property
    def scale(self) -> float:
        """B_simple = tr(Σ)/|G|²; infinite where no signal was found."""
        return self.noise / self.signal if self.signal > 0 else float("inf")


def per_sample_gradients(network: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each sample's own loss, one row a sample: (n, parameters).

    Args:
        network: without layers in which samples of a batch meet (batch normalisation).
        loss: mean loss of a batch ``(prediction, target)``; it is given batches of one.
        x, y: n samples and their targets.
    """
    parameters = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    buffers = dict(network.named_buffers())

    def of_one(values: dict[str, Tensor], sample: Tensor, target: Tensor) -> Tensor:
        prediction = functional_call(network, (values, buffers), (sample.unsqueeze(0),))
        return loss(prediction, target.unsqueeze(0))

    gradients = vmap(grad(of_one), in_dims=(None, 0, 0), randomness="different")(parameters, x, y)
    return torch.cat([g.flatten(1) for g in gradients.values()], dim=1)


def noise_of(gradients: Tensor) -> NoiseScale:
    """|G|² and tr(Σ) of per-sample gradients (n, parameters), both unbiased for a random sample.

    The mean of n gradients still holds tr(Σ)/n of noise, which is taken off |mean|².
    """
    if gradients.ndim != 2 or len(gradients) < 2:
        raise ValueError(f"gradients has shape {tuple(gradients.shape)}: (2 or more, parameters)")
    noise = gradients.var(dim=0, correction=1).sum()
    signal = gradients.mean(dim=0).square().sum() - noise / len(gradients)
    return NoiseScale(float(signal), float(noise))


def noise_from_two(small_square: Any, big_square: Any, *, small: int, big: int) -> tuple[Any, Any]:
    """Unbiased estimates of |G|² and tr(Σ) from the squared norms of two batch gradients.

    Args:
        small_square, big_square: |ĝ|² of a batch of `small` and of `big` samples (or means of
            such numbers), floats or tensors.

    Returns:
        (signal, noise); single estimates may be negative, their means over many batches are not.

    Raises:
        ValueError: unless 1 ≤ small < big.
    """
    check_integer("small", small, minimum=1)
    if big <= small:
        raise ValueError(f"big={big}: a batch of more than small={small} samples is needed")
    signal = (big * big_square - small * small_square) / (big - small)
    noise = (small_square - big_square) / (1 / small - 1 / big)
    return signal, noise


class GradientNoiseScale(pl.Callback):
    """Measure the noise scale while training with ``accumulate_grad_batches`` of 2 or more.

    Between two optimizer steps the gradients of the micro-batches arrive one by one: their
    squared norms give |ĝ_b|², that of the sum gives |ĝ_B|². The two are averaged over all steps
    since the last `reset`, on the device, and read when `result` is asked. Under "16-mixed" the
    gradients would carry the scaler's factor, so that precision is refused.

    Args:
        batch_size: samples in one micro-batch; steps with a smaller one are left out.

    Raises:
        ValueError: batch_size below 1; when training starts, a trainer that does not accumulate,
            or one with a gradient scaler.
    """

    def __init__(self, batch_size: int) -> None:
        check_integer("batch_size", batch_size, minimum=1)
        self.batch_size = batch_size
        self.reset()

    def reset(self) -> None:
        """Forget all measurements."""
        self._sums: list[Any] = [0.0, 0.0]  # of |ĝ_b|² and |ĝ_B|²
        self._steps = 0
        self._start_step()

    def _start_step(self) -> None:
        self._micro_squares: list[Tensor] = []
        self._before: list[Tensor] | None = None
        self._whole = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that there are micro-batches to compare."""
        if trainer.accumulate_grad_batches < 2:
            raise ValueError(
                f"accumulate_grad_batches={trainer.accumulate_grad_batches}: at least 2 is needed, "
                "since two batch sizes are compared"
            )
        if str(trainer.precision) == "16-mixed":
            raise ValueError("precision='16-mixed': its gradients are scaled; use 'bf16-mixed'")
        self._accumulate = trainer.accumulate_grad_batches

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note whether the micro-batch is whole."""
        self._whole &= len(batch[0]) == self.batch_size

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the micro-batch's own gradient out of the running sum."""
        now = [p.grad for p in pl_module.parameters() if p.grad is not None]
        own = now if self._before is None else torch._foreach_sub(now, self._before)
        # Lightning divides each loss by the number of micro-batches; undo that.
        self._micro_squares.append(_square(own) * self._accumulate**2)
        self._before = [gradient.clone() for gradient in now]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Compare the micro-batches with their mean."""
        if self._whole and len(self._micro_squares) == self._accumulate:
            self._sums[0] = self._sums[0] + torch.stack(self._micro_squares).mean()
            self._sums[1] = self._sums[1] + _square(self._before or [])
            self._steps += 1
        self._start_step()

    def result(self) -> NoiseScale:
        """The estimates over all steps so far.

        Raises:
            ValueError: no step was measured.
        """
        if not self._steps:
            raise ValueError("result: no optimizer step with whole micro-batches was measured yet")
        squares = [float(total) / self._steps for total in self._sums]
        big = self.batch_size * self._accumulate
        return NoiseScale(*noise_from_two(*squares, small=self.batch_size, big=big))


def _square(tensors: list[Tensor]) -> Tensor:
    """The sum of squares over a list of tensors, ()."""
    return torch.stack(torch._foreach_norm(tensors)).square().sum()
