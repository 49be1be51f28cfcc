"""Checks of cleaning, extraction and selection, as functions of the module under test."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import sklearn.decomposition
import sklearn.feature_selection
import sklearn.metrics
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.testing import assert_close

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def check_noise_is_planted(cleaning: ModuleType) -> None:
    """As many as asked for, each really wrong, each wrong class as likely, the original kept."""
    y = torch.arange(6000) % 4
    before = y.clone()
    noisy, wrong = cleaning.plant_label_noise(y, 0.5, 4, generator())
    assert torch.equal(y, before), "the labels given were changed"
    assert wrong.sum() == 3000
    assert torch.equal(noisy != y, wrong), "the wrong ones are not those that were reported"
    pairs = (y[wrong] * 4 + noisy[wrong]).bincount(minlength=16).view(4, 4)
    off_diagonal = pairs[~torch.eye(4, dtype=torch.bool)]
    # 3000 over 12 pairs: 250 each, with a standard deviation below 16
    assert off_diagonal.min() > 180
    assert off_diagonal.max() < 320


def unsure_class() -> tuple[Tensor, Tensor]:
    """Class 1 is never given more than 0.5, class 0 gets much: one threshold fits neither."""
    y = torch.tensor([0] * 5 + [1] * 5)
    of_class_1 = torch.tensor([0.05, 0.02, 0.1, 0.03, 0.46, 0.45, 0.4, 0.42, 0.44, 0.03])
    return torch.stack([1 - of_class_1, of_class_1], dim=1).double(), y


def check_thresholds_by_class(cleaning: ModuleType) -> None:
    """Sample 4 is labelled 0 and as good a 1 as any; sample 9 the other way round."""
    probabilities, y = unsure_class()
    thresholds = cleaning.class_thresholds(probabilities, y)
    own = probabilities.numpy()[np.arange(10), y.numpy()]
    assert_close(thresholds, torch.tensor([own[:5].mean(), own[5:].mean()]), **TIGHT)
    found = cleaning.label_issues(probabilities, y)
    assert found.nonzero().flatten().tolist() == [4, 9]


def check_joint_equals_the_loop(cleaning: ModuleType) -> None:
    for seed in range(5):
        # Some classes are likelier than others: their thresholds differ.
        shift = torch.tensor([2.0, 1.0, 0.0, -1.0])
        probabilities = (2 * normal(200, 4, seed=seed) + shift).softmax(1)
        guess = torch.randint(4, (200,), generator=generator(seed))
        y = torch.where(torch.arange(200) % 4 > 0, probabilities.argmax(1), guess)
        expected = cleaning.confident_joint_naive(probabilities, y)
        joint = cleaning.confident_joint(probabilities, y)
        assert torch.equal(joint, expected)
        issues = cleaning.label_issues(probabilities, y)
        assert issues.sum() == expected.sum() - expected.trace()
        # Nobody is sure where no threshold is reached; such a sample is not counted.
        assert joint.sum() < 200


def check_absent_class(cleaning: ModuleType) -> None:
    probabilities = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]).double()
    y = torch.tensor([0, 1])
    assert cleaning.class_thresholds(probabilities, y)[2] == torch.inf
    assert not (cleaning.confident_classes(probabilities, y) == 2).any()


def memory(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """A model that knows its training rows by heart and nothing else."""
    known = {tuple(row): label for row, label in zip(x.tolist(), y.tolist(), strict=True)}

    def predict(rows: Tensor) -> Tensor:
        answers = [known.get(tuple(row), 0) for row in rows.tolist()]
        return nn.functional.one_hot(torch.tensor(answers), 3).double()

    return predict


def check_out_of_sample(cleaning: ModuleType) -> None:
    """A model that learns by heart can say nothing about rows that it never saw."""
    x, y = normal(60, 2), torch.arange(60) % 3
    found = cleaning.out_of_sample_probabilities(memory, x, y, 3, folds=5)
    assert (found[:, 0] == 1).all(), "a row was predicted by a model that had seen it"
    seen = []

    def note(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        seen.append(y.bincount(minlength=3).tolist())
        return lambda rows: rows.new_full((len(rows), 3), 1 / 3)

    cleaning.out_of_sample_probabilities(note, x, y, 3, folds=5)
    assert seen == [[16, 16, 16]] * 5, "the folds do not hold every class alike"


def check_rows_keep_their_place(cleaning: ModuleType) -> None:
    x, y = normal(50, 2), torch.arange(50) % 2

    def learn(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda rows: torch.stack([rows[:, 0], rows[:, 1]], dim=1)

    found = cleaning.out_of_sample_probabilities(learn, x, y, 2, folds=7, seed=3)
    assert_close(found, x, rtol=0, atol=0)


def check_duplicates(cleaning: ModuleType) -> None:
    x = normal(40, 3).view(40, 1, 3)
    x[[7, 30, 39]] = x[2].clone()
    x[1] = x[0].clone()
    expected = [bool((x[:i] == x[i]).flatten(1).all(1).any()) for i in range(40)]
    assert cleaning.duplicate_rows(x).tolist() == expected
    assert sum(expected) == 4


def pixels() -> Tensor:
    return torch.from_numpy(load_digits().data)


def check_pca_equals_sklearn(extraction: ModuleType) -> None:
    """Tall, wide, and real rows that are far from centred."""
    for x, count in ((normal(50, 6) + 5, 6), (normal(5, 12) - 3, 4), (pixels()[:400], 30)):
        for whiten in (False, True):
            reference = sklearn.decomposition.PCA(count, whiten=whiten, svd_solver="full")
            scores = torch.from_numpy(reference.fit_transform(x.numpy()))
            ours = extraction.PCA(x, count, whiten=whiten)
            for name, expected in (
                ("components", reference.components_),
                ("explained_variance", reference.explained_variance_),
                ("explained_ratio", reference.explained_variance_ratio_),
                ("mean", reference.mean_),
            ):
                assert_close(getattr(ours, name), torch.from_numpy(expected), rtol=1e-9, atol=1e-11)
            assert_close(ours(x), scores, rtol=1e-9, atol=1e-9)
            back = torch.from_numpy(reference.inverse_transform(scores.numpy()))
            assert_close(ours.inverse(ours(x)), back, rtol=1e-9, atol=1e-9)


def check_naive_pca(extraction: ModuleType) -> None:
    x = normal(80, 7) * torch.arange(1, 8) + 2
    components, variance = extraction.principal_components_naive(x, 5)
    reference = sklearn.decomposition.PCA(5, svd_solver="full").fit(x.numpy())
    assert_close(components, torch.from_numpy(reference.components_), rtol=1e-9, atol=1e-11)
    assert_close(variance, torch.from_numpy(reference.explained_variance_), **TIGHT)


def check_frozen(extraction: ModuleType) -> None:
    """Weights, running statistics and mode stay; the original is not touched; gradients pass."""
    torch.manual_seed(0)
    original = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    frozen = extraction.Frozen(original)
    first = nn.Linear(3, 3)
    network = nn.Sequential(first, frozen, nn.Linear(4, 2)).train()
    before = [value.clone() for value in frozen.state_dict().values()]
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    network(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()
    for was, now in zip(before, frozen.state_dict().values(), strict=True):
        assert torch.equal(was, now), "a frozen network changed"
    x = torch.randn(5, 3)
    assert torch.equal(frozen(x), frozen(x)), "dropout is on"
    assert first.weight.grad.abs().sum() > 0
    assert all(p.requires_grad for p in original.parameters()), "the network given was changed"
    assert original.training


def labelled() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.from_numpy(bunch.data), torch.from_numpy(bunch.target)


def check_f_scores(selection: ModuleType) -> None:
    x, y = labelled()
    x = x[:, x.var(0) > 0]
    expected = sklearn.feature_selection.f_classif(x.numpy(), y.numpy())[0]
    assert_close(selection.f_scores(x, y), torch.from_numpy(expected), rtol=1e-9, atol=0)
    x, y = normal(30, 5) * 3 + 100, torch.arange(30) % 2 * 2  # class 1 has no sample
    expected = sklearn.feature_selection.f_classif(x.numpy(), y.numpy())[0]
    assert_close(selection.f_scores(x, y), torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
    x[:, 2] = 7.0
    assert selection.f_scores(x, y)[2] == 0


def check_mutual_information(selection: ModuleType) -> None:
    """Pixels are 0 to 16, so 17 bins keep them apart: scikit-learn's discrete features."""
    x, y = labelled()
    x = x[:, x.amax(0) == 16]
    x = x[:, x.amin(0) == 0]
    found = selection.mutual_information(x, y, bins=17)
    expected = sklearn.feature_selection.mutual_info_classif(
        x.numpy(), y.numpy(), discrete_features=True
    )
    assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
    naive = selection.mutual_information_naive(x[:, 3], y)
    assert_close(torch.tensor(naive), found[3].float())
    x = normal(200, 2)
    y = (x[:, 0] > 0).long()
    edges = np.linspace(x[:, 1].min(), x[:, 1].max(), 9)[1:-1]
    binned = np.digitize(x[:, 1], edges)
    expected = sklearn.metrics.mutual_info_score(binned, y.numpy())
    assert_close(selection.mutual_information(x, y, bins=8)[1].item(), expected, rtol=1e-9, atol=0)


def check_the_best_are_kept(selection: ModuleType) -> None:
    x, y = normal(100, 10), torch.arange(100) % 2
    for column, signal in ((3, 3.0), (8, 2.0), (5, 1.5)):
        x[:, column] += signal * y
    select = selection.SelectBest(x, y, 3)
    assert select.kept.tolist() == [3, 5, 8]
    assert_close(select(x), x[:, [3, 5, 8]], rtol=0, atol=0)


def check_noise_predicts_nothing(selection: ModuleType) -> None:
    """Accuracy on coin tosses is chance, averaged over draws of 60 rows and 500 columns."""
    found = [
        selection.cross_validated_accuracy(
            normal(60, 500, seed=seed), torch.arange(60) % 2, 10, seed=seed
        )
        for seed in range(12)
    ]
    # The mean of 12 values has a standard deviation of about 0.02.
    assert 0.4 < float(np.mean(found)) < 0.6
