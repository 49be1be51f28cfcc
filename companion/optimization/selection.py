"""Choosing features: four scores, a layer that keeps the best, and an honest cross-validation.

    variance            var(x_j)                           does not look at y
    F ratio             variance between the classes / variance within them
    mutual information  sum p(x_j, y) log[p(x_j, y) / (p(x_j) p(y))]   in nats, x_j in bins
    L1                  size of the weights that an L1 penalty leaves

Whatever looks at the labels belongs inside the cross-validation: chosen on all samples, columns
of pure noise predict coin tosses.

Sources: Guyon and Elisseeff, "An introduction to variable and feature selection", JMLR 3 (2003);
Ambroise and McLachlan, "Selection bias in gene extraction on the basis of microarray
gene-expression data", PNAS 99 (2002).

Letters in the comments: n samples, d features, K classes, B bins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from companion.arguments import check_integer, check_rule
from companion.optimization.cleaning import check_finite, check_labels, stratified_folds

Score = Callable[[Tensor, Tensor], Tensor]


def check_rows(x: Tensor, y: Tensor) -> int:
    """Return the number of classes of rows x: (n, d), labels y: (n,).

    Raises:
        ValueError: another shape, NaN, negative labels, fewer than two classes.
    """
    if x.dim() != 2 or y.dim() != 1 or len(x) != len(y):
        raise ValueError(
            f"x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}: "
            "(samples, features) and (samples,) are needed"
        )
    check_finite(x)
    classes = max(int(y.max()) + 1, 2)
    check_labels(y, classes)
    if (y == y[0]).all():
        raise ValueError(f"y holds only class {int(y[0])}: at least two classes are needed")
    return classes


def variance_scores(x: Tensor, y: Tensor) -> Tensor:
    """Return the variance of each column, (features,), in squared units of x; y is not used."""
    check_rows(x, y)
    return x.var(0, correction=0)


def f_scores(x: Tensor, y: Tensor) -> Tensor:
    """Return the F ratio of each column: variance of the class means over that inside the classes.

    Args:
        x: (samples, features).
        y: (samples,), class indices; classes without samples do not count.

    Returns:
        (features,); 0 for a constant column, infinite for one that does not vary inside classes.

    Raises:
        ValueError: bad rows or labels; not more samples than classes.
    """
    classes = check_rows(x, y)
    member = (y[:, None] == torch.arange(classes, device=y.device)).to(x)  # (n, K)
    count = member.sum(0)
    member, count = member[:, count > 0], count[count > 0]
    if len(x) <= len(count):
        raise ValueError(f"x has {len(x)} rows for {len(count)} classes: more rows are needed")
    means = member.T @ x / count[:, None]  # (K, d)
    between = (count[:, None] * (means - x.mean(0)).square()).sum(0) / (len(count) - 1)
    within = (x - member @ means).square().sum(0) / (len(x) - len(count))
    varies = x.amax(0) > x.amin(0)
    return torch.where(varies, between / within, 0.0)


def mutual_information_naive(column: Tensor, y: Tensor) -> float:
    """Return the mutual information in nats of two vectors of small integers, term by term."""
    total = 0.0
    for value in column.unique():
        for label in y.unique():
            both = ((column == value) & (y == label)).double().mean()
            if both > 0:
                alone = (column == value).double().mean() * (y == label).double().mean()
                total += float(both * (both / alone).log())
    return total


def mutual_information(x: Tensor, y: Tensor, *, bins: int = 16) -> Tensor:
    """Return for each column how much it tells about the class, in nats.

    Values are sorted into bins of equal width from the column's smallest to its largest.

    Args:
        x: (samples, features).
        y: (samples,), class indices.
        bins: how many.

    Returns:
        (features,), from 0 to the entropy of y. With few samples it is biased upwards.

    Raises:
        ValueError: bad rows or labels, fewer than 2 bins.
    """
    classes = check_rows(x, y)
    check_integer("bins", bins, minimum=2)
    low, high = x.amin(0), x.amax(0)
    width = torch.where(high > low, high - low, 1.0) / bins
    place = ((x - low) / width).floor().clamp(0, bins - 1).long()  # (n, d)
    member = (y[:, None] == torch.arange(classes, device=y.device)).to(x)  # (n, K)
    information = x.new_zeros(x.shape[1])
    of_class = member.mean(0)  # (K,)
    for number in range(bins):
        inside = (place == number).to(x)  # (n, d)
        both = inside.T @ member / len(x)  # (d, K)
        alone = both.sum(1, keepdim=True) * of_class
        information += torch.where(both > 0, both * (both / alone).log(), 0.0).sum(1)
    return information


def l1_scores(x: Tensor, y: Tensor, *, strength: float = 0.1) -> Tensor:
    """Return the largest weight of each column in a linear classifier with an L1 penalty.

    scikit-learn's ``LinearSVC``, on columns standardised here; many weights are exactly 0.

    Args:
        x: (samples, features).
        y: (samples,), class indices.
        strength: ``C`` of the classifier; smaller keeps fewer columns.

    Raises:
        ValueError: bad rows or labels, `strength` not positive.
    """
    from sklearn.svm import LinearSVC

    check_rows(x, y)
    check_rule("strength", strength, lambda value: value > 0, "a positive number")
    scale = x.std(0, correction=0)
    standard = (x - x.mean(0)) / torch.where(scale > 0, scale, 1.0)
    machine = LinearSVC(penalty="l1", dual=False, C=strength, random_state=0, tol=1e-3)
    machine.fit(standard.cpu().numpy(), y.cpu().numpy())
    return torch.from_numpy(abs(machine.coef_).max(0)).to(x)


class SelectBest(nn.Module):
    """Keep the columns with the highest scores on the rows it was made from.

    Args:
        x: (samples, features), the *training* rows.
        y: (samples,), their labels.
        count: how many columns to keep.
        score: one of the functions of this module, or another that maps (x, y) to (features,).

    Attributes:
        kept: (count,), their indices, ascending.

    Raises:
        ValueError: bad rows or labels, `count` out of range.
    """

    def __init__(self, x: Tensor, y: Tensor, count: int, score: Score = f_scores) -> None:
        super().__init__()
        check_rows(x, y)
        check_integer("count", count, minimum=1)
        if count > x.shape[1]:
            raise ValueError(f"count={count}: at most the number of features, {x.shape[1]}")
        self.num_features = x.shape[1]
        order = score(x, y).argsort(descending=True, stable=True)
        self.register_buffer("kept", order[:count].sort().values)

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (samples, features) to (samples, count)."""
        if x.dim() != 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"x of shape {tuple(x.shape)}: (samples, {self.num_features}) is needed"
            )
        return x.index_select(1, self.kept)


def nearest_mean_accuracy(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> float:
    """Answer with the class whose training mean is nearest; return the share of right answers."""
    classes = y.unique()
    means = torch.stack([x[y == label].mean(0) for label in classes])
    answers = classes[torch.cdist(x_test, means).argmin(1)]
    return (answers == y_test).double().mean().item()


def cross_validated_accuracy(
    x: Tensor, y: Tensor, count: int, *, score: Score = f_scores, folds: int = 5, seed: int = 0
) -> float:
    """Accuracy on held-out folds, with the features chosen anew on the rest each time.

    Args:
        x: (samples, features).
        y: (samples,), class indices.
        count: how many features to keep.
        score: how to choose them.
        folds: number of parts.
        seed: of the parts.

    Returns:
        the mean over the folds, of a classifier by the nearest class mean.

    Raises:
        ValueError: bad rows or labels, `count` or `folds` out of range.
    """
    check_rows(x, y)
    fold = stratified_folds(y, folds, torch.Generator().manual_seed(seed))
    found = []
    for index in range(folds):
        test = fold == index
        select = SelectBest(x[~test], y[~test], count, score)
        found.append(nearest_mean_accuracy(select(x[~test]), y[~test], select(x[test]), y[test]))
    return sum(found) / folds
