"""Rules for sums and means against slow loops written from the papers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from attrib_plugin.functional.lrp import (
    EXACT,
    Stabilizer,
    conserving_sum_rule,
    magnitude_mean_rule,
    residual_gamma_rule,
    sum_rule,
    unbroadcast,
)

B, T, D = 3, 4, 2
TIGHT = {"rtol": 1e-11, "atol": 1e-12}
UNSIGNED = Stabilizer(epsilon=1e-3, signed=False)
quickly = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def case(seed=0, shape=(B, T, D)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def divided(numerator, denominator, divide=EXACT):
    if denominator == 0:
        return 0.0
    return numerator / (denominator + divide.epsilon * (-1 if divide.signed and denominator < 0 else 1))


def slow_sum(first, second, relevance, divide=EXACT):
    found = torch.zeros(2, *first.shape, dtype=torch.float64)
    for place in range(first.numel()):
        a, b, r = (float(one.flatten()[place]) for one in (first, second, relevance))
        found[0].view(-1)[place] = a * divided(r, a + b, divide)
        found[1].view(-1)[place] = b * divided(r, a + b, divide)
    return found[0], found[1]


def slow_conserving_sum(first, second, relevance, divide=EXACT):
    """Equation 9 of arXiv:2012.09838 for one sample, with the total of its relevance in place of one."""
    parts = slow_sum(first, second, relevance, divide)
    sums = [sum(part.flatten().tolist()) for part in parts]
    total, sizes = sum(relevance.flatten().tolist()), [abs(one) for one in sums]
    return [
        part * divided(divided(size, sum(sizes), divide) * total, own, divide)
        for part, own, size in zip(parts, sums, sizes, strict=True)
    ]


@pytest.mark.parametrize("divide", [EXACT, UNSIGNED])
def test_sum_rule_agrees_with_slow_loops(divide):
    first, second, relevance = case()
    first[0, 0, 0] = -second[0, 0, 0]  # a sum of exactly nothing

    found = sum_rule(first, second, relevance, divide=divide)

    for one, expected in zip(found, slow_sum(first, second, relevance, divide), strict=True):
        assert_close(one, expected, **TIGHT)


@pytest.mark.parametrize("divide", [EXACT, UNSIGNED])
@pytest.mark.parametrize("batch_axis", [0, 1])
def test_conserving_sum_rule_agrees_with_slow_loops_over_each_sample(divide, batch_axis):
    first, second, relevance = case()

    found = conserving_sum_rule(first, second, relevance, divide=divide, batch_axis=batch_axis)

    for sample in range(first.shape[batch_axis]):
        alone = [one.select(batch_axis, sample) for one in (first, second, relevance)]
        for one, expected in zip(found, slow_conserving_sum(*alone, divide), strict=True):
            assert_close(one.select(batch_axis, sample), expected, rtol=1e-10, atol=1e-11)


@quickly
@given(seed=seeds)
def test_conserving_sum_keeps_the_total_of_every_sample(seed):
    first, second, relevance = case(seed)

    found = conserving_sum_rule(first, second, relevance)

    total = (found[0] + found[1]).sum((1, 2))
    scale = float((found[0].abs() + found[1].abs()).sum())
    assert_close(total, relevance.sum((1, 2)), rtol=0, atol=1e-12 * scale)


@quickly
@given(seed=seeds)
def test_conserving_sum_gives_no_branch_more_than_the_total(seed):
    first, second, relevance = case(seed)
    first = -second + 1e-3 * first  # summands that cancel

    for branch in conserving_sum_rule(first, second, relevance):
        bound = relevance.sum((1, 2)).abs() * (1 + 1e-6)
        assert (branch.sum((1, 2)).abs() <= bound).all()


def test_conserving_sum_of_a_constant_with_one_size_an_axis_counts_its_copies():
    first, _, relevance = case()
    second = torch.randn(1, T, 1, dtype=torch.float64)

    found = conserving_sum_rule(first, second, relevance)

    expected = conserving_sum_rule(first, second.expand(B, T, D).contiguous(), relevance)
    assert_close(found, expected, **TIGHT)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 10.0])
def test_bounded_rule_agrees_with_slow_loops(gamma):
    first, second, relevance = case()

    found = residual_gamma_rule(first, second, relevance, gamma=gamma)

    for place in range(first.numel()):
        a, b, r = (float(one.flatten()[place]) for one in (first, second, relevance))
        weighted = [one * (1 + gamma * (one * (a + b) > 0)) for one in (a, b)]
        for one, part in zip(found, weighted, strict=True):
            assert float(one.flatten()[place]) == pytest.approx(part * r / sum(weighted), rel=1e-11)


@quickly
@given(seed=seeds, gamma=st.sampled_from([0.3, 1.0, 4.0]), cancelling=st.sampled_from([0.0, 1e-1, 1e-6]))
def test_shares_of_the_bounded_rule_lie_between_its_bounds_and_add_up_to_one(seed, gamma, cancelling):
    first, second, _ = case(seed)
    if cancelling:
        first = -second + cancelling * first

    shares = residual_gamma_rule(first, second, torch.ones_like(first), gamma=gamma)

    for share in shares:
        assert float(share.min()) >= -1 / gamma - 1e-9
        assert float(share.max()) <= 1 + 1 / gamma + 1e-9
    assert_close(shares[0] + shares[1], torch.ones_like(first), rtol=0, atol=1e-9)


@pytest.mark.parametrize("axes", [(1,), (1, 2), (2,)])
def test_relevance_of_a_mean_is_shared_out_by_size(axes):
    inputs, _, _ = case()
    relevance = torch.randn(inputs.mean(axes, keepdim=True).shape, dtype=torch.float64)

    found = magnitude_mean_rule(inputs, relevance)

    for place in torch.cartesian_prod(*map(torch.arange, inputs.shape)).tolist():
        shared = [slice(None) if axis in axes else place[axis] for axis in range(3)]
        sizes = inputs[tuple(shared)].abs().flatten().tolist()
        received = float(relevance[tuple(0 if axis in axes else place[axis] for axis in range(3))])
        expected = received * abs(float(inputs[tuple(place)])) / sum(sizes)
        assert float(found[tuple(place)]) == pytest.approx(expected, rel=1e-11)
    assert_close(found.sum(axes, keepdim=True), relevance, **TIGHT)


RULES = {
    "sum": sum_rule,
    "conserving": conserving_sum_rule,
    "gamma": lambda a, b, r: residual_gamma_rule(a, b, r, gamma=1.0),
}


@pytest.mark.parametrize("name", RULES)
def test_samples_of_a_batch_are_explained_as_alone(name):
    tensors = case()

    singles = [RULES[name](*(one[i : i + 1] for one in tensors)) for i in range(B)]

    for found, alone in zip(RULES[name](*tensors), zip(*singles, strict=True), strict=True):
        assert_close(found, torch.cat(alone), **TIGHT)


@pytest.mark.parametrize("name", RULES)
def test_zero_relevance_gives_zero_relevance_and_a_summand_of_zero_has_none(name):
    first, second, relevance = case()

    assert not any(part.any() for part in RULES[name](first, second, torch.zeros_like(relevance)))
    of_nothing, of_all = RULES[name](torch.zeros_like(first), second, relevance)
    assert not of_nothing.any()
    assert_close(of_all, relevance, **TIGHT)


@pytest.mark.parametrize("name", RULES)
def test_rules_do_not_depend_on_the_scale_of_the_summands(name):
    first, second, relevance = case()

    assert_close(RULES[name](9 * first, 9 * second, relevance), RULES[name](first, second, relevance), **TIGHT)


def test_sums_over_repeated_axes_give_the_operand_its_relevance():
    relevance, _, _ = case()

    assert_close(unbroadcast(relevance, torch.empty(1, T, 1)), relevance.sum((0, 2), keepdim=True), **TIGHT)
    assert_close(unbroadcast(relevance, torch.empty(D)), relevance.sum((0, 1)), **TIGHT)
    assert unbroadcast(relevance, torch.empty(B, T, D)) is relevance
