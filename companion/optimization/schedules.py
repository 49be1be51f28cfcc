"""Learning rate schedules: functions of the step, and the same as schedulers for ``Learner``.

A schedule is a function step → factor. Step t counts the optimizer's steps (or epochs, if the
scheduler advances once an epoch) from 0, and step t is taken with the rate

    η_t = η · f(t),    η: the learning rate that the optimizer was given, its peak.

    step_decay              γ^⌊t/s⌋
    exponential             γ^t
    cosine                  e + (1 − e)(1 + cos(π t/T))/2
    cosine_restarts         the same with t counted from the last restart
    linear_warmup           min(1, (t + 1)/w)
    inverse_square_root     min((t + 1)/w, √(w/(t + 1)))
    one_cycle               cosine up from s to 1, cosine down to e
    warmup_stable_decay     up, 1, down
    plateau                 γ^(number of times that the metric stopped falling)

A run of T steps has the last one at t = T − 1. Decays reach their end e at t = T, which is the
step *after* the last: a last step with rate 0 would be wasted. (`one_cycle` is made to reach it
at T − 1, as its authors' code does, and e > 0.) From t = T on, the factor stays at e.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from companion.arguments import check_integer, check_rule
from companion.optimization.one_cycle import OneCycle, one_cycle

Factor = Callable[..., float]
SHAPES = ("linear", "sqrt")


def _check_gamma(gamma: float) -> None:
    check_rule("gamma", gamma, lambda g: 0 < g <= 1, "a number in (0, 1]")


def _check_final(final: float) -> None:
    check_rule("final", final, lambda e: 0 <= e <= 1, "a number in [0, 1]")


def _check_steps(step: int, total_steps: int, warmup_steps: int) -> None:
    check_integer("step", step, minimum=0)
    check_integer("total_steps", total_steps, minimum=1)
    check_integer("warmup_steps", warmup_steps, minimum=0)
    if warmup_steps > total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps}: at most total_steps={total_steps} is possible"
        )


def constant(step: int) -> float:
    """Return 1."""
    check_integer("step", step, minimum=0)
    return 1.0


def step_decay(step: int, *, step_size: int, gamma: float = 0.1) -> float:
    """Return ``gamma ** (step // step_size)``: a drop by `gamma` every `step_size` steps.

    Raises:
        ValueError: a negative step, `step_size` below 1, `gamma` outside (0, 1].
    """
    check_integer("step", step, minimum=0)
    check_integer("step_size", step_size, minimum=1)
    _check_gamma(gamma)
    return gamma ** (step // step_size)


def exponential(step: int, *, gamma: float) -> float:
    """Return ``gamma ** step``.

    Raises:
        ValueError: a negative step, `gamma` outside (0, 1].
    """
    check_integer("step", step, minimum=0)
    _check_gamma(gamma)
    return gamma**step


def cosine(step: int, *, total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> float:
    """Return half a cosine from 1 to `final`, after a linear warm-up if there is one.

    Source: Loshchilov and Hutter, "SGDR" (2017), equation 5 without restarts.

    Raises:
        ValueError: a negative step, a warm-up longer than the run, `final` outside [0, 1].
    """
    _check_steps(step, total_steps, warmup_steps)
    _check_final(final)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step >= total_steps:
        return final
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def cosine_restarts(step: int, *, period: int, growth: int = 1, final: float = 0.0) -> float:
    """Return a cosine that starts again after `period` steps, each period `growth` times longer.

    Source: Loshchilov and Hutter, "SGDR" (2017), equation 5; their T_0 and T_mult.

    Raises:
        ValueError: a negative step, `period` or `growth` below 1, `final` outside [0, 1].
    """
    check_integer("step", step, minimum=0)
    check_integer("period", period, minimum=1)
    check_integer("growth", growth, minimum=1)
    _check_final(final)
    if growth == 1:
        step %= period
    while step >= period:  # integers: a logarithm would miss restarts by rounding
        step -= period
        period *= growth
    return final + (1 - final) * (1 + math.cos(math.pi * step / period)) / 2


def linear_warmup(step: int, *, warmup_steps: int) -> float:
    """Return ``min(1, (step + 1) / warmup_steps)``: step 0 is not wasted on a rate of 0.

    Source: Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.2.

    Raises:
        ValueError: a negative step, `warmup_steps` below 1.
    """
    check_integer("step", step, minimum=0)
    check_integer("warmup_steps", warmup_steps, minimum=1)
    return min(1.0, (step + 1) / warmup_steps)


def inverse_square_root(step: int, *, warmup_steps: int) -> float:
    """Return ``min(n/w, sqrt(w/n))`` with n = step + 1 and w = `warmup_steps`; 1 at n = w.

    Source: Vaswani et al., "Attention Is All You Need" (2017), equation 3, without its choice
    of the peak ``1 / sqrt(width * w)``.

    Raises:
        ValueError: a negative step, `warmup_steps` below 1.
    """
    check_integer("step", step, minimum=0)
    check_integer("warmup_steps", warmup_steps, minimum=1)
    return min((step + 1) / warmup_steps, math.sqrt(warmup_steps / (step + 1)))


def warmup_stable_decay(
    step: int,
    *,
    total_steps: int,
    decay_steps: int,
    warmup_steps: int = 0,
    final: float = 0.0,
    shape: str = "linear",
) -> float:
    """Return a linear warm-up, then 1, then a decay to `final` in the last `decay_steps`.

    Args:
        step: from 0.
        total_steps: of the run.
        decay_steps: how many of them decay.
        warmup_steps: how many of them warm up.
        final: the factor at the end of the decay.
        shape: of the decay in its progress p: ``"linear"``, 1 − p, or ``"sqrt"``, 1 − √p.

    Source: Hu et al., "MiniCPM" (2024), section 4.

    Raises:
        ValueError: a negative step, warm-up and decay longer than the run, an unknown shape.
    """
    _check_steps(step, total_steps, warmup_steps)
    check_integer("decay_steps", decay_steps, minimum=0)
    _check_final(final)
    if shape not in SHAPES:
        raise ValueError(f"shape={shape!r}: one of {SHAPES} is needed")
    if warmup_steps + decay_steps > total_steps:
        raise ValueError(
            f"decay_steps={decay_steps}: with warmup_steps={warmup_steps} at most "
            f"{total_steps - warmup_steps} of total_steps={total_steps} are left"
        )
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step >= total_steps:
        return final if decay_steps else 1.0
    left = total_steps - step
    if left >= decay_steps:
        return 1.0
    progress = 1 - left / decay_steps
    return final + (1 - final) * (1 - (progress if shape == "linear" else math.sqrt(progress)))


def plateau(
    metrics: Sequence[float],
    *,
    gamma: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    cooldown: int = 0,
) -> float:
    """Return the factor after a history of a metric that should fall, e.g. the validation loss.

    A value is an improvement if it is below ``(1 - threshold)`` times the best. After more than
    `patience` values in a row without one, the factor is multiplied by `gamma`, and the next
    `cooldown` values are not counted.

    Raises:
        ValueError: `gamma` outside (0, 1), a negative `patience` or `cooldown`, `threshold`
            outside [0, 1).
    """
    check_rule("gamma", gamma, lambda g: 0 < g < 1, "a number in (0, 1)")
    check_integer("patience", patience, minimum=0)
    check_integer("cooldown", cooldown, minimum=0)
    check_rule("threshold", threshold, lambda t: 0 <= t < 1, "a number in [0, 1)")
    factor, best, bad, cooling = 1.0, math.inf, 0, 0
    for value in metrics:
        better = value < best * (1 - threshold)
        best, bad = (value, 0) if better else (best, bad + 1)
        if cooling > 0:
            cooling, bad = cooling - 1, 0
        if bad > patience:
            factor, bad, cooling = factor * gamma, 0, cooldown
    return factor


def _by_factor(factor: Factor, optimizer: torch.optim.Optimizer, **options: Any) -> LambdaLR:
    # A partial, not an object with attributes: a checkpoint then holds the step and not the
    # options, so a run can go on from it under another plan.
    return LambdaLR(optimizer, partial(factor, **options))


def _by_metric(
    optimizer: torch.optim.Optimizer, *, gamma: float = 0.1, **options: Any
) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(optimizer, factor=gamma, eps=0.0, **({"patience": 10} | options))


FACTORS: Mapping[str, Factor] = {
    function.__name__: function
    for function in (
        constant,
        step_decay,
        exponential,
        cosine,
        cosine_restarts,
        linear_warmup,
        inverse_square_root,
        one_cycle,
        warmup_stable_decay,
        plateau,
    )
}


def schedule(name: str, **options: Any) -> Callable[[torch.optim.Optimizer], LRScheduler]:
    """Return what ``Classifier(scheduler=…)`` takes: a function optimizer → scheduler.

        Classifier(network, scheduler=schedule("cosine", total_steps=500, warmup_steps=50),
                   scheduler_interval="step")

    Args:
        name: of a function of this module. ``"plateau"`` watches the validation loss and wants
            ``scheduler_interval="epoch"``.
        options: its keyword arguments; for ``"one_cycle"`` also `momentum`, see
            :class:`OneCycle`.

    Raises:
        ValueError: an unknown name or option, a missing one, one out of range; when the
            optimizer is there, a learning rate that is not positive.
    """
    if name not in FACTORS:
        near = difflib.get_close_matches(str(name), FACTORS, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(FACTORS)}"
        raise ValueError(f"name={name!r} is not a schedule: {hint}")
    given = dict(options)
    if name == "one_cycle":
        given.pop("momentum", None)
    _, *parameters = inspect.signature(FACTORS[name]).parameters.values()
    for option in given:
        if option not in {parameter.name for parameter in parameters}:
            listed = ", ".join(parameter.name for parameter in parameters) or "none"
            raise ValueError(f"{option}={given[option]!r}: {name} has no such option, but {listed}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in given:
            raise ValueError(f"{parameter.name} is missing: {name} needs it")
    FACTORS[name]([] if name == "plateau" else 0, **given)
    return partial(_attach, name, options)


def _attach(name: str, options: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> LRScheduler:
    for group in optimizer.param_groups:
        if not group["lr"] > 0:
            raise ValueError(f"lr={group['lr']!r}: the optimizer needs a positive learning rate")
    if name == "plateau":
        return _by_metric(optimizer, **options)
    if name == "one_cycle":
        return OneCycle(optimizer, **options)
    return _by_factor(FACTORS[name], optimizer, **options)
