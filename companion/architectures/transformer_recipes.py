"""Recipes of the page `transformer`: each part in a small network, beside torch's own or at work.

As in `companion.backprop.recipes`: module, data, the arguments of `companion.training.fit`, and a
check that raises AssertionError unless the technique did its work. Two kinds of data: the digits,
read row by row as sequences of eight tokens, and sequences that repeat themselves.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from companion.architectures.attention import MultiHeadAttention, ScaledDotProduct
from companion.architectures.feed_forward import SwiGLU
from companion.architectures.normalization import RMSNorm
from companion.architectures.positions import sinusoidal_table
from companion.architectures.repeats import Repeats
from companion.architectures.transformer import GPT, Block, TransformerConfig
from companion.backprop.base import ManualFunction
from companion.data.digits import Digits
from companion.techniques import Recipe
from companion.training import Classifier, FitResult, LanguageModel, fit

ADAM = partial(torch.optim.Adam, lr=3e-3)
OPTIONS = {"epochs": 8, "precision": "32-true"}


class Rows(nn.Module):
    """Read an image as a sequence of rows: embed, mix, and classify their mean.

    Args:
        mixer: maps (batch, 8, dim) to (batch, 8, dim).
        dim: size of a token.
    """

    def __init__(self, mixer: nn.Module, dim: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.places = nn.Parameter(sinusoidal_table(8, dim).float())
        self.mixer = mixer
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10) for images (batch, 1, 8, 8)."""
        rows = self.embed(x.flatten(1, 2)) + self.places
        return self.head((rows + self.mixer(rows)).mean(1))


def digits() -> Digits:
    """No smaller last batch, which would compile once more on a TPU."""
    return Digits(drop_last=True)


def against(mine: nn.Module, theirs: nn.Module) -> Recipe:
    """Train `Rows(mine)`; the check trains `Rows(theirs)` and wants the same losses and logits.

    Both must compute the same function from the start.
    """
    torch.manual_seed(0)
    network = Rows(mine)
    twin = copy.deepcopy(network)
    twin.mixer = theirs

    def check(result: FitResult) -> None:
        expected = fit(Classifier(twin, optimizer=ADAM), digits(), **OPTIONS)
        ours, wanted = torch.tensor(result.step_losses), torch.tensor(expected.step_losses)
        assert len(ours) == len(wanted), f"{len(ours)} steps, not {len(wanted)}"
        assert (ours - wanted).abs().max() < 0.02, "it learns another function"
        assert result.metrics["val_accuracy"] > 0.75, result.metrics

    return Recipe(Classifier(network, optimizer=ADAM), digits(), OPTIONS, check)


class ByHand(nn.Module):
    """One head of attention whose forward and backward pass are the hand-written pair."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(32, 96)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, 32) to the same shape."""
        query, key, value = self.project(x).chunk(3, dim=-1)
        if self.fused:
            return F.scaled_dot_product_attention(query, key, value)
        return ManualFunction.apply(ScaledDotProduct, query, key, value, None)


def scaled_dot_product_attention() -> Recipe:
    """Forward and backward pass by hand learn what torch's fused attention learns."""
    torch.manual_seed(0)
    mine, theirs = ByHand(), ByHand(fused=True)
    theirs.load_state_dict(mine.state_dict())
    return against(mine, theirs)


class TorchHeads(nn.Module):
    """`torch.nn.MultiheadAttention` with the weights of ours, as self-attention."""

    def __init__(self, ours: MultiHeadAttention) -> None:
        super().__init__()
        layer = nn.MultiheadAttention(ours.embed_dim, ours.num_heads, batch_first=True)
        projections = (ours.query, ours.key, ours.value)
        with torch.no_grad():
            layer.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
            layer.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        layer.out_proj.load_state_dict(ours.output.state_dict())
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, C) to the same shape."""
        return self.layer(x, x, x, need_weights=False)[0]


def multi_head_attention() -> Recipe:
    """Four heads learn what torch's module learns from the same weights."""
    torch.manual_seed(0)
    mine = MultiHeadAttention(32, 4)
    return against(mine, TorchHeads(mine))


def pre_norm_block() -> Recipe:
    """A block learns what `torch.nn.TransformerEncoderLayer(norm_first=True)` learns."""
    torch.manual_seed(0)
    mine = Block(TransformerConfig(1, 8, 1, 4, 32, causal=False))
    theirs = nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs.self_attn = TorchHeads(mine.attention).layer
    theirs.norm1.load_state_dict(mine.attention_norm.state_dict())
    theirs.norm2.load_state_dict(mine.feed_forward_norm.state_dict())
    theirs.linear1.load_state_dict(mine.feed_forward.up.state_dict())
    theirs.linear2.load_state_dict(mine.feed_forward.down.state_dict())
    return against(mine, theirs)


class RMSByHand(nn.Module):
    """RMSNorm through its hand-written pair."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, time, 32)."""
        return ManualFunction.apply(RMSNorm, x, self.weight, 1e-5)


