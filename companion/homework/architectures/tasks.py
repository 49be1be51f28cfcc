"""The five tasks of chapter 3: a convolution, a recurrent cell, attention, and one network."""

from __future__ import annotations

from companion.homework.architectures import looking, planning, recurrence, separating, training
from companion.homework.backprop.tasks import AUTOGRAD, TAPE
from companion.homework.rules import DISGUISES
from companion.homework.tasks import Task

SCENARIOS = "companion.homework.scenarios.architectures"
COUNTING = (
    "companion.architectures.receptive_field",
    "companion.architectures.im2col",
    "companion.architectures.convolution",
    "companion.architectures.pooling",
    "companion.compute",
    "torch.nn",
)
CONVOLUTIONS = (
    "companion.architectures.convolution",
    "companion.architectures.cnn",
    "companion.architectures.keras_twin",
    "tensorflow",
    "keras",
    "torch.nn.grad",
    "convolution",
    *(f"{name}{n}d" for name in ("conv", "Conv", "LazyConv", "conv_transpose") for n in (1, 2, 3)),
)
ATTENTION = (
    "scaled_dot_product_attention",
    "flex_attention",
    "MultiheadAttention",
    "tensorflow",
    "keras",
)

TASKS = (
    Task(
        name="plan",
        title="sizes, parameters and receptive fields of a stack",
        points=15,
        defines=("plan",),
        scenario=f"{SCENARIOS}:plan",
        draw=planning.draw,
        judge=planning.judge,
        forbidden=(*COUNTING, *DISGUISES),
    ),
    Task(
        name="separable-convolution",
        title="a depthwise-separable convolution forward and backward by hand",
        points=25,
        defines=("separable", "separable_backward"),
        scenario=f"{SCENARIOS}:separable",
        draw=separating.draw,
        judge=separating.judge,
        forbidden=(*AUTOGRAD, *TAPE, *CONVOLUTIONS),
    ),
    Task(
        name="minimal-gated-unit",
        title="a recurrent cell through time by hand",
        points=25,
        defines=("mgu", "mgu_backward"),
        scenario=f"{SCENARIOS}:mgu",
        draw=recurrence.draw,
        judge=recurrence.judge,
        forbidden=(*AUTOGRAD, *TAPE),
    ),
    Task(
        name="sliding-attention",
        title="attention with linear biases in a sliding window",
        points=20,
        defines=("alibi_slopes", "attend", "Decoder"),
        scenario=f"{SCENARIOS}:attention",
        draw=looking.draw,
        judge=looking.judge,
        forbidden=(*ATTENTION, *DISGUISES),
    ),
    Task(
        name="train",
        title="train a network of your own pieces",
        points=15,
        defines=("SeparableConv2d", "MGU", "RowReader", "train"),
        scenario=f"{SCENARIOS}:train",
        draw=training.draw,
        judge=training.judge,
        forbidden=(
            "torch.autograd.grad",
            "torch.autograd.backward",
            "torch.autograd.functional",
            "torch.func",
            "torch.ops",
            "torch._C",
            "enable_grad",
            "set_grad_enabled",
            *CONVOLUTIONS,
            *DISGUISES,
        ),
        builds_on=("plan", "separable-convolution", "minimal-gated-unit", "sliding-attention"),
        seconds=60.0,
    ),
)
