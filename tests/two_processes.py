"""Train in two processes and store what came of it; run by tests in an interpreter of its own.

The processes are forked, which takes a moment where spawning them takes ten seconds; a fork is
safe only in a process without threads, which the one that runs pytest is not.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from torch import Tensor, nn

from companion.data.arrays import Arrays
from companion.training import Classifier, NonFiniteLossError, fit


def part(samples: int) -> tuple[Tensor, Tensor]:
    """Inputs (samples, 3) and classes (samples,), the same in every process."""
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    return x, torch.arange(samples) % 4


def data(batch_size: int) -> Arrays:
    """22, 13 and 9 samples: of the last batches, processes get 3 and 3, 3 and 2, 1 and 0 or 1."""
    return Arrays(part(22), part(13), part(9), batch_size=batch_size)


def classifier() -> Classifier:
    """A linear classifier with momentum, the same in every process."""
    torch.manual_seed(0)
    network = nn.Linear(3, 4, dtype=torch.float64)
    return Classifier(network, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9))


def main(path: str) -> None:
    """Store the results in the file `path`."""
    options = {"devices": 2, "strategy": "ddp_fork"}
    module = classifier()
    result = fit(module, data(4), epochs=2, test=True, **options)
    again = fit(classifier(), data(4), epochs=2, **options)
    whole = fit(classifier(), data(8), epochs=2, use_distributed_sampler=False, **options)
    x, y = part(22)
    spoilt = Arrays((x, y), batch_size=4)
    x[5] = torch.nan  # after Arrays has looked, or it would refuse them
    try:
        fit(classifier(), spoilt, **options)
        error = ""
    except NonFiniteLossError as caught:
        error = str(caught)
    torch.save(
        {
            "step_losses": result.step_losses,
            "history": result.history,
            "metrics": result.metrics,
            "weight": module.network.weight.detach(),
            "again": again.step_losses,
            "whole": whole.step_losses,
            "error": error,
        },
        path,
    )


if __name__ == "__main__":
    main(sys.argv[1])
