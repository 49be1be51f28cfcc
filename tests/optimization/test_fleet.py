"""Many networks at once: each must end where it would end alone."""

from __future__ import annotations

import pytest
import torch
from optimization import tuning_checks as checks

from companion.optimization import fleet
from companion.optimization.fleet import Fleet

X, Y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
SIZES = (5, 4, 3)


def test_each_network_is_trained_as_torch_would_train_it_alone():
    checks.check_fleet(fleet)


def test_equal_seeds_give_equal_networks_and_the_order_makes_a_difference():
    many = Fleet([1, 1, 1], SIZES)
    many.train(X, Y, lr=0.5, batch_size=8, epochs=3, order_seeds=[0, 0, 1])
    first, second, third = many.weights[0]
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_selection_goes_on_alone():
    whole = Fleet([1, 2, 3], SIZES).train(X, Y, lr=0.1, momentum=0.9, batch_size=8)
    part = whole.select([2, 0])
    whole.train(X, Y, lr=0.1, momentum=0.9, batch_size=8)
    before = whole.weights[0].clone()
    part.train(X, Y, lr=0.1, momentum=0.9, batch_size=8)
    torch.testing.assert_close(part.weights[0], whole.weights[0][[2, 0]])
    assert torch.equal(before, whole.weights[0])
    assert len(part) == 2
    torch.testing.assert_close(part.accuracy(X, Y), whole.accuracy(X, Y)[[2, 0]])


def test_the_global_seed_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Fleet([0, 1], SIZES)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Fleet([]), r"len\(init_seeds\)=0"),
        (lambda: Fleet([0], (5, 0, 3)), "sizes=0"),
        (lambda: Fleet([0], SIZES).train(X, Y, lr=0.0, batch_size=8), "lr=0.0: every learning"),
        (lambda: Fleet([0], SIZES).train(X, Y, lr=-1.0, batch_size=8), "lr=-1.0"),
        (lambda: Fleet([0], SIZES).train(X, Y, lr=[0.1, 0.2], batch_size=8), "lr has the shape"),
        (lambda: Fleet([0], SIZES).train(X, Y, lr=0.1, batch_size=41), "batch_size=41"),
        (lambda: Fleet([0], SIZES).train(X, Y, lr=0.1, batch_size=0), "batch_size=0"),
        (lambda: Fleet([0], SIZES).train(X, Y, lr=0.1, epochs=0), "epochs=0"),
        (
            lambda: Fleet([0], SIZES).train(X, Y, lr=0.1, batch_size=8, order_seeds=[1, 2]),
            "order_seeds has 2 numbers for 1 networks",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
