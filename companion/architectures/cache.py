r"""A key–value cache: keys and values of the tokens read so far, so that none is computed twice.

A causal model's keys and values at position t depend on tokens 0 … t alone. Once computed they
never change, so reading one more token costs one row of attention and not T of them. The price is
memory, for each layer two tensors (B, H_kv, T, D):

    bytes = 2 · layers · B · H_kv · T · D · bytes per number

Source: Pope et al., "Efficiently Scaling Transformer Inference", MLSys 2023, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from companion.arguments import check_integer


class KeyValueCache:
    """Room for `capacity` positions in each layer, filled from the left.

    The room is taken at the first use, in the dtype and on the device of the keys, so that a new
    token is written in place and nothing is copied. For inference only.

    Args:
        num_layers: number of attention layers.
        capacity: largest number of positions, usually the model's context length.

    Attributes:
        length: positions held. The model advances it once a pass, after its last layer.
    """

    def __init__(self, num_layers: int, capacity: int) -> None:
        check_integer("num_layers", num_layers, minimum=1)
        check_integer("capacity", capacity, minimum=1)
        self.capacity = capacity
        self.length = 0
        self._keys: list[Tensor | None] = [None] * num_layers
        self._values: list[Tensor | None] = [None] * num_layers

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the newest positions of a layer and return all of them.

        Args:
            layer: 0 … num_layers − 1.
            key, value: (B, H_kv, T, D), the positions length … length + T − 1.

        Returns:
            Keys and values, (B, H_kv, length + T, D) each; views, do not write to them.

        Raises:
            ValueError: no room is left, the batch is of another size, or gradients are recorded.
        """
        if torch.is_grad_enabled() and key.requires_grad:
            raise ValueError("cache: it is written in place, use it under torch.no_grad()")
        end = self.length + key.shape[-2]
        if end > self.capacity:
            raise ValueError(f"cache: {end} positions do not fit, capacity={self.capacity}")
        keys, values = self._keys[layer], self._values[layer]
        if keys is None or values is None:
            shape = (*key.shape[:-2], self.capacity, key.shape[-1])
            keys = self._keys[layer] = key.new_zeros(shape)
            values = self._values[layer] = value.new_zeros(shape)
        elif keys.shape[:2] != key.shape[:2]:
            raise ValueError(
                f"cache: it holds {tuple(keys.shape[:2])} (batch, heads) and was given "
                f"{tuple(key.shape[:2])}; they must be equal"
            )
        keys[..., self.length : end, :] = key
        values[..., self.length : end, :] = value
        return keys[..., :end, :], values[..., :end, :]

    def advance(self, count: int) -> None:
        """Count `count` more positions as held; the model calls it after its last layer."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on, for instance rejected guesses."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length={length}: a number from 0 to {self.length} is needed")
        self.length = length

    def num_bytes(self) -> int:
        """Return the bytes that the positions held take, over all layers."""
        return sum(
            2 * k[..., : self.length, :].numel() * k.element_size()
            for k in self._keys
            if k is not None
        )
