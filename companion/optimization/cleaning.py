"""Cleaning a data set: missing values, duplicates, and labels that are probably wrong.

Confident learning looks for wrong labels with probabilities p(class | x) of a model that did not
train on x. Class j has the threshold

    t_j = mean of p(j | x) over the samples labelled j,

and a sample labelled i counts as "really j" if j is the likeliest of the classes whose threshold
it reaches. The counts are the confident joint C[i, j]; what lies off its diagonal is suspect.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset
Labels", JAIR 70 (2021), section 3.

Letters in the comments: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from companion.arguments import check_integer, check_rule

# Takes training rows and labels; returns what maps rows to probabilities (rows, classes).
Learn = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]


def check_finite(x: Tensor, name: str = "x") -> None:
    """Raise ValueError with count and first place if `x` is empty, holds NaN or is infinite."""
    if x.numel() == 0:
        raise ValueError(f"{name} of shape {tuple(x.shape)} is empty: at least one value is needed")
    bad = ~x.isfinite()
    count = int(bad.sum())
    if count:
        place = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name} holds {count} values that are NaN or infinite, the first at {place}: "
            "every value must be finite (impute them, or drop the rows)"
        )


def check_labels(y: Tensor, num_classes: int, name: str = "y") -> None:
    """Raise ValueError unless `y` is a vector of class indices in ``[0, num_classes)``."""
    check_integer("num_classes", num_classes, minimum=2)
    if y.dim() != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"{name} of shape {tuple(y.shape)}, {y.dtype}: one integer a sample")
    if len(y) == 0:
        raise ValueError(f"{name} is empty: at least one label is needed")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name} reaches from {low} to {high}: class indices in [0, {num_classes - 1}] "
            "are needed"
        )


def duplicate_rows(x: Tensor) -> Tensor:
    """Mark the rows that equal an earlier row.

    Args:
        x: (samples, …), finite.

    Returns:
        (samples,), bool. The first of several equal rows is not marked.

    Raises:
        ValueError: `x` is empty or holds values that are not finite (NaN equals nothing).
    """
    check_finite(x)
    inverse = torch.unique(x.flatten(1), dim=0, return_inverse=True)[1]
    place = torch.arange(len(x), device=x.device)
    first = torch.full_like(place, len(x)).scatter_reduce(0, inverse, place, "amin")
    return first[inverse] != place


def plant_label_noise(
    y: Tensor, share: float, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Change the labels of a share of the samples, each to another class drawn uniformly.

    Args:
        y: (samples,), class indices.
        share: of the samples whose label becomes wrong, in [0, 1]; rounded to whole samples.
        num_classes: number of classes.
        generator: the source of chance.

    Returns:
        the new labels, (samples,); and which are wrong, (samples,), bool.

    Raises:
        ValueError: labels out of range, `share` outside [0, 1].
    """
    check_labels(y, num_classes)
    check_rule("share", share, lambda value: 0 <= value <= 1, "a number in [0, 1]")
    chosen = torch.randperm(len(y), generator=generator)[: round(share * len(y))].to(y.device)
    # 1 to K - 1 places further round the circle of classes: never the same class.
    shift = torch.randint(1, num_classes, (len(chosen),), generator=generator).to(y.device)
    noisy = y.clone()
    noisy[chosen] = (y[chosen] + shift) % num_classes
    wrong = torch.zeros_like(y, dtype=torch.bool)
    wrong[chosen] = True
    return noisy, wrong


def stratified_folds(y: Tensor, folds: int, generator: torch.Generator) -> Tensor:
    """Deal the samples of each class out to the folds in turn, in random order.

    Returns:
        (samples,), the number of each sample's fold.

    Raises:
        ValueError: `folds` below 2 or above the number of samples.
    """
    check_integer("folds", folds, minimum=2)
    if folds > len(y):
        raise ValueError(f"folds={folds}: at most one a sample, {len(y)}, is needed")
    order = torch.randperm(len(y), generator=generator).to(y.device)
    order = order[y[order].argsort(stable=True)]  # by class, at random within
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(y), device=y.device) % folds
    return fold


