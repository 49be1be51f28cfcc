"""Checks of the adaptive optimizers, as functions of the module under test.

The problem is chosen so that no classic mistake can hide: gradients of 1e-6 on a parameter that
starts at 0 (ε and the corrections are all of its step), rows without gradient, parameters that
get none at all in some steps, two groups with options of their own, learning rates that change,
and a state that is saved, loaded and handed to another optimizer half-way.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.testing import assert_close

TIGHT = {"rtol": 1e-10, "atol": 1e-14}
STEPS = 50
MATRICES = ((6, 4), (3, 5), (4, 4), (1, 3))
SHAPES = ((6, 4), (5,), (4, 3), (1,), (2, 3, 2))


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def start(shapes: tuple[tuple[int, ...], ...]) -> list[nn.Parameter]:
    """Parameters of size 1, but the second starts at 0."""
    values = [normal(shape, index) for index, shape in enumerate(shapes)]
    values[1] = torch.zeros_like(values[1])
    return [nn.Parameter(value) for value in values]


def gradients(shapes: tuple[tuple[int, ...], ...]) -> Iterator[list[Tensor | None]]:
    """For each step: sparse rows, tiny ones, some that are None, huge ones."""
    for step in range(STEPS):
        grads = [normal(shape, 1000 + 10 * step + i) for i, shape in enumerate(shapes)]
        grads[0] = grads[0] * (torch.arange(len(grads[0])) % 5 == step % 5).unsqueeze(1)
        grads[1] = grads[1] * 1e-6
        grads[-1] = grads[-1] * 1e3
        yield [None if i == 2 and step % 3 == 0 else grad for i, grad in enumerate(grads)]


def groups(params: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    return [
        {"params": params[:2]},
        {"params": params[2:], "lr": 0.003, "weight_decay": 3 * decay},
    ]


def set_gradients(params: list[nn.Parameter], grads: list[Tensor | None]) -> None:
    for parameter, grad in zip(params, grads, strict=True):
        parameter.grad = None if grad is None else grad.clone()


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def check_against_torch(
    ours: Callable[..., torch.optim.Optimizer],
    theirs: Callable[..., torch.optim.Optimizer],
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    decay: float = 0.0,
    **options: Any,
) -> None:
    """Fifty steps side by side; ours is saved and restored after 25, torch's is not."""
    mine, other = start(shapes), start(shapes)
    optimizer = ours(groups(mine, decay), weight_decay=decay, **options)
    reference = theirs(groups(other, decay), weight_decay=decay, **options)
    for step, grads in enumerate(gradients(shapes)):
        if step == 20:
            for group in optimizer.param_groups + reference.param_groups:
                group["lr"] *= 0.3
        if step == 25:
            saved = through_a_file(optimizer.state_dict())
            mine = [nn.Parameter(p.detach().clone()) for p in mine]
            optimizer = ours(groups(mine, decay), weight_decay=decay, **options)
            optimizer.load_state_dict(saved)
        set_gradients(mine, grads)
        set_gradients(other, grads)
        optimizer.step()
        reference.step()
        for ours_now, theirs_now, grad in zip(mine, other, grads, strict=True):
            assert_close(ours_now.detach(), theirs_now.detach(), **TIGHT)
            if grad is not None:
                assert torch.equal(ours_now.grad, grad), "the gradient was changed"
    for one, two in zip(mine, other, strict=True):
        for name, value in reference.state[two].items():
            if isinstance(value, Tensor) and value.shape == two.shape:
                assert_close(optimizer.state[one][name], value, **TIGHT)


def check_adagrad(module: ModuleType) -> None:
    theirs = torch.optim.Adagrad
    check_against_torch(module.Adagrad, theirs, lr=0.01)
    check_against_torch(module.Adagrad, theirs, lr=0.01, eps=1e-6, decay=0.1, lr_decay=0.02)
    check_against_torch(module.Adagrad, theirs, lr=0.01, initial_accumulator_value=0.1)


def check_rmsprop(module: ModuleType) -> None:
    theirs = torch.optim.RMSprop
    check_against_torch(module.RMSprop, theirs, lr=0.01)
    check_against_torch(module.RMSprop, theirs, lr=0.01, centered=True, eps=1e-6)
    check_against_torch(module.RMSprop, theirs, lr=0.01, momentum=0.9, alpha=0.9, decay=0.1)
    check_against_torch(module.RMSprop, theirs, lr=0.01, momentum=0.5, centered=True)


def check_adam(module: ModuleType) -> None:
    theirs = torch.optim.Adam
    check_against_torch(module.Adam, theirs, lr=0.01)
    check_against_torch(module.Adam, theirs, lr=0.01, betas=(0.5, 0.8), eps=1e-6, decay=0.1)
    check_against_torch(module.Adam, theirs, lr=0.01, betas=(0.0, 0.9))


def check_amsgrad(module: ModuleType) -> None:
    theirs = torch.optim.Adam
    check_against_torch(module.Adam, theirs, lr=0.01, amsgrad=True, betas=(0.9, 0.8))
    check_against_torch(module.Adam, theirs, lr=0.01, amsgrad=True, decay=0.1)


