"""Recipes of the page `preprocessing`: cleaning, augmentation, extraction and selection on Digits.

Each holds the module, the data, the arguments of `companion.training.fit` and a check that raises
AssertionError unless the technique did its work.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from companion.architectures.cnn import SmallCNN
from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.optimization.augmentation import (
    CutMix,
    MixedClassifier,
    Mixup,
    RandomCrop,
    RandomHorizontalFlip,
    crop,
)
from companion.optimization.cleaning import label_issues, plant_label_noise, precision_and_recall
from companion.optimization.extraction import PCA, Frozen
from companion.optimization.selection import SelectBest, f_scores
from companion.techniques import Recipe
from companion.training import Classifier, FitResult, fit

EXACT = {"precision": "32-true", "test": True}


def digits(flatten: bool = False) -> Digits:
    """1,280 digits, so that no batch of 64 is smaller than the others; set up."""
    data = Digits(64, flatten=flatten, limit=1280)
    data.setup()
    return data


def adam(lr: float = 0.01) -> Any:
    return partial(torch.optim.Adam, lr=lr)


def small_cnn() -> SmallCNN:
    return SmallCNN(image_size=8, width=8, dropout=0.0)


def logits(result: FitResult, x: Tensor) -> Tensor:
    """What the trained network says, computed on the CPU."""
    network = copy.deepcopy(result.module.network).cpu().float().eval()
    with torch.no_grad():
        return network(x)


def accuracy(result: FitResult, x: Tensor, y: Tensor) -> float:
    return (logits(result, x).argmax(1) == y).double().mean().item()


def label_noise_detection() -> Recipe:
    """Train on one half with planted noise; the wrong labels of the other half stand out."""
    data = digits(flatten=True)
    x, y = data.train
    noisy, wrong = plant_label_noise(y, 0.2, 10, torch.Generator().manual_seed(0))
    half = len(x) // 2
    module = Classifier(nn.Linear(64, 10), optimizer=adam())
    source = Arrays((x[:half], noisy[:half]), test=data.test, batch_size=64)

    def check(result: FitResult) -> None:
        probabilities = logits(result, x[half:]).softmax(1)
        found = label_issues(probabilities, noisy[half:])
        precision, recall = precision_and_recall(found, wrong[half:])
        assert precision > 0.75, f"precision {precision:.0%}"
        assert recall > 0.6, f"recall {recall:.0%}"

    return Recipe(module, source, EXACT | {"epochs": 12}, check)


def random_horizontal_flip(layer: nn.Module | None = None) -> Recipe:
    """Mirrored digits are read too, which no training digit showed."""
    data = digits()
    network = nn.Sequential(layer or RandomHorizontalFlip(), small_cnn())

    def check(result: FitResult) -> None:
        x, y = data.test
        assert accuracy(result, x, y) > 0.8
        assert accuracy(result, x.flip(-1), y) > 0.8, "mirrored digits are not read"

    return Recipe(Classifier(network, optimizer=adam()), data, EXACT | {"epochs": 8}, check)


def random_crop(layer: nn.Module | None = None) -> Recipe:
    """Digits that are shifted by two pixels are read too."""
    data = digits()
    network = nn.Sequential(layer or RandomCrop(padding=2), small_cnn())

    def check(result: FitResult) -> None:
        x, y = data.test
        for top, left in ((0, 2), (4, 2), (2, 0), (2, 4)):
            place = torch.ones_like(y)
            shifted = crop(x, top * place, left * place, 2)
            assert accuracy(result, shifted, y) > 0.6, f"not read when cut at {top}, {left}"

    return Recipe(Classifier(network, optimizer=adam()), data, EXACT | {"epochs": 10}, check)


def _mixed(mix: Mixup) -> Recipe:
    """Train on mixed digits: plain ones are read, and the training loss keeps its floor.

    Of a mix with shares s and 1 - s of two classes no answer has a smaller loss than the entropy
    of the shares. Its mean over uniform s is 1/2 nat, and one pair in ten is of one class.
    """
    data = digits()
    module = MixedClassifier(small_cnn(), mix=mix, optimizer=adam())

    def check(result: FitResult) -> None:
        assert accuracy(result, *data.test) > 0.9
        losses = result.step_losses[-100:]
        last = sum(losses) / len(losses)
        assert last > 0.35, f"a training loss of {last:.2f} is below the floor of mixed labels"

    return Recipe(module, data, EXACT | {"epochs": 12}, check)


def mixup(mix: Mixup | None = None) -> Recipe:
    """Blends of two digits, with both labels in the shares of the blend."""
    return _mixed(mix or Mixup(alpha=1.0))


def cutmix(mix: CutMix | None = None) -> Recipe:
    """Digits with a rectangle of another, and both labels in the shares of the pixels."""
    return _mixed(mix or CutMix(alpha=1.0))


def principal_components() -> Recipe:
    """16 numbers instead of 64 pixels, and most digits are still told apart."""
    data = digits(flatten=True)
    x, _ = data.train
    pca = PCA(x, 16)
    module = Classifier(nn.Sequential(pca, nn.Linear(16, 10)), optimizer=adam())

    def check(result: FitResult) -> None:
        from sklearn.decomposition import PCA as Reference

        reference = Reference(16, svd_solver="full").fit(x.double().numpy())
        kept = result.module.network[0].components.cpu().double()
        alike = (kept * torch.from_numpy(reference.components_)).sum(1)
        assert alike.min() > 0.999
        assert result.metrics["test_accuracy"] > 0.88

    return Recipe(module, data, EXACT | {"epochs": 15}, check)


def whitening(whiten: bool = True) -> Recipe:
    """With variance 1 along all of 40 components plain SGD is fast."""
    data = digits(flatten=True)
    pca = PCA(data.train[0], 40, whiten=whiten)
    sgd = partial(torch.optim.SGD, lr=0.1)
    module = Classifier(nn.Sequential(pca, nn.Linear(40, 10)), optimizer=sgd)

    def check(result: FitResult) -> None:
        scores = result.module.network[0].cpu()(data.train[0])
        torch.testing.assert_close(scores.T.cov(), torch.eye(40), rtol=0, atol=1e-3)
        assert result.metrics["test_accuracy"] > 0.88

    return Recipe(module, data, EXACT | {"epochs": 10}, check)


def frozen_features() -> Recipe:
    """Features learnt on the digits 0 to 4 tell 5 to 9 apart, from ten labels each."""
    data = digits()
    x, y = data.train
    torch.manual_seed(0)
    teacher = small_cnn()
    low = Arrays((x[y < 5], y[y < 5]), batch_size=64)
    fit(Classifier(teacher, optimizer=adam()), low, epochs=4, precision="32-true")
    chosen = torch.cat([(y == label).nonzero()[:10, 0] for label in range(5, 10)])
    x_test, y_test = data.test
    high = y_test >= 5
    few = Arrays((x[chosen], y[chosen] - 5), test=(x_test[high], y_test[high] - 5), batch_size=50)
    network = nn.Sequential(Frozen(teacher.features), nn.Linear(64, 5))
    weights = [p.detach().clone() for p in network[0].parameters()]

    def check(result: FitResult) -> None:
        after = [p.detach().cpu() for p in result.module.network[0].parameters()]
        for was, now in zip(weights, after, strict=True):
            assert torch.equal(was, now), "the features moved"
        assert result.metrics["test_accuracy"] > 0.85

    module = Classifier(network, optimizer=adam())
    return Recipe(module, few, EXACT | {"epochs": 60}, check)


def feature_selection() -> Recipe:
    """40 of 300 columns, of which 236 are noise: chosen on the training rows."""
    data = digits(flatten=True)
    generator = torch.Generator().manual_seed(0)

    def widen(x: Tensor) -> Tensor:
        return torch.cat([x, torch.randn(len(x), 236, generator=generator)], dim=1)

    (x, y), (x_test, y_test) = data.train, data.test
    wide, wide_test = widen(x), widen(x_test)
    select = SelectBest(wide, y, 40, f_scores)
    network = nn.Sequential(select, nn.Linear(40, 10))
    source = Arrays((wide, y), test=(wide_test, y_test), batch_size=64)

    def check(result: FitResult) -> None:
        noise = int((result.module.network[0].kept >= 64).sum())
        assert noise == 0, f"{noise} columns of noise were kept"
        assert result.metrics["test_accuracy"] > 0.88

    return Recipe(Classifier(network, optimizer=adam()), source, EXACT | {"epochs": 12}, check)
