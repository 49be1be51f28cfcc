"""The six tasks of chapter 2; together they build a block of a modern network by hand."""

from __future__ import annotations

from companion.homework.backprop import by_hand, checking, in_frameworks
from companion.homework.rules import DISGUISES
from companion.homework.tasks import Task

SCENARIOS = "companion.homework.scenarios.backprop"
# What differentiates by itself. Each scenario of a task by hand switches torch's off besides.
AUTOGRAD = (
    "torch.autograd",
    "torch.func",
    "torch.ops",
    "torch._C",
    "functorch",
    "enable_grad",
    "set_grad_enabled",
    "inference_mode",
    "requires_grad",
    "requires_grad_",
    "companion.backprop.gradient_check",
    "companion.backprop.keras_twin",
    *DISGUISES,
)
TAPE = (
    "companion.backprop.autograd",
    "companion.backprop.forward_mode",
    "companion.backprop.tape",
    "companion.backprop.tensor",
)
LIBRARY_RMS_NORM = ("torch.nn.functional.rms_norm", "torch.nn.RMSNorm", "torch.rms_norm")

TASKS = (
    Task(
        name="gradient-check",
        title="a gradient check that finds planted bugs",
        points=15,
        defines=("wrong_entries",),
        scenario=f"{SCENARIOS}:gradient_check",
        draw=checking.draw,
        judge=checking.judge,
        forbidden=(*AUTOGRAD, *TAPE),
    ),
    Task(
        name="rms-norm",
        title="RMSNorm forward and backward by hand",
        points=20,
        defines=("rms_norm", "rms_norm_backward"),
        scenario=f"{SCENARIOS}:rms_norm",
        draw=by_hand.draw_rms,
        judge=by_hand.judge_rms,
        forbidden=(*AUTOGRAD, *TAPE, *LIBRARY_RMS_NORM),
    ),
    Task(
        name="smoothed-cross-entropy",
        title="cross-entropy with label smoothing and its gradient",
        points=20,
        defines=("smoothed_cross_entropy", "smoothed_cross_entropy_backward"),
        scenario=f"{SCENARIOS}:smoothed_cross_entropy",
        draw=by_hand.draw_smoothed,
        judge=by_hand.judge_smoothed,
        forbidden=(
            *AUTOGRAD,
            *TAPE,
            "torch.nn.functional.cross_entropy",
            "torch.nn.CrossEntropyLoss",
        ),
    ),
    Task(
        name="logsumexp",
        title="a new operation for the tape",
        points=15,
        defines=("logsumexp",),
        scenario=f"{SCENARIOS}:logsumexp",
        draw=in_frameworks.draw_logsumexp,
        judge=in_frameworks.judge_logsumexp,
        forbidden=(*AUTOGRAD, "logsumexp"),  # an attribute: torch.logsumexp, x.logsumexp
    ),
    Task(
        name="rms-norm-layer",
        title="an nn.Module around your backward pass",
        points=15,
        defines=("RMSNorm",),
        scenario=f"{SCENARIOS}:rms_norm_layer",
        draw=in_frameworks.draw_layer,
        judge=in_frameworks.judge_layer,
        forbidden=(
            "torch.autograd.grad",
            "torch.autograd.backward",
            "torch.autograd.functional",
            "torch.func",
            "torch.ops",
            "torch._C",
            "enable_grad",
            "set_grad_enabled",
            *LIBRARY_RMS_NORM,
            *DISGUISES,
        ),
        builds_on=("rms-norm",),
    ),
    Task(
        name="train",
        title="train it through Classifier and fit",
        points=15,
        defines=("train",),
        scenario=f"{SCENARIOS}:train",
        draw=in_frameworks.draw_train,
        judge=in_frameworks.judge_train,
        builds_on=("smoothed-cross-entropy", "rms-norm-layer"),
        seconds=60.0,
    ),
)
