"""Features computed from the data: principal components, and the inside of a trained network.

The centred training rows have the singular value decomposition

    X - mean = U S Vᵀ          (n, d) = (n, r)(r, r)(r, d)

The rows of Vᵀ are the principal components, orthogonal directions in descending order of the
variance S² / (n - 1) along them. No covariance matrix is formed, whose condition number would be
the square.

Sources: Pearson, "On lines and planes of closest fit to systems of points in space",
Philosophical Magazine 2 (1901); Yosinski, Clune, Bengio and Lipson, "How transferable are
features in deep neural networks?", NIPS 2014 (frozen features).

Letters in the comments: n samples, d features, k components.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from companion.arguments import check_integer
from companion.optimization.cleaning import check_finite


def fix_signs(components: Tensor) -> Tensor:
    """Turn each row so that its entry of largest size is positive.

    A component times -1 is as good a component; the convention (scikit-learn's too) makes the
    result the same on every machine.

    Args:
        components: (components, features).
    """
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return components * torch.where(largest < 0, -1.0, 1.0).to(components)


def principal_components_naive(x: Tensor, num_components: int) -> tuple[Tensor, Tensor]:
    """Find components as eigenvectors of the covariance matrix.

    Args:
        x: (samples, features).
        num_components: how many.

    Returns:
        components (num_components, features), and the variance along each, (num_components,).
    """
    centred = x - x.mean(0)
    covariance = centred.T @ centred / (len(x) - 1)
    values, vectors = torch.linalg.eigh(covariance)  # in ascending order
    return fix_signs(vectors.flip(1)[:, :num_components].T), values.flip(0)[:num_components]


class PCA(nn.Module):
    """Principal components of the rows it was made from, as a layer.

    A module, so that mean and components move to the device and into the checkpoint together
    with the network behind it.

    Args:
        x: (samples, features), the *training* rows, finite.
        num_components: at most the rank of the centred rows, which is below the number of
            samples and at most the number of features.
        whiten: divide each component by its standard deviation, so that all have variance 1.

    Attributes:
        mean: (features,).
        components: (num_components, features), orthonormal rows.
        explained_variance: (num_components,), in squared units of x; divisor n - 1.
        explained_ratio: (num_components,), as shares of the total variance.

    Raises:
        ValueError: x is no matrix or holds NaN, fewer than two rows, too many components.
    """

    def __init__(self, x: Tensor, num_components: int, *, whiten: bool = False) -> None:
        super().__init__()
        if x.dim() != 2:
            raise ValueError(f"x of shape {tuple(x.shape)}: (samples, features) is needed")
        check_finite(x)
        if len(x) < 2:
            raise ValueError(f"x has {len(x)} row: a variance needs at least 2")
        check_integer("num_components", num_components, minimum=1)
        mean = x.mean(0)
        singular, directions = torch.linalg.svd(x - mean, full_matrices=False)[1:]
        # What rounding can leave in a direction without variance. The rows before centring set
        # its size: a mean far from 0 costs digits.
        noise = x.norm() * max(x.shape) * torch.finfo(x.dtype).eps
        rank = int((singular > noise).sum())
        if num_components > rank:
            raise ValueError(
                f"num_components={num_components}: at most the rank of the centred rows, {rank}, "
                f"is needed (x is {len(x)} x {x.shape[1]})"
            )
        variance = singular.square() / (len(x) - 1)
        self.whiten = whiten
        self.register_buffer("mean", mean)
        self.register_buffer("components", fix_signs(directions[:num_components]))
        self.register_buffer("explained_variance", variance[:num_components])
        self.register_buffer("explained_ratio", (variance / variance.sum())[:num_components])

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (samples, features) to (samples, num_components)."""
        if x.dim() != 2 or x.shape[1] != len(self.mean):
            raise ValueError(
                f"x of shape {tuple(x.shape)}: (samples, {len(self.mean)}) is needed, "
                "as in training"
            )
        scores = (x - self.mean) @ self.components.T
        return scores / self.explained_variance.sqrt() if self.whiten else scores

    def inverse(self, scores: Tensor) -> Tensor:
        """Map scores: (samples, num_components) back to (samples, features)."""
        if scores.dim() != 2 or scores.shape[1] != len(self.components):
            raise ValueError(
                f"scores of shape {tuple(scores.shape)}: (samples, {len(self.components)}) "
                "is needed"
            )
        if self.whiten:
            scores = scores * self.explained_variance.sqrt()
        return scores @ self.components + self.mean


class Frozen(nn.Module):
    """A copy of a trained network that computes features and does not learn.

    No gradient for its weights, and evaluation mode for good: dropout stays off, and running
    statistics of a batch normalisation stay what they were even while the rest trains. (Gradients
    still pass *through* it to what stands in front.)

    Args:
        network: maps a batch to features.

    Raises:
        ValueError: `network` is no module.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise ValueError(f"network={type(network).__name__}: an nn.Module is needed")
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Frozen:
        """Note the mode, but leave the network in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of x, one row a sample: (batch, features)."""
        return self.network(x).flatten(1)