def check_adamw(module: ModuleType) -> None:
    theirs = torch.optim.AdamW
    check_against_torch(module.AdamW, theirs, lr=0.01, decay=0.1)
    check_against_torch(module.AdamW, theirs, lr=0.01, decay=0.01, amsgrad=True)


def check_muon(module: ModuleType) -> None:
    theirs = torch.optim.Muon
    check_against_torch(module.Muon, theirs, MATRICES, lr=0.01)
    check_against_torch(module.Muon, theirs, MATRICES, lr=0.01, decay=0.1, nesterov=False)
    for name in ("original", "match_rms_adamw"):
        check_against_torch(
            module.Muon, theirs, MATRICES, lr=0.01, decay=0.1, adjust_lr_fn=name, ns_steps=3
        )


def follow_paper(step: Callable[..., tuple[Tensor, ...]], count: bool, buffers: int) -> Tensor:
    """Fifty steps of one of the functions "one step of the paper", on a tiny gradient."""
    theta = normal((3, 4), 0)
    state = [torch.zeros_like(theta) for _ in range(buffers)]
    for t in range(1, STEPS + 1):
        grad = normal((3, 4), t) * (1e-6 if t % 2 else 1)
        theta, *state = step(theta, grad, *state, *([t] if count else []))
    return theta


def follow_torch(optimizer: Callable[..., torch.optim.Optimizer]) -> Tensor:
    theta = nn.Parameter(normal((3, 4), 0))
    running = optimizer([theta])
    for t in range(1, STEPS + 1):
        theta.grad = normal((3, 4), t) * (1e-6 if t % 2 else 1)
        running.step()
    return theta.detach()


def numpy_lion(
    theta: np.ndarray,
    grads: list[np.ndarray | None],
    rates: list[float],
    betas: tuple[float, float],
    decay: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 2 of Chen et al. (2023), written from the paper without torch."""
    momentum = np.zeros_like(theta)
    for grad, rate in zip(grads, rates, strict=True):
        if grad is None:
            continue
        interpolated = betas[0] * momentum + (1.0 - betas[0]) * grad
        theta = theta - rate * (np.sign(interpolated) + decay * theta)
        momentum = betas[1] * momentum + (1.0 - betas[1]) * grad
    return theta, momentum


def check_lion(module: ModuleType) -> None:
    """Fifty steps with all of `gradients`, changing rates and a restored state."""
    for decay, betas in ((0.0, (0.9, 0.99)), (0.1, (0.9, 0.99)), (0.5, (0.95, 0.98))):
        params = start(SHAPES)
        begin = [p.detach().clone().numpy() for p in params]
        optimizer = module.Lion(groups(params, decay), lr=0.01, betas=betas, weight_decay=decay)
        history = list(gradients(SHAPES))
        for step, grads in enumerate(history):
            if step == 20:
                for group in optimizer.param_groups:
                    group["lr"] *= 0.3
            if step == 25:
                saved = through_a_file(optimizer.state_dict())
                params = [nn.Parameter(p.detach().clone()) for p in params]
                optimizer = module.Lion(groups(params, decay), betas=betas)
                optimizer.load_state_dict(saved)
            set_gradients(params, grads)
            optimizer.step()
        for index, parameter in enumerate(params):
            rate, own = (0.01, decay) if index < 2 else (0.003, 3 * decay)
            theta, momentum = numpy_lion(
                begin[index],
                [None if g[index] is None else g[index].numpy() for g in history],
                [rate if step < 20 else 0.3 * rate for step in range(STEPS)],
                betas,
                own,
            )
            assert_close(parameter.detach(), torch.from_numpy(theta), **TIGHT)
            kept = optimizer.state[parameter]["exp_avg"]
            assert_close(kept, torch.from_numpy(momentum), **TIGHT)


def polynomial_of_singular_values(matrix: Tensor, steps: int) -> Tensor:
    """What Newton–Schulz must give: the odd polynomial on the singular values, by NumPy's SVD."""
    u, sigma, vt = np.linalg.svd(matrix.numpy(), full_matrices=False)
    sigma = sigma / np.sqrt((sigma**2).sum())
    for _ in range(steps):
        sigma = 3.4445 * sigma - 4.7750 * sigma**3 + 2.0315 * sigma**5
    return torch.from_numpy((u * sigma) @ vt)


def check_orthogonalize(module: ModuleType) -> None:
    """Wide, tall, square, a row, a column; sizes far from 1."""
    for shape in ((3, 7), (7, 3), (5, 5), (1, 4), (4, 1)):
        for size in (1.0, 1e-4, 1e4):
            for steps in (1, 5):
                matrix = normal(shape, sum(shape)) * size
                result = module.orthogonalize(matrix, steps, dtype=torch.float64)
                expected = polynomial_of_singular_values(matrix, steps)
                assert_close(result, expected, rtol=1e-10, atol=1e-12)
