"""Checks of the page `sgd`, as functions of the module under test.

Ordinary tests run them on the real modules, test_sgd_mistakes.py on mutants.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
EXACT = {"rtol": 1e-10, "atol": 0.0}  # for values that are never 0

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.1},
    "decay": {"lr": 0.1, "weight_decay": 0.01},
    "momentum": {"lr": 0.05, "momentum": 0.9},
    "momentum and decay": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
    "dampening": {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01},
    "nesterov": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "nesterov and decay": {"lr": 0.05, "momentum": 0.7, "nesterov": True, "weight_decay": 0.02},
    "climbing": {"lr": 0.01, "momentum": 0.5, "maximize": True, "weight_decay": 0.1},
}


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters() -> list[nn.Parameter]:
    """Five shapes: a matrix, a vector, a scalar, an empty tensor and a 4-D kernel."""
    shapes = [(4, 3), (5,), (), (0, 3), (2, 1, 3, 3)]
    return [nn.Parameter(normal(shape, seed)) for seed, shape in enumerate(shapes)]


def gradients(steps: int, shapes: list[torch.Size], scale: float) -> Iterator[list[Tensor | None]]:
    """Random gradients; every third step rows that are exactly 0, at times none at all."""
    for step in range(steps):
        values: list[Tensor | None] = []
        for index, shape in enumerate(shapes):
            gradient = scale * normal(tuple(shape), 1000 + 10 * step + index)
            if index == 0 and step % 3 == 1:
                gradient[::2] = 0.0  # rows of an embedding that nobody used
            values.append(gradient)
        if step < 3 or step % 7 == 5:
            values[1] = None  # this one takes part later, and misses some steps
        yield values


def run(
    optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: int, scale: float
) -> None:
    for values in gradients(steps, [w.shape for w in weights], scale):
        for weight, value in zip(weights, values, strict=True):
            weight.grad = value
        optimizer.step()


def assert_same_weights(ours: list[nn.Parameter], theirs: list[nn.Parameter]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other, **EXACT)


def check_against_torch(
    module: ModuleType, options: dict[str, Any], scale: float, **theirs_options: Any
) -> None:
    """50 steps in float64: weights and, where there are any, buffers."""
    ours, theirs = parameters(), parameters()
    run(module.SGD(ours, **options), ours, 50, scale)
    run(torch.optim.SGD(theirs, **options, **theirs_options), theirs, 50, scale)
    assert_same_weights(ours, theirs)


def check_all_options(module: ModuleType) -> None:
    """The moves are compared too: with gradients of 1e-6 the weights alone would hide them."""
    for options in OPTIONS.values():
        for scale in (1.0, 1e-6):
            check_against_torch(module, options, scale)
            ours, theirs = parameters(), parameters()
            for mine, other in zip(ours, theirs, strict=True):
                mine.data.mul_(scale)
                other.data.mul_(scale)
            run(module.SGD(ours, **options), ours, 50, scale)
            run(torch.optim.SGD(theirs, **options), theirs, 50, scale)
            assert_same_weights(ours, theirs)


def check_naive_step(module: ModuleType) -> None:
    """The one-tensor function against torch, over 20 steps."""
    for options in (o for o in OPTIONS.values() if "maximize" not in o):
        theirs = nn.Parameter(normal((3, 2), 0))
        weight, buffer = theirs.detach().clone(), None
        optimizer = torch.optim.SGD([theirs], **options)
        for step in range(20):
            gradient = normal((3, 2), 100 + step)
            theirs.grad = gradient.clone()
            optimizer.step()
            weight, buffer = module.sgd_step(weight, gradient, buffer, **options)
            assert_close(weight, theirs.detach(), **EXACT)


def check_groups(module: ModuleType) -> None:
    """Three groups, each with options of its own, one added later on."""

    def build(kind: Callable[..., torch.optim.Optimizer], weights: list[nn.Parameter]) -> Any:
        groups = [
            {"params": weights[:2], "lr": 0.2, "momentum": 0.5},
            {"params": weights[2:4], "weight_decay": 0.3, "nesterov": True},
        ]
        optimizer = kind(groups, lr=0.05, momentum=0.9)
        optimizer.add_param_group({"params": weights[4:], "momentum": 0.0})
        return optimizer

    ours, theirs = parameters(), parameters()
    run(build(module.SGD, ours), ours, 50, 1.0)
    run(build(torch.optim.SGD, theirs), theirs, 50, 1.0)
    assert_same_weights(ours, theirs)


def check_resuming(module: ModuleType) -> None:
    """Stop after 20 steps, hand the state to a new optimizer, go on: ours and torch's mixed."""
    options = OPTIONS["nesterov and decay"]
    expected = parameters()
    optimizer = torch.optim.SGD(expected, **options)
    run(optimizer, expected, 20, 1.0)
    run(optimizer, expected, 30, 1.0)
    for first, second in (
        (module.SGD, module.SGD),
        (module.SGD, torch.optim.SGD),
        (torch.optim.SGD, module.SGD),
    ):
        weights = parameters()
        before = first(weights, **options)
        run(before, weights, 20, 1.0)
        state = copy.deepcopy(before.state_dict())
        after = second(weights, lr=1.0)
        after.load_state_dict(state)
        run(after, weights, 30, 1.0)
        assert_same_weights(weights, expected)


