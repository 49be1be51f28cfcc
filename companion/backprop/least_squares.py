"""Least squares in one pass over any loader: a LightningModule that solves instead of descending.

Only the triangle R of [X 1 Y] = QR is kept, (p + 1 + k)² numbers however many rows there are. A new
batch is stacked below it and the QR taken again, because Q drops out of every norm:

    ‖[X 1]θ − Y‖² = ‖R₁₁θ − R₁₂‖² + ‖R₂₂‖²,     R = [R₁₁ R₁₂; 0 R₂₂],  R₁₁: (p + 1, p + 1)

so R₁₁θ = R₁₂ at the end of the epoch is the least-squares solution for *all* rows, not the mean of
the batches' solutions. Processes stack their triangles in the same way. Weight decay is √(Nλ/2) I
stacked below the columns of X.

The step is written as one of SGD with η = 1 and the gradient θ − θ*, which is what Newton's method
takes on a quadratic: the Trainer counts it, logs it and saves it like any other.

What runs where: ``torch.linalg.qr``, ``svdvals`` and ``solve_triangular`` exist on the CPU and in
CUDA. torch_xla 2.9 has no XLA program for the first and the last (its counters show
``aten::linalg_qr`` and ``aten::linalg_solve_triangular``): it hands them to the host's CPU, so the
result is right on a TPU, but the step is not one compiled program.

Sources: Golub, Van Loan, *Matrix Computations*, 4th ed., sections 5.3 and 6.5 (updating QR);
Demmel, Grigori, Hoemmen, Langou, "Communication-optimal parallel and sequential QR and LU
factorizations", SIAM J. Sci. Comput. 34 (2012), for the tree of triangles.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from companion.backprop.linear_regression import with_ones
from companion.training import Regressor


def stack_triangles(*parts: Tensor) -> Tensor:
    """R of the parts stacked on each other: each (rows, width) -> (min(all rows, width), width)."""
    return torch.linalg.qr(torch.cat(parts), mode="r").R


class LeastSquares(Regressor):
    """The closed form of linear regression, or of ridge regression, after one epoch.

    Batches are (x, y) of shapes (n, in_features) and (n, out_features). The network is an
    ``nn.Linear`` that starts at zero. Multi-process training gives every process the solution of
    all rows.

    Args:
        weight_decay: λ in L = mean squared error + (λ/2) ‖W‖²; the intercept is free.
        dtype: of the weights; the default floating-point type otherwise.

    Raises:
        ValueError: an argument out of range, or, at the end of the epoch, features that are
            linearly dependent (with the intercept) while `weight_decay` is 0.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        *,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1")
        if not (math.isfinite(weight_decay) and weight_decay >= 0):
            raise ValueError(f"weight_decay={weight_decay}: it must be finite and not negative")
        network = nn.Linear(in_features, out_features, dtype=dtype)
        nn.init.zeros_(network.weight)
        nn.init.zeros_(network.bias)
        super().__init__(network, optimizer=functools.partial(torch.optim.SGD, lr=1.0))
        self.automatic_optimization = False
        self.weight_decay = weight_decay
        self._triangle: Tensor | None = None
        self._elements = 0

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's rows."""
        super().on_train_epoch_start()
        self._triangle, self._elements = None, 0

    @torch.no_grad()
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Fold a batch into the triangle; with the epoch's last one, solve. Returns the loss."""
        loss = super().training_step(batch, batch_idx)
        x, y = batch
        rows = torch.cat([with_ones(x), y], dim=1)
        self._triangle = stack_triangles(
            *([] if self._triangle is None else [self._triangle]), rows
        )
        self._elements += y.numel()
        if self.trainer.is_last_batch:
            self._solve()
        return loss

    def _solve(self) -> None:
        columns = self.network.in_features + 1
        triangle, elements = self._triangle, self._elements
        if self.trainer.world_size > 1:
            missing = columns + self.network.out_features - len(triangle)
            padded = nn.functional.pad(triangle, (0, 0, 0, missing))
            triangle = stack_triangles(*self.all_gather(padded))
            elements = int(self.all_gather(torch.tensor(elements, device=self.device)).sum())
        if self.weight_decay:
            penalty = triangle.new_zeros(columns - 1, triangle.shape[1])
            penalty.fill_diagonal_(math.sqrt(elements * self.weight_decay / 2))
            triangle = stack_triangles(triangle, penalty)
        left, right = triangle[:columns, :columns], triangle[:columns, columns:]
        scales = torch.linalg.svdvals(left)
        tolerance = columns * torch.finfo(left.dtype).eps * scales.max()
        if len(left) < columns or not bool(scales.min() > tolerance):
            raise ValueError(
                f"x has {columns - 1} features that are, with the intercept, linearly dependent in "
                f"{left.dtype}: drop some, or give LeastSquares a weight_decay above 0"
            )
        solution = torch.linalg.solve_triangular(left, right, upper=True)
        weight, bias = self.network.weight, self.network.bias
        weight.grad, bias.grad = weight - solution[:-1].T, bias - solution[-1]
        self.optimizers().step()
