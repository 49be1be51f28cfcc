"""Augmentation of whole batches, on whatever device they are on.

Flip and crop change an image and keep its label: layers, put in front of the network, that act in
training and let everything pass in evaluation.

    nn.Sequential(RandomHorizontalFlip(), RandomCrop(padding=2), network)

Mixup and CutMix mix two images and their labels too, so the loss has to know: they are given to a
:class:`MixedClassifier`. All shapes are fixed and every choice is a tensor, so XLA compiles once.

Letters in the comments: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional as F

from companion.arguments import check_integer, check_rule
from companion.training import Classifier


def check_images(x: Tensor) -> None:
    """Raise ValueError unless x is (batch, channels, height, width)."""
    if x.dim() != 4:
        raise ValueError(f"x of shape {tuple(x.shape)}: (batch, channels, height, width) is needed")


def flip_naive(x: Tensor, flipped: Tensor) -> Tensor:
    """Mirror some images, one at a time.

    Args:
        x: (batch, channels, height, width).
        flipped: (batch,), bool: which ones.
    """
    pairs = zip(x, flipped, strict=True)
    return torch.stack([image.flip(-1) if yes else image for image, yes in pairs])


def crop_naive(x: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Put zeros around each image and cut its size out again, one at a time.

    Args:
        x: (batch, channels, height, width).
        top, left: (batch,), integers in [0, 2 * padding]: where the cut begins.
        padding: rows and columns of zeros on every side.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, [padding] * 4)
    cuts = zip(padded, top.tolist(), left.tolist(), strict=True)
    return torch.stack([image[:, t : t + height, s : s + width] for image, t, s in cuts])


def crop(x: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Do what :func:`crop_naive` does in one indexing operation."""
    count, channels, height, width = x.shape
    padded = F.pad(x, [padding] * 4)
    rows = top[:, None] + torch.arange(height, device=x.device)  # (N, H)
    columns = left[:, None] + torch.arange(width, device=x.device)  # (N, W)
    image = torch.arange(count, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class RandomHorizontalFlip(nn.Module):
    """Mirror each image left to right with probability `p`, in training only.

    Raises:
        ValueError: `p` outside [0, 1]; in ``forward``, x that is not a batch of images.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check_rule("p", p, lambda value: 0 <= value <= 1, "a probability in [0, 1]")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (batch, channels, height, width) to the same shape."""
        check_images(x)
        if not self.training:
            return x
        flipped = torch.rand(len(x), 1, 1, 1, device=x.device) < self.p
        return torch.where(flipped, x.flip(-1), x)


class RandomCrop(nn.Module):
    """Shift each image by up to `padding` pixels each way, in training only.

    Zeros come in at the border, which for standardised images is their mean.

    Raises:
        ValueError: `padding` not a positive integer; in ``forward``, x that is no batch of images.
    """

    def __init__(self, padding: int = 2) -> None:
        super().__init__()
        check_integer("padding", padding, minimum=1)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (batch, channels, height, width) to the same shape."""
        check_images(x)
        if not self.training:
            return x
        top, left = torch.randint(0, 2 * self.padding + 1, (2, len(x)), device=x.device)
        return crop(x, top, left, self.padding)


class Mixup:
    """Blend each image with another of the batch: x' = lambda x + (1 - lambda) x[partner].

    lambda ~ Beta(alpha, alpha), one for the batch, as in the authors' implementation.

    Source: Zhang, Cisse, Dauphin and Lopez-Paz, mixup: Beyond Empirical Risk Minimization, ICLR
    2018, section 2.

    Raises:
        ValueError: `alpha` below 0.01. There torch's Beta underflows and mostly returns 1/2,
            where nearly every draw should be close to 0 or 1: no mixing would become full mixing.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        check_rule("alpha", alpha, lambda value: value >= 0.01, "a number of at least 0.01")
        self.alpha = alpha

    def share(self, x: Tensor) -> Tensor:
        """Draw lambda, a tensor () in [0, 1] on the device of x."""
        return Beta(self.alpha, self.alpha).sample().to(x)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mix x: (batch, channels, height, width).

        Returns:
            the mixed images; ``partner`` (batch,), the image that each was mixed with; ``share``
            (), how much of each is the image itself.
        """
        check_images(x)
        share = self.share(x)
        partner = torch.randperm(len(x), device=x.device)
        return share * x + (1 - share) * x[partner], partner, share


class CutMix(Mixup):
    """Put a rectangle of another image of the batch into each, of area (1 - lambda) H W.

    lambda ~ Beta(alpha, alpha). The rectangle's centre is uniform over the image; what lies
    outside is cut off, and the share of the labels is that of the pixels that remain.

    Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features, ICCV 2019, section 3.1 and appendix.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`Mixup.__call__`."""
        check_images(x)
        side = (1 - self.share(x)).sqrt()
        inside = torch.ones((), dtype=torch.bool, device=x.device)
        for size, shape in ((x.shape[-2], (-1, 1)), (x.shape[-1], (1, -1))):
            length = (side * size).floor()
            centre = torch.randint(0, size, (), device=x.device)
            first = centre - (length / 2).floor()
            place = torch.arange(size, device=x.device)
            inside = inside & ((place >= first) & (place < first + length)).view(shape)  # (H, W)
        partner = torch.randperm(len(x), device=x.device)
        return torch.where(inside, x[partner], x), partner, 1 - inside.to(x.dtype).mean()


class MixedClassifier(Classifier):
    """A classifier trained on mixed images: share L(y) + (1 - share) L(y[partner]).

    Args:
        network: as for Classifier.
        mix: a Mixup or CutMix.
        options: as for Classifier.

    Raises:
        ValueError: `mix` is neither.
    """

    def __init__(self, network: nn.Module, *, mix: Mixup, **options: Any) -> None:
        super().__init__(network, **options)
        if not isinstance(mix, Mixup):
            raise ValueError(f"mix={type(mix).__name__}: a Mixup or a CutMix is needed")
        self.mix = mix

    def measure(self, batch: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], int]:
        """Return the mixed loss in training, loss and accuracy of the plain images otherwise."""
        if not self.training:
            return super().measure(batch)
        x, y = batch
        mixed, partner, share = self.mix(x)
        logits = self(mixed)
        if not self._checked:
            self._check(logits, y)
        own, other = self.criterion(logits, y), self.criterion(logits, y[partner])
        return {"loss": share * own + (1 - share) * other}, len(y)
