"""Relevance of an encoder's tokens is the recursion of the paper, on stock models, for every row of a batch alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from encoder_decoder_models import TEXT_MODELS, detr, text_model, texts
from torch import Tensor, nn
from torch.testing import assert_close

from attrib_plugin import EncoderDecoderRelevance
from attrib_plugin.errors import (
    NumericsWarning,
    TargetError,
    UnsupportedAttentionError,
)

IDS, MASK = texts()
DECODER_IDS, DECODER_MASK = texts((5, 3, 4), seed=9)
KEYWORDS = {"attention_mask": MASK, "decoder_input_ids": DECODER_IDS, "decoder_attention_mask": DECODER_MASK}
TARGETS = [(3, 7), (1, 9), (2, 11)]
FLAGS = [(True, True), (False, True), (True, False)]
IMAGES = torch.randn(2, 3, 70, 100, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert_close(actual, expected, rtol=0.0, atol=tolerance * float(expected.abs().max()))


# ------------------------------------------------------------------------------------- the paper on eager attention


def normalized(relevance: Tensor) -> Tensor:
    """Equations 8 and 9 for one sample, row by row."""
    start = torch.eye(len(relevance), dtype=relevance.dtype)
    rows = []
    for row in relevance - start:
        rows.append(row / row.sum() if row.sum() != 0 else torch.zeros_like(row))
    return torch.stack(rows) + start


def paper(attentions: dict[str, list[Tensor]], score: Tensor, normalize: bool = True, with_self: bool = True):
    """R_qi, R_qq and all E of one sample, from attention tensors of the model's own eager code."""
    kinds = [(kind, tensor) for kind, tensors in attentions.items() for tensor in tensors]
    gradients = torch.autograd.grad(score, [tensor for _, tensor in kinds])
    evidence: dict[str, list[Tensor]] = {"encoder": [], "decoder": [], "cross": []}
    for (kind, tensor), gradient in zip(kinds, gradients, strict=True):
        evidence[kind].append((tensor * gradient).clamp(min=0).mean(1)[0].detach())
    encoder = torch.eye(evidence["encoder"][0].shape[-1], dtype=torch.float64)
    for layer in evidence["encoder"]:
        encoder = encoder + layer @ encoder
    decoder = torch.eye(evidence["decoder"][0].shape[-1], dtype=torch.float64)
    between = torch.zeros(len(decoder), len(encoder), dtype=torch.float64)
    for own, cross in zip(evidence["decoder"], evidence["cross"], strict=True):
        decoder, between = decoder + own @ decoder, between + own @ between
        queries, keys = (normalized(decoder), normalized(encoder)) if normalize else (decoder, encoder)
        between = between + (queries.T @ cross @ keys if with_self else cross)
    return between, decoder, evidence


def eager(model: nn.Module, sign: float, target: tuple[int, int], *inputs: Tensor, **options: Any):
    output = model(*inputs, output_attentions=True, **options)
    attentions = {
        "encoder": list(output.encoder_attentions),
        "decoder": list(output.decoder_attentions),
        "cross": list(output.cross_attentions),
    }
    return attentions, sign * output.logits[0][target]


def text_paper(name: str, sample: int, sign: float = 1.0, **flags: bool):
    ids, words = IDS[sample : sample + 1, : MASK[sample].sum()], DECODER_IDS[sample : sample + 1]
    words = words[:, : DECODER_MASK[sample].sum()]
    return paper(*eager(text_model(name, "eager"), sign, TARGETS[sample], ids, decoder_input_ids=words), **flags)


# The eager attention of T5 takes its softmax in float32.
TOLERANCES = {"bart": 1e-10, "marian": 1e-10, "t5": 1e-5}


