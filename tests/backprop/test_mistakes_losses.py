"""Widespread mistakes E1, E3, E4 and E15: each is one, and the fix on the page is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from companion.backprop import losses
from companion.backprop.training_loop import layer_forward, train_layer
from companion.data.digits import Digits

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits(flatten=True, dtype=torch.float64)
    data.setup()
    return data


def autograd(loss: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    return torch.autograd.grad(loss(z), z)[0]


def logits_and_answers() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return z, torch.randint(2, (6, 4), generator=generator).double()


def losses_while_stepping(digits: Digits, factor: float, steps: int = 6) -> list[float]:
    """Cross-entropy on raw pixels (0 to 16) while `factor` times the gradient is added."""
    x, labels = digits.train
    raw = (x - x.min()) / (x.max() - x.min()) * 16
    weight, values = torch.zeros(64, 10, dtype=x.dtype), []
    for _ in range(steps):
        z = raw @ weight
        values.append(losses.cross_entropy(z, labels).item())
        weight = weight + factor * raw.T @ losses.cross_entropy_backward(z, labels)
    return values


def test_e1_adding_the_gradient_raises_the_loss_at_every_step(digits: Digits):
    for rate in (1.0, 0.01):
        values = losses_while_stepping(digits, rate)
        assert all(later > earlier for earlier, later in zip(values, values[1:], strict=False))


def test_e1_subtracting_the_gradient_without_a_learning_rate_overshoots(digits: Digits):
    values = losses_while_stepping(digits, -1.0)
    assert values[-1] > 100 * values[0]


def test_e1_a_small_step_against_the_gradient_lowers_the_loss_at_every_step(digits: Digits):
    values = losses_while_stepping(digits, -0.01)
    assert all(later < earlier for earlier, later in zip(values, values[1:], strict=False))


def test_e3_prediction_minus_truth_is_not_the_gradient_of_squared_error_behind_a_sigmoid():
    z, y = logits_and_answers()
    a = torch.sigmoid(z)
    expected = autograd(lambda z: F.mse_loss(torch.sigmoid(z), y), z)
    for scale in (1 / len(z), 1 / z.numel(), 2 / z.numel()):
        relative = (scale * (a - y) - expected).norm() / expected.norm()
        assert relative > 1
    # No factor repairs it: the two do not even point the same way.
    cosine = F.cosine_similarity((a - y).flatten(), expected.flatten(), dim=0)
    assert cosine < 0.95


def test_e3_the_whole_chain_rule_is_the_gradient():
    z, y = logits_and_answers()
    a = losses.sigmoid(z)
    expected = autograd(lambda z: F.mse_loss(torch.sigmoid(z), y), z)
    assert_close(losses.sigmoid_backward(z, losses.mse_loss_backward(a, y)), expected, **TIGHT)
    assert_close(2 / z.numel() * (a - y) * a * (1 - a), expected, **TIGHT)


def test_e3_prediction_minus_truth_is_the_gradient_of_the_three_matching_pairs():
    z, y = logits_and_answers()
    labels = torch.tensor([0, 3, 1, 2, 2, 0])
    one_hot = F.one_hot(labels, 4).double()
    half_squared_error = autograd(lambda z: F.mse_loss(z, y) / 2, z)
    assert_close((z - y) / z.numel(), half_squared_error, **TIGHT)
    binary = autograd(lambda z: F.binary_cross_entropy_with_logits(z, y), z)
    assert_close((torch.sigmoid(z) - y) / z.numel(), binary, **TIGHT)
    multiclass = autograd(lambda z: F.cross_entropy(z, labels), z)
    assert_close((torch.softmax(z, -1) - one_hot) / len(z), multiclass, **TIGHT)


def softmax_over_axis_0(z: Tensor) -> Tensor:
    exp_z = torch.exp(z - z.max())
    return exp_z / exp_z.sum(dim=0)


def test_e4_softmax_over_axis_0_makes_an_answer_depend_on_the_rest_of_the_batch():
    z, _ = logits_and_answers()
    p = softmax_over_axis_0(z)
    assert_close(p, torch.softmax(z, 0), **TIGHT)
    assert ((p.sum(1) - 1).abs() > 0.1).any()
    assert not torch.allclose(softmax_over_axis_0(z[:1])[0], p[0])
    assert_close(softmax_over_axis_0(z[:1]), torch.ones(1, 4).double(), **TIGHT)


def test_e4_softmax_over_the_classes_sums_to_one_and_ignores_the_rest_of_the_batch():
    z, _ = logits_and_answers()
    p = losses.softmax(z)
    assert_close(p.sum(1), torch.ones(6).double(), **TIGHT)
    assert_close(losses.softmax(z[:1])[0], p[0], **TIGHT)


HALF = losses.Loss(
    forward=lambda z, y: (y * losses.softplus(-z)).mean(),
    backward=lambda z, y: -y * losses.sigmoid(-z) / z.numel(),
)


def test_e15_half_a_binary_cross_entropy_teaches_to_say_yes_to_everything(digits: Digits):
    x, labels = digits.train
    is_eight = (labels == 8).double().unsqueeze(1)
    options = {"outputs": 1, "learning_rate": 0.5, "epochs": 10, "batch_size": 64}
    x_test, labels_test = digits.test
    right = {}
    for name, loss in (("half", HALF), ("whole", losses.BINARY_CROSS_ENTROPY)):
        trained = train_layer(x, is_eight, loss, **options)
        yes = layer_forward(x_test, trained.weight, trained.bias).squeeze(1) > 0
        right[name] = (yes == (labels_test == 8)).double().mean().item()
        if name == "half":
            assert yes.all()
            assert trained.losses[-1] < 0.01
    assert right["half"] < 0.2
    assert right["whole"] > 0.93


def test_e15_half_formula_is_the_part_of_the_loss_where_y_is_1():
    z, y = logits_and_answers()
    assert_close(HALF.backward(z, y), autograd(lambda z: HALF.forward(z, y), z), **TIGHT)
    assert not HALF.backward(z, torch.zeros_like(y)).any()
    missing = ((1 - y) * losses.softplus(z)).mean()
    whole = F.binary_cross_entropy_with_logits(z, y)
    assert_close(HALF.forward(z, y) + missing, whole, **TIGHT)


def test_e15_mean_in_place_of_the_sum_over_classes_is_off_by_the_number_of_classes():
    z, _ = logits_and_answers()
    labels = torch.tensor([0, 3, 1, 2, 2, 0])
    one_hot = F.one_hot(labels, 4).double()
    log_p = losses.log_softmax(z)
    right = F.cross_entropy(z, labels)
    assert_close(-(one_hot * log_p).mean() * 4, right, **TIGHT)
    assert_close(-(one_hot * log_p).sum(1).mean(), right, **TIGHT)
    assert_close(losses.cross_entropy(z, labels), right, **TIGHT)