def check_gradients_untouched(module: ModuleType) -> None:
    for options in OPTIONS.values():
        weights = parameters()
        optimizer = module.SGD(weights, **options)
        for seed in (0, 1):
            for weight in weights:
                weight.grad = normal(tuple(weight.shape), seed)
            optimizer.step()
            for weight in weights:
                assert torch.equal(weight.grad, normal(tuple(weight.shape), seed))


def check_gradients_in_place(module: ModuleType) -> None:
    """`zero_grad(set_to_none=False)` reuses the gradients' memory; the buffers must not notice."""
    ours, theirs = nn.Parameter(normal((3,), 0)), nn.Parameter(normal((3,), 0))
    pairs = [(ours, module.SGD), (theirs, torch.optim.SGD)]
    for weight, kind in pairs:
        optimizer = kind([weight], lr=0.1, momentum=0.9)
        weight.grad = torch.zeros_like(weight)
        for seed in range(5):
            weight.grad.copy_(normal((3,), seed))
            optimizer.step()
    assert_close(ours, theirs, **EXACT)


def check_nesterov_forms(module: ModuleType) -> None:
    """torch's w is the paper's look-ahead w + μ v, and v = −η b, step after step."""
    curvature = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)

    def gradient(w: Tensor) -> Tensor:
        return curvature * w + 0.1 * w**3  # not a quadratic: the identity needs none

    lr, momentum = 0.1, 0.8
    weight, velocity = normal((3,), 0), torch.zeros(3, dtype=torch.float64)
    look_ahead, buffer = weight.clone(), None
    for _ in range(30):
        weight, velocity = module.nesterov_step(
            weight, velocity, gradient, lr=lr, momentum=momentum
        )
        look_ahead, buffer = module.sgd_step(
            look_ahead, gradient(look_ahead), buffer, lr=lr, momentum=momentum, nesterov=True
        )
        assert_close(look_ahead, weight + momentum * velocity, **TIGHT)
        assert_close(velocity, -lr * buffer, **TIGHT)


def check_nesterov_1983(module: ModuleType) -> None:
    """And the two-sequence form: x₊ = y − η∇(y), y₊ = x₊ + μ (x₊ − x)."""
    curvature = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    lr, momentum = 0.1, 0.8
    x = y = normal((3,), 0)
    weight, velocity = x, torch.zeros_like(x)
    for _ in range(30):
        before, x = x, y - lr * curvature * y
        y = x + momentum * (x - before)
        weight, velocity = module.nesterov_step(
            weight, velocity, lambda w: curvature * w, lr=lr, momentum=momentum
        )
        assert_close(weight, x, **TIGHT)


