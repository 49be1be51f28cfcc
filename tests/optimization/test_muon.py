"""Muon: equal to torch.optim's, Newton–Schulz to a decomposition, and who gets which parameter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimization import adam_checks as checks
from torch import nn
from torch.testing import assert_close

from companion.optimization import muon
from companion.optimization.adam import AdamW


def test_muon_equals_torch_over_fifty_steps():
    checks.check_muon(muon)


def test_newton_schulz_is_a_polynomial_of_the_singular_values():
    checks.check_orthogonalize(muon)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 100), st.floats(-8, 8))
def test_every_singular_value_above_a_hundredth_comes_near_one(rows, columns, seed, power):
    """Of the Frobenius norm; in bfloat16, the default, and for any size of the matrix."""
    matrix = checks.normal((rows, columns), seed)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    generator = torch.Generator().manual_seed(seed)
    sigma = 0.05 + torch.rand(min(rows, columns), generator=generator).double()
    large = sigma / sigma.norm() > 0.01
    result = muon.orthogonalize((u * sigma) @ vt * 10**power)
    along = ((u.T @ result.double()) * vt).sum(1)  # the diagonal of Uᵀ X V
    assert ((along > 0.5) & (along < 1.35))[large].all()


def test_newton_schulz_leaves_zeros_zero_and_its_input_alone():
    matrix = torch.zeros(3, 4)
    assert torch.equal(muon.orthogonalize(matrix), torch.zeros(3, 4, dtype=torch.bfloat16))
    matrix = checks.normal((4, 3), 0)
    copy = matrix.clone()
    muon.orthogonalize(matrix, dtype=torch.float64)
    assert torch.equal(matrix, copy)


def test_the_exact_step_is_where_many_newton_schulz_iterations_lead():
    """With the classic coefficients (15, −10, 3)/8 the iteration converges to U Vᵀ."""
    for shape in ((6, 4), (4, 6)):
        weight = checks.normal(shape, 0)
        buffer, parameter = torch.zeros(shape).double(), nn.Parameter(weight.clone())
        optimizer = muon.Muon(
            [parameter],
            lr=0.02,
            weight_decay=0.1,
            ns_coefficients=(15 / 8, -10 / 8, 3 / 8),
            ns_steps=60,
            ns_dtype=torch.float64,
        )
        for step in range(1, 6):
            grad = checks.normal(shape, step)
            weight, buffer = muon.muon_step(weight, grad, buffer, weight_decay=0.1)
            parameter.grad = grad.clone()
            optimizer.step()
        assert_close(parameter.detach(), weight, rtol=1e-10, atol=1e-12)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, 4)
        self.positions = nn.Embedding(6, 4)
        self.up = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8)
        self.down = nn.Linear(8, 4, bias=False)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.tokens.weight


def names(network: nn.Module) -> tuple[set[str], set[str]]:
    called = {id(p): name for name, p in network.named_parameters()}
    matrices, rest = muon.split_parameters(network)
    return {called[id(p)] for p in matrices}, {called[id(p)] for p in rest}


def test_the_split_takes_hidden_matrices_only_and_loses_no_parameter():
    mlp = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    assert names(mlp) == ({"2.weight"}, {"0.weight", "0.bias", "2.bias", "4.weight", "4.bias"})
    hidden, rest = names(Tied())
    assert hidden == {"up.weight", "down.weight"}
    assert rest == {"tokens.weight", "positions.weight", "up.bias", "norm.weight", "norm.bias"}
    cnn = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Linear(2, 4), nn.Linear(4, 3))
    assert names(cnn)[0] == {"2.weight"}
    assert names(nn.Sequential(nn.Linear(3, 2)))[0] == set()
    assert muon.split_parameters(nn.ReLU()) == ([], [])


def test_the_split_leaves_out_what_is_frozen():
    mlp = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2))
    mlp[1].weight.requires_grad_(False)
    assert sum(map(len, muon.split_parameters(mlp))) == 5


def test_one_optimizer_for_both_is_the_two_side_by_side():
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)).double()

    one, two = network(), network()
    both = muon.MuonWithAdamW(*muon.split_parameters(one), lr=0.05, adamw_lr=0.01)
    matrices, rest = muon.split_parameters(two)
    pair = (
        torch.optim.Muon(matrices, lr=0.05, weight_decay=0.01),
        AdamW(rest, lr=0.01, betas=(0.9, 0.95), weight_decay=0.01),
    )
    x = checks.normal((8, 4), 0)
    for step in range(20):
        for net in (one, two):
            net.zero_grad()
            net(x).square().sum().backward()
        if step == 10:
            saved = checks.through_a_file(both.state_dict())
            both = muon.MuonWithAdamW(*muon.split_parameters(one))
            both.load_state_dict(saved)
        both.step()
        for optimizer in pair:
            optimizer.step()
    for mine, other in zip(one.parameters(), two.parameters(), strict=True):
        assert_close(mine.detach(), other.detach(), **checks.TIGHT)


def test_one_optimizer_works_where_one_of_both_lists_is_empty():
    weight = nn.Parameter(torch.ones(2, 2))
    assert len(muon.MuonWithAdamW([weight], []).param_groups) == 1
    assert muon.MuonWithAdamW([], [weight]).param_groups[0]["adamw"]


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), ()])
def test_anything_but_a_matrix_is_refused(shape):
    with pytest.raises(ValueError, match=r"params: one of shape .* Muon needs matrices"):
        muon.Muon([nn.Parameter(torch.zeros(shape))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ns_steps": 0}, r"ns_steps=0: an integer of at least 1"),
        ({"ns_steps": 100}, r"ns_steps=100: at most 99"),
        ({"ns_coefficients": (1.0, 2.0)}, r"ns_coefficients=\(1.0, 2.0\): three"),
        ({"adjust_lr_fn": "mine"}, r"adjust_lr_fn='mine': None, 'original' or"),
        ({"momentum": 1.0}, r"momentum=1.0: a number in \[0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        muon.Muon([nn.Parameter(torch.zeros(2, 2))], **options)


@pytest.mark.parametrize("name", ["adamw_lr", "adamw_eps"])
def test_the_second_methods_options_are_named_as_they_were_given(name):
    with pytest.raises(ValueError, match=f"{name}=-1: a finite number"):
        muon.MuonWithAdamW([], [nn.Parameter(torch.zeros(2))], **{name: -1})
