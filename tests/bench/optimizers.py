"""Benchmarks of the optimizers: one step on 1 M parameters in 50 tensors, ours against torch's.

Each entry of ``CASES`` is a name, our optimizer and torch's own foreach version, both as
``parameters -> Optimizer``; `run.py` times them in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from companion.optimization.adam import Adam, AdamW
from companion.optimization.adaptive import Adagrad, RMSprop
from companion.optimization.muon import Muon
from companion.optimization.sgd import SGD

Factory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
TENSORS, ROWS, COLUMNS, STEPS = 50, 200, 100, 20  # 50 × 20,000 = 1 M parameters

CASES: dict[str, tuple[Factory, Factory]] = {}


def add(name: str, ours: Any, theirs: Any, **options: Any) -> None:
    """Add a case: both classes with the same options, torch's with foreach=True."""
    CASES[name] = (partial(ours, **options), partial(theirs, foreach=True, **options))


add("sgd", SGD, torch.optim.SGD, lr=1e-3)
add("sgd-momentum", SGD, torch.optim.SGD, lr=1e-3, momentum=0.9, weight_decay=1e-4)
add("sgd-nesterov", SGD, torch.optim.SGD, lr=1e-3, momentum=0.9, nesterov=True)
add("adagrad", Adagrad, torch.optim.Adagrad, lr=1e-3)
add("rmsprop", RMSprop, torch.optim.RMSprop, lr=1e-3)
add("rmsprop-centered", RMSprop, torch.optim.RMSprop, lr=1e-3, centered=True, momentum=0.9)
add("adam", Adam, torch.optim.Adam, lr=1e-3)
add("amsgrad", Adam, torch.optim.Adam, lr=1e-3, amsgrad=True)
add("adamw", AdamW, torch.optim.AdamW, lr=1e-3)
# torch.optim has no Lion, and of Muon one version, which loops over the matrices.
CASES["muon"] = (partial(Muon, lr=1e-3), partial(torch.optim.Muon, lr=1e-3))


def stepper(factory: Factory) -> Callable[[], None]:
    """Return a function that takes STEPS steps with one fixed gradient."""
    generator = torch.Generator().manual_seed(0)
    weights = [
        nn.Parameter(torch.randn(ROWS, COLUMNS, generator=generator)) for _ in range(TENSORS)
    ]
    for weight in weights:
        weight.grad = torch.randn(ROWS, COLUMNS, generator=generator)
    optimizer = factory(weights)

    def run() -> None:
        for _ in range(STEPS):
            optimizer.step()

    return run
