"""Bootstrap intervals."""

import pytest
import torch

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation import mean_interval


def test_interval_holds_the_mean_and_has_the_width_of_theory():
    values = torch.randn(400, dtype=torch.float64)

    mean, low, high = mean_interval(values, draws=8000)

    assert mean == pytest.approx(values.mean().item())
    # Normal theory: 1.96 standard errors on either side.
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.05)
    assert low < mean < high


def test_the_same_seed_gives_the_same_interval_and_leaves_the_global_one():
    values, before = torch.randn(20), torch.get_rng_state()

    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values) != mean_interval(values, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_values_have_no_width():
    assert mean_interval(torch.full((5,), 0.5)) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [torch.tensor([]), torch.tensor([1.0, torch.nan])])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(InputError, match="finite scores, at least one"):
        mean_interval(values)


def test_a_level_outside_zero_to_one_is_refused():
    with pytest.raises(InputError, match="level must be between 0 and 1"):
        mean_interval(torch.rand(4), level=95)


def test_samples_of_one_group_are_drawn_together():
    values = torch.randn(30, dtype=torch.float64)
    groups = torch.arange(30).repeat(4)

    grouped = mean_interval(values.repeat(4), groups=groups)
    alone = mean_interval(values)
    naive = mean_interval(values.repeat(4))

    # Four copies of a sample say no more than the sample.
    torch.testing.assert_close(torch.tensor(grouped), torch.tensor(alone))
    assert naive.high - naive.low < 0.7 * (grouped.high - grouped.low)


def test_a_group_counts_by_its_samples():
    values, groups = torch.tensor([0.0, 1, 1, 1]), torch.tensor([7, 2, 2, 2])

    # Two draws of two groups: the first twice has mean 0 (a quarter of all draws), the second twice 1 (a quarter), one
    # of each three quarters.
    assert mean_interval(values, groups=groups) == (0.75, 0.0, 1.0)
    assert mean_interval(values, groups=groups, level=0.3) == (0.75, 0.75, 0.75)


def test_groups_of_another_length_are_refused():
    with pytest.raises(InputError, match="group of each of 3 samples, found 2"):
        mean_interval(torch.ones(3), groups=torch.tensor([0, 1]))
