"""Options of attention rollout, against slow loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_models import TEXT_LENGTHS, tiny_input, tiny_model
from torch import Tensor

from attrib_plugin import AttentionRollout, RawAttention
from attrib_plugin.functional import mix_residual

BERT = tiny_model("bert")

IDS, MASK = tiny_input("bert")[0], tiny_input("bert")[1]

CALL: dict[str, Any] = {"inputs": IDS, "forward_kwargs": MASK}

HEADS = RawAttention(BERT).head_attention(**CALL)


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * expected.abs().max().item())


# Attention rollout.


def slow_rollout(layers: list[Tensor], residual: float) -> Tensor:
    """Rollout by loops from the paper: mix, normalise every row, multiply from the input upwards."""
    rolled = torch.eye(layers[0].shape[-1], dtype=torch.float64).repeat(len(layers[0]), 1, 1)
    for layer in layers:
        mixed = torch.zeros_like(layer)
        for sample in range(len(layer)):
            for query in range(layer.shape[1]):
                row = (1 - residual) * layer[sample, query]
                row[query] += residual
                mixed[sample, query] = row / row.sum() if row.sum() > 0 else row
        rolled = torch.stack([mixed[sample] @ rolled[sample] for sample in range(len(layer))])
    return rolled


FUSIONS = {
    "mean": lambda heads: heads.mean(1),
    "max": lambda heads: heads.max(1).values,
    "min": lambda heads: heads.min(1).values,
}


@pytest.mark.parametrize("residual", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("head_fusion", FUSIONS)
def test_attention_rollout_mixes_and_fuses_as_the_loops_do(residual, head_fusion):
    method = AttentionRollout(BERT, residual=residual, head_fusion=head_fusion)

    expected = slow_rollout([FUSIONS[head_fusion](heads) for heads in HEADS], residual)
    assert_same(method.attribute(**CALL), expected[:, 0])
    assert_same(method.matrix(**CALL), expected)


def test_attention_rollout_takes_a_callable_for_fusion():
    relevance = AttentionRollout(BERT, head_fusion=lambda probs: probs.square().mean(-3)).attribute(**CALL)

    assert_same(relevance, slow_rollout([heads.square().mean(1) for heads in HEADS], 0.5)[:, 0])


def slow_discard(attention: Tensor, ratio: float, lengths: tuple[int, ...]) -> Tensor:
    """Zero the smallest entries between real tokens, each sample by itself, equal entries from the front."""
    thinned = attention.clone()
    for sample, length in enumerate(lengths):
        places = [(query, key) for query in range(length) for key in range(length)]
        places.sort(key=lambda place: attention[sample, place[0], place[1]].item())
        for query, key in places[: math.floor(ratio * len(places))]:
            thinned[sample, query, key] = 0
    return thinned


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("head_fusion", ["mean", "max"])
def test_discarding_counts_entries_of_each_sample_between_real_tokens(ratio, head_fusion):
    method = AttentionRollout(BERT, discard_ratio=ratio, head_fusion=head_fusion)

    thinned = [slow_discard(FUSIONS[head_fusion](heads), ratio, TEXT_LENGTHS) for heads in HEADS]
    assert_same(method.attribute(**CALL), slow_rollout(thinned, 0.5)[:, 0])
    for layer, expected in zip(method.layer_attention(**CALL), thinned, strict=True):
        assert_same(layer, mix_residual(expected))


def test_discarding_does_not_couple_the_samples_of_a_batch():
    method = AttentionRollout(BERT, discard_ratio=0.6)

    batch = method.attribute(**CALL)

    for sample, length in enumerate(TEXT_LENGTHS):
        alone = method.attribute(IDS[sample : sample + 1, :length])
        assert_same(batch[sample, :length], alone[0], 1e-10)


def test_discarding_on_images_counts_all_tokens():
    images, _ = tiny_input("timm_vit")
    model = tiny_model("timm_vit")
    heads = RawAttention(model).head_attention(images)

    rows = AttentionRollout(model, discard_ratio=0.7).layer_rows(images)

    thinned = [slow_discard(layer.mean(1), 0.7, (16, 16, 16)) for layer in heads]
    assert_same(rows[-1], slow_rollout(thinned, 0.5)[:, 0])


@pytest.mark.parametrize("start_layer", [1, 2])
def test_attention_rollout_leaves_out_the_layers_below_the_start(start_layer):
    relevance = AttentionRollout(BERT, start_layer=start_layer).attribute(**CALL)

    assert_same(relevance, slow_rollout([heads.mean(1) for heads in HEADS[start_layer:]], 0.5)[:, 0])


def test_attention_rollout_is_a_share_that_sums_to_one_over_all_tokens():
    images, _ = tiny_input("timm_registers")

    rows = AttentionRollout(tiny_model("timm_registers")).layer_rows(images)

    for row in rows:
        torch.testing.assert_close(row.sum(-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": 1.2}, "residual must be between 0 and 1, not 1.2"),
        ({"residual": -0.1}, "residual must be between 0 and 1"),
        ({"discard_ratio": 1.0}, "discard_ratio must be at least 0 and below 1, not 1.0"),
        ({"discard_ratio": -0.5}, "discard_ratio must be at least 0"),
    ],
)
def test_impossible_options_of_attention_rollout_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        AttentionRollout(BERT, **options)


@pytest.mark.parametrize("method", [AttentionRollout, RawAttention])
def test_an_unknown_head_fusion_is_refused(method):
    with pytest.raises(ValueError, match="head_fusion must be 'mean', 'max', 'min' or a callable, not 'median'"):
        method(BERT, head_fusion="median").attribute(**CALL)


@pytest.mark.parametrize("method", [AttentionRollout, RawAttention])
def test_a_head_fusion_that_keeps_the_heads_is_refused(method):
    with pytest.raises(ValueError, match="A head_fusion callable must map heads"):
        method(BERT, head_fusion=lambda probs: probs).attribute(**CALL)
