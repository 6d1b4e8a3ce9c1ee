"""Options of raw attention, by layer and head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch import Tensor

from attrib_plugin import RawAttention
from attrib_plugin.errors import InputError

BERT = tiny_model("bert")

IDS, MASK = tiny_input("bert")[0], tiny_input("bert")[1]

CALL: dict[str, Any] = {"inputs": IDS, "forward_kwargs": MASK}

HEADS = RawAttention(BERT).head_attention(**CALL)


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * expected.abs().max().item())


# Raw attention. BERT's classifier reads the first token.


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -3])
def test_raw_attention_shows_the_layer_that_is_asked_for(layer):
    relevance = RawAttention(BERT, layer=layer).attribute(**CALL)

    assert_same(relevance, HEADS[layer].mean(1)[:, 0])


def test_raw_attention_shows_the_last_layer_by_default():
    assert_same(RawAttention(BERT).attribute(**CALL), HEADS[2].mean(1)[:, 0])


def test_raw_attention_without_a_layer_is_the_mean_over_layers():
    relevance = RawAttention(BERT, layer=None).attribute(**CALL)

    assert_same(relevance, sum(heads.mean(1)[:, 0] for heads in HEADS) / 3)


@pytest.mark.parametrize("head", [0, 3, -1])
def test_raw_attention_shows_the_head_that_is_asked_for(head):
    relevance = RawAttention(BERT, layer=1, head=head).attribute(**CALL)

    assert_same(relevance, HEADS[1][:, head, 0])


@pytest.mark.parametrize(
    ("head_fusion", "fused"),
    [
        ("mean", lambda heads: heads.mean(1)),
        ("max", lambda heads: heads.max(1).values),
        ("min", lambda heads: heads.min(1).values),
        (lambda probs: probs.median(-3).values, lambda heads: heads.median(1).values),
    ],
)
def test_raw_attention_fuses_heads_as_asked(head_fusion, fused):
    relevance = RawAttention(BERT, head_fusion=head_fusion).attribute(**CALL)

    assert_same(relevance, fused(HEADS[2])[:, 0])


def test_raw_attention_gives_every_layers_row_and_matrix_whatever_layer_is_shown():
    method = RawAttention(BERT, layer=0)

    for row, matrix, heads in zip(method.layer_rows(**CALL), method.layer_attention(**CALL), HEADS, strict=True):
        assert_same(row, heads.mean(1)[:, 0])
        assert_same(matrix, heads.mean(1))


@pytest.mark.parametrize("layer", [3, -4])
def test_raw_attention_of_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(InputError, match=f"layer must be one of the 3 layers 0 to 2, not {layer}"):
        RawAttention(BERT, layer=layer).attribute(**CALL)


@pytest.mark.parametrize("head", [4, -5])
def test_raw_attention_of_a_head_that_is_not_there_is_refused(head):
    with pytest.raises(InputError, match=f"head must be one of the 4 heads 0 to 3, not {head}"):
        RawAttention(BERT, head=head).attribute(**CALL)
