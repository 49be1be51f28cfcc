r"""Which samples make the next step: in order, with replacement, or reshuffled every epoch.

For a population of n numbers with variance σ² (the mean of (x − x̄)²), the mean of B draws has

    with replacement        variance σ²/B
    without replacement     variance σ²/B · (n − B)/(n − 1)       0 for the whole population

and n draws with replacement meet 1 − (1 − 1/n)ⁿ → 1 − 1/e ≈ 63 % of the samples; one reshuffled
epoch meets each exactly once.

Source: Bottou, Curtis, Nocedal, SIAM Review 60 (2018), section 4, for SGD with replacement, which
the theory prefers; practice reshuffles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from companion.arguments import check_integer
from companion.data.arrays import InMemory
from companion.data.batches import Batches

Order = Callable[[int, torch.Generator], Tensor]


def in_order(samples: int, generator: torch.Generator) -> Tensor:
    """0, 1, 2, …: the stored order, every epoch (mistake E16); (samples,)."""
    return torch.arange(samples)


def reshuffled(samples: int, generator: torch.Generator) -> Tensor:
    """A new permutation at every call: each sample once, (samples,)."""
    return torch.randperm(samples, generator=generator)


def with_replacement(samples: int, generator: torch.Generator) -> Tensor:
    """As many independent draws as there are samples: some come twice, some not; (samples,)."""
    return torch.randint(samples, (samples,), generator=generator)


def shuffled_once(samples: int, generator: torch.Generator) -> Tensor:
    """One permutation, the same at every call with generators of the same first seed."""
    first = torch.Generator().manual_seed(generator.initial_seed())
    return torch.randperm(samples, generator=first)


ORDERS: dict[str, Order] = {
    "in order": in_order,
    "shuffled once": shuffled_once,
    "reshuffled": reshuffled,
    "with replacement": with_replacement,
}


def batches(
    samples: int, batch_size: int, *, epochs: int = 1, order: str = "reshuffled", seed: int = 0
) -> Iterator[Tensor]:
    """Yield the indices of one mini-batch after the other, each (batch_size,) or shorter at an end.

    Args:
        order: one of :data:`ORDERS`.

    Raises:
        ValueError: an unknown order, or a number below 1.
    """
    check_integer("samples", samples, minimum=1)
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("epochs", epochs, minimum=1)
    draw = _order(order)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from draw(samples, generator).split(batch_size)


def expected_coverage(samples: int, draws: int) -> float:
    """The expected share of `samples` that `draws` draws with replacement meet at least once."""
    check_integer("samples", samples, minimum=1)
    check_integer("draws", draws, minimum=0)
    return 1 - (1 - 1 / samples) ** draws


def variance_of_mean(variance: float, batch_size: int, *, population: int | None = None) -> float:
    """The variance of the mean of a batch.

    Args:
        variance: of the population, the mean of (x − x̄)².
        population: its size, if the batch is drawn without replacement; None if with.

    Raises:
        ValueError: a batch of less than 1 or more than the population.
    """
    check_integer("batch_size", batch_size, minimum=1)
    if population is None:
        return variance / batch_size
    check_integer("population", population, minimum=1)
    if batch_size > population:
        raise ValueError(
            f"batch_size={batch_size}: without replacement a population of {population} "
            "cannot fill it"
        )
    if population == 1:
        return 0.0
    return variance / batch_size * (population - batch_size) / (population - 1)


class Reordered(InMemory):
    """Another data module's samples, with training batches in one of :data:`ORDERS`.

    The order is a function of ``(order_seed, epoch)``, as it is of every data set here.

    Raises:
        ValueError: an unknown order.
    """

    def __init__(self, data: InMemory, order: str) -> None:
        super().__init__(data.batch_size, seed=data.seed, drop_last=data.drop_last)
        self.data = data
        self.draw = _order(order)

    def load(self) -> None:
        """Take the parts over as they are."""
        self.data.setup()
        self.train, self.validation, self.test = (
            self.data.train,
            self.data.validation,
            self.data.test,
        )
        self.num_classes, self.class_names = self.data.num_classes, self.data.class_names

    def train_dataloader(self) -> Batches:
        """Batches of ``train`` in the order asked for."""
        self.setup()
        options = {"drop_last": self.drop_last, "seed": self.order_seed, "shuffle": True}
        loader = _Drawn(self.train, self.batch_size, **options)
        loader.draw = self.draw
        return loader


class _Drawn(Batches):
    """Batches whose order one of :data:`ORDERS` draws."""

    draw: Order

    def order(self) -> Tensor:
        epoch = 0 if self.draw is shuffled_once else self.epoch
        state = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> 1))
        return self.draw(len(self.tensors[0]), generator)


def _order(order: str) -> Order:
    if order not in ORDERS:
        raise ValueError(f"order={order!r} is unknown; known: {', '.join(ORDERS)}")
    return ORDERS[order]
