"""The adding problem over 100 steps: a plain RNN at three learning rates against the LSTM.

Called by ``make bench ONLY=adding-problem``. Every run sees fresh sequences, 64 a step, with Adam
and gradients clipped to norm 1, on one thread, until its error on 1,000 other sequences is below
`SOLVED` or its steps are used up. The constant answer has an error of 1/6.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from companion.architectures.chrono import chrono_init_
from companion.architectures.rnn import SequenceClassifier
from companion.data.adding_problem import CHANCE, draw

LENGTH, HIDDEN, BATCH, SOLVED = 100, 64, 64, 0.002
EVALUATE_EVERY = 100
# cell, learning rate, chrono initialisation, steps at most, seeds
RUNS = (
    ("rnn", 1e-3, False, 2000, (0,)),
    ("rnn", 3e-3, False, 2000, (0,)),
    ("rnn", 1e-2, False, 2000, (0,)),
    ("lstm", 1e-2, False, 2000, (0, 1, 2)),
    ("lstm", 1e-2, True, 2000, (0, 1, 2)),
)


def train(cell: str, rate: float, chrono: bool, steps: int, seed: int) -> dict[str, Any]:
    """Train one network; return its settings, errors by step, and processor seconds."""
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = SequenceClassifier(2, 1, hidden_size=HIDDEN, cell=cell)
    if chrono:
        chrono_init_(network.recurrent, longest=LENGTH)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    x_held_out, y_held_out = draw(LENGTH, 1000, generator)
    errors: list[float] = []
    start = time.process_time()
    for step in range(1, steps + 1):
        x, y = draw(LENGTH, BATCH, generator)
        optimizer.zero_grad()
        F.mse_loss(network(x), y).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % EVALUATE_EVERY == 0:
            with torch.no_grad():
                errors.append(round(F.mse_loss(network(x_held_out), y_held_out).item(), 5))
            if errors[-1] < SOLVED:
                break
    seconds = round(time.process_time() - start, 1)
    return {
        "cell": cell,
        "learning_rate": rate,
        "chrono": chrono,
        "seed": seed,
        "steps": step,
        "errors": errors,
        "solved": errors[-1] < SOLVED,
        "cpu_seconds": seconds,
    }


def run() -> dict[str, Any]:
    """Train all of them; print a line each."""
    torch.set_num_threads(1)
    runs = []
    for cell, rate, chrono, steps, seeds in RUNS:
        for seed in seeds:
            runs.append(train(cell, rate, chrono, steps, seed))
            last = runs[-1]
            print(
                f"{cell:4s} lr {rate:g} chrono {chrono!s:5s} seed {seed}: error "
                f"{last['errors'][-1]:.4f} after {last['steps']} steps, {last['cpu_seconds']} s"
            )
    return {
        "length": LENGTH,
        "hidden_size": HIDDEN,
        "batch_size": BATCH,
        "chance": CHANCE,
        "evaluate_every": EVALUATE_EVERY,
        "runs": runs,
    }
