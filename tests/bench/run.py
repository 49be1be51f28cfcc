"""The benchmarks: `make bench`, or `make bench ONLY=manual-backprop`.

Each one times ours against a named baseline in the same process, in turn, and reports the
ratio round by round (median, and the smallest and largest): absolute times drift with the
machine, ratios within one run do not. Nothing here is a test; no time is asserted.

The long ones (`LONG`) run only by name. Each is a module beside this one with ``run() -> dict``,
the figures; they are stored by `recording.record` in ``companion/results`` with machine, versions
and date, and the pages show them through `companion.recorded`.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

ROUNDS = 7


@dataclass(frozen=True)
class Result:
    """Times in milliseconds (medians) and ours / baseline (median, least, most)."""

    name: str
    ours: str
    baseline: str
    ours_ms: float
    baseline_ms: float
    ratio: float
    least: float
    most: float


def compare(
    name: str, ours: tuple[str, Callable[[], object]], baseline: tuple[str, Callable[[], object]]
) -> Result:
    """Time two callables alternately after a warm-up."""
    for _, run in (ours, baseline):
        run()
    pairs = []
    for _ in range(ROUNDS):
        times = []
        for _, run in (ours, baseline):
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        pairs.append(times)
    ratios = [a / b for a, b in pairs]
    return Result(
        name,
        ours[0],
        baseline[0],
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )


def small_cnn() -> nn.Module:
    """Conv32-pool-Conv64-pool-dropout-dense, the classifier that most tutorials train."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(64 * 7 * 7, 10),
    )


def fit_against_raw_loop(name: str, network: Callable[[], nn.Module], precision: str) -> Result:
    """`fit` for 60 steps, set-up included, against the tightest loop over the same slices."""
    from companion.data.fashion_mnist import FashionMNIST
    from companion.training import Classifier, fit

    steps, batch = 60, 128
    data = FashionMNIST(batch_size=batch, limit=steps * batch, validation_fraction=0.0)
    data.setup()
    x, y = data.train
    optimizer = functools.partial(torch.optim.AdamW, lr=1e-3, fused=True)

    def ours() -> None:
        torch.manual_seed(0)
        module = Classifier(network(), optimizer=optimizer)
        fit(module, data, max_steps=steps, precision=precision, limit_val_batches=0)

    def raw() -> None:
        torch.manual_seed(0)
        net = network().to(memory_format=torch.channels_last)
        opt = optimizer(net.parameters())
        order = torch.randperm(len(x))
        shuffled, labels = x[order].contiguous(memory_format=torch.channels_last), y[order]
        net.train()
        for start in range(0, steps * batch, batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss = F.cross_entropy(
                    net(shuffled[start : start + batch]), labels[start : start + batch]
                )
            opt.zero_grad()
            loss.backward()
            opt.step()

    return compare(name, ("companion.training.fit", ours), ("raw PyTorch loop", raw))


def bench_fit_cnn() -> Result:
    return fit_against_raw_loop("fit-cnn", small_cnn, "32-true")


def bench_fit_mlp() -> Result:
    def mlp() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))

    return fit_against_raw_loop("fit-mlp", mlp, "32-true")


def bench_manual_backprop() -> Result:
    """50 forward and backward passes of one MLP: hand-written against autograd."""
    from companion.backprop import layers, losses

    torch.manual_seed(0)
    x, y = torch.randn(128, 784), torch.randint(10, (128,))
    ours = layers.Sequential(
        layers.Linear(784, 256),
        layers.ReLU(),
        layers.Linear(256, 128),
        layers.ReLU(),
        layers.Linear(128, 10),
    )
    theirs = nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    theirs.load_state_dict(ours.state_dict())

    @torch.no_grad()
    def by_hand() -> None:
        for _ in range(50):
            ours.zero_grad()
            prediction = ours(x)
            ours.backward(losses.CROSS_ENTROPY.backward(prediction, y), input_gradient=False)

    def autograd() -> None:
        for _ in range(50):
            theirs.zero_grad()
            F.cross_entropy(theirs(x), y).backward()

    return compare("manual-backprop", ("hand-written", by_hand), ("torch.autograd", autograd))


def bench_tape() -> Result:
    """50 forward and backward passes of one MLP: our tape against autograd."""
    from companion.backprop import tape_network
    from companion.backprop.tensor import Tensor, cross_entropy

    torch.manual_seed(0)
    x, y = torch.randn(128, 784), torch.randint(10, (128,))
    start = tape_network.mlp_parameters([784, 256, 10])

    @torch.no_grad()
    def ours() -> None:
        for _ in range(50):
            leaves = {k: Tensor(v, requires_grad=True) for k, v in start.items()}
            cross_entropy(tape_network.mlp(Tensor(x), leaves), y).backward()

    def autograd() -> None:
        for _ in range(50):
            leaves = {k: v.clone().requires_grad_() for k, v in start.items()}
            F.cross_entropy(tape_network.mlp(x, leaves), y).backward()

    return compare("tape", ("our tape", ours), ("torch.autograd", autograd))


def bench_optimizers() -> list[Result]:
    """One step of each optimizer on 1 M parameters in 50 tensors, against torch's foreach form."""
    import optimizers

    return [
        compare(
            f"step {name}",
            ("foreach, ours", optimizers.stepper(ours)),
            ("torch.optim, foreach", optimizers.stepper(theirs)),
        )
        for name, (ours, theirs) in optimizers.CASES.items()
    ]


BENCHMARKS = {
    "fit-cnn": bench_fit_cnn,
    "fit-mlp": bench_fit_mlp,
    "manual-backprop": bench_manual_backprop,
    "tape": bench_tape,
    "optimizers": bench_optimizers,
}

# By name only: minutes each. What they measure is stored, and the pages show it.
LONG = ("small-cnn", "adding-problem", "character-gpt")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted([*BENCHMARKS, *LONG]))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.only in LONG:
        from recording import record

        module = importlib.import_module(options.only.replace("-", "_"))
        print(f"stored in {record(options.only, module.run())}")
        return 0
    results = []
    for name, run in BENCHMARKS.items():
        if options.only not in (None, name):
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = run()
        results += found if isinstance(found, list) else [found]
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return 0
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds in turn")
    print(f"{'benchmark':<16} {'ours':>9} {'baseline':>9}  ratio  (least to most)  baseline is")
    for r in results:
        print(
            f"{r.name:<16} {r.ours_ms:7.1f}ms {r.baseline_ms:7.1f}ms  {r.ratio:5.2f}"
            f"  ({r.least:.2f} to {r.most:.2f})     {r.baseline}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
