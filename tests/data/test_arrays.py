"""Tensors as a data set: checked when it is set up, served to the Trainer in a known order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from companion.data.arrays import Arrays
from companion.data.batches import Batches
from companion.training import Regressor, fit


def pair(samples: int = 10, features: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    return (
        torch.randn(samples, features, generator=generator),
        torch.randn(samples, 1, generator=generator),
    )


class Recorder(Regressor):
    """Keeps the inputs that it was given."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 1))
        self.seen: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch[0])
        return super().training_step(batch, batch_idx)


def test_fit_serves_every_epoch_in_the_order_of_its_seed() -> None:
    x, y = pair()
    module = Recorder()
    fit(module, Arrays(train=(x, y), batch_size=4), epochs=3, seed=7)
    expected = Batches((x,), 4, shuffle=True, seed=7)
    for epoch in range(3):
        expected.set_epoch(epoch)
        for seen, (batch,) in zip(module.seen[3 * epoch :], expected, strict=False):
            assert torch.equal(seen, batch)
    assert len(module.seen) == 9


@pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero")
def test_a_plain_trainer_gets_a_new_order_every_epoch() -> None:
    import pytorch_lightning as pl

    module = Recorder()
    trainer = pl.Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Arrays(train=pair(), batch_size=10))
    first, second = module.seen
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(dim=0).values, second.sort(dim=0).values)


def test_parts_that_are_not_given_have_no_batches() -> None:
    data = Arrays(train=pair())
    assert data.validation is None
    assert len(data.val_dataloader()) == len(data.test_dataloader()) == 0


def test_given_parts_are_served_in_order() -> None:
    train, validation, test = pair(10), pair(6), pair(7)
    data = Arrays(train, validation, test, batch_size=4)
    for loader, part in ((data.val_dataloader(), validation), (data.test_dataloader(), test)):
        assert torch.equal(torch.cat([x for x, _ in loader]), part[0])
    assert [len(x) for x, _ in data.predict_dataloader()] == [4, 3]


def test_setting_up_twice_changes_nothing() -> None:
    data = Arrays(train=pair())
    x = data.train[0]
    data.setup()
    data.setup("fit")
    assert data.train[0] is x
    assert data.input_shape == (3,)


def test_classes_are_counted_from_integer_targets_only() -> None:
    x = torch.randn(4, 3)
    assert Arrays(train=(x, torch.tensor([0, 2, 1, 2]))).num_classes == 3
    assert Arrays(train=(x, torch.tensor([0, 1, 1, 0])), num_classes=5).num_classes == 5
    assert Arrays(train=(x, torch.rand(4))).num_classes is None
    assert Arrays(train=(x, torch.tensor([True, False, True, True]))).num_classes is None
    assert (
        Arrays(train=(torch.zeros(4, 5), torch.zeros(4, 5, dtype=torch.int64))).num_classes is None
    )


def test_drop_last_leaves_out_the_smaller_batch_of_training_only() -> None:
    data = Arrays(train=pair(10), test=pair(10), batch_size=4, drop_last=True)
    assert [len(x) for x, _ in data.train_dataloader()] == [4, 4]
    assert [len(x) for x, _ in data.test_dataloader()] == [4, 4, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": (torch.zeros(3, 2), torch.zeros(4))}, "train: x has 3 samples and y has 4"),
        ({"train": (torch.zeros(0, 2), torch.zeros(0))}, "train holds no sample"),
        ({"train": torch.zeros(3, 2)}, "train=Tensor: a pair"),
        ({"train": ([1, 2], torch.zeros(2))}, "train: x must be a tensor"),
        ({"train": (torch.tensor(1.0), torch.zeros(2))}, "train: x must be a tensor"),
        (
            {"validation": (torch.zeros(3, 9), torch.zeros(3))},
            r"validation has samples of shape \(9,\)",
        ),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"num_classes": 0}, "num_classes=0"),
        (
            {"train": (torch.zeros(3, 2), torch.tensor([0, 1, 7])), "num_classes": 3},
            r"train: class indices reach from 0 to 7; with num_classes=3 they must lie in \[0, 2\]",
        ),
        (
            {"train": (torch.zeros(3, 2), torch.tensor([0, 1, -1]))},
            "train: class indices reach from -1 to 1",
        ),
        (
            {
                "train": (torch.zeros(3, 2), torch.tensor([0, 1, 1])),
                "test": (torch.zeros(3, 2), torch.tensor([0, 1, 2])),
            },
            "test: class indices reach from 0 to 2; with num_classes=2",
        ),
    ],
)
def test_a_bad_argument_is_named(options: dict[str, Any], message: str) -> None:
    arguments = {"train": (torch.zeros(3, 2), torch.zeros(3))} | options
    with pytest.raises(ValueError, match=message) as caught:
        Arrays(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (
            [[0.0, 1.0], [float("nan"), float("inf")]],
            [0.0, 1.0],
            "x is NaN .* 2 times, first in sample 1",
        ),
        ([[0.0, 1.0], [2.0, 3.0]], [float("nan"), 1.0], "y is NaN .* 1 times, first in sample 0"),
    ],
    ids=["x", "y"],
)
@pytest.mark.parametrize("name", ["train", "validation"])
def test_values_that_are_not_finite_are_refused(name: str, x: list, y: list, says: str) -> None:
    good = (torch.zeros(2, 2), torch.zeros(2))
    parts = {"train": good, name: (torch.tensor(x), torch.tensor(y))}
    with pytest.raises(ValueError, match=f"{name}: {says}; every value must be finite"):
        Arrays(**parts)