@pytest.mark.parametrize(("normalize", "with_self"), FLAGS)
@pytest.mark.parametrize("name", TOLERANCES)
def test_a_batch_of_texts_gives_the_papers_recursion_of_each_row(name, normalize, with_self):
    method = EncoderDecoderRelevance(
        text_model(name), normalize_self_attention=normalize, apply_self_in_rule_10=with_self
    )

    relevance, of_decoder = method.attribute_both(IDS, TARGETS, forward_kwargs=KEYWORDS)

    for sample, (position, _) in enumerate(TARGETS):
        between, decoder, _ = text_paper(name, sample, normalize=normalize, with_self=with_self)
        length, words = int(MASK[sample].sum()), int(DECODER_MASK[sample].sum())
        assert_same(relevance[sample, :length], between[position], TOLERANCES[name])
        start = torch.eye(words, dtype=torch.float64)[position]
        assert_same(of_decoder[sample, :words], decoder[position] - start, TOLERANCES[name])
        assert not relevance[sample, length:].any()
        assert not of_decoder[sample, words:].any()


def test_evidence_against_is_the_recursion_for_the_negative_score_and_signed_the_difference():
    model = text_model("bart")
    maps = {
        sign: EncoderDecoderRelevance(model, sign=sign).attribute_both(IDS, TARGETS, forward_kwargs=KEYWORDS)
        for sign in ("positive", "negative", "signed")
    }

    for sample, (position, _) in enumerate(TARGETS):
        between, _, _ = text_paper("bart", sample, -1.0)
        assert_same(maps["negative"][0][sample, : MASK[sample].sum()], between[position])
    for part in (0, 1):
        assert_close(maps["signed"][part], maps["positive"][part] - maps["negative"][part], rtol=0.0, atol=1e-15)


def test_matrix_and_layers_are_those_of_the_paper():
    method = EncoderDecoderRelevance(text_model("bart"))
    call = {"inputs": IDS[:1], "forward_kwargs": {"decoder_input_ids": DECODER_IDS[:1]}}
    attentions, _ = eager(text_model("bart", "eager"), 1.0, TARGETS[0], IDS[:1], decoder_input_ids=DECODER_IDS[:1])
    between, _, evidence = text_paper("bart", 0)
    in_order = [("encoder", 0), ("encoder", 1), *((kind, at) for at in range(3) for kind in ("decoder", "cross"))]

    assert_same(method.matrix(target=TARGETS[0], **call)[0], between)
    rows = method.layer_rows(target=TARGETS[0], **call)
    assert len(rows) == 3
    assert_same(rows[-1][0], between[3])
    for heads, layer, (kind, at) in zip(
        method.head_attention(**call), method.layer_attention(target=TARGETS[0], **call), in_order, strict=True
    ):
        assert_same(heads, attentions[kind][at].detach())
        assert_same(layer[0], evidence[kind][at])


def test_object_queries_give_the_papers_recursion_over_the_feature_map():
    targets = [(2, 1), (4, 0)]
    method = EncoderDecoderRelevance.from_preset("chefer2021_detr", detr())

    patches = method.attribute(IMAGES, targets, return_input_shape=False)

    assert patches.shape == (2, 1, 3, 4)
    for sample, target in enumerate(targets):
        between, _, _ = paper(*eager(detr("eager"), 1.0, target, IMAGES[sample : sample + 1]))
        assert_same(patches[sample].flatten(), between[target[0]])


