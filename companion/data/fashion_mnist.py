"""Fashion-MNIST: 70,000 grey images, 28 x 28, of ten kinds of clothing.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms" (arXiv:1708.07747). MIT licence.
"""

from __future__ import annotations

from companion.data.idx import IdxImages


class FashionMNIST(IdxImages):
    """Fashion-MNIST; arguments and shapes as in :class:`companion.data.idx.IdxImages`."""

    dataset = "fashion-mnist"
    class_names = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
