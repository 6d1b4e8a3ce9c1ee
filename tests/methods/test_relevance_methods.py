"""What the three methods of relevance propagation do with targets, batches, inputs and destinations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import TEXT_LENGTHS, tiny_input, tiny_model
from torch import Tensor

from attrib_plugin import AttentionAwareRelevance, LayerwiseRelevance, TransformerAttribution
from attrib_plugin.capture import CaptureSession
from attrib_plugin.errors import (
    AttributionError,
    CaptureError,
)
from attrib_plugin.methods.base import find_composite
from attrib_plugin.propagation import Epsilon, RelevanceGraph, attnlrp

METHODS = (TransformerAttribution, AttentionAwareRelevance, LayerwiseRelevance)
TO_INPUT = (AttentionAwareRelevance, LayerwiseRelevance)
TARGETS = [1, 4, 2]
BERT, VIT = tiny_model("bert"), tiny_model("timm_vit")
IDS, MASK = tiny_input("bert")
IMAGES = tiny_input("timm_vit")[0]
CALL: dict[str, Any] = {"inputs": IDS, "forward_kwargs": MASK, "target": TARGETS}
EMBEDDINGS = BERT.bert.embeddings.word_embeddings(IDS).detach()

methods = pytest.mark.parametrize("method", METHODS)
to_input = pytest.mark.parametrize("method", TO_INPUT)


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * float(expected.abs().max()))


# --------------------------------------------------------------------------------------------- sign and targets


@methods
def test_signed_relevance_is_positive_minus_negative(method):
    signed, positive, negative = (
        method(BERT, sign=sign).attribute(**CALL) for sign in ("signed", "positive", "negative")
    )

    assert_same(signed, positive - negative, 1e-12)
    assert float(positive.min()) >= 0
    assert float(negative.min()) >= 0
    assert positive.any()
    assert negative.any()


@to_input
def test_one_side_of_an_image_map_is_taken_after_patches_are_added_up(method):
    options = {"inputs": IMAGES, "target": TARGETS, "return_input_shape": False}

    signed, positive = (method(VIT, sign=sign).attribute(**options) for sign in ("signed", "positive"))

    assert torch.equal(positive, signed.clamp(min=0))


@methods
def test_unknown_signs_are_refused(method):
    with pytest.raises(ValueError, match="sign must be 'positive', 'negative' or 'signed'"):
        method(BERT, sign="both")


@methods
def test_a_target_for_each_sample_is_that_of_the_sample_alone(method):
    batch = method(BERT).attribute(**CALL)

    for i, target in enumerate(TARGETS):
        mask = {"attention_mask": MASK["attention_mask"][i : i + 1]}
        assert_same(batch[i : i + 1], method(BERT).attribute(IDS[i : i + 1], target, forward_kwargs=mask), 1e-9)


@methods
def test_several_targets_are_as_single_calls(method):
    whole = method(BERT).attribute_targets(IDS, [TARGETS, 0, 3], forward_kwargs=MASK)

    for found, target in zip(whole, [TARGETS, 0, 3], strict=True):
        assert_same(found, method(BERT).attribute(IDS, target, forward_kwargs=MASK), 1e-12)


@methods
def test_no_target_is_the_predicted_class(method):
    predicted = BERT(IDS, **MASK).logits.argmax(-1)

    found = method(BERT).attribute(IDS, forward_kwargs=MASK)

    assert_same(found, method(BERT).attribute(IDS, predicted, forward_kwargs=MASK), 0)


@to_input
def test_relevance_for_one_class_against_another_is_the_difference(method):
    # The start is a vector over classes, in which relevance is linear wherever rules do not rescale by totals.
    composite = attnlrp().with_rules(pick=Epsilon())
    contrast = method(BERT, composite=composite).attribute(**CALL, against=0)

    own, other = (method(BERT, composite=composite).attribute(IDS, t, forward_kwargs=MASK) for t in (TARGETS, 0))

    assert_same(contrast, own - other, 1e-9)


# Each class starts with a total of one, and rescaled sums hand on no more than the total: it is zero for a difference.


def test_relevance_against_a_class_is_the_difference_where_sums_are_rescaled():
    method = LayerwiseRelevance(BERT)
    own, other = (method.attribute(IDS, t, forward_kwargs=MASK) for t in (TARGETS, 0))

    contrast = method.attribute(**CALL, against=0)

    assert_same(contrast, own - other, 1e-9)
    assert contrast.abs().max() > 1e-2


def test_attention_is_weighed_by_the_difference_of_relevance_and_of_gradients():
    method = TransformerAttribution(BERT)
    own, other = (method.head_relevance(IDS, t, forward_kwargs=MASK) for t in (TARGETS, 0))

    found = method.head_relevance(**CALL, against=0)
    matrices = method.layer_attention(**CALL, against=0)

    def gradients(target: Any) -> tuple[Tensor, ...]:
        with CaptureSession(BERT, gradients=True) as session:
            logits = BERT(IDS, **MASK).logits
            score = logits[torch.arange(3), target].sum()
            at_outputs = session.output_gradients(score)
            return tuple(g @ call.value.mT for g, call in zip(at_outputs, session.calls, strict=True))

    slopes = [a - b for a, b in zip(gradients(TARGETS), gradients(0), strict=True)]
    for layer, first, second, slope, matrix in zip(found, own, other, slopes, matrices, strict=True):
        assert_same(layer, first - second, 1e-9)
        assert_same(matrix, (slope * layer).clamp(min=0).mean(1), 1e-9)


@pytest.mark.parametrize("method", [LayerwiseRelevance, TransformerAttribution])
def test_a_function_that_returns_a_difference_is_explained_as_a_contrast(method):
    def difference(ids: Tensor, **keywords: Any) -> Tensor:
        logits = BERT(ids, **keywords).logits
        return logits[torch.arange(3), TARGETS] - logits[:, 0]

    found = method(difference, model=BERT).attribute(IDS, forward_kwargs=MASK)

    assert_same(found, method(BERT).attribute(**CALL, against=0), 1e-12)


def test_the_report_of_a_contrast_is_the_difference_of_reports():
    method = LayerwiseRelevance(BERT)
    own, other = (method.conservation(IDS, t, forward_kwargs=MASK) for t in (TARGETS, 0))

    report = method.conservation(**CALL, against=0)

    for (name, total), (_, first), (_, second) in zip(report.stages, own.stages, other.stages, strict=True):
        torch.testing.assert_close(total, first - second, rtol=0, atol=1e-9, msg=name)
    for (kind, received, _), (_, first, _), (_, second, _) in zip(report.kinds, own.kinds, other.kinds, strict=True):
        torch.testing.assert_close(received, first - second, rtol=0, atol=1e-9, msg=kind)


# ------------------------------------------------------------------------------------------- batches and padding


@methods
@pytest.mark.parametrize("size", [1, 2])
def test_samples_run_at_once_change_nothing(method, size):
    assert_same(method(BERT).attribute(**CALL, internal_batch_size=size), method(BERT).attribute(**CALL), 1e-9)


@methods
def test_padding_on_the_right_changes_nothing(method):
    batch = method(BERT).attribute(**CALL)

    for i, length in enumerate(TEXT_LENGTHS):
        alone = method(BERT).attribute(IDS[i : i + 1, :length], TARGETS[i])
        assert_same(batch[i : i + 1, :length], alone, 1e-8)
        assert not batch[i, length:].any()


@methods
def test_padding_on_the_left_changes_nothing(method):
    model = tiny_model("llama")
    ids, real = IDS.clone(), torch.zeros_like(IDS)
    for i, length in enumerate(TEXT_LENGTHS):
        ids[i] = 1  # the padding token
        ids[i, -length:], real[i, -length:] = IDS[i, :length], 1
    # Positions count real tokens, as a tokenizer that pads on the left has them counted.
    positions = (real.cumsum(1) - 1).clamp(min=0)
    attribution = method(lambda *args, **kwargs: model.model(*args, **kwargs).logits, model=model.model, readout="last")

    batch = attribution.attribute(ids, TARGETS, forward_kwargs={"attention_mask": real, "position_ids": positions})

    for i, length in enumerate(TEXT_LENGTHS):
        alone = attribution.attribute(IDS[i : i + 1, :length], TARGETS[i])
        assert_same(batch[i : i + 1, -length:], alone, 1e-8)
        assert not batch[i, : ids.shape[1] - length].any()


# ------------------------------------------------------------------------------------------ inputs and their shape


@to_input
def test_relevance_of_token_ids_is_that_of_their_embeddings_added_up(method):
    of_ids = method(BERT).attribute(**CALL)

    options = {"target": TARGETS, "forward_kwargs": MASK}
    of_embeddings = method(BERT).attribute(EMBEDDINGS, **options)

    assert of_embeddings.shape == EMBEDDINGS.shape
    assert_same(of_embeddings.sum(-1), of_ids, 1e-12)
    assert_same(method(BERT).attribute(EMBEDDINGS, **options, return_input_shape=False), of_ids, 1e-12)


def test_transformer_attribution_of_embeddings_is_that_of_their_ids():
    found = TransformerAttribution(BERT).attribute(EMBEDDINGS, TARGETS, forward_kwargs=MASK, return_input_shape=False)

    assert_same(found, TransformerAttribution(BERT).attribute(**CALL), 1e-12)


@to_input
def test_relevance_of_a_patch_is_the_sum_over_its_pixels_and_channels(method):
    pixels = method(VIT).attribute(IMAGES, TARGETS)

    patches = method(VIT).attribute(IMAGES, TARGETS, return_input_shape=False)

    assert pixels.shape == IMAGES.shape
    for row in range(3):
        for column in range(5):
            square = pixels[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert_same(patches[:, 0, row, column], square.sum((1, 2, 3)), 1e-10)


@methods
def test_a_tuple_gives_a_tuple(method):
    (found,) = method(VIT).attribute((IMAGES,), TARGETS)

    assert torch.equal(found, method(VIT).attribute(IMAGES, TARGETS))


@methods
def test_inputs_are_not_changed_and_gain_no_graph(method):
    images = IMAGES.clone().requires_grad_()

    found = method(VIT).attribute(images, TARGETS)

    assert torch.equal(images, IMAGES)
    assert images.grad is None
    assert not found.requires_grad


# ----------------------------------------------------------------------------------------- relevance between blocks


@to_input
def test_relevance_between_blocks_agrees_with_a_graph_of_ones_own(method):
    attribution = method(VIT)
    found = attribution.layer_relevance(IMAGES, TARGETS)

    graph = RelevanceGraph(find_composite(attribution.composite), len(IMAGES))
    with CaptureSession(VIT, interpreter=graph):
        output = VIT(IMAGES.clone().requires_grad_())
    start = F.one_hot(torch.tensor(TARGETS), 5).to(output)
    start = start * output.detach() if find_composite(attribution.composite).start == "value" else start
    blocks = [block for block in graph.blocks if block.name in ("blocks.0", "blocks.1", "blocks.2")]
    with graph.propagating():
        places = [blocks[0].before, *(block.after for block in blocks)]
        expected = torch.autograd.grad(output, places, start)

    assert len(found) == 4
    for tokens, slow in zip(found, expected, strict=True):
        assert_same(tokens, slow.sum(-1), 1e-10)


@to_input
def test_the_first_block_is_a_destination(method):
    found = method(BERT, destination="first_block").attribute(**CALL)

    assert_same(found, method(BERT).layer_relevance(**CALL)[0], 1e-12)


@to_input
def test_special_tokens_of_a_finished_map_are_overwritten(method):
    plain = method(BERT).attribute(**CALL)

    found = method(BERT, special="zero_first").attribute(**CALL)

    assert not found[:, 0].any()
    assert torch.equal(found[:, 1:], plain[:, 1:])


@to_input
def test_a_model_without_blocks_of_tokens_has_nothing_between_them(method):
    model, images = tiny_model("timm_swin"), tiny_input("timm_swin")[0]
    options = {"readout": "mean"}

    with pytest.raises((CaptureError, AttributionError), match=r"No blocks of tokens|attends within windows"):
        method(model, **options).layer_relevance(images, TARGETS)


@to_input
def test_a_destination_that_is_none_is_refused(method):
    with pytest.raises(ValueError, match="destination must be"):
        method(BERT, destination="output")


@to_input
@pytest.mark.parametrize("call", ["matrix", "layer_attention", "layer_rows"])
def test_there_is_no_matrix_from_token_to_token(method, call):
    with pytest.raises(AttributionError, match=r"has no matrix from token to token. Call attribute\(\)"):
        getattr(method(BERT), call)(**CALL)