def test_a_patch_of_the_feature_map_covers_its_stride_in_pixels():
    method = EncoderDecoderRelevance(detr())

    pixels, patches = (method.attribute(IMAGES, (2, 1), return_input_shape=shape) for shape in (True, False))

    assert pixels.shape == IMAGES.shape
    for row, column in [(0, 0), (31, 31), (32, 64), (69, 99)]:
        assert_close(pixels[:, 1, row, column], patches[:, 0, row // 32, column // 32], rtol=0.0, atol=0.0)


def test_a_feature_map_that_is_no_such_grid_takes_the_users():
    model = detr(num_queries=4)
    model.model.backbone.model.embedder.pooler = nn.Identity()  # half the stride
    method = EncoderDecoderRelevance(model)

    with pytest.raises(UnsupportedAttentionError, match=r"are not 0 prefix tokens and 3 x 4 patches.*give grid="):
        method.attribute(IMAGES, (2, 1))

    assert EncoderDecoderRelevance(model, grid=(5, 7)).attribute(IMAGES, (2, 1)).shape == IMAGES.shape


# ------------------------------------------------------------------------------------- batches


def alone(method: EncoderDecoderRelevance, sample: int) -> tuple[Tensor, Tensor]:
    ids, words = IDS[sample : sample + 1, : MASK[sample].sum()], DECODER_IDS[sample : sample + 1]
    return method.attribute_both(
        ids, TARGETS[sample], forward_kwargs={"decoder_input_ids": words[:, : DECODER_MASK[sample].sum()]}
    )


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_padding_of_encoder_and_decoder_changes_no_row(name):
    method = EncoderDecoderRelevance(text_model(name), sign="signed")

    batch = method.attribute_both(IDS, TARGETS, forward_kwargs=KEYWORDS)
    in_parts = method.attribute_both(IDS, TARGETS, forward_kwargs=KEYWORDS, internal_batch_size=2)

    for part, mask in enumerate((MASK, DECODER_MASK)):
        assert_same(in_parts[part], batch[part])
        for sample in range(3):
            assert_same(batch[part][sample, : mask[sample].sum()], alone(method, sample)[part][0])
            assert not batch[part][sample, mask[sample].sum() :].any()


def test_padding_on_the_left_of_a_model_with_relative_positions_changes_no_row():
    ids, mask = texts(padding_side="left")
    method = EncoderDecoderRelevance(text_model("t5"))

    batch = method.attribute(ids, TARGETS, forward_kwargs={**KEYWORDS, "attention_mask": mask})

    for sample in range(3):
        length = int(MASK[sample].sum())
        assert_same(batch[sample, -length:], alone(method, sample)[0][0])
        assert not batch[sample, :-length].any()


def test_images_of_a_batch_do_not_mix():
    method = EncoderDecoderRelevance(detr(), sign="signed")

    batch = method.attribute(IMAGES, [(2, 1), (4, 0)])

    for sample, target in enumerate([(2, 1), (4, 0)]):
        assert_same(batch[sample], method.attribute(IMAGES[sample : sample + 1], target)[0])


def test_several_targets_share_a_forward_pass_and_give_each_map():
    method = EncoderDecoderRelevance(text_model("bart"))

    together = method.attribute_targets(IDS, [(1, 4), TARGETS], forward_kwargs=KEYWORDS)

    for relevance, target in zip(together, [(1, 4), TARGETS], strict=True):
        assert_same(relevance, method.attribute(IDS, target, forward_kwargs=KEYWORDS))


# ------------------------------------------------------------------------------------- what is read


def test_a_contrast_is_the_map_of_the_difference_of_scores():
    model = text_model("bart")

    def difference(ids, **options):
        logits = model(ids, **options).logits
        return logits[:, 2, 8] - logits[:, 2, 13]

    relevance = EncoderDecoderRelevance(model).attribute(IDS, (2, 8), forward_kwargs=KEYWORDS, against=(2, 13))

    expected = EncoderDecoderRelevance(difference, model=model, readout=2).attribute(IDS, forward_kwargs=KEYWORDS)
    assert_same(relevance, expected)


def test_a_contrast_at_another_position_is_refused():
    with pytest.raises(TargetError, match="must name outputs of the same token"):
        EncoderDecoderRelevance(text_model("bart")).attribute(IDS, (2, 8), forward_kwargs=KEYWORDS, against=(1, 8))


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_a_classifier_reads_the_token_above_the_last_end_of_text(name):
    method = EncoderDecoderRelevance(text_model(name, suffix="ForSequenceClassification"))
    ends = MASK.sum(-1) - 1

    relevance = method.attribute(IDS, [1, 4, 2], forward_kwargs={"attention_mask": MASK})

    at_ends = method.attribute(IDS, [1, 4, 2], forward_kwargs={"attention_mask": MASK}, readout=ends)
    elsewhere = method.attribute(IDS, [1, 4, 2], forward_kwargs={"attention_mask": MASK}, readout=ends - 1)
    assert_close(relevance, at_ends, rtol=0.0, atol=0.0)
    assert not torch.allclose(relevance, elsewhere)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_a_model_that_answers_questions_reads_the_position_of_the_target(name):
    model = text_model(name, suffix="ForQuestionAnswering", num_labels=2)
    method = EncoderDecoderRelevance(model)

    relevance = method.attribute(IDS, [3, 1, 2], forward_kwargs={"attention_mask": MASK})

    expected = method.attribute(
        IDS, [3, 1, 2], forward_kwargs={"attention_mask": MASK}, readout=torch.tensor([3, 1, 2])
    )
    assert_close(relevance, expected, rtol=0.0, atol=0.0)
    for sample, length in enumerate(MASK.sum(-1).tolist()):
        alone = method.attribute(IDS[sample : sample + 1, :length], [3, 1, 2][sample])
        assert_same(relevance[sample, :length], alone[0])
        assert alone.any()


def test_a_single_decoder_token_is_cross_attention_and_no_pooling():
    method = EncoderDecoderRelevance(text_model("t5"))
    start = torch.full((3, 1), 2)

    relevance = method.attribute(IDS, (0, 9), forward_kwargs={"attention_mask": MASK, "decoder_input_ids": start})

    for sample in range(3):
        ids = IDS[sample : sample + 1, : MASK[sample].sum()]
        attentions, score = eager(text_model("t5", "eager"), 1.0, (0, 9), ids, decoder_input_ids=start[:1])
        assert_same(relevance[sample, : ids.shape[1]], paper(attentions, score)[0][0], 1e-5)


def test_as_many_decoder_tokens_as_encoder_tokens_are_told_apart():
    method = EncoderDecoderRelevance(text_model("bart"))

    relevance = method.attribute(IDS[:1], (3, 7), forward_kwargs={"decoder_input_ids": IDS[:1].flip(-1)})

    attentions, score = eager(text_model("bart", "eager"), 1.0, (3, 7), IDS[:1], decoder_input_ids=IDS[:1].flip(-1))
    assert_same(relevance[0], paper(attentions, score)[0][3])


# ------------------------------------------------------------------------------------- numbers at the edge


def test_decoder_tokens_without_any_evidence_give_no_nan():
    method = EncoderDecoderRelevance(text_model("bart"))
    call = {"inputs": IDS, "target": (1, 5), "forward_kwargs": KEYWORDS}

    first_of_decoder = method.layer_attention(**call)[2]

    # Nothing that comes after the token read has evidence, so that these rows are normalised by 0/0.
    assert not first_of_decoder[:, 2:].any()
    assert first_of_decoder[:, :2].any(-1).all()
    assert method.attribute(**call).isfinite().all()
    assert method.matrix(**call).isfinite().all()


def test_a_map_of_zeros_is_reported():
    model = text_model("bart")
    method = EncoderDecoderRelevance(lambda ids, **options: 0 * model(ids, **options).logits, model=model)

    with pytest.warns(NumericsWarning, match="relevance of 3 of 3 samples is zero everywhere: its gradient vanishes"):
        relevance = method.attribute(IDS, (1, 5), forward_kwargs=KEYWORDS)

    assert not relevance.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_gives_nearly_the_same_map_in_float32(dtype):
    exact = EncoderDecoderRelevance(text_model("bart")).attribute(IDS, TARGETS, forward_kwargs=KEYWORDS)

    half = EncoderDecoderRelevance(copy.deepcopy(text_model("bart")).to(dtype))
    relevance = half.attribute(IDS, TARGETS, forward_kwargs=KEYWORDS)

    assert relevance.dtype is torch.float32
    assert_same(relevance.double(), exact, 0.25 if dtype is torch.bfloat16 else 0.05)
