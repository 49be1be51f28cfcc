r"""Root-mean-square normalisation: layer normalisation without the mean and without the shift.

    r = √(mean(x²) + ε)      x̂ = x / r      y = γ ⊙ x̂

over the C features of one token. With g = ∂L/∂x̂ = δ ⊙ γ its backward pass has one term less than
that of layer normalisation (`companion.backprop.normalization`), since no mean is taken out:

    ∂L/∂x = 1/r · ( g − x̂ ⊙ mean(g ⊙ x̂) )        ∂L/∂γ = Σ_tokens δ ⊙ x̂

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.arguments import check_integer
from companion.backprop.base import Pair, require_trailing_shape
from companion.backprop.normalization import require_eps


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Return y for x: (..., C) and weight γ: (C,), as the formula has it."""
    return RMSNorm.compute(x, weight, eps)[0]


class RMSNorm(nn.Module):
    """Divide each token by the root mean square of its features; parameter `weight`: (C,).

    `compute` and `vjp` are the formulas; `forward` calls torch's kernel, which gives the same
    numbers in one piece.

    Args:
        embed_dim: C.
        eps: added to the mean square, *under* the root.
    """

    def __init__(self, embed_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        check_integer("embed_dim", embed_dim, minimum=1)
        require_eps(eps)
        self.embed_dim, self.eps = embed_dim, eps
        self.weight = nn.Parameter(torch.ones(embed_dim))

    @staticmethod
    def compute(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Pair:
        """Return y and what `vjp` needs."""
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)  # 1/r
        x_hat = x * inverse
        return x_hat * weight, (x_hat, inverse, weight)

    @staticmethod
    def vjp(
        grad_output: Tensor, x_hat: Tensor, inverse: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        """Return ∂L/∂x and ∂L/∂γ (and None for eps)."""
        g = grad_output * weight
        grad_x = inverse * (g - x_hat * (g * x_hat).mean(-1, keepdim=True))
        return grad_x, (grad_output * x_hat).reshape(-1, weight.shape[0]).sum(0), None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x: (..., C).

        Raises:
            ValueError: the last dimension is not C, or x is not floating point.
        """
        require_trailing_shape(x, (self.embed_dim,))
        return F.rms_norm(x, (self.embed_dim,), self.weight.to(x.dtype), self.eps)
