"""The adding problem: two marks, one in each half, and the sum of what they mark."""

from __future__ import annotations

import pytest
import torch

from companion.data.adding_problem import CHANCE, AddingProblem


@pytest.mark.parametrize("length", [2, 7, 100])
def test_the_target_is_the_sum_of_the_two_marked_values(length):
    data = AddingProblem(length, samples=500, held_out=50)
    data.setup()
    for (x, y), samples in ((data.train, 500), (data.validation, 50), (data.test, 50)):
        assert x.shape == (samples, length, 2)
        assert y.shape == (samples, 1)
        values, marks = x.unbind(2)
        assert ((marks == 0) | (marks == 1)).all()
        assert (marks[:, : length // 2].sum(1) == 1).all()
        assert (marks[:, length // 2 :].sum(1) == 1).all()
        torch.testing.assert_close((values * marks).sum(1, keepdim=True), y)
        assert values.min() >= 0
        assert values.max() <= 1


def test_every_place_is_marked_and_the_constant_answer_has_the_error_of_chance():
    data = AddingProblem(10, samples=20_000)
    data.setup()
    x, y = data.train
    assert (x[:, :, 1].sum(0) > 3600).all()  # 4000 expected, standard deviation 57
    assert ((y - 1) ** 2).mean().item() == pytest.approx(CHANCE, rel=0.03)


def test_the_seed_decides_the_sequences():
    one, same, other = (AddingProblem(9, samples=20, seed=s) for s in (0, 0, 1))
    for data in (one, same, other):
        data.setup()
    assert torch.equal(one.train[0], same.train[0])
    assert not torch.equal(one.train[0], other.train[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"length": 1}, "length=1"), ({"samples": 0}, "samples=0"), ({"held_out": 0}, "held_out=0")],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        AddingProblem(**options)