def out_of_sample_probabilities(
    learn: Learn, x: Tensor, y: Tensor, num_classes: int, *, folds: int = 4, seed: int = 0
) -> Tensor:
    """Predict each fold by a model that was trained on the other folds.

    Args:
        learn: takes training rows and labels, returns a function from rows to probabilities.
        x: (samples, …), finite.
        y: (samples,), class indices, some of them wrong.
        num_classes: number of classes.
        folds: how many models are trained.
        seed: of the folds.

    Returns:
        (samples, num_classes).

    Raises:
        ValueError: bad data or labels, `folds` out of range, probabilities of another shape.
    """
    check_finite(x)
    check_labels(y, num_classes)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} rows and y {len(y)} labels: they must be equal")
    fold = stratified_folds(y, folds, torch.Generator().manual_seed(seed))
    parts = []
    for index in range(folds):
        held_out = fold == index
        predict = learn(x[~held_out], y[~held_out])
        found = predict(x[held_out])
        if found.shape != (int(held_out.sum()), num_classes):
            raise ValueError(
                f"learn gave probabilities of shape {tuple(found.shape)}: "
                f"({int(held_out.sum())}, {num_classes}) is needed"
            )
        parts.append((held_out, found))
    result = parts[0][1].new_empty(len(y), num_classes)
    for held_out, found in parts:
        result[held_out] = found
    return result


def class_thresholds(probabilities: Tensor, y: Tensor) -> Tensor:
    """Return t_j, the mean probability of class j over the samples labelled j.

    A class without samples has the threshold infinity: nothing is ever taken for it.

    Args:
        probabilities: (samples, classes), out of sample, from 0 to 1.
        y: (samples,), class indices.

    Returns:
        (classes,).

    Raises:
        ValueError: bad probabilities or labels.
    """
    _check_probabilities(probabilities, y)
    own = probabilities.gather(1, y[:, None]).squeeze(1)  # (N,)
    count = probabilities.new_zeros(probabilities.shape[1])
    total = count.index_add(0, y, own)
    count = count.index_add(0, y, torch.ones_like(own))
    return torch.where(count > 0, total / count.clamp(min=1), torch.inf)


def confident_joint_naive(probabilities: Tensor, y: Tensor) -> Tensor:
    """Count sample by sample: C[i, j] samples labelled i that are confidently of class j.

    Args and result: as :func:`confident_joint`.
    """
    classes = probabilities.shape[1]
    thresholds = [probabilities[y == j, j].mean() for j in range(classes)]
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for p, label in zip(probabilities, y.tolist(), strict=True):
        reached = [j for j in range(classes) if p[j] >= thresholds[j]]
        if reached:
            counts[label, max(reached, key=lambda j: p[j].item())] += 1
    return counts


def confident_classes(probabilities: Tensor, y: Tensor) -> Tensor:
    """Return for each sample the class it confidently belongs to, or -1 if there is none.

    Args and errors: as :func:`class_thresholds`.
    """
    reached = probabilities >= class_thresholds(probabilities, y)  # (N, K)
    likeliest = torch.where(reached, probabilities, -1.0).argmax(1)
    return torch.where(reached.any(1), likeliest, -1)


def confident_joint(probabilities: Tensor, y: Tensor) -> Tensor:
    """Do what :func:`confident_joint_naive` does without a loop over the samples.

    Returns:
        (classes, classes), counts: row = given label, column = confident class.
    """
    classes = probabilities.shape[1]
    found = confident_classes(probabilities, y)
    sure = found >= 0
    pairs = y[sure] * classes + found[sure]
    return pairs.bincount(minlength=classes**2).view(classes, classes)


def label_issues(probabilities: Tensor, y: Tensor) -> Tensor:
    """Mark the samples that confidently belong to another class than their label says.

    Args:
        probabilities: (samples, classes), **out of sample**: of models that never saw the sample.
        y: (samples,), class indices.

    Returns:
        (samples,), bool.

    Raises:
        ValueError: bad probabilities or labels.
    """
    found = confident_classes(probabilities, y)
    return (found >= 0) & (found != y)


def precision_and_recall(found: Tensor, true: Tensor) -> tuple[float, float]:
    """Return the share of `found` that is true and the share of `true` that was found.

    A share of nothing is NaN.

    Args:
        found, true: (samples,), bool.
    """
    if found.dtype != torch.bool or true.dtype != torch.bool or found.shape != true.shape:
        raise ValueError(
            f"found ({found.dtype}, {tuple(found.shape)}) and true ({true.dtype}, "
            f"{tuple(true.shape)}): two bool vectors of one length are needed"
        )
    hits = (found & true).sum().double()
    return (hits / found.sum()).item(), (hits / true.sum()).item()


def _check_probabilities(probabilities: Tensor, y: Tensor) -> None:
    if probabilities.dim() != 2 or len(probabilities) != len(y):
        raise ValueError(
            f"probabilities of shape {tuple(probabilities.shape)} for {len(y)} labels: "
            "(samples, classes) is needed"
        )
    check_labels(y, probabilities.shape[1])
    check_finite(probabilities, "probabilities")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError(
            f"probabilities reach from {probabilities.min():.3g} to {probabilities.max():.3g}: "
            "values in [0, 1] are needed (logits want a softmax first)"
        )
