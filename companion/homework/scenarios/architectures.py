"""Scenarios of chapter 3: what is called, with which inputs, and what is brought back."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion import training
from companion.data.arrays import Arrays
from companion.homework.child import Misuse
from companion.homework.scenarios.backprop import graph_nodes
from companion.homework.scenarios.calling import need, returned_tensor, tensor, unchanged

Values = dict[str, Any]
CONVOLVED = ("x", "depth", "point", "bias")
RECURRENT = ("x", "lengths", "h0", "w_ih", "w_hh", "bias")


def plan(student: types.ModuleType, inputs: Values) -> Values:
    """Call ``plan(layers, channels, size)`` on every stack; a ValueError is an answer too."""
    function = need(student, "plan")
    answers: Values = {}
    for i, layers in enumerate(inputs["stacks"]):
        handed = [dict(layer) for layer in layers]
        try:
            rows = function(handed, inputs["channels"][i], inputs["sizes"][i])
        except ValueError as error:
            answers[f"outcome{i}"] = f"ValueError: {error}"
            continue
        if handed != layers:
            raise Misuse("plan changes its argument layers in place")
        answers[f"outcome{i}"] = "table"
        answers[f"table{i}"] = _table(rows)
    return answers


def _table(rows: Any) -> np.ndarray:
    if not isinstance(rows, list | tuple):
        raise Misuse(f"plan must return a list, not {type(rows).__name__}")
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) != 5:
            raise Misuse(f"plan must return one tuple of five numbers a layer, not {row!r:.80}")
        for number in row:
            if type(number) is not int or abs(number) > 2**60:
                raise Misuse(f"every number of plan must be an int, not {number!r:.80}")
    return np.array(rows, dtype=np.int64).reshape(len(rows), 5)


def returned_all(what: str, value: Any, names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and the arrays of several tensors that the submission returned."""
    if not isinstance(value, tuple | list) or len(value) != len(names):
        kind = f"{len(value)} values" if isinstance(value, tuple | list) else type(value).__name__
        raise Misuse(f"{what} must return ({', '.join(names)}), not {kind}")
    for name, each in zip(names, value, strict=True):
        yield name, returned_tensor(f"{name} of {what}", each)


@torch.inference_mode()
def separable(student: types.ModuleType, inputs: Values) -> Values:
    """Call ``separable`` and ``separable_backward`` on every case."""
    forward, backward = need(student, "separable"), need(student, "separable_backward")
    answers: Values = {}
    for i, (stride, padding, dilation) in enumerate(inputs["options"]):
        leaves = {name: tensor(inputs[f"{name}{i}"]) for name in CONVOLVED}
        delta = tensor(inputs[f"grad_output{i}"])
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        usual = {"stride": 1, "padding": 0, "dilation": 1}
        options = {name: value for name, value in options.items() if value != usual[name]}
        y = forward(*leaves.values(), **options)
        answers[f"y{i}"] = returned_tensor("the result of separable", y)
        x, depth, point, _ = leaves.values()
        grads = backward(delta, x, depth, point, **options)
        names = tuple(f"grad_{name}" for name in CONVOLVED)
        for name, value in returned_all("separable_backward", grads, names):
            answers[f"{name}{i}"] = value
        pairs = {name: (leaf, inputs[f"{name}{i}"]) for name, leaf in leaves.items()}
        pairs["grad_output"] = (delta, inputs[f"grad_output{i}"])
        unchanged("separable or separable_backward", **pairs)
    return answers


@torch.inference_mode()
def mgu(student: types.ModuleType, inputs: Values) -> Values:
    """Call ``mgu`` and ``mgu_backward`` on every case."""
    forward, backward = need(student, "mgu"), need(student, "mgu_backward")
    answers: Values = {}
    for i in range(inputs["cases"]):
        arguments = {name: tensor(inputs[f"{name}{i}"]) for name in RECURRENT}
        deltas = {n: tensor(inputs[f"{n}{i}"]) for n in ("grad_output", "grad_last")}
        for name, value in returned_all("mgu", forward(*arguments.values()), ("output", "last")):
            answers[f"{name}{i}"] = value
        grads = backward(*deltas.values(), *arguments.values())
        names = tuple(f"grad_{name}" for name in RECURRENT if name != "lengths")
        for name, value in returned_all("mgu_backward", grads, names):
            answers[f"{name}{i}"] = value
        everything = {**arguments, **deltas}
        pairs = {name: (now, inputs[f"{name}{i}"]) for name, now in everything.items()}
        unchanged("mgu or mgu_backward", **pairs)
    return answers


