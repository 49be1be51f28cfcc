"""MNIST: 70,000 grey images, 28 x 28, of handwritten digits.

Source: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
Recognition" (Proceedings of the IEEE 86(11), 1998).
"""

from __future__ import annotations

from companion.data.idx import IdxImages


class MNIST(IdxImages):
    """MNIST; arguments and shapes as in :class:`companion.data.idx.IdxImages`."""

    dataset = "mnist"
    class_names = tuple("0123456789")