def rms_norm() -> Recipe:
    """The backward pass by hand learns what torch.nn.RMSNorm learns."""
    torch.manual_seed(0)
    up, down = nn.Linear(32, 64), nn.Linear(64, 32)
    mine = nn.Sequential(RMSByHand(), up, nn.GELU(), down)
    theirs = copy.deepcopy(mine)
    theirs[0] = nn.RMSNorm(32, eps=1e-5)
    return against(mine, theirs)


def swiglu() -> Recipe:
    """The gated layer learns the digits with the parameters of a plain one four times as wide."""
    torch.manual_seed(0)
    gated, plain = SwiGLU(32), nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))

    def check(result: FitResult) -> None:
        gates = result.module.network.mixer.gate.weight.detach().cpu()
        assert (gates - start).norm() > 0.5, "the gate has not learnt"
        sizes = [sum(p.numel() for p in layer.parameters()) for layer in (gated, plain)]
        assert abs(sizes[0] / sizes[1] - 1) < 0.05
        assert result.metrics["val_accuracy"] > 0.75, result.metrics

    start = gated.gate.weight.detach().clone()
    return Recipe(Classifier(Rows(gated), optimizer=ADAM), digits(), OPTIONS, check)


def grouped_query_attention() -> Recipe:
    """One key-value head for two heads of queries: half of the cache, and it learns."""

    return copies(check_half_cache, num_kv_heads=1)


def check_half_cache(model: GPT) -> None:
    """Raise AssertionError unless the cache takes half of what full heads would."""
    cache = model.new_cache()
    with torch.no_grad():
        model(torch.zeros(1, 5, dtype=torch.int64), cache)
    full = 5 * 2 * 2 * 32 * 4  # positions, key and value, layers, features, bytes
    assert cache.num_bytes() == full // 2, f"{cache.num_bytes()} bytes in the cache"


def copies(check: Callable[[GPT], None] | None = None, **options: Any) -> Recipe:
    """A GPT of two layers that learns to go on with a sequence which repeats itself.

    The chance of a token of eight is ln 8 nats. `check` gets the trained model, on the CPU, after
    its loss was found far below that.
    """
    data, steps = Repeats(vocab_size=8, context_length=16, period=5), 160
    sizes = {"num_layers": 2, "num_heads": 2, "embed_dim": 32, "positions": "rotary"}
    torch.manual_seed(0)
    network = GPT(TransformerConfig(8, 16, **(sizes | options)))

    def check_result(result: FitResult) -> None:
        loss, chance = result.metrics.get("val_loss", math.inf), math.log(8)
        assert loss < 0.4 * chance, f"loss {loss:.2f} nats, {chance:.2f} is chance"
        if check is not None:
            check(result.module.network.cpu().float().eval())

    learner = LanguageModel(
        network,
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
        scheduler=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-2, total_steps=steps),
        scheduler_interval="step",
    )
    options = {"max_steps": steps, "precision": "32-true"}
    return Recipe(learner, data, options, check_result)


def causal_mask() -> Recipe:
    """It learns, and no logit depends on a later token."""

    def check(model: GPT) -> None:
        ids = torch.arange(16)[None] % 8
        changed = ids.clone()
        changed[:, 9:] = (changed[:, 9:] + 3) % 8
        with torch.no_grad():
            assert torch.equal(model(ids)[:, :9], model(changed)[:, :9]), "the future leaks"

    return copies(check)


def sinusoidal_positions() -> Recipe:
    """Fixed sinusoids tell five steps back from four and six."""
    return copies(positions="sinusoidal")


def rotary_positions() -> Recipe:
    """Turned queries and keys: it learns, and sees distances alone."""

    def check(model: GPT) -> None:
        ids = torch.arange(8)[None]
        x = model.token_embedding(ids)
        query, key = (model.blocks[0].attention.rotary(x, offset) for offset in (3, 1))
        later, sooner = (model.blocks[0].attention.rotary(x, offset) for offset in (8, 6))
        torch.testing.assert_close(query @ key.mT, later @ sooner.mT, rtol=1e-3, atol=1e-5)

    return copies(check, num_heads=1)


def key_value_cache() -> Recipe:
    """Read token by token from the cache, the trained model gives the logits of one pass."""

    def check(model: GPT) -> None:
        ids, cache = torch.arange(16)[None] % 8, model.new_cache()
        with torch.no_grad():
            steps = torch.cat([model(ids[:, t : t + 1], cache) for t in range(16)], dim=1)
            torch.testing.assert_close(steps, model(ids), rtol=1e-4, atol=1e-4)

    return copies(check)


def gpt() -> Recipe:
    """GPT-2's choices: layer norm, tanh GELU, learnt positions; it predicts what it has read."""

    def check(model: GPT) -> None:
        piece = torch.tensor([[3, 1, 4, 1, 5]])
        with torch.no_grad():
            following = model(piece.repeat(1, 3))[0, 5:].argmax(-1)
        assert following.tolist() == piece.repeat(1, 4)[0, 6:16].tolist()

    return copies(check, positions="learnt", feed_forward="gelu_tanh")