@torch.inference_mode()
def attention(student: types.ModuleType, inputs: Values) -> Values:
    """Call ``alibi_slopes`` and ``attend``, and decode in chunks, two texts side by side."""
    slopes, attend = need(student, "alibi_slopes"), need(student, "attend")
    decoder_type = need(student, "Decoder")
    answers: Values = {}
    for heads in inputs["heads"]:
        answers[f"slopes{heads}"] = returned_tensor("the result of alibi_slopes", slopes(heads))
    for i, window in enumerate(inputs["windows"]):
        q, k, v = (tensor(inputs[f"{name}{i}"]) for name in "qkv")
        answers[f"y{i}"] = returned_tensor("the result of attend", attend(q, k, v, window))
        pairs = {n: (now, inputs[f"{n}{i}"]) for n, now in zip("qkv", (q, k, v), strict=True)}
        unchanged("attend", **pairs)
    single = attend(*(tensor(inputs[f"{name}0"]).float() for name in "qkv"), 2)
    answers["single"] = returned_tensor("the result of attend", single)
    q, k, v = (tensor(inputs[f"{name}_text"]) for name in "qkv")
    for j, (window, chunks) in enumerate(inputs["decodings"]):
        decoder, other = decoder_type(window), decoder_type(window)
        outputs, held, start = [], 0, 0
        for size in chunks:
            new = slice(start, start + size)
            parts = [each[:, :, new].clone() for each in (q, k, v)]
            other.step(parts[0], -parts[1], -parts[2])
            out = decoder.step(*parts)
            outputs.append(returned_tensor("the result of Decoder.step", out))
            if outputs[-1].shape[:3] != (*q.shape[:2], size) or outputs[-1].ndim != 4:
                expected = (*q.shape[:2], size, v.shape[3])
                raise Misuse(f"Decoder.step returns {outputs[-1].shape}; it must be {expected}")
            held = max(held, numbers_held(decoder))
            start += size
        answers[f"decoded{j}"] = np.concatenate(outputs, axis=2)
        answers[f"held{j}"] = held
    return answers


def numbers_held(value: Any, seen: set[int] | None = None) -> int:
    """Return how many numbers the tensors and arrays hold that `value` keeps alive."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):  # a slice keeps alive the whole tensor that it is a slice of
        storage = value.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes() // value.element_size()
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, dict):
        return sum(numbers_held(each, seen) for each in value.values())
    if isinstance(value, list | tuple | set) or type(value).__name__ == "deque":
        return sum(numbers_held(each, seen) for each in value)
    own = getattr(value, "__dict__", None)
    is_plain = not isinstance(value, type | types.ModuleType | types.FunctionType)
    return numbers_held(own, seen) if isinstance(own, dict) and is_plain else 0


LAYERS = {
    "SeparableConv2d": ((2, 3, 3), {"stride": 2, "padding": 1}, ("depth", "point", "bias")),
    "MGU": ((3, 4), {}, ("w_ih", "w_hh", "bias")),
}
KINDS = {"SeparableConv2d": "convolved", "MGU": "read"}


def train(student: types.ModuleType, inputs: Values) -> Values:
    """Differentiate through both layers, then let the submission train."""
    answers: Values = {}
    for kind, (sizes, options, names) in LAYERS.items():
        layer = need(student, kind)(*sizes, **options)
        other = need(student, kind)(*sizes, **options)
        prefix = KINDS[kind]
        for each in (layer, other):
            if not isinstance(each, nn.Module):
                raise Misuse(f"{kind} must be an nn.Module, not {type(each).__name__}")
            for found in (dict(each.named_parameters()), each.state_dict()):
                if sorted(found) != sorted(names):
                    raise Misuse(f"parameters and state of {kind} must be {', '.join(names)} alone")
            each.double()
        for part, each in (("", layer), ("other_", other)):
            weights = {n: tensor(inputs[f"{prefix}_{part}{n}"]) for n in names}
            for name, weight in weights.items():
                shape = tuple(each.state_dict()[name].shape)
                if shape != tuple(weight.shape):
                    wanted = tuple(weight.shape)
                    raise Misuse(f"{name} of {kind} has shape {shape}; it must be {wanted}")
            each.load_state_dict(weights)
        x = tensor(inputs[f"{prefix}_x"]).requires_grad_()
        y = layer(x)
        other(x)  # between forward and backward, so that nothing may hang on the class
        answers[f"{prefix}_graph"] = " ".join(sorted(graph_nodes(y)))
        answers[f"{prefix}_y"] = returned_tensor(f"the result of {kind}", y)
        delta = tensor(inputs[f"{prefix}_delta"])
        if y.shape != delta.shape:
            raise Misuse(f"{kind} returns {tuple(y.shape)}; it must be {tuple(delta.shape)}")
        y.backward(delta)
        for name, leaf in (("x", x), *layer.named_parameters()):
            if leaf.grad is None:
                raise Misuse(f"no gradient arrives at {name} of {kind}")
            answers[f"{prefix}_grad_{name}"] = leaf.grad
    return {**answers, **_trained(student, inputs)}


def _trained(student: types.ModuleType, inputs: Values) -> Values:
    run, reader = need(student, "train"), need(student, "RowReader")
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
    if not isinstance(result.module, training.Classifier) or not isinstance(network, reader):
        raise Misuse("train must give fit a Classifier around a RowReader")
    for name, kind in (("look", "SeparableConv2d"), ("read", "MGU")):
        if not isinstance(getattr(network, name, None), need(student, kind)):
            raise Misuse(f"{name} of the RowReader must be your {kind}")
    network = network.float().eval()
    with torch.no_grad():
        logits = network(tensor(inputs["x_probe"]))
    answers: Values = {"logits": returned_tensor("the result of RowReader", logits)}
    for name, value in network.state_dict().items():
        answers[f"weights.{name}"] = value
    losses = [loss for loss in result.step_losses if math.isfinite(loss)]
    answers["step_losses"] = np.array(losses, dtype=np.float64)
    return answers
