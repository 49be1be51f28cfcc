"""A character GPT on Shakespeare's plays in 15 CPU-minutes on one thread, an n-gram beside it.

Called by ``make bench ONLY=character-gpt``. The budget counts processor time spent in training:
evaluations in between are free, and other programs on the machine do not count. The learning
rate follows the share of the budget that is used up, so the schedule ends when the time does.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from companion.architectures.ngram import NGram
from companion.architectures.transformer import GPT, TransformerConfig
from companion.data.shakespeare import ALPHABET, Shakespeare, encode_characters
from companion.training import LanguageModel, fit

CPU_SECONDS = 900.0
BATCH_SIZE, LEARNING_RATE, WARM_UP = 16, 2e-3, 0.05
CONFIG = TransformerConfig(
    vocab_size=len(ALPHABET),
    context_length=128,
    num_layers=4,
    num_heads=4,
    embed_dim=128,
    norm="rms",
    feed_forward="swiglu",
    positions="rotary",
    bias=False,
)


class Budget(Callback):
    """Stop when the processor time is used up; measure the validation loss on the way."""

    def __init__(self, seconds: float, x: torch.Tensor, y: torch.Tensor) -> None:
        self.seconds, self.x, self.y = seconds, x, y
        self.spent, self.since = 0.0, time.process_time()
        self.curve: list[dict[str, float]] = []
        self.marks = [seconds * share for share in (1 / 60, 1 / 30, 1 / 15, 2 / 15)]
        self.marks += [seconds * share / 10 for share in range(2, 10)]

    def share(self) -> float:
        """Return how much of the budget is used up, 0 to 1."""
        return min(1.0, (self.spent + time.process_time() - self.since) / self.seconds)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Read the clock."""
        spent = self.share() * self.seconds
        if self.share() == 1.0:
            trainer.should_stop = True
        elif not self.marks or spent < self.marks[0]:
            return
        else:
            self.marks.pop(0)
        self.spent = spent
        point = {
            "cpu_seconds": round(spent, 1),
            "steps": trainer.global_step,
            "validation_loss": round(mean_loss(module.network, self.x, self.y), 4),
        }
        self.curve.append(point)
        print(point, flush=True)
        self.since = time.process_time()


@torch.no_grad()
def mean_loss(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the mean loss in float32 over windows (N, T), in nats a character."""
    training = network.training
    network.eval()
    total = 0.0
    with torch.autocast("cpu", enabled=False):
        for part, targets in zip(x.split(64), y.split(64), strict=True):
            total += float(
                F.cross_entropy(network(part).flatten(0, 1), targets.flatten(), reduction="sum")
            )
    network.train(training)
    return total / y.numel()


@torch.no_grad()
def sliding_loss(network: torch.nn.Module, ids: torch.Tensor, length: int) -> float:
    """Return the mean loss where each character but the first few has half a context or more."""
    network.eval()
    half, total = length // 2, 0.0
    x, y = ids[:-1].unfold(0, length, half), ids[1:].unfold(0, length, half)
    for part, targets in zip(x.split(64), y.split(64), strict=True):
        logits = network(part)[:, half:]
        total += float(
            F.cross_entropy(logits.flatten(0, 1), targets[:, half:].flatten(), reduction="sum")
        )
    return total / (len(x) * (length - half))


def run(cpu_seconds: float = CPU_SECONDS) -> dict[str, Any]:
    """Train, measure on held-out plays, and return the figures."""
    torch.set_num_threads(1)
    data = Shakespeare(
        BATCH_SIZE, CONFIG.context_length, stride=CONFIG.context_length // 2, drop_last=True
    )
    data.setup()
    torch.manual_seed(0)
    network = GPT(CONFIG)
    budget = Budget(cpu_seconds, *(part[:512] for part in data.validation))

    def factor(step: int) -> float:
        share = budget.share() if step else 0.0
        if share < WARM_UP:
            return max(share / WARM_UP, 0.01)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))

    module = LanguageModel(
        network,
        optimizer=partial(
            torch.optim.AdamW, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        ),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
        scheduler_interval="step",
    )
    # The fused attention kernel is slow backwards on a CPU where sequences are short.
    with sdpa_kernel(SDPBackend.MATH):
        budget.since = time.process_time()
        result = fit(module, data, epochs=1000, callbacks=[budget], limit_val_batches=0)
        losses = {name: mean_loss(network, *getattr(data, name)) for name in ("validation", "test")}
        streams = {name: torch.tensor(encode_characters(data.texts[name])) for name in data.texts}
        sliding = {
            name: sliding_loss(network, streams[name], CONFIG.context_length) for name in losses
        }
    ngrams = {}
    for order in range(1, 9):
        model = NGram(order, len(ALPHABET), discount=0.9).fit(streams["train"])
        ngrams[order] = {name: round(model.loss(streams[name]), 4) for name in losses}
    steps = len(result.step_losses)
    return {
        "cpu_seconds": cpu_seconds,
        "steps": steps,
        "tokens": steps * BATCH_SIZE * CONFIG.context_length,
        "training_characters": len(data.texts["train"]),
        "parameters": sum(p.numel() for p in network.parameters()),
        "config": asdict(CONFIG),
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "precision": str(result.trainer.precision),
        "threads": 1,
        "curve": budget.curve,
        "validation_loss": round(losses["validation"], 4),
        "test_loss": round(losses["test"], 4),
        "sliding_validation_loss": round(sliding["validation"], 4),
        "sliding_test_loss": round(sliding["test"], 4),
        "ngram": ngrams,
    }
