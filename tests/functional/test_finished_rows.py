"""What is done to finished rows, against slow loops."""

import pytest
import torch
from torch.testing import assert_close

from attrib_plugin.functional import divide_rows, overwrite_special

ROWS = torch.tensor([[0.5, 0.3, 0.1, 0.2], [4.0, -1.0, 3.0, 2.0], [-3.0, 0.7, 0.9, -0.4]], dtype=torch.float64)
PADDING = torch.tensor([[False, False, False, False], [False, False, False, True], [True, True, False, False]])


def slow_overwrite(row, padding, how):
    real = [token for token in range(len(row)) if not padding[token]]
    row = list(row)
    if how == "min_first":
        row[real[0]] = min(row)
    elif how in ("zero_first", "zero_ends"):
        row[real[0]] = 0.0
        if how == "zero_ends":
            row[real[-1]] = 0.0
    return row


@pytest.mark.parametrize("how", ["keep", "zero_first", "min_first", "zero_ends"])
@pytest.mark.parametrize("padding", [None, PADDING])
def test_special_tokens_are_overwritten_as_slow_loops_do(how, padding):
    flags = (torch.zeros_like(PADDING) if padding is None else padding).tolist()
    expected = [slow_overwrite(row, hidden, how) for row, hidden in zip(ROWS.tolist(), flags, strict=True)]
    before = ROWS.clone()

    found = overwrite_special(ROWS, how, padding=padding)

    assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0)
    assert torch.equal(ROWS, before)


def test_rows_are_divided_by_the_largest_value_beyond_the_prefix():
    found = divide_rows(ROWS, "max", prefix_tokens=1)

    assert_close(found, ROWS / torch.tensor([[0.3], [3.0], [0.9]], dtype=torch.float64), rtol=1e-15, atol=0)


def test_rows_without_a_positive_value_are_not_divided():
    rows = torch.tensor([[5.0, 0.0, 0.0], [5.0, -1.0, -2.0]])

    assert torch.equal(divide_rows(rows, "max", prefix_tokens=1), rows)


def test_rows_may_be_left_as_they_are():
    assert torch.equal(divide_rows(ROWS), ROWS)
    assert torch.equal(overwrite_special(ROWS), ROWS)


def test_unknown_ways_are_refused():
    with pytest.raises(ValueError, match="special must be 'keep', 'zero_first', 'min_first' or 'zero_ends', not 'cls'"):
        overwrite_special(ROWS, "cls")
    with pytest.raises(ValueError, match="divide_by must be 'nothing' or 'max', not 'sum'"):
        divide_rows(ROWS, "sum")
