"""Stabilised division, and sums of single samples."""

import pytest
import torch
from torch.testing import assert_close

from attrib_plugin.functional.lrp import EXACT, Stabilizer, per_sample_sum

TIGHT = {"rtol": 1e-14, "atol": 0}


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_exact_division_is_division_and_zero_where_the_sum_is_zero():
    found = EXACT(numbers(3.0, -1.0, 5.0, 0.0), numbers(2.0, 4.0, 0.0, 0.0))

    assert_close(found, numbers(1.5, -0.25, 0.0, 0.0), **TIGHT)


def test_signed_stabilizer_moves_the_sum_away_from_zero():
    found = Stabilizer(epsilon=0.5)(numbers(1.0, 1.0, 1.0), numbers(1.5, -1.5, 0.0))

    assert_close(found, numbers(0.5, -0.5, 0.0), **TIGHT)


def test_unsigned_stabilizer_is_added_whatever_the_sign():
    # As safe_divide of the authors: the denominator is b + 1e-9, and the quotient is zero where b is.
    found = Stabilizer(epsilon=0.5, signed=False)(numbers(1.0, 1.0, 1.0, 1.0), numbers(1.5, -1.5, 0.0, -0.5))

    assert_close(found, numbers(0.5, -1.0, 0.0, 0.0), **TIGHT)


@pytest.mark.parametrize("divide", [EXACT, Stabilizer(0.1), Stabilizer(0.1, signed=False)])
def test_damping_is_multiplication_after_division(divide):
    activation = numbers(0.7, -0.4, 2.0)
    relevance = numbers(1.0, -3.0, 0.5)

    expected = [float(a) * float(r) / (float(a) + shift) for a, r, shift in zip(
        activation, relevance, shifts(divide, activation), strict=True
    )]  # fmt: skip
    assert_close(divide.damp(relevance, activation), numbers(*expected), rtol=1e-14, atol=1e-15)


def shifts(divide, activation):
    return [divide.epsilon * (1 if not divide.signed or float(one) > 0 else -1) for one in activation]


def test_damping_without_a_stabilizer_keeps_relevance_of_a_zero_activation():
    assert_close(EXACT.damp(numbers(2.0), numbers(0.0)), numbers(2.0), **TIGHT)


@pytest.mark.parametrize("axis", [0, 1])
def test_sum_of_a_sample_runs_over_every_other_axis(axis):
    relevance = torch.randn(3, 2, 4, dtype=torch.float64)

    found = per_sample_sum(relevance, axis)

    for sample in range(relevance.shape[axis]):
        expected = sum(relevance.select(axis, sample).flatten().tolist())
        assert_close(
            found.select(axis, sample).squeeze(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
        )
    assert found.shape == ((3, 1, 1) if axis == 0 else (1, 2, 1))


def test_sum_of_float32_keeps_small_terms_beside_large_ones():
    relevance = torch.tensor([[3e8, 1.0, -3e8]], dtype=torch.float32)

    assert float(per_sample_sum(relevance)) == 1.0
