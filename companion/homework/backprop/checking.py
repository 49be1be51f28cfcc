"""Judge of gradient-check: which entries of a claimed gradient are wrong.

Each case is a function with a known gradient, some entries of which are then spoilt on purpose.
No entry of a true gradient is near 0, so that "relative to the larger of the two" is meant as it
says, and rounding leaves a factor of 100 to the tolerance of 1e-5 that the task states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from companion.homework.tasks import Answers, Inputs, Wrong

FREQUENCY = 200.0


@dataclass(frozen=True)
class Case:
    """A function and what is spoilt in its gradient.

    Attributes:
        kind: see :func:`companion.homework.scenarios.backprop.scalar_function`.
        scale: factor of function and gradient.
        shape: of x.
        spoil: ``nothing``, ``slightly``, ``smallest``, ``sign``, ``factor``, ``zero``, ``nan`` or
            ``transpose``.
        hint: what a wrong verdict on this case is usually due to.
        size: rough size of the entries of x.
    """

    kind: str
    scale: float
    shape: tuple[int, ...]
    spoil: str
    hint: str
    size: float = 1.0


ONE_AT_A_TIME = "change one entry of x at a time, and compare it with that entry of the gradient"
RELATIVE = "this function is scaled by {}: a tolerance must be relative to the numbers compared"
STRONGLY_CURVED = (
    "this function bends strongly: a forward difference, or a step above 1e-5, is off by more "
    "than the tolerance; a central difference has an error of h²"
)
LARGE_X = (
    "here x is about 1000: with so small a step nothing but rounding is left of f(x+h) − f(x−h)"
)
NOT_A_NUMBER = "a claim of nan is wrong, and every comparison with nan is False"
BOTH_WAYS = "look at every entry; a claim may be too small as well as too large"
PER_MILLE = "an entry that is off by 0.1 % is wrong: the tolerance is 1e-5"
ALWAYS = (
    "every entry is called wrong, always: is the difference f(x+h) − f(x−h) divided by 2h, and is "
    "h not so small that rounding is all that is left?"
)
NEVER = "no entry is ever called wrong"
UPSIDE_DOWN = "True marks a wrong entry, not a right one"
OWN_SIZE = "one entry is 1000 times smaller than the others: compare each with its own size"

CASES = (
    Case("quadratic", 1.0, (6,), "nothing", ONE_AT_A_TIME),
    Case("waves", 1.0, (8,), "nothing", STRONGLY_CURVED),
    Case("quadratic", 1.0, (2, 3), "sign", BOTH_WAYS),
    Case("quadratic", 1.0, (7,), "slightly", PER_MILLE),
    Case("quadratic", 1e-8, (2, 3), "slightly", RELATIVE.format("1e-8")),
    Case("quadratic", 1e8, (3, 4), "nothing", RELATIVE.format("1e8")),
    Case("quadratic", 1.0, (5,), "smallest", OWN_SIZE),
    Case("quadratic", 1.0, (12,), "nothing", LARGE_X, size=1e3),
    Case("waves", 1e8, (2, 2, 2), "slightly", RELATIVE.format("1e8")),
    Case("growth", 1.0, (5,), "factor", "every entry is 5 times too large here, and each is wrong"),
    Case("growth", 1e-8, (1,), "nothing", RELATIVE.format("1e-8")),
    Case("growth", 1.0, (4,), "zero", BOTH_WAYS),
    Case("growth", 1.0, (3, 2), "nan", NOT_A_NUMBER),
    Case("growth", 1.0, (3, 3), "transpose", ONE_AT_A_TIME),
)


def draw(rng: np.random.Generator) -> Inputs:
    """Draw every case; ``claim`` is its gradient after spoiling."""
    inputs: Inputs = {
        "kinds": [case.kind for case in CASES],
        "scales": [case.scale for case in CASES],
    }
    for i, case in enumerate(CASES):
        x, a, b, gradient = draw_function(rng, case)
        claim, _ = spoil(rng, case, case.scale * gradient)
        inputs |= {f"x{i}": x, f"a{i}": a, f"b{i}": b, f"claim{i}": claim}
    return inputs


def draw_function(
    rng: np.random.Generator, case: Case
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x, the function's two parameters, and the gradient of the unscaled function."""
    count = int(np.prod(case.shape))
    sizes = rng.uniform(0.5, 2.0, count) * rng.choice([-1.0, 1.0], count)
    if case.kind == "quadratic":
        x = case.size * rng.standard_normal(count)
        a = rng.standard_normal((count, count)) / case.size
        gradient = sizes
        if case.spoil == "smallest":
            gradient[rng.integers(count)] *= 1e-3
        b = gradient - 0.5 * (a + a.T) @ x
    elif case.kind == "waves":
        angle = rng.uniform(-1.0, 1.0, count)
        a = np.array(FREQUENCY)
        x = (angle + 2 * np.pi * rng.integers(0, 30, count)) / a
        b, gradient = sizes, sizes * a * np.cos(angle)
    else:
        a = np.array(1.0)
        x = rng.uniform(-1.0, 1.0, count)
        b, gradient = sizes, sizes * np.exp(x)
    return x.reshape(case.shape), a, b, gradient.reshape(case.shape)


