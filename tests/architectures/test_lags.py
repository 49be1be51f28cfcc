"""The gradient over a lag: against autograd's Jacobian, and never above its bound."""

from __future__ import annotations

import pytest
import torch
from architectures import rnn_checks as checks
from architectures.rnn_checks import normal
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from companion.architectures import lags
from companion.architectures.bptt import elman
from companion.architectures.lags import jacobian_norms, with_spectral_radius


def test_norms_equal_those_of_autograd_s_jacobian():
    checks.check_lags(lags)


@given(st.integers(1, 6), st.floats(0, 3), checks.seeds)
def test_all_singular_values_and_eigenvalues_have_the_radius(size, radius, seed):
    w = with_spectral_radius(size, radius, seed=seed % 1000)
    assert_close(torch.linalg.svdvals(w), torch.full((size,), radius).double())
    assert_close(torch.linalg.eigvals(w).abs(), torch.full((size,), radius).double())


@given(st.floats(0.1, 1.5), checks.seeds)
def test_no_gradient_is_above_the_bound(radius, seed):
    w = with_spectral_radius(5, radius, seed=seed % 1000)
    b, w_ih = torch.zeros(5).double(), normal((5, 2), seed)
    h = elman(normal((2, 9, 2), seed), torch.zeros(2, 5).double(), w_ih, w, b)
    bound = radius ** torch.arange(10).double()
    assert (jacobian_norms(h, w) <= bound * (1 + 1e-12)).all()


def test_near_zero_states_the_bound_is_reached():
    w = with_spectral_radius(5, 0.9)
    h = torch.zeros(1, 21, 5).double()  # tanh has slope 1 there
    assert_close(jacobian_norms(h, w)[0], 0.9 ** torch.arange(21).double())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="size=0"):
        with_spectral_radius(0, 1.0)
    with pytest.raises(ValueError, match="radius=-1: a number >= 0"):
        with_spectral_radius(3, -1)
