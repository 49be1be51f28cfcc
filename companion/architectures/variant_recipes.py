"""Recipes of the page `transformer_variants`: encoders and mixtures of experts.

As in `companion.backprop.recipes`: module, data, the arguments of `companion.training.fit`, and a
check that raises AssertionError unless the technique did its work.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from companion.architectures.encoder import Encoder, EncoderClassifier, MaskedLanguageModel
from companion.architectures.mixture_of_experts import BalancedClassifier, MixtureOfExperts
from companion.architectures.transformer import TransformerConfig
from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.techniques import Recipe
from companion.training import Classifier, FitResult

OPTIONS = {"precision": "32-true", "test": True}
ADAM = partial(torch.optim.AdamW, lr=3e-3)
FAST = partial(torch.optim.AdamW, lr=1e-2)


def small_encoder(vocab_size: int, length: int, pad_id: int | None = None) -> Encoder:
    """One block of width 32."""
    config = TransformerConfig(vocab_size, length, 1, 4, 32, positions="rotary", causal=False)
    return Encoder(config, pad_id)


def bert_encoder() -> Recipe:
    """Each text has a favourite token; the first place is filled in from what stands after it."""
    generator = torch.Generator().manual_seed(0)
    favourite = torch.randint(10, (1280, 1), generator=generator)
    anything = torch.randint(10, (1280, 16), generator=generator)
    ids = torch.where(torch.rand(1280, 16, generator=generator) < 0.7, favourite, anything)
    data = Arrays((ids, ids), test=(ids[:64], ids[:64]), batch_size=64, drop_last=True)
    module = MaskedLanguageModel(small_encoder(11, 16), mask_id=10, optimizer=ADAM)

    def check(result: FitResult) -> None:
        encoder = result.module.network.cpu().eval()
        blanks = ids[:200].clone()
        blanks[:, 0] = 10
        with torch.no_grad():
            guesses = encoder.logits(blanks)[:, 0].argmax(-1)
        right = (guesses == favourite[:200, 0]).float().mean().item()
        assert right > 0.9, f"{right:.0%} of the first tokens filled in from the right"

    return Recipe(module, data, OPTIONS | {"epochs": 8}, check)


def masked_language_model() -> Recipe:
    """Grey levels of pixels as tokens: blanks are filled in better than by their frequencies."""
    data = pixels()
    module = MaskedLanguageModel(
        small_encoder(18, 64), mask_id=17, mask_fraction=0.3, optimizer=FAST
    )

    def check(result: FitResult) -> None:
        counts = data.train[0].flatten().bincount(minlength=17) + 1
        frequencies = (counts / counts.sum()).log()
        by_frequency = -frequencies[data.test[0].flatten()].mean().item()
        loss = result.metrics["test_loss"]
        assert loss < by_frequency - 0.15, f"{loss:.2f} nats; frequencies give {by_frequency:.2f}"

    return Recipe(module, data, OPTIONS | {"epochs": 5}, check)


def pixels() -> Arrays:
    """The digits as sequences of 64 grey levels, 0 to 16."""
    from sklearn.datasets import load_digits

    ids = torch.from_numpy(load_digits().data).long()
    train, test = ids[360:], ids[:360]
    return Arrays((train, train), test=(test, test), batch_size=64, drop_last=True)


def sequence_classification_encoder() -> Recipe:
    """Sequences of unequal length: which of two tokens comes more often? Padding has no vote."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, (1600, 15), generator=generator)
    lengths = torch.randint(3, 8, (1600, 1), generator=generator) * 2 + 1  # odd: no ties
    real = torch.arange(15) < lengths
    y = ((ids * real).sum(1) * 2 > lengths[:, 0]).long()
    ids = ids.masked_fill(~real, 2)
    data = Arrays(
        (ids[:1280], y[:1280]), test=(ids[1280:], y[1280:]), batch_size=64, drop_last=True
    )
    network = EncoderClassifier(small_encoder(3, 24, pad_id=2), 2)

    def check(result: FitResult) -> None:
        assert result.metrics["test_accuracy"] > 0.95
        trained = result.module.network.cpu().eval()
        more = nn.functional.pad(ids[:50], (0, 9), value=2)
        with torch.no_grad():
            torch.testing.assert_close(trained(more), trained(ids[:50]), rtol=1e-3, atol=1e-4)

    return Recipe(Classifier(network, optimizer=ADAM), data, OPTIONS | {"epochs": 6}, check)


class Residual(nn.Module):
    """``x + layer(x)``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, (N, C)."""
        return x + self.layer(x)


def sparse_network(balance: float) -> nn.Sequential:
    """A classifier of digits around four experts, each with room for every choice."""
    experts = MixtureOfExperts(32, 64, 4, 2, capacity_factor=2.0, balance=balance)
    return nn.Sequential(nn.Linear(64, 32), Residual(experts), nn.Linear(32, 10))


def mixture_of_experts() -> Recipe:
    """Two of four experts for each digit: they learn, and do what the loop over samples does."""
    data = Digits(flatten=True, drop_last=True)
    module = BalancedClassifier(sparse_network(0.01), optimizer=ADAM)

    def check(result: FitResult) -> None:
        assert result.metrics["test_accuracy"] > 0.85
        network = copy.deepcopy(result.module.network).cpu().double().eval()
        layer = network[1].layer
        with torch.no_grad():
            x = network[0](data.test[0][:20].double())
            torch.testing.assert_close(layer(x), layer.forward_naive(x), rtol=1e-10, atol=1e-12)

    return Recipe(module, data, OPTIONS | {"epochs": 6}, check)


def load_balancing_loss() -> Recipe:
    """A router that starts by sending everything to two of four experts spreads it out."""
    data = Digits(flatten=True, drop_last=True)
    network = sparse_network(0.5)
    experts = network[1].layer
    with torch.no_grad():
        network[0].bias[:] = 1.0
        experts.router.weight[:2] += 0.3

    def check(result: FitResult) -> None:
        trained = result.module.network.cpu().eval()
        with torch.no_grad():
            trained(data.test[0])
        busiest = trained[1].layer.loads.max().item()  # 0.5 where two have everything
        assert busiest < 0.4, f"the busiest of four experts gets {busiest:.0%} of the choices"

    module = BalancedClassifier(network, optimizer=ADAM)
    return Recipe(module, data, OPTIONS | {"epochs": 6}, check)
