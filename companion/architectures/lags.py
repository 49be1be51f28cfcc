r"""How much of the gradient comes through a lag: ‖∂h_T/∂h_t‖, measured, and its bound.

For Elman's cell one step has the Jacobian ∂h_{t+1}/∂h_t = diag(1 − h_{t+1}²) W_hh, so

    ∂h_T/∂h_t = diag(1 − h_T²) W_hh · … · diag(1 − h_{t+1}²) W_hh         (H, H), T − t factors

    ‖∂h_T/∂h_t‖ ≤ (γ s)^(T−t)     s the largest singular value of W_hh, γ the largest slope met

γ is at most 1. Where s < 1 the gradient must vanish, exponentially in the lag; where s > 1 it may
explode. The spectral radius ρ, the largest absolute eigenvalue, is at most s; for an orthogonal
matrix times a number the two are equal, and the bound is ρ^lag.

Sources: Bengio, Simard and Frasconi, "Learning long-term dependencies with gradient descent is
difficult", IEEE Transactions on Neural Networks 5 (1994); Pascanu, Mikolov and Bengio, "On the
difficulty of training recurrent neural networks", ICML 2013, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from companion.arguments import check_integer


def jacobian_norms(h: Tensor, w_hh: Tensor) -> Tensor:
    """Return ‖∂h_T/∂h_{T-k}‖, the largest singular value, for the lags k = 0 … T: (N, T + 1).

    Args:
        h: (N, T + 1, H), the states that `companion.architectures.bptt.elman` returned.
        w_hh: (H, H).
    """
    product = torch.eye(h.shape[2], dtype=h.dtype).expand(len(h), -1, -1)  # ∂h_T/∂h_T
    norms = [torch.linalg.matrix_norm(product, ord=2)]
    for t in reversed(range(h.shape[1] - 1)):
        slopes = 1 - h[:, t + 1] ** 2  # (N, H)
        product = (product * slopes.unsqueeze(1)) @ w_hh
        norms.append(torch.linalg.matrix_norm(product, ord=2))
    return torch.stack(norms, dim=1)


def with_spectral_radius(size: int, radius: float, *, seed: int = 0) -> Tensor:
    """Return a random orthogonal matrix times `radius`: (size, size), float64.

    All its eigenvalues have the absolute value `radius`, and all its singular values are `radius`.

    Raises:
        ValueError: a size below 1 or a negative radius.
    """
    check_integer("size", size, minimum=1)
    if not radius >= 0:
        raise ValueError(f"radius={radius!r}: a number >= 0 is needed")
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    return q * r.diagonal().sign() * radius  # the signs make it uniform over all rotations
