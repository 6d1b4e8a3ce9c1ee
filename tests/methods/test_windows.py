"""Rows cut into windows and put together again, and rows carried below mergings, against slow loops."""

import torch
from torch import Tensor
from torch.testing import assert_close

from attrib_plugin.methods.base import layers_of
from attrib_plugin.methods.base.windows import Windows, merged_from
from attrib_plugin.records import AttentionCall, AttentionTrace, TokenLayout, TokenMerging, TokenPlacement

# Five tokens in two windows of three slots, the last of them padding.
SLOTS = torch.tensor([[3, 0, 4], [1, 2, -1]])
PLACEMENT = TokenPlacement(SLOTS, 5, (1, 5))
EXACT = {"rtol": 0.0, "atol": 1e-12}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def whole(blocks: Tensor) -> Tensor:
    """Maps (B,5,5) of maps (B*2,3,3)."""
    maps = blocks.new_zeros(len(blocks) // 2, 5, 5)
    for window, block in enumerate(blocks):
        for row, query in enumerate(SLOTS[window % 2].tolist()):
            for column, key in enumerate(SLOTS[window % 2].tolist()):
                if query >= 0 and key >= 0:
                    maps[window // 2, query, key] = block[row, column]
    return maps


def test_rows_in_windows_come_back_as_they_were():
    windows, rows = Windows(PLACEMENT), random(2, 4, 3, 5)  # (sign, B, V, N)

    gathered = windows.gather(rows)

    assert gathered.shape == (2, 8, 3, 3)
    for window in range(8):
        for slot, token in enumerate(SLOTS[window % 2].tolist()):
            expected = rows[:, window // 2, :, token] if token >= 0 else torch.zeros(2, 3, dtype=torch.float64)
            assert torch.equal(gathered[:, window, :, slot], expected)
    assert torch.equal(windows.scatter(gathered), rows)


def test_blocks_of_windows_are_laid_into_the_matrix_of_all_tokens():
    blocks = random(8, 3, 3)

    assert torch.equal(Windows(PLACEMENT).dense(blocks), whole(blocks))
    assert torch.equal(Windows(PLACEMENT).pairs, whole(torch.ones(2, 3, 3))[0].bool())


def test_a_windowed_layer_multiplies_rows_and_columns_as_its_matrix_does():
    weights = random(8, 2, 3, 3).softmax(-1)
    value = random(8, 2, 3, 4)
    call = AttentionCall(
        0, "attention", "self", weights @ value, value=value, weights=weights, batch_size=8, placement=PLACEMENT
    )
    layout = TokenLayout(torch.full((4, 5), 0.2, dtype=torch.float64))
    (layer,) = layers_of(AttentionTrace((call,), layout))
    rows, columns = random(4, 3, 5, seed=1), random(4, 5, seed=2)
    expected = whole(weights.mean(1))

    assert_close(layer.matrix(lambda block: block.probs.mean(1)), expected, **EXACT)
    assert_close(layer.times(rows, lambda block: block.probs.mean(1)), rows @ expected, **EXACT)
    product = layer.applied_to(columns, lambda block: block.probs.mean(1))
    assert_close(product, (expected @ columns[..., None]).squeeze(-1), **EXACT)
    for head in range(2):
        assert_close(layer.by_head(lambda block: block.probs)[:, head], whole(weights[:, head]), **EXACT)


def test_the_later_of_two_mergings_is_undone_first():
    first = TokenMerging(
        torch.tensor([[0, 1], [2, -1], [3, 4]]), torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]]), 5
    )
    second = TokenMerging(torch.tensor([[0, 2], [1, -1]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]]), 3)
    rows = torch.tensor([[8.0, 1.0]], dtype=torch.float64)

    below = merged_from(rows, (first, second))

    assert below.tolist() == [[2.0, 2.0, 1.0, 1.0, 3.0]]
