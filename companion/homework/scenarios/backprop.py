"""Scenarios of chapter 2: what is called, with which inputs, and what is brought back."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion import training
from companion.backprop import tape
from companion.backprop.tensor import Tensor as TapeTensor
from companion.data.arrays import Arrays
from companion.homework.child import Misuse
from companion.homework.scenarios.calling import (
    need,
    returned_pair,
    returned_tensor,
    tensor,
    unchanged,
)

Values = dict[str, Any]
Function = Callable[[Tensor], Tensor]


def scalar_function(
    kind: str, scale: float, shape: tuple[int, ...], a: np.ndarray, b: np.ndarray
) -> Function:
    """Return one of the functions whose gradients are to be checked.

    With x flattened: ``quadratic`` ½ xᵀ a x + bᵀ x, ``waves`` Σ b sin(a x), ``growth``
    Σ b exp(a x), each times `scale`. They are computed in NumPy, out of autograd's sight.
    """

    def function(x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or tuple(x.shape) != shape or x.dtype != torch.float64:
            raise Misuse("wrong_entries must call the function with float64 tensors shaped like x")
        v = x.numpy().reshape(-1)
        if kind == "quadratic":
            value = 0.5 * v @ a @ v + b @ v
        elif kind == "waves":
            value = b @ np.sin(a * v)
        else:
            value = b @ np.exp(a * v)
        return torch.tensor(scale * value, dtype=torch.float64)

    return function


@torch.inference_mode()
def gradient_check(student: types.ModuleType, inputs: Values) -> Values:
    """Call ``wrong_entries(function, gradient, x)`` on functions of several kinds and sizes."""
    wrong_entries = need(student, "wrong_entries")
    answers: Values = {}
    for i, (kind, scale) in enumerate(zip(inputs["kinds"], inputs["scales"], strict=True)):
        x, claim = tensor(inputs[f"x{i}"]), tensor(inputs[f"claim{i}"])
        function = scalar_function(kind, scale, tuple(x.shape), inputs[f"a{i}"], inputs[f"b{i}"])
        mask = wrong_entries(function, claim, x)
        unchanged("wrong_entries", x=(x, inputs[f"x{i}"]), gradient=(claim, inputs[f"claim{i}"]))
        answers[f"mask{i}"] = returned_tensor("the result of wrong_entries", mask)
    return answers


@torch.inference_mode()
def rms_norm(student: types.ModuleType, inputs: Values) -> Values:
    """Call ``rms_norm`` and ``rms_norm_backward`` on every case."""
    forward, backward = need(student, "rms_norm"), need(student, "rms_norm_backward")
    answers: Values = {}
    for i, eps in enumerate(inputs["eps"]):
        x, gain, grad = (tensor(inputs[f"{name}{i}"]) for name in ("x", "gain", "grad_output"))
        options = {} if eps is None else {"eps": eps}
        answers[f"y{i}"] = returned_tensor("the result of rms_norm", forward(x, gain, **options))
        both = returned_pair("rms_norm_backward", backward(grad, x, gain, **options))
        for name, value in zip(("grad_x", "grad_gain"), both, strict=True):
            answers[f"{name}{i}"] = returned_tensor(f"{name} of rms_norm_backward", value)
        unchanged(
            "rms_norm or rms_norm_backward",
            x=(x, inputs[f"x{i}"]),
            gain=(gain, inputs[f"gain{i}"]),
            grad_output=(grad, inputs[f"grad_output{i}"]),
        )
    return answers


@torch.inference_mode()
def smoothed_cross_entropy(student: types.ModuleType, inputs: Values) -> Values:
    """Call the loss and its gradient on every case."""
    forward = need(student, "smoothed_cross_entropy")
    backward = need(student, "smoothed_cross_entropy_backward")
    answers: Values = {}
    for i, smoothing in enumerate(inputs["smoothing"]):
        z, labels = tensor(inputs[f"z{i}"]), tensor(inputs[f"labels{i}"])
        loss = forward(z, labels, smoothing)
        answers[f"loss{i}"] = returned_tensor("the result of smoothed_cross_entropy", loss)
        grad = backward(z, labels, smoothing)
        answers[f"grad_z{i}"] = returned_tensor(
            "the result of smoothed_cross_entropy_backward", grad
        )
        unchanged(
            "smoothed_cross_entropy or its backward",
            z=(z, inputs[f"z{i}"]),
            labels=(labels, inputs[f"labels{i}"]),
        )
    return answers


@torch.inference_mode()
def logsumexp(student: types.ModuleType, inputs: Values) -> Values:
    """Apply the new operation on the tape; first derivatives, and a derivative of those."""
    operation = need(student, "logsumexp")
    answers: Values = {}
    for i, dim in enumerate(inputs["dims"]):
        x = TapeTensor(tensor(inputs[f"x{i}"]), requires_grad=True)
        out = operation(x, dim=dim)
        if not isinstance(out, TapeTensor):
            raise Misuse(f"logsumexp of a Tensor must be a Tensor, not {type(out).__name__}")
        answers[f"out{i}"] = out.value
        if out.node is None:
            raise Misuse("the result of logsumexp is not on the tape: its input is not recorded")
        answers[f"nodes{i}"] = tape.tape_size(out).nodes
        weights = TapeTensor(tensor(inputs[f"weights{i}"]))
        if out.shape != weights.shape:  # the judge says so; there is no gradient to ask for
            continue
        (first,) = tape.grad((out * weights).sum(), [x], create_graph=True)
        answers[f"first{i}"] = first.value
        direction = TapeTensor(tensor(inputs[f"direction{i}"]))
        if first.node is None and not first.requires_grad:
            answers[f"second{i}"] = np.zeros(0)
            continue
        (second,) = tape.grad((first * direction).sum(), [x], allow_unused=True)
        answers[f"second{i}"] = second.value
        unchanged("logsumexp", x=(x.value, inputs[f"x{i}"]))
    return answers


def rms_norm_layer(student: types.ModuleType, inputs: Values) -> Values:
    """Differentiate through the layer with torch.autograd: alone, stacked, and shared."""
    layer_type = need(student, "RMSNorm")
    fresh = layer_type(5)
    if not isinstance(fresh, nn.Module):
        raise Misuse(f"RMSNorm(5) must be an nn.Module, not {type(fresh).__name__}")
    names = [name for name, _ in fresh.named_parameters()]
    if names != ["gain"]:
        raise Misuse(f"the parameters of RMSNorm must be gain alone, not {names or 'none'}")
    if list(fresh.state_dict()) != ["gain"]:
        raise Misuse(f"the state of RMSNorm must be gain alone, not {list(fresh.state_dict())}")
    answers: Values = {"initial_gain": fresh.gain.detach().clone()}
    x = tensor(inputs["x_default"]).float()
    answers["y_float32"] = fresh(x).detach()
    for i, eps in enumerate(inputs["eps"]):
        x = tensor(inputs[f"x{i}"]).requires_grad_()
        layers = []
        for part in ("first", "second"):
            gain = tensor(inputs[f"{part}_gain{i}"])
            layer = layer_type(len(gain), eps=eps if part == "first" else 2 * eps).double()
            layer.load_state_dict({"gain": gain})
            layers.append(layer)
        first, second = layers
        y = first(x)
        if i == 0:
            answers["graph"] = " ".join(sorted(graph_nodes(y)))
        # The first layer is used twice, with another one in between.
        z = first(torch.tanh(second(y)))
        (z * tensor(inputs[f"weights{i}"])).sum().backward()
        answers[f"z{i}"] = z
        for name, leaf in (("x", x), ("first_gain", first.gain), ("second_gain", second.gain)):
            if leaf.grad is None:
                raise Misuse(
                    f"no gradient arrives at {name.replace('_', ' ')}: it is detached on the way, "
                    "or backward returns nothing for it"
                )
            answers[f"grad_{name}{i}"] = leaf.grad
        unchanged("RMSNorm", x=(x, inputs[f"x{i}"]))
    return answers


def graph_nodes(y: Tensor) -> set[str]:
    """Return the kinds of node between `y` and the leaves; a custom Function is ``custom``."""
    kinds: set[str] = set()
    waiting = [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        is_custom = isinstance(node, torch.autograd.function.BackwardCFunction)
        kinds.add("custom" if is_custom else type(node).__name__)
        waiting += [inner for inner, _ in node.next_functions]
    return kinds


def train(student: types.ModuleType, inputs: Values) -> Values:
    """Let the submission train, and bring back the weights and the loss at each step."""
    run = need(student, "train")
    data = Arrays(
        train=(tensor(inputs["x_train"]), tensor(inputs["y_train"])),
        validation=(tensor(inputs["x_validation"]), tensor(inputs["y_validation"])),
        batch_size=64,
    )
    torch.manual_seed(inputs["seed"])
    result = run(data)
    if not isinstance(result, training.FitResult):
        raise Misuse(f"train must return what fit returned, not {type(result).__name__}")
    network = getattr(result.module, "network", None)
    if not isinstance(result.module, training.Classifier) or not isinstance(network, nn.Sequential):
        raise Misuse("train must give fit a Classifier around an nn.Sequential")
    own = need(student, "RMSNorm")
    if len(network) != 4 or not isinstance(network[1], own):
        kinds = ", ".join(type(layer).__name__ for layer in network)
        raise Misuse(f"the network must be Linear, your RMSNorm, ReLU, Linear; it is {kinds}")
    network = network.float().eval()
    with torch.no_grad():
        answers: Values = {"logits": network(tensor(inputs["x_probe"]))}
    for name, value in network.state_dict().items():
        answers[f"weights.{name}"] = value
    losses = [loss for loss in result.step_losses if math.isfinite(loss)]
    answers["step_losses"] = np.array(losses, dtype=np.float64)
    return answers
