r"""A mixture of experts: E feed-forward networks, of which each token visits k.

A router gives each token probabilities p = softmax(W x) over the experts; the k largest choose,

    y = Σ_{e in top k} w_e · expert_e(x),    w = p,  renormalised to sum 1 where k > 1,

so parameters grow with E and the work for a token with k (Shazeer et al. 2017, section 2). Left
alone, a router sends ever more tokens to the experts that learnt first. The load-balancing loss
of Fedus et al. 2022, section 2.2, works against that,

    E · Σ_e f_e P_e,    f_e: share of the choices that fell on e,  P_e: mean of p_e,

1 where the load is even, E where one expert has it all. f_e counts, so it has no gradient; the
gradient comes through P_e.

Legend: n tokens, d = embed_dim, h = hidden_dim, E experts, k choices, C capacity.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.architectures.transformer import GPT
from companion.arguments import check_integer
from companion.training import Classifier, LanguageModel


def load_balancing_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """Return ``E Σ f_e P_e``: 1 for an even load, up to E for a single busy expert.

    Args:
        probabilities: of the router, (tokens, experts), before the choice.
        chosen: indices of the experts, (tokens, k), int64.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if probabilities.dim() != 2 or chosen.dim() != 2 or len(probabilities) != len(chosen):
        raise ValueError(
            f"probabilities of shape {tuple(probabilities.shape)} and chosen of shape "
            f"{tuple(chosen.shape)}: (tokens, experts) and (tokens, k) are needed"
        )
    share = expert_loads(chosen, probabilities.shape[1]).to(probabilities.dtype)
    return probabilities.shape[1] * (share * probabilities.mean(0)).sum()


def expert_loads(chosen: Tensor, num_experts: int) -> Tensor:
    """Return which share of all choices fell on each expert, (experts,), float32."""
    return F.one_hot(chosen.flatten(), num_experts).float().mean(0)