def spoil(
    rng: np.random.Generator, case: Case, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradient with some entries made wrong, and where they are."""
    claim = gradient.copy()
    flat = claim.reshape(-1)
    some = rng.permutation(flat.size)[: max(1, flat.size // 3)]
    if case.spoil == "slightly":
        flat[some] *= 1 + 1e-3 * rng.choice([-1.0, 1.0], len(some))
    elif case.spoil == "smallest":
        flat[np.argmin(np.abs(flat))] *= 1.001
    elif case.spoil == "sign":
        flat[some] *= -1
    elif case.spoil == "factor":
        flat *= flat.size
    elif case.spoil == "zero":
        flat[some] = 0
    elif case.spoil == "nan":
        flat[some] = np.nan
    elif case.spoil == "transpose":
        claim = claim.T.copy()
    return claim, claim != gradient


def true_gradient(inputs: Inputs, i: int) -> np.ndarray:
    """Return the gradient of case `i` by its formula."""
    x, a, b = (inputs[f"{name}{i}"] for name in ("x", "a", "b"))
    v, scale = x.reshape(-1), inputs["scales"][i]
    if inputs["kinds"][i] == "quadratic":
        gradient = 0.5 * (a + a.T) @ v + b
    elif inputs["kinds"][i] == "waves":
        gradient = a * b * np.cos(a * v)
    else:
        gradient = a * b * np.exp(a * v)
    return scale * gradient.reshape(x.shape)


def judge(inputs: Inputs, answers: Answers) -> None:
    """Compare each verdict with where the claim differs from the true gradient."""
    masks, wants = [], []
    for i, case in enumerate(CASES):
        mask = answers.array(f"mask{i}")
        if mask.dtype != np.bool_ or mask.shape != case.shape:
            raise Wrong(
                f"wrong_entries returned a tensor of {mask.dtype} and shape {mask.shape} for x of "
                f"shape {case.shape}",
                "one boolean for each entry of x is asked for",
            )
        true, claim = true_gradient(inputs, i), inputs[f"claim{i}"]
        masks.append(mask)
        wants.append(~(np.abs(claim - true) <= 1e-6 * np.abs(true)))
    for i, (case, mask, want) in enumerate(zip(CASES, masks, wants, strict=True)):
        missed, alarms = int((want & ~mask).sum()), int((mask & ~want).sum())
        if missed or alarms:
            verdict = f"{missed} wrong entries missed, {alarms} right ones called wrong"
            raise Wrong(
                f"{verdict} (of {mask.size}; case {i + 1} of {len(CASES)})",
                overall(masks, wants) or case.hint,
            )


def overall(masks: list[np.ndarray], wants: list[np.ndarray]) -> str:
    """Return what is wrong with all the verdicts alike, if they are."""
    if all(mask.all() for mask in masks):
        return ALWAYS
    if not any(mask.any() for mask in masks):
        return NEVER
    if all((mask == ~want).all() for mask, want in zip(masks, wants, strict=True)):
        return UPSIDE_DOWN
    return ""
