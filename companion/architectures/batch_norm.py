r"""Batch normalisation of images, with the running statistics in full view.

For each channel, over all images and pixels of the batch (m = N · H · W values),

    μ = mean(x)    v = mean((x − μ)²)    x̂ = (x − μ) / √(v + ε)    y = γ x̂ + β

and on the side, for later: with the momentum a,

    running_mean ← (1 − a) · running_mean + a · μ
    running_var  ← (1 − a) · running_var  + a · v · m/(m − 1)

The batch is divided by its *biased* variance v; the running variance averages the *unbiased* one.
In evaluation the running statistics take the place of μ and v, and they are constants: y is then
an affine function of x, one slope and one offset a channel, and images no longer see each other.

Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, sections 3 and 3.2, algorithm 2.
"""

from __future__ import annotations

from torch import Tensor

from companion.architectures.im2col import require_image_batch
from companion.backprop.normalization import BatchNorm1d


class BatchNorm2d(BatchNorm1d):
    """Normalise each channel over batch and pixels; parameters and buffers of torch.nn's.

    The layer of chapter 2, which normalises over everything but axis 1: here that is the images
    and both axes of their pixels.

    Args:
        num_features: number of channels.
        eps: added to the variance under the root.
        momentum: weight of the newest batch in the running statistics, in [0, 1]; None makes them
            the plain mean over all batches so far.

    Raises:
        ValueError: an argument out of range; in ``forward``, images of another shape, or in
            training a single value a channel, which has no spread.
    """

    def require_shape(self, x: Tensor) -> None:
        """Raise ValueError unless x is (batch, num_features, height, width)."""
        require_image_batch(x, self.num_features)