class MixtureOfExperts(nn.Module):
    """A feed-forward layer with experts: (…, embed_dim) in, the same out.

    After each forward pass ``balance_loss`` holds the load-balancing loss, in the graph, and
    ``loads`` the share of the choices that each expert got. :func:`auxiliary_loss` collects the
    first from all layers of a network.

    Args:
        embed_dim, hidden_dim: sizes of each expert, ``Linear, GELU, Linear``.
        num_experts: E.
        top_k: experts a token visits.
        capacity_factor: None computes every choice, with as many rows an expert as came. A
            number gives each expert ``ceil(capacity_factor · n · k / E)`` places; choices beyond
            are dropped, second choices before first ones. Shapes are then fixed, as compilers,
            several devices and the meta device want them.
        balance: weight of the load-balancing loss in :func:`auxiliary_loss`.
        renormalize: divide the k weights by their sum. By default if k > 1: with k = 1 the weight
            would be 1 whatever the router says, and the task would not teach it.
        bias: of the experts' linear maps.

    Raises:
        ValueError: an argument out of range.
    """

    balance_loss: Tensor | None

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        num_experts: int,
        top_k: int = 2,
        *,
        capacity_factor: float | None = None,
        balance: float = 0.01,
        renormalize: bool | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        sizes = (("embed_dim", embed_dim), ("hidden_dim", hidden_dim))
        for name, value in (*sizes, ("num_experts", num_experts), ("top_k", top_k)):
            check_integer(name, value, minimum=1)
        if top_k > num_experts:
            raise ValueError(f"top_k={top_k}: at most num_experts={num_experts} are possible")
        if capacity_factor is not None:
            _check_number("capacity_factor", capacity_factor, above_zero=True)
        _check_number("balance", balance, above_zero=False)
        self.embed_dim, self.hidden_dim = embed_dim, hidden_dim
        self.num_experts, self.top_k = num_experts, top_k
        self.capacity_factor, self.balance = capacity_factor, balance
        self.renormalize = top_k > 1 if renormalize is None else renormalize
        self.router = nn.Linear(embed_dim, num_experts, bias=False)
        self.up_weight = _uniform(num_experts, embed_dim, hidden_dim, fan_in=embed_dim)
        self.down_weight = _uniform(num_experts, hidden_dim, embed_dim, fan_in=hidden_dim)
        self.up_bias = self.down_bias = None
        if bias:
            self.up_bias = _uniform(num_experts, 1, hidden_dim, fan_in=embed_dim)
            self.down_bias = _uniform(num_experts, 1, embed_dim, fan_in=hidden_dim)
        self.register_buffer("loads", torch.zeros(num_experts), persistent=False)
        self.balance_loss = None

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities (n, E), chosen experts (n, k) and their weights (n, k)."""
        probabilities = self.router(x).softmax(-1)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        if self.renormalize:
            weights = weights / weights.sum(-1, keepdim=True)
        return probabilities, chosen, weights

    def capacity(self, tokens: int) -> int:
        """Return the places of an expert for that many tokens; all choices if there is no limit."""
        if self.capacity_factor is None:
            return tokens
        return math.ceil(self.capacity_factor * tokens * self.top_k / self.num_experts)

    def expert(self, index: int, x: Tensor) -> Tensor:
        """Return what expert `index` makes of `x`, (rows, embed_dim)."""
        hidden = x @ self.up_weight[index]
        if self.up_bias is not None:
            hidden = hidden + self.up_bias[index]
        out = F.gelu(hidden) @ self.down_weight[index]
        return out if self.down_bias is None else out + self.down_bias[index]

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts; x: (…, embed_dim)."""
        if x.shape[-1:] != (self.embed_dim,):
            raise ValueError(f"x of shape {tuple(x.shape)}: (…, {self.embed_dim}) is needed")
        tokens = x.reshape(-1, self.embed_dim)  # (n, d)
        probabilities, chosen, weights = self.route(tokens)
        self.balance_loss = load_balancing_loss(probabilities, chosen)
        with torch.no_grad():
            self.loads.copy_(expert_loads(chosen, self.num_experts))
        mix = self._grouped if self.capacity_factor is None else self._with_capacity
        return mix(tokens, chosen, weights.to(tokens.dtype)).view(x.shape)

    def forward_naive(self, x: Tensor) -> Tensor:
        """Return the same, token by token and choice by choice: what `forward` must equal."""
        tokens = x.reshape(-1, self.embed_dim)
        _, chosen, weights = self.route(tokens)
        rows = []
        for token, experts, shares in zip(tokens, chosen.tolist(), weights, strict=True):
            outputs = [self.expert(e, token[None])[0] for e in experts]
            rows.append(sum(share * out for share, out in zip(shares, outputs, strict=True)))
        return torch.stack(rows).view(x.shape)

    def _grouped(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Sort the choices by expert; each expert then works on one block of rows."""
        order = chosen.flatten().argsort(stable=True)  # (n k,)
        source = order // self.top_k  # the token that each choice belongs to
        counts = torch.bincount(chosen.flatten(), minlength=self.num_experts).tolist()
        blocks = tokens[source].split(counts)
        out = torch.cat([self.expert(e, block) for e, block in enumerate(blocks)])
        out = out * weights.flatten()[order, None]
        return torch.zeros_like(tokens).index_add(0, source, out.to(tokens.dtype))

    def _with_capacity(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Put the choices into E · C places, multiply all experts at once, fetch them back."""
        n, k = chosen.shape
        capacity = self.capacity(n)
        # First choices of all tokens stand in line before the second choices.
        expert = chosen.T.flatten()  # (k n,)
        in_line = F.one_hot(expert, self.num_experts).cumsum(0)  # how many came up to here
        rank = in_line.gather(1, expert[:, None])[:, 0] - 1
        fits = rank < capacity
        place = torch.where(fits, expert * capacity + rank, self.num_experts * capacity)
        places = tokens.new_zeros(self.num_experts * capacity + 1, tokens.shape[1])
        places = places.index_add(0, place, tokens.repeat(k, 1))  # the last one is the bin
        x = places[:-1].view(self.num_experts, capacity, -1)
        hidden = x @ self.up_weight  # (E, C, h)
        if self.up_bias is not None:
            hidden = hidden + self.up_bias
        out = F.gelu(hidden) @ self.down_weight  # (E, C, d)
        if self.down_bias is not None:
            out = out + self.down_bias
        out = torch.cat([out.flatten(0, 1), out.new_zeros(1, out.shape[-1])])[place]
        out = out * (weights.T.flatten() * fits)[:, None]
        return out.view(k, n, -1).sum(0).to(tokens.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last pass's loss out: a tensor inside a graph cannot be copied."""
        return self.__dict__ | {"balance_loss": None}

    def extra_repr(self) -> str:
        """Name the sizes."""
        return f"{self.embed_dim}, {self.hidden_dim}, {self.num_experts}, top_k={self.top_k}"


def auxiliary_loss(network: nn.Module) -> Tensor:
    """Return the sum of ``balance · balance_loss`` over all mixtures of `network`'s last pass.

    Raises:
        ValueError: there is none, or one that has not run yet.
    """
    layers = [part for part in network.modules() if isinstance(part, MixtureOfExperts)]
    if not layers:
        raise ValueError(f"network={type(network).__name__}: it has no MixtureOfExperts")
    terms = []
    for layer in layers:
        if layer.balance_loss is None:
            raise ValueError("network: its mixtures have no loss before the first forward pass")
        terms.append(layer.balance * layer.balance_loss)
    return torch.stack(terms).sum()


@torch.no_grad()
def add_experts_(model: GPT, num_experts: int, top_k: int = 2, **options: Any) -> GPT:
    """Replace the feed-forward network of each block by a mixture of such networks, in place.

    New weights are drawn as the model's own are: normal, spread 0.02, less for what is added to
    the stream of residuals.

    Args:
        hidden_dim (in `options`): of each expert; by default that of the network it replaces. For
            the work of the old network, divide it by `top_k`.
        options: further arguments of :class:`MixtureOfExperts`.

    Returns:
        `model`.

    Raises:
        ValueError: as :class:`MixtureOfExperts`.
    """
    config = model.config
    options = {"hidden_dim": config.feed_forward_dim, "bias": config.bias} | options
    for block in model.blocks:
        experts = MixtureOfExperts(
            config.embed_dim, num_experts=num_experts, top_k=top_k, **options
        )
        experts.router.weight.normal_(std=0.02)
        experts.up_weight.normal_(std=0.02)
        experts.down_weight.normal_(std=0.02 / math.sqrt(2 * len(model.blocks)))
        for bias in (experts.up_bias, experts.down_bias):
            if bias is not None:
                bias.zero_()
        block.feed_forward = experts.to(model.token_embedding.weight)
    return model


class _Balanced:
    """Adds the auxiliary loss in training; validation and test report the task's loss alone."""

    def measure(self, batch: Any) -> tuple[dict[str, Tensor], Any]:
        """Return the metrics of a batch and how many samples they average."""
        metrics, samples = super().measure(batch)  # type: ignore[misc]
        if self.training:  # type: ignore[attr-defined]
            metrics["loss"] = metrics["loss"] + auxiliary_loss(self.network)  # type: ignore[attr-defined]
        return metrics, samples


class BalancedClassifier(_Balanced, Classifier):
    """A :class:`Classifier` whose network holds mixtures of experts."""


class BalancedLanguageModel(_Balanced, LanguageModel):
    """A :class:`LanguageModel` whose network holds mixtures of experts."""


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Draw as `torch.nn.Linear` does, within ±1/√fan_in."""
    return nn.Parameter(torch.empty(shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))


def _check_number(name: str, value: Any, *, above_zero: bool) -> None:
    good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (above_zero and value == 0):
        rule = "a positive, finite number" if above_zero else "a finite number of at least 0"
        raise ValueError(f"{name}={value!r}: {rule} is needed")
