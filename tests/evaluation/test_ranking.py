"""Orders with ties, rank correlation, average precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation import agreement, rank_correlation
from attrib_plugin.evaluation.ranking import average_precision, average_ranks, removal_ranks

values = st.lists(st.integers(-3, 3), min_size=2, max_size=9)


def test_equal_values_keep_their_places_in_both_orders():
    relevance = torch.tensor([[1.0, 5.0, 1.0, 5.0, 0.0]])

    most = removal_ranks(relevance, "most")
    least = removal_ranks(relevance, "least")

    # most: 5 (place 1), 5 (place 3), 1 (place 0), 1 (place 2), 0 (place 4)
    assert most.tolist() == [[2, 0, 3, 1, 4]]
    # least: 0 (place 4), 1 (place 0), 1 (place 2), 5 (place 1), 5 (place 3)
    assert least.tolist() == [[1, 3, 2, 4, 0]]


@given(values)
@settings(deadline=None, max_examples=40)
def test_least_of_a_map_is_most_of_its_negative(numbers):
    relevance = torch.tensor([numbers], dtype=torch.float64)

    assert torch.equal(removal_ranks(relevance, "least"), removal_ranks(-relevance, "most"))


@pytest.mark.parametrize("order", ["most", "least"])
def test_units_that_a_sample_lacks_come_last(order):
    relevance = torch.tensor([[9.0, -9.0, 1.0, 2.0]])
    present = torch.tensor([[False, False, True, True]])

    ranks = removal_ranks(relevance, order, present)

    assert ranks[0, :2].min() == 2


def test_an_unknown_order_is_refused():
    with pytest.raises(InputError, match="'most' or 'least', not 'best'"):
        removal_ranks(torch.rand(1, 3), "best")


@given(values)
@settings(deadline=None, max_examples=40)
def test_average_ranks_agree_with_counting(numbers):
    tensor = torch.tensor(numbers, dtype=torch.float64)

    ranks = average_ranks(tensor)

    # How many are below, plus half of the equal ones but oneself.
    expected = [sum(x < y for x in numbers) + (sum(x == y for x in numbers) - 1) / 2 for y in numbers]
    assert ranks.tolist() == expected


def test_rank_correlation_of_a_worked_example():
    # Ranks 0 1 2 3 and 1 0 3 2: differences -1 1 -1 1, so 1 - 6 * 4 / (4 * 15) = 0.6.
    first, second = torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([[20.0, 10.0, 400.0, 300.0]])

    torch.testing.assert_close(rank_correlation(first, second), torch.tensor([0.6], dtype=torch.float64))


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_with_ties_agrees_with_scipy(seed):
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(0, 5, (2, 1, 3, 7), generator=generator).double()

    ours = rank_correlation(first, second)

    theirs = spearmanr(first.flatten().numpy(), second.flatten().numpy()).statistic
    torch.testing.assert_close(ours, torch.tensor([theirs]), rtol=0, atol=1e-12)


def test_constant_maps_order_nothing():
    flat, other = torch.ones(1, 4), torch.tensor([[1.0, 2.0, 3.0, 4.0]])

    assert rank_correlation(flat, other).tolist() == [0.0]
    assert rank_correlation(flat, 2 * flat).tolist() == [1.0]


def test_values_left_aside_do_not_count():
    first, second = torch.tensor([[1.0, 2.0, 3.0, 99.0]]), torch.tensor([[1.0, 2.0, 3.0, -99.0]])
    valid = torch.tensor([[True, True, True, False]])

    assert rank_correlation(first, second, valid).tolist() == [1.0]
    with pytest.raises(InputError, match="no valid value"):
        rank_correlation(first, second, torch.zeros(1, 4, dtype=torch.bool))


def test_maps_of_other_shapes_and_with_nan_are_refused():
    with pytest.raises(InputError, match=r"one shape, batch first, found \(2, 3\) and \(2, 4\)"):
        rank_correlation(torch.rand(2, 3), torch.rand(2, 4))
    broken = torch.rand(3, 4)
    broken[1, 2] = torch.nan
    with pytest.raises(InputError, match="sample 1 holds NaN"):
        rank_correlation(torch.rand(3, 4), broken)
    with pytest.raises(InputError, match="valid has shape"):
        rank_correlation(torch.rand(3, 4), torch.rand(3, 4), torch.ones(3, 5, dtype=torch.bool))


def test_agreement_is_a_symmetric_table_of_mean_correlations():
    # Samples agree fully in the first and are reversed in the second: mean 0.
    one = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    other = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])

    names, table = agreement({"one": one, "other": other, "same": 5 * one})

    assert names == ("one", "other", "same")
    expected = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(table, expected, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="at least one map"):
        agreement({})


def test_average_precision_of_a_worked_example():
    # Order 4 (hit), 3 (miss), 2 (hit): precision 1 at recall 1/2, then 2/3 at recall 1: 1/2 + 1/3 = 5/6.
    scores, truth = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([True, False, True])

    assert float(average_precision(scores, truth)) == pytest.approx(5 / 6)
    # Lines: 1/2 * (1 + 1)/2, then the drop to 1/2 at recall 1/2 has no width, then 1/2 * (1/2 + 2/3)/2.
    assert float(average_precision(scores, truth, interpolate=True)) == pytest.approx(0.5 + 0.5 * 7 / 12)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_with_ties_agrees_with_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle here")
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (23,), generator=generator).double()
    truth = torch.rand(23, generator=generator) < 0.4

    precision, recall, _ = metrics.precision_recall_curve(truth.numpy(), scores.numpy())

    assert float(average_precision(scores, truth)) == pytest.approx(
        metrics.average_precision_score(truth.numpy(), scores.numpy()), abs=1e-12
    )
    assert float(average_precision(scores, truth, interpolate=True)) == pytest.approx(
        metrics.auc(recall, precision), abs=1e-12
    )


def test_a_constant_score_is_as_precise_as_chance():
    truth = torch.tensor([True, False, False, False])

    assert float(average_precision(torch.ones(4), truth)) == 0.25
