"""Augmentation: against the naive versions, and against the definitions of the papers."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planting import mutant
from torch import nn
from torch.nn import functional as F

from companion.data.digits import Digits
from companion.optimization import augmentation
from companion.optimization.augmentation import (
    CutMix,
    MixedClassifier,
    Mixup,
    RandomCrop,
    RandomHorizontalFlip,
)
from companion.training import fit


def images(count: int = 64, channels: int = 2, height: int = 6, width: int = 5) -> torch.Tensor:
    """Images whose pixels are all different, so that no two changes look alike."""
    size = count * channels * height * width
    return torch.arange(1, size + 1, dtype=torch.float64).view(count, channels, height, width)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@given(
    count=st.integers(0, 5),
    channels=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    padding=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_crop_equals_one_image_at_a_time(
    count: int, channels: int, height: int, width: int, padding: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = images(count, channels, height, width)
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    ours = augmentation.crop(x, top, left, padding)
    if count == 0:
        assert ours.shape == x.shape
        return
    assert torch.equal(ours, augmentation.crop_naive(x, top, left, padding))


def check_flip(module: ModuleType) -> None:
    x = images()
    layer = module.RandomHorizontalFlip(0.5)
    y = layer(x)
    flipped = ~(y == x).flatten(1).all(1)
    assert torch.equal(y, augmentation.flip_naive(x, flipped))
    assert 16 < flipped.sum() < 48
    assert not torch.equal(layer(x), y)


def check_passes_in_evaluation(module: ModuleType) -> None:
    x = images()
    for layer in (module.RandomHorizontalFlip(1.0), module.RandomCrop(2)):
        assert not torch.equal(layer(x), x)
        assert torch.equal(layer.eval()(x), x)


def check_crop_is_one_of_all_shifts(module: ModuleType) -> None:
    x = torch.zeros(2000, 1, 5, 5)
    x[:, :, 2, 2] = 1.0
    place = module.RandomCrop(2)(x).flatten(1)
    assert torch.equal(place.sum(1), torch.ones(2000))
    seen = place.argmax(1).bincount(minlength=25)
    # 2000 draws over 25 places: 80 each, with a standard deviation below 9
    assert seen.min() > 40
    assert seen.max() < 120


def check_mixup(module: ModuleType) -> None:
    x = images(8)
    mixed, partner, share = module.Mixup(0.5)(x)
    assert share.shape == ()
    assert 0 < share < 1
    assert sorted(partner.tolist()) == list(range(8))
    torch.testing.assert_close(mixed, torch.lerp(x[partner], x, share), rtol=1e-10, atol=0)


def check_share_of_cut_mix_is_that_of_the_pixels(module: ModuleType) -> None:
    x = images(6, 1, 12, 9)
    for _ in range(50):
        mixed, partner, share = module.CutMix()(x)
        own = (mixed == x).double().mean(dim=(1, 2, 3))
        moved = partner != torch.arange(6)
        torch.testing.assert_close(
            own[moved], share.expand(int(moved.sum())), rtol=1e-10, atol=1e-12
        )
        foreign = mixed != x
        assert torch.equal(mixed[foreign], x[partner][foreign])


def check_cut_is_a_rectangle_of_the_drawn_area(module: ModuleType) -> None:
    cut_mix = module.CutMix()
    x = images(2, 1, 40, 30)
    for share in (0.3, 0.75, 1.0):
        cut_mix.share = lambda x, share=share: x.new_tensor(share)
        largest = 0.0
        for _ in range(60):
            mixed, _, own = cut_mix(x)
            inside = (mixed != x)[0, 0]
            if inside.any():
                rows, columns = inside.any(1), inside.any(0)
                assert inside.sum() == rows.sum() * columns.sum()
                for line in (rows, columns):  # one run of ones
                    assert (line[1:] != line[:-1]).sum() + line[0].int() + line[-1].int() == 2
            largest = max(largest, 1 - own.item())
        # Side lengths are rounded down; somewhere the whole rectangle lies inside.
        assert largest <= 1 - share + 1e-12
        assert largest > (1 - share) * 0.85 - 1e-12


def check_mixed_loss(module: ModuleType) -> None:
    """Mixing the losses equals one loss against the mixed one-hot labels."""

    class Fixed(module.Mixup):  # type: ignore[name-defined]
        def share(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_tensor(0.3)

    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 4)).double()
    learner = module.MixedClassifier(network, mix=Fixed()).train()
    x, y = images(8) / 500, torch.arange(8) % 4
    torch.manual_seed(5)
    loss = learner.measure((x, y))[0]["loss"]
    torch.manual_seed(5)
    mixed, partner, _ = Fixed()(x)
    target = 0.3 * F.one_hot(y, 4).double() + 0.7 * F.one_hot(y[partner], 4).double()
    expected = F.cross_entropy(network(mixed), target)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 5.0])
def test_shares_are_those_of_the_beta_distribution(alpha: float) -> None:
    mix, x = Mixup(alpha), images(1)
    shares = torch.stack([mix.share(x) for _ in range(3000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 5 * (variance / 3000) ** 0.5
    # The mean square distance from 1/2 is known to a few parts in a hundred.
    assert abs((shares - 0.5).square().mean() / variance - 1) < 0.12


CHECKS = (
    check_flip,
    check_passes_in_evaluation,
    check_crop_is_one_of_all_shifts,
    check_mixup,
    check_share_of_cut_mix_is_that_of_the_pixels,
    check_cut_is_a_rectangle_of_the_drawn_area,
    check_mixed_loss,
)


@pytest.mark.parametrize("check", CHECKS)
def test_augmentation_is_right(check) -> None:
    check(augmentation)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (check_flip, "torch.rand(len(x), 1, 1, 1", "torch.rand(1, 1, 1, 1"),
        (check_flip, "torch.where(flipped, x.flip(-1), x)", "torch.where(flipped, x.flip(-2), x)"),
        (
            check_crop_is_one_of_all_shifts,
            "torch.randint(0, 2 * self.padding + 1, (2",
            "torch.randint(0, 2 * self.padding, (2",
        ),
        (check_mixup, "(1 - share) * x[partner], partner", "share * x[partner], partner"),
        (
            check_share_of_cut_mix_is_that_of_the_pixels,
            "1 - inside.to(x.dtype).mean()",
            "self.share(x)",
        ),
        (
            check_cut_is_a_rectangle_of_the_drawn_area,
            "(1 - self.share(x)).sqrt()",
            "1 - self.share(x)",
        ),
        (check_mixed_loss, "share * own + (1 - share) * other", "0.5 * own + 0.5 * other"),
        (check_mixed_loss, "self.criterion(logits, y[partner])", "self.criterion(logits, y)"),
    ],
    ids=[
        "one flip for the whole batch",
        "upside down",
        "the last shift is never drawn",
        "both parts get the same share",
        "the drawn share instead of the pixels'",
        "side lengths without the root",
        "labels mixed half and half",
        "labels not mixed",
    ],
)
def test_a_planted_mistake_is_caught(check, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check(mutant(augmentation, old, new))


def test_augmentation_acts_in_evaluation_is_caught() -> None:
    source = "        if not self.training:\n            return x\n        flipped"
    with pytest.raises(AssertionError):
        check_passes_in_evaluation(mutant(augmentation, source, "        flipped"))


def test_evaluation_of_a_mixed_classifier_sees_plain_images() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    learner = MixedClassifier(network, mix=CutMix())
    data = Digits()
    data.setup()
    learner.eval()
    x, y = data.test
    expected = F.cross_entropy(network(x), y)
    torch.testing.assert_close(learner.measure((x, y))[0]["loss"], expected)


def test_a_mixed_classifier_trains() -> None:
    network = nn.Sequential(RandomCrop(1), nn.Flatten(), nn.Linear(64, 10))
    adam = partial(torch.optim.Adam, lr=0.01)
    learner = MixedClassifier(network, mix=Mixup(), optimizer=adam)
    result = fit(learner, Digits(), epochs=5, precision="32-true")
    assert result.metrics["val_accuracy"] > 0.75


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RandomHorizontalFlip(1.5), r"p=1.5: a probability in \[0, 1\]"),
        (lambda: RandomCrop(0), "padding=0: an integer of at least 1"),
        (lambda: Mixup(0.0), "alpha=0.0: a number of at least 0.01"),
        (lambda: CutMix(1e-4), "alpha=0.0001: a number of at least 0.01"),
        (lambda: MixedClassifier(nn.Linear(1, 1), mix=nn.ReLU()), "mix=ReLU: a Mixup or a CutMix"),
        (lambda: RandomCrop()(torch.ones(3, 4)), r"x of shape \(3, 4\): \(batch, channels"),
        (lambda: Mixup()(torch.ones(3, 4)), r"x of shape \(3, 4\): \(batch, channels"),
    ],
)
def test_bad_input_is_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
