"""The recipes' checks fail where the technique is done wrongly, not only where it is not done."""

from __future__ import annotations

import pytest
import torch

from companion.architectures import rnn_recipes
from companion.architectures.truncated import TruncatedBPTT
from companion.training import fit


def test_digits_as_sequences_are_the_rows_of_the_images():
    data = rnn_recipes.rows_of_digits()
    assert data.train[0].shape[1:] == (8, 8)
    assert {len(x) for x, _ in data.train_dataloader()} == {64}


def test_a_layer_whose_gradient_is_not_added_up_over_time_fails(monkeypatch):
    recipe = rnn_recipes.elman_rnn()
    layer = recipe.module.network[0].recurrent
    right = layer.backward

    def only_a_part(grad_output: torch.Tensor, grad_state: object = None) -> object:
        result = right(grad_output, grad_state)
        layer.weight_hh_l0.grad.mul_(0.5)
        return result

    monkeypatch.setattr(layer, "backward", only_a_part)
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    with pytest.raises(AssertionError, match="of its way from autograd's"):
        recipe.check(result)


def test_a_window_that_is_shorter_than_the_lag_fails():
    recipe = rnn_recipes.truncated_bptt()
    short = TruncatedBPTT(recipe.module.network, window=5, optimizer=rnn_recipes.ADAM)
    with pytest.raises(AssertionError):
        recipe.check(fit(short, recipe.data, **recipe.trainer_options))


def test_training_without_clipping_fails(monkeypatch):
    monkeypatch.setattr(
        rnn_recipes,
        "clip_grad_norm_",
        lambda parameters, limit: torch.nn.utils.get_total_norm(
            [p.grad for p in parameters if p.grad is not None]
        ),
    )
    recipe = rnn_recipes.gradient_clipping_by_norm()
    result = fit(recipe.module, recipe.data, **recipe.trainer_options)
    with pytest.raises(AssertionError):
        recipe.check(result)
