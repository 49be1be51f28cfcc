"""The gradient's noise: per-sample gradients, unbiased estimates, the callback."""

from __future__ import annotations

import pytest
import torch
from optimization import sgd_checks as checks
from torch import nn
from torch.nn import functional as F

from companion.data.arrays import Arrays
from companion.data.digits import Digits
from companion.optimization import noise
from companion.optimization.noise import (
    GradientNoiseScale,
    NoiseScale,
    noise_from_two,
    noise_of,
    per_sample_gradients,
)
from companion.optimization.sgd import SGD
from companion.training import Classifier, fit


def test_per_sample_gradients_equal_one_backward_pass_a_sample():
    network = checks.mlp()
    network[2].bias.requires_grad_(False)  # a frozen parameter has no column
    x, y = checks.normal((7, 6), 1), torch.arange(7) % 3
    found = per_sample_gradients(network, F.cross_entropy, x, y)
    for row, sample, target in zip(found, x, y, strict=True):
        network.zero_grad()
        F.cross_entropy(network(sample.unsqueeze(0)), target.unsqueeze(0)).backward()
        expected = torch.cat([p.grad.flatten() for p in network.parameters() if p.requires_grad])
        torch.testing.assert_close(row, expected, **checks.TIGHT)


def test_their_mean_is_the_batch_s_gradient():
    network, x, y = checks.mlp(), checks.normal((9, 6), 1), torch.arange(9) % 3
    found = per_sample_gradients(network, F.cross_entropy, x, y).mean(0)
    F.cross_entropy(network(x), y).backward()
    expected = torch.cat([p.grad.flatten() for p in network.parameters()])
    torch.testing.assert_close(found, expected, **checks.TIGHT)


def test_two_batch_sizes_give_signal_and_noise_without_bias():
    checks.check_noise_from_two(noise)


def test_per_sample_gradients_give_signal_and_noise_without_bias():
    checks.check_noise_of(noise)


def test_two_exact_expectations_give_the_exact_answer():
    signal, spread = 3.0, 50.0
    squares = [signal + spread / size for size in (8, 256)]
    found = noise_from_two(*squares, small=8, big=256)
    assert found == pytest.approx((signal, spread), rel=1e-12)
    assert NoiseScale(*found).scale == pytest.approx(spread / signal)
    assert NoiseScale(0.0, 1.0).scale == float("inf")


def linear_problem(samples: int) -> tuple[Arrays, torch.Tensor]:
    """Loss ½(w − x)² per sample at w = 0: the gradient of a sample is −x itself."""
    mean = torch.tensor([0.4, -0.3, 0.5])
    x = mean + torch.randn(samples, 3, generator=torch.Generator().manual_seed(0))
    return Arrays((x, torch.zeros(samples)), batch_size=4), x


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight - x


def run_callback(samples: int, accumulate: int = 8, **options) -> GradientNoiseScale:
    """Train at a rate so small that the weight stays where it is."""
    from companion.training import Regressor

    data, _ = linear_problem(samples)
    meter = GradientNoiseScale(4)
    module = Regressor(
        Shift(),
        loss=lambda prediction, _: prediction.square().sum(1).mean() / 2,
        optimizer=lambda parameters: SGD(parameters, lr=1e-12),
    )
    options = {"epochs": 4, "precision": "32-true"} | options
    fit(module, data, accumulate_grad_batches=accumulate, callbacks=[meter], **options)
    return meter


def test_the_callback_finds_the_noise_scale_of_a_problem_with_a_known_one():
    _, x = linear_problem(2048)
    expected = noise_of(x)
    found = run_callback(2048).result()
    assert found.noise == pytest.approx(expected.noise, rel=0.02)
    assert found.signal == pytest.approx(expected.signal, rel=0.1)


def test_steps_with_a_short_micro_batch_are_left_out():
    meter = run_callback(4 * 16 + 2, epochs=3)  # 16 whole micro-batches, then one of 2
    assert meter._steps == 2 * 3
    meter.reset()
    with pytest.raises(ValueError, match="no optimizer step with whole micro-batches"):
        meter.result()


def test_the_callback_s_squares_are_those_of_the_batches_themselves():
    """One optimizer step on Digits: three micro-batches by hand against what was recorded."""
    torch.manual_seed(0)
    network = nn.Linear(64, 10)
    twin = nn.Linear(64, 10)
    twin.load_state_dict(network.state_dict())
    data = Digits(batch_size=16, flatten=True)
    meter = GradientNoiseScale(16)
    module = Classifier(network, optimizer=lambda p: SGD(p, lr=0.1))
    options = {"accumulate_grad_batches": 3, "max_steps": 1, "precision": "32-true"}
    fit(module, data, callbacks=[meter], **options)
    data.order_seed = 0
    loader = data.train_dataloader()
    gradients = []
    for (x, y), _ in zip(loader, range(3), strict=False):
        loss = F.cross_entropy(twin(x), y)
        parts = torch.autograd.grad(loss, list(twin.parameters()))
        gradients.append(torch.cat([p.flatten() for p in parts]))
    gradients = torch.stack(gradients)
    small = gradients.square().sum(1).mean()
    big = gradients.mean(0).square().sum()
    torch.testing.assert_close(torch.stack(meter._sums), torch.stack([small, big]))
    expected = noise_from_two(float(small), float(big), small=16, big=48)
    assert meter.result() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise_from_two(1.0, 1.0, small=8, big=8), "big=8: a batch of more than small=8"),
        (lambda: noise_from_two(1.0, 1.0, small=0, big=8), "small=0: an integer of at least 1"),
        (lambda: noise_of(torch.ones(1, 3)), r"gradients has shape \(1, 3\)"),
        (lambda: GradientNoiseScale(0), "batch_size=0: an integer of at least 1"),
        (lambda: run_callback(64, accumulate=1), "accumulate_grad_batches=1: at least 2"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
