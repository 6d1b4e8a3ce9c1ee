"""Comprehensiveness, sufficiency, log-odds, and the overlap with human rationales: worked examples."""

import math

import pytest
import torch

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation import comprehensiveness, log_odds, sufficiency, token_auprc, token_f1, token_iou

ONES = torch.ones(1, 4, dtype=torch.float64)
MAP = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
WEIGHTS = torch.tensor([[4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def linear(inputs):
    return inputs @ WEIGHTS.T


def test_comprehensiveness_and_sufficiency_on_a_sum():
    # 10 with everything. One unit (a quarter): 6 without it, 4 with it alone. Two (a half): 3 and 7.
    without = comprehensiveness(linear, ONES, MAP, target=0, shares=(0.25, 0.5), score="logit")
    alone = sufficiency(linear, ONES, MAP, target=0, shares=(0.25, 0.5), score="logit")

    assert without.tolist() == [10 - (6 + 3) / 2]
    assert alone.tolist() == [10 - (4 + 7) / 2]


def test_default_scores_are_probabilities_over_the_shares_of_eraser():
    def chance(value):
        return 1 / (1 + math.exp(-value))

    # Of 4 units, 1, 5, 10 and 20 % are one unit each (at least one), and 50 % are two.
    expected = chance(10) - (4 * chance(6) + chance(3)) / 5

    assert comprehensiveness(linear, ONES, MAP, target=0).item() == pytest.approx(expected, abs=1e-12)


def test_log_odds_of_a_worked_example():
    # 20 % of 4 is one unit: log sigmoid(6) - log sigmoid(10).
    expected = -math.log1p(math.exp(-6)) + math.log1p(math.exp(-10))

    assert log_odds(linear, ONES, MAP, target=0).item() == pytest.approx(expected, abs=1e-12)


def test_half_a_unit_is_rounded_up():
    # 0.375 of 4 units is 1.5, so 2 are removed: 10 - 3 = 7.
    found = comprehensiveness(linear, ONES, MAP, target=0, shares=(0.375,), score="logit")

    assert found.item() == 7.0


def test_a_negated_map_is_neither_comprehensive_nor_sufficient():
    assert comprehensiveness(linear, ONES, -MAP, target=0) < comprehensiveness(linear, ONES, MAP, target=0)
    assert sufficiency(linear, ONES, -MAP, target=0) > sufficiency(linear, ONES, MAP, target=0)


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(InputError, match=r"shares above 0 and up to 1, found \(0.0,\)"):
        sufficiency(linear, ONES, MAP, target=0, shares=(0.0,))


RATIONALE = torch.tensor([[True, False, True, False]])


def test_overlap_with_a_rationale():
    # Top 3 are tokens 0, 1, 2; marked 0 and 2; both 2. F1 = 2 * 2 / (3 + 2), IoU = 2 / 3.
    assert token_f1(MAP, RATIONALE, 3).item() == pytest.approx(4 / 5)
    assert token_iou(MAP, RATIONALE, 3).item() == pytest.approx(2 / 3)


def test_without_k_as_many_tokens_are_taken_as_were_marked():
    # Top 2 are tokens 0 and 1, marked 0 and 2: F1 = 2 * 1 / 4, IoU = 1 / 3.
    assert token_f1(MAP, RATIONALE).item() == pytest.approx(1 / 2)
    assert token_iou(MAP, RATIONALE).item() == pytest.approx(1 / 3)


def test_precision_and_recall_of_a_rationale():
    # Hit, miss, hit, miss: 1/2 * 1 + 1/2 * 2/3 = 5/6.
    assert token_auprc(MAP, RATIONALE).item() == pytest.approx(5 / 6)


def test_special_tokens_and_padding_do_not_count():
    maps = torch.tensor([[9.0, 1.0, 2.0, 9.0], [9.0, 5.0, 9.0, 9.0]])
    marked = torch.tensor([[True, False, True, False], [False, True, False, True]])
    valid = torch.tensor([[False, True, True, False], [False, True, False, False]])

    assert token_f1(maps, marked, 1, valid=valid).tolist() == [1.0, 1.0]
    assert token_f1(maps, marked, 5, valid=valid).tolist() == [2 / 3, 1.0]
    assert token_auprc(maps, marked, valid=valid).tolist() == [1.0, 1.0]


def test_constant_maps_take_tokens_in_reading_order_and_detect_by_chance():
    flat = torch.ones(1, 4)

    assert token_f1(flat, torch.tensor([[True, True, False, False]])).item() == 1.0
    assert token_f1(flat, torch.tensor([[False, False, True, True]])).item() == 0.0
    assert token_auprc(flat, RATIONALE).item() == 0.5


def test_rationales_that_cannot_be_scored_are_refused():
    with pytest.raises(InputError, match="Text 1 has no marked token"):
        token_f1(torch.rand(2, 3), torch.tensor([[True, False, False], [False] * 3]))
    with pytest.raises(InputError, match="Text 0 has no marked token"):
        token_auprc(MAP, RATIONALE, valid=~RATIONALE)
    with pytest.raises(InputError, match=r"attributions \(1, 4\), rationales \(1, 5\)"):
        token_iou(MAP, torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(InputError, match="k must be at least 1"):
        token_f1(MAP, RATIONALE, 0)
    with pytest.raises(InputError, match="NaN or infinite"):
        token_f1(MAP * torch.nan, RATIONALE)
