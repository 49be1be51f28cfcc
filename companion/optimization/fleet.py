r"""Many small networks at once: K two-layer networks trained side by side as batched products.

Legend: K networks, B images a batch, D inputs, H hidden units, C classes.

    z₁ = x W₁ᵀ + b₁    (K, B, H)     a = ReLU(z₁)     z₂ = a W₂ᵀ + b₂    (K, B, C)

Each network has its own initial weights, order of batches, learning rate, momentum and weight
decay, and never sees the others: network k ends where it would end alone. The gradients are those
of the mean cross-entropy, written out as on the page on layers. What is gained is time: one large
product costs hardly more than a small one, and fifty runs that differ in their seed become one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion.arguments import check_integer

Setting = float | Sequence[float] | Tensor


class Fleet:
    """K networks ``Linear(D, H), ReLU, Linear(H, C)``.

    Args:
        init_seeds: one for each network; equal seeds give equal first weights.
        sizes: (D, H, C).
        dtype: of the weights.

    Raises:
        ValueError: no networks, or a size below 1.
    """

    def __init__(
        self,
        init_seeds: Sequence[int],
        sizes: tuple[int, int, int] = (64, 32, 10),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        check_integer("len(init_seeds)", len(init_seeds), minimum=1)
        for size in sizes:
            check_integer("sizes", size, minimum=1)
        self.sizes = sizes
        known: dict[int, list[Tensor]] = {}
        for seed in set(init_seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                known[seed] = [p.detach().to(dtype) for p in _network(sizes).parameters()]
        each = [known[seed] for seed in init_seeds]
        self.weights = [torch.stack(parts) for parts in zip(*each, strict=True)]
        self.velocity = [torch.zeros_like(weight) for weight in self.weights]
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.weights[0])

    def train(
        self,
        x: Tensor,
        y: Tensor,
        *,
        lr: Setting,
        momentum: Setting = 0.0,
        weight_decay: Setting = 0.0,
        batch_size: int = 64,
        epochs: int = 1,
        order_seeds: Sequence[int] | None = None,
    ) -> Fleet:
        """Train all on for some epochs of SGD; a smaller last batch is left out.

        Args:
            x: (N, D). y: class indices, (N,).
            lr, momentum, weight_decay: one number for all, or one for each.
            order_seeds: of each network's batches; None gives all the order 0.

        Raises:
            ValueError: a learning rate ≤ 0, numbers of another length than the fleet's, or a
                batch size above the number of images.
        """
        check_integer("epochs", epochs, minimum=1)
        check_integer("batch_size", batch_size, minimum=1)
        if batch_size > len(x):
            raise ValueError(f"batch_size={batch_size}: there are only {len(x)} images")
        rate, kept, decay = (
            self._one_each(name, value)
            for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay))
        )
        if not (rate > 0).all():
            raise ValueError(f"lr={lr!r}: every learning rate must be above 0")
        seeds = [0] * len(self) if order_seeds is None else list(order_seeds)
        if len(seeds) != len(self):
            raise ValueError(f"order_seeds has {len(seeds)} numbers for {len(self)} networks")
        for _ in range(epochs):
            orders = {seed: _order(len(x), seed, self.epoch) for seed in set(seeds)}
            order = torch.stack([orders[seed] for seed in seeds])  # (K, N)
            for rows in order.split(batch_size, dim=1):
                if rows.shape[1] == batch_size:
                    self._step(x[rows], y[rows], rate, kept, decay)
            self.epoch += 1
        return self

    def _step(self, x: Tensor, y: Tensor, rate: Tensor, kept: Tensor, decay: Tensor) -> None:
        w1, b1, w2, b2 = self.weights
        hidden = torch.baddbmm(b1.unsqueeze(1), x, w1.mT).relu_()  # (K, B, H)
        logits = torch.baddbmm(b2.unsqueeze(1), hidden, w2.mT)  # (K, B, C)
        delta = logits.softmax(-1)
        delta.scatter_add_(-1, y.unsqueeze(-1), delta.new_full((*y.shape, 1), -1.0))
        delta /= x.shape[1]
        below = (delta @ w2) * (hidden > 0)
        gradients = (below.mT @ x, below.sum(1), delta.mT @ hidden, delta.sum(1))
        for weight, velocity, gradient in zip(self.weights, self.velocity, gradients, strict=True):
            shape = (-1,) + (1,) * (weight.ndim - 1)
            gradient = gradient + decay.view(shape) * weight
            velocity.mul_(kept.view(shape)).add_(gradient)
            weight.sub_(rate.view(shape) * velocity)

    def answers(self, x: Tensor) -> Tensor:
        """The class that each network chooses for each image, (K, N)."""
        w1, b1, w2, b2 = self.weights
        hidden = F.relu(x @ w1.mT + b1.unsqueeze(1))
        return (hidden @ w2.mT + b2.unsqueeze(1)).argmax(-1)

    def accuracy(self, x: Tensor, y: Tensor) -> Tensor:
        """Each network's share of right answers, (K,), float64."""
        return (self.answers(x) == y).double().mean(1)

    def network(self, index: int) -> nn.Sequential:
        """A copy of one network, as a module."""
        copy = _network(self.sizes).to(self.weights[0].dtype)
        with torch.no_grad():
            for parameter, weight in zip(copy.parameters(), self.weights, strict=True):
                parameter.copy_(weight[index])
        return copy

    def select(self, indices: Sequence[int]) -> Fleet:
        """A fleet of the networks at `indices`, copied with all their state."""
        part = object.__new__(Fleet)
        part.sizes, part.epoch = self.sizes, self.epoch
        rows = torch.as_tensor(indices)
        part.weights = [weight[rows] for weight in self.weights]
        part.velocity = [velocity[rows] for velocity in self.velocity]
        return part

    def _one_each(self, name: str, value: Setting) -> Tensor:
        tensor = torch.as_tensor(value, dtype=self.weights[0].dtype)
        if tensor.ndim == 0:
            tensor = tensor.expand(len(self))
        if tensor.shape != (len(self),):
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)}: one number, or {len(self)}"
            )
        return tensor


def _network(sizes: tuple[int, int, int]) -> nn.Sequential:
    inputs, hidden, classes = sizes
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def _order(samples: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return torch.randperm(samples, generator=generator)
