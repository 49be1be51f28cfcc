"""What the losses say to wrong shapes, dtypes and values: argument, value and rule."""

from __future__ import annotations

import math

import pytest
import torch

from companion.backprop import losses

Z, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])
PROBABILITIES_ONE_TWO = torch.tensor([[0, 1, 2.0]] * 2)
BAD_INPUT = {
    "label too large": ("cross_entropy", (Z, LABELS + 1), "labels holds 3.*from 0 to 2"),
    "label negative": ("cross_entropy", (Z, LABELS - 1), "labels holds -1.*from 0 to 2"),
    "labels as columns": ("cross_entropy", (Z, LABELS[:, None]), r"labels has shape \(2, 1\)"),
    "labels too few": ("cross_entropy", (Z, LABELS[:1]), r"labels has shape \(1,\).*\(2,\)"),
    "labels as floats": ("cross_entropy", (Z, LABELS.float()), "labels has dtype.*int64"),
    "logits one row": ("cross_entropy", (Z[0], LABELS), r"z has shape \(3,\).*\(batch, classes\)"),
    "logits no class": ("cross_entropy", (Z[:, :0], LABELS), r"z has shape \(2, 0\).*at least one"),
    "logits as integers": ("cross_entropy", (Z.long(), LABELS), "z has dtype.*floating point"),
    "mse broadcasts": ("mse_loss", (Z[:, :1], Z[:, 0]), r"target has shape \(2,\).*\(2, 1\)"),
    "mse of integers": ("mse_loss", (Z.long(), Z), "prediction has dtype.*floating point"),
    "y outside": (
        "binary_cross_entropy_with_logits",
        (Z, PROBABILITIES_ONE_TWO),
        "y holds 2.0.*between 0 and 1",
    ),
    "y nan": ("binary_cross_entropy_with_logits", (Z, Z * math.nan), "y holds nan.*between 0"),
    "y as labels": ("binary_cross_entropy_with_logits", (Z, Z.long()), "y has dtype.*floating"),
    "y broadcasts": ("binary_cross_entropy_with_logits", (Z, Z[:1]), r"y has shape \(1, 3\)"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
@pytest.mark.parametrize("suffix", ["", "_backward"])
def test_bad_input_names_argument_value_and_rule(case: str, suffix: str):
    name, arguments, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=message):
        getattr(losses, name + suffix)(*arguments)


@pytest.mark.parametrize("decay", [-0.1, math.nan, math.inf])
def test_weight_decay_must_be_finite_and_not_negative(decay: float):
    with pytest.raises(ValueError, match=f"weight_decay is {decay}.*>= 0"):
        losses.regularized_loss(Z, Z.sum(), decay)
    with pytest.raises(ValueError, match=f"weight_decay is {decay}.*>= 0"):
        losses.regularized_loss_backward(Z, Z, decay)


def test_shapes_of_regularized_loss_and_activations_are_checked():
    with pytest.raises(ValueError, match=r"loss has shape \(2, 3\).*scalar"):
        losses.regularized_loss(Z, Z, 0.1)
    with pytest.raises(ValueError, match=r"gradient has shape \(3,\).*\(2, 3\)"):
        losses.regularized_loss_backward(Z, Z[0], 0.1)
    with pytest.raises(ValueError, match=r"dim is 2; z of shape \(2, 3\) has no such axis"):
        losses.softmax(Z, dim=2)
    for name in ("sigmoid", "softmax", "log_softmax"):
        with pytest.raises(ValueError, match=r"grad_output has shape \(3,\).*\(2, 3\)"):
            getattr(losses, f"{name}_backward")(Z, Z[0])
        with pytest.raises(ValueError, match="z has dtype.*floating point"):
            getattr(losses, name)(Z.long())
