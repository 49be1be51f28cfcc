"""A LightningDataModule over tensors in memory, and what all data sets of the course share."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from companion.arguments import check_integer
from companion.data.batches import Batches

Pair = tuple[Tensor, Tensor]


class InMemory(LightningDataModule):
    """Three pairs of tensors, ``train``, ``validation`` and ``test``, served in whole batches.

    A subclass overrides :meth:`load`. The pairs, ``input_shape``, ``num_classes`` and
    ``class_names`` exist after :meth:`setup`, which may be called any number of times.

    Attributes:
        train, validation, test: pairs ``(x, y)``; the last two may be None.
        input_shape: shape of one sample.
        num_classes: number of classes if the targets are class indices, else None.
        class_names: one name a class, or None.
        order_seed: of the order of the training batches; ``fit`` sets it to its own seed, while
            ``seed`` keeps deciding which samples are in which part.
    """

    train: Pair
    validation: Pair | None = None
    test: Pair | None = None
    input_shape: tuple[int, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None

    def __init__(self, batch_size: int, *, seed: int = 0, drop_last: bool = False) -> None:
        super().__init__()
        check_integer("batch_size", batch_size, minimum=1)
        check_integer("seed", seed, minimum=0)
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.order_seed = seed
        self._ready = False

    def load(self) -> None:
        """Set the pairs and their description."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Load the data once; `stage` is Lightning's and makes no difference here."""
        if self._ready:
            return
        self.load()
        for name in ("train", "validation", "test"):
            pair = getattr(self, name)
            if pair is not None:
                _check_pair(name, pair, self.num_classes)
        self.input_shape = tuple(self.train[0].shape[1:])
        self._ready = True

    def train_dataloader(self) -> Batches:
        """Batches of ``train`` in an order that is a function of ``(order_seed, epoch)``."""
        return self._batches(self.train, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> Batches | list[Any]:
        """Batches of ``validation`` in order; an empty list where there is none."""
        return [] if self.validation is None else self._batches(self.validation)

    def test_dataloader(self) -> Batches | list[Any]:
        """Batches of ``test`` in order; an empty list where there is none."""
        return [] if self.test is None else self._batches(self.test)

    def predict_dataloader(self) -> Batches | list[Any]:
        """The same batches as :meth:`test_dataloader`."""
        return self.test_dataloader()

    def _batches(self, pair: Pair, *, shuffle: bool = False, drop_last: bool = False) -> Batches:
        self.setup()
        share = {"num_replicas": 1, "rank": 0}
        connector = getattr(self.trainer, "_accelerator_connector", None)
        if getattr(connector, "use_distributed_sampler", False):
            share |= self.trainer.distributed_sampler_kwargs or {}
        return Batches(
            pair,
            self.batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=self.order_seed,
            **share,
        )


class Arrays(InMemory):
    """Any tensors as a data set.

    Args:
        train: ``(x, y)``, samples along the first dimension of both.
        validation, test: pairs like `train`, or None.
        batch_size: samples in a batch (and process).
        num_classes: checks that integer targets lie in ``[0, num_classes)``; by default it is
            read off `train` where the targets are a vector of integers.
        seed: of the order of the batches, for which ``fit`` puts its own.
        drop_last: leave out a last, smaller training batch.

    Raises:
        ValueError: lengths or sample shapes that differ, an empty `train`, values that are not
            finite, a class index out of range, a batch size below 1.
    """

    def __init__(
        self,
        train: Pair,
        validation: Pair | None = None,
        test: Pair | None = None,
        *,
        batch_size: int = 64,
        num_classes: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, seed=seed, drop_last=drop_last)
        if num_classes is not None:
            check_integer("num_classes", num_classes, minimum=1)
        _check_pair("train", train, None)
        if len(train[0]) == 0:
            raise ValueError("train holds no sample; at least 1 is needed")
        self.train, self.validation, self.test = train, validation, test
        self.num_classes = num_classes
        if num_classes is None and _holds_indices(train[1]):
            self.num_classes = int(train[1].max()) + 1
        self.setup()
        for name, pair in (("validation", validation), ("test", test)):
            if pair is not None and pair[0].shape[1:] != train[0].shape[1:]:
                raise ValueError(
                    f"{name} has samples of shape {tuple(pair[0].shape[1:])}, "
                    f"train of shape {self.input_shape}; they must be equal"
                )

    def load(self) -> None:
        """Nothing to load: the tensors are given."""


def _holds_indices(y: Tensor) -> bool:
    return y.dim() == 1 and not y.is_floating_point() and y.dtype != torch.bool


def _check_pair(name: str, pair: Any, num_classes: int | None) -> None:
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        raise ValueError(f"{name}={type(pair).__name__}: a pair (x, y) of tensors is needed")
    x, y = pair
    for part, tensor in (("x", x), ("y", y)):
        if not isinstance(tensor, Tensor) or tensor.dim() == 0:
            raise ValueError(f"{name}: {part} must be a tensor with samples along dimension 0")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            wrong = (~torch.isfinite(tensor)).flatten(1 if tensor.dim() > 1 else 0)
            samples = (wrong.any(1) if wrong.dim() > 1 else wrong).nonzero().flatten()
            raise ValueError(
                f"{name}: {part} is NaN or infinite {int(wrong.sum())} times, first in sample "
                f"{int(samples[0])}; every value must be finite"
            )
    if len(x) != len(y):
        raise ValueError(f"{name}: x has {len(x)} samples and y has {len(y)}; they must be equal")
    if num_classes is not None and _holds_indices(y) and len(y):
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"{name}: class indices reach from {low} to {high}; "
                f"with num_classes={num_classes} they must lie in [0, {num_classes - 1}]"
            )