def check_heavy_ball(module: ModuleType) -> None:
    """Polyak's form equals momentum without dampening."""
    weight = before = mine = normal((3,), 0)
    buffer = None
    for step in range(30):
        gradient = normal((3,), step + 1)
        weight, before = module.heavy_ball_step(weight, before, gradient, lr=0.1, momentum=0.8)
        mine, buffer = module.sgd_step(mine, gradient, buffer, lr=0.1, momentum=0.8)
        assert_close(weight, mine, **TIGHT)


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def gradient_of(network: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in network.parameters()]


def check_accumulation(module: ModuleType) -> None:
    """The gradient of 23 samples from micro-batches of every size, uneven ones included."""
    x, y = normal((23, 6), 1), torch.arange(23) % 3
    for size in (1, 4, 5, 22, 23, 100):
        whole, parts = mlp(), mlp()
        loss = F.cross_entropy(whole(x), y)
        loss.backward()
        total = module.accumulate_gradients(parts, F.cross_entropy, x, y, micro_batch_size=size)
        assert_close(total, loss.detach(), **EXACT)
        for mine, other in zip(gradient_of(parts), gradient_of(whole), strict=True):
            assert_close(mine, other, **TIGHT)


def check_noise_from_two(module: ModuleType) -> None:
    """Gaussian gradients of known |G|² and tr Σ: the mean estimate is within 4 standard errors."""
    dimensions, small, big, trials = 40, 4, 64, 20_000
    mean = normal((dimensions,), 0)
    spread = 0.5 + normal((dimensions,), 1).abs()
    noise = normal((trials, dimensions), 2) * spread
    other = normal((trials, dimensions), 3) * spread
    of_small = (mean + noise / small**0.5).square().sum(1)
    of_big = (mean + other / big**0.5).square().sum(1)
    signals, noises = module.noise_from_two(of_small, of_big, small=small, big=big)
    for estimates, truth in ((signals, mean.square().sum()), (noises, spread.square().sum())):
        error = estimates.std() / trials**0.5
        assert (estimates.mean() - truth).abs() < 4 * error
        assert error < 0.01 * truth  # the bound above is a tight one


def check_noise_of(module: ModuleType) -> None:
    """Per-sample gradients of known mean and covariance, few samples, many draws."""
    dimensions, samples, trials = 10, 5, 4000
    mean = 0.3 * normal((dimensions,), 0)
    spread = 0.5 + normal((dimensions,), 1).abs()
    draws = mean + spread * normal((trials, samples, dimensions), 2)
    found = torch.tensor([module.noise_of(draw) for draw in draws], dtype=torch.float64)
    truth = torch.stack([mean.square().sum(), spread.square().sum()])
    error = found.std(0) / trials**0.5
    assert ((found.mean(0) - truth).abs() < 4 * error).all()


def check_reshuffling(module: ModuleType) -> None:
    """Every epoch is a permutation, and not that of the epoch before."""
    order = torch.cat(list(module.batches(50, 8, epochs=3, order="reshuffled"))).reshape(3, 50)
    for epoch in order:
        assert torch.equal(epoch.sort().values, torch.arange(50))
    assert not torch.equal(order[0], order[1])
    assert not torch.equal(order[1], order[2])
    assert not torch.equal(order[0], torch.arange(50))


def check_variance_of_mean(module: ModuleType) -> None:
    """Against the exact average over all batches of a small population."""
    import itertools

    population = normal((6,), 0)
    variance = population.var(correction=0).item()
    for size in (1, 2, 3, 6):
        ordered = itertools.product(range(6), repeat=size)
        means = torch.stack([population[list(rows)].mean() for rows in ordered])
        expected = means.var(correction=0).item()
        assert_close(module.variance_of_mean(variance, size), expected, rtol=1e-9, atol=1e-12)
        chosen = itertools.combinations(range(6), size)
        means = torch.stack([population[list(rows)].mean() for rows in chosen])
        expected = means.var(correction=0).item()
        found = module.variance_of_mean(variance, size, population=6)
        assert_close(found, expected, rtol=1e-9, atol=1e-12)
