"""Positions: sinusoids by the formula, rotations by complex numbers, tables in full precision."""

from __future__ import annotations

import pytest
import torch
from architectures import attention_checks as checks
from backprop.layer_checks import TIGHT, normal
from torch.testing import assert_close

from companion.architectures import positions as module
from companion.architectures.positions import (
    LearntPositions,
    RotaryPositions,
    SinusoidalPositions,
    half_split_order,
    rotary_tables,
    rotate,
    sinusoidal_table,
)


def test_sinusoids_are_those_of_the_paper():
    checks.check_sinusoids(module)


def test_rotary_positions_multiply_by_e_to_the_i_t_omega_and_see_distances_only():
    checks.check_rotary(module)


@pytest.mark.parametrize("interleaved", [True, False])
def test_a_rotation_keeps_lengths_and_position_0_turns_nothing(interleaved):
    x = normal((3, 5, 8), 0)
    turned = RotaryPositions(5, 8, interleaved=interleaved).double()(x)
    assert_close(turned.norm(dim=-1), x.norm(dim=-1), **TIGHT)
    assert torch.equal(turned[:, 0], x[:, 0])
    assert not torch.allclose(turned[:, 1:], x[:, 1:])


def test_the_two_layouts_differ_by_a_permutation():
    x, order = normal((2, 6, 8), 0), half_split_order(8)
    cos, sin = rotary_tables(6, 8)
    interleaved = rotate(x, cos, sin, interleaved=True)
    assert_close(interleaved[..., order], rotate(x[..., order], cos, sin), **TIGHT)
    assert not torch.allclose(interleaved, rotate(x, cos, sin))


def test_shifting_sinusoids_by_k_is_one_rotation_for_all_positions():
    """The reason that the paper gives: p(t + k) is a linear function of p(t)."""
    table, k = sinusoidal_table(30, 8), 5
    cos, sin = rotary_tables(30, 8)
    pairs = table.unflatten(1, (4, 2))
    sine, cosine = pairs[:-k, :, 0], pairs[:-k, :, 1]
    shifted = torch.stack((sine * cos[k] + cosine * sin[k], cosine * cos[k] - sine * sin[k]), -1)
    assert_close(shifted, pairs[k:], **TIGHT)


@pytest.mark.parametrize("kind", [SinusoidalPositions, LearntPositions])
def test_offsets_continue_where_the_last_piece_ended(kind):
    positions = kind(9, 4)
    assert_close(torch.cat((positions(4), positions(5, 4))), positions(9))


def test_tables_are_exact_in_float64_and_stay_float32_under_bfloat16():
    rotary = RotaryPositions(2000, 8)
    assert_close(rotary.double().cos, rotary_tables(2000, 8)[0], rtol=0, atol=0)
    low = RotaryPositions(2000, 8).bfloat16()
    assert low.cos.dtype == torch.float32
    assert_close(low.cos.double(), rotary_tables(2000, 8)[0], rtol=0, atol=1e-7)
    assert low(torch.ones(3, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_model_made_on_the_meta_device_has_its_tables_when_it_is_filled():
    with torch.device("meta"):
        rotary = RotaryPositions(6, 4)
    assert rotary.cos.is_meta
    filled = rotary.to_empty(device="cpu")
    assert_close(filled.cos, rotary_tables(6, 4)[0].float())
    assert not filled.state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RotaryPositions(4, 3), "dim=3: an even number is needed"),
        (lambda: RotaryPositions(4, 4, base=1.0), "base=1.0: a number above 1"),
        (lambda: RotaryPositions(0, 4), "length=0"),
        (lambda: RotaryPositions(4, 4)(torch.zeros(3, 6)), r"shape \(3, 6\).*head_dim=4"),
        (lambda: RotaryPositions(4, 4)(torch.zeros(5, 4)), "positions 0 to 4 do not fit"),
        (lambda: RotaryPositions(4, 4)(torch.zeros(2, 4), 3), "positions 3 to 4 do not fit"),
        (lambda: SinusoidalPositions(4, 5), "dim=5: an even number"),
        (lambda: SinusoidalPositions(4, 6)(0), "the sequence has length 0"),
        (lambda: LearntPositions(0, 6), "context_length=0"),
        (lambda: LearntPositions(4, 6)(5), "positions 0 to 4 do not fit: context_length=4"),
        (lambda: half_split_order(1), "dim=1"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
