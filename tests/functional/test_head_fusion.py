"""Heads are fused by mean, maximum, minimum or the user's own function."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from attrib_plugin.functional import fuse_heads

EXACT = {"rtol": 0.0, "atol": 1e-15}
SLOW = {"mean": lambda values: sum(values) / len(values), "max": max, "min": min}


def probabilities(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).softmax(-1)


@pytest.mark.parametrize("leading", [(2,), (3, 2), (4, 3, 2)])
@pytest.mark.parametrize("how", SLOW)
def test_fusion_agrees_with_slow_loops(how, leading):
    probs = probabilities(*leading, 5, 4, 6)
    flat = probs.reshape(-1, 5, 4, 6)
    expected = torch.zeros(len(flat), 4, 6, dtype=torch.float64)
    for b, q, k in torch.cartesian_prod(*map(torch.arange, expected.shape)).tolist():
        expected[b, q, k] = SLOW[how](flat[b, :, q, k].tolist())

    fused = fuse_heads(probs, how)

    assert_close(fused, expected.reshape(*leading, 4, 6), **EXACT)


def test_heads_are_averaged_unless_something_else_is_asked_for():
    probs = probabilities(2, 5, 4, 6)

    assert_close(fuse_heads(probs), fuse_heads(probs, "mean"), rtol=0.0, atol=0.0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(SLOW)), st.permutations(range(5)), st.integers(0, 1000))
def test_order_of_heads_does_not_matter(how, order, seed):
    probs = probabilities(2, 5, 4, 4, seed=seed)

    assert_close(fuse_heads(probs[:, order], how), fuse_heads(probs, how), **EXACT)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 7), st.integers(0, 1000))
def test_mean_lies_between_minimum_and_maximum_and_keeps_rows_stochastic(n_heads, seed):
    probs = probabilities(2, n_heads, 4, 6, seed=seed)

    lowest, mean, highest = (fuse_heads(probs, how) for how in ("min", "mean", "max"))

    assert (lowest <= mean + 1e-15).all()
    assert (mean <= highest + 1e-15).all()
    assert_close(mean.sum(-1), torch.ones(2, 4, dtype=torch.float64), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("how", SLOW)
def test_one_head_is_itself(how):
    probs = probabilities(2, 1, 4, 6)

    assert_close(fuse_heads(probs, how), probs[:, 0], rtol=0.0, atol=0.0)


def test_callable_fuses_as_it_likes():
    probs = probabilities(3, 2, 5, 4, 6)

    fused = fuse_heads(probs, lambda heads: heads.median(-3).values)

    assert_close(fused, probs.median(-3).values, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("how", ["average", "MEAN", "", None, 3])
def test_unknown_fusion_is_refused(how):
    with pytest.raises(ValueError, match=r"head_fusion must be 'mean', 'max', 'min' or a callable, not"):
        fuse_heads(probabilities(2, 5, 4, 6), how)


def test_callable_that_keeps_the_heads_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"must map heads \(2, 5, 4, 6\) to \(2, 4, 6\); it returned \(2, 5, 4, 6\)"):
        fuse_heads(probabilities(2, 5, 4, 6), lambda heads: heads)


def test_callable_that_returns_no_tensor_is_refused_with_its_type():
    with pytest.raises(ValueError, match=r"to \(2, 4, 6\); it returned max"):
        fuse_heads(probabilities(2, 5, 4, 6), lambda heads: heads.max(-3))
