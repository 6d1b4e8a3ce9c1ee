"""Text models of transformers: what their heads read, padding on either side, tasks, and what is refused.

Oracles are transformers' own: gradients at the last attention say which tokens a head reads, and the eager models'
attention weights with autograd give gradient rollouts. All models are random, from configurations.
"""

import pytest
import torch
import transformers
from text_models import (
    DECODERS,
    EAGER_ONLY,
    ENCODERS,
    EXACT,
    LEARNED,
    LENGTHS,
    PAD,
    ROUGH,
    TARGETS,
    assert_rows_alone,
    mask_of,
    model_of,
    positions_that_matter,
    read_weights,
    text,
)
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention
from attrib_plugin.families import find_member
from attrib_plugin.functional import gradient_rollout

if transformers.__version__.startswith("4."):
    EAGER_ONLY += ("Electra",)


# ------------------------------------------------------------------------------------- what the head reads


@pytest.mark.parametrize("stem", {**ENCODERS, **DECODERS})
def test_text_classifiers_are_recognised(stem):
    member = find_member(model_of(stem))

    assert member.family.name.startswith("hf_")
    assert member.family.modality == "text"
    assert member.family.name == "hf_decoder" or member.readout is not None


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("stem", DECODERS)
def test_decoder_classifier_reads_exactly_the_token_whose_output_moves_its_scores(stem, side):
    # In float64, transformers' own eager attention gives NaN for queries of padding on the left: float32 it is.
    model = model_of(stem, dtype=torch.float32)
    ids, mask = text(side)

    weights = read_weights(model, ids, **mask_of(mask))

    expected = positions_that_matter(model, ids, mask)
    assert expected.sum(-1).tolist() == [1, 1, 1]
    assert_close(weights, expected.to(weights), **EXACT)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_modernbert_reads_what_its_configuration_says(pooling, side):
    model = model_of("ModernBert", classifier_pooling=pooling)
    ids, mask = text(side)

    weights = read_weights(model, ids, **mask_of(mask))

    expected = mask / mask.sum(-1, keepdim=True) if pooling == "mean" else torch.eye(7)[[0, 0, 0]]
    assert_close(weights, expected.to(weights), rtol=0.0, atol=1e-7)
    assert torch.equal(weights > 0, positions_that_matter(model, ids, mask))


@pytest.mark.parametrize("stem", sorted(set(ENCODERS) - {"ModernBert"}))
def test_encoder_classifier_reads_the_first_token(stem):
    model = model_of(stem)
    ids, mask = text()

    weights = read_weights(model, ids, **mask_of(mask))

    assert_close(weights, torch.eye(7, dtype=torch.float64)[[0, 0, 0]], **EXACT)
    assert torch.equal(weights > 0, positions_that_matter(model, ids, mask))


@pytest.mark.parametrize("stem", ["GPT2", "Llama"])
def test_decoder_finds_its_last_token_by_the_padding_id_and_not_by_the_mask(stem):
    model = model_of(stem)
    ids, _ = text()
    no_mask = torch.ones_like(ids)

    weights = read_weights(model, ids, **mask_of(no_mask))

    assert weights.argmax(-1).tolist() == [6, 3, 5]
    assert torch.equal(weights > 0, positions_that_matter(model, ids, no_mask))


@pytest.mark.parametrize("stem", ["GPT2", "Llama"])
def test_decoder_reads_the_last_position_of_embeddings(stem):
    model = model_of(stem)
    ids, mask = text()
    embeddings = model.get_input_embeddings()(ids).detach()

    weights = read_weights(model, embeddings, **mask_of(mask))

    assert weights.argmax(-1).tolist() == [6, 6, 6]
    assert torch.equal(weights > 0, positions_that_matter(model, None, mask, inputs_embeds=embeddings))


def test_decoder_without_padding_id_reads_the_last_position_of_its_only_sample():
    model = model_of("GPT2", pad_token_id=None)
    ids = torch.tensor([[5, 9, PAD, PAD]])

    assert read_weights(model, ids).argmax(-1).tolist() == [3]


def test_a_batch_for_a_decoder_without_padding_id_is_transformers_own_error():
    with pytest.raises(ValueError, match="Cannot handle batch sizes > 1 if no padding token is defined"):
        GradientRollout(model_of("GPT2", pad_token_id=None)).attribute(text()[0], TARGETS)


def test_the_user_wins_over_the_last_token():
    assert read_weights(model_of("Llama"), text()[0], readout=2).argmax(-1).tolist() == [2, 2, 2]


# ------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize("method", [GradientRollout, AttentionRollout, RawAttention])
@pytest.mark.parametrize("stem", DECODERS)
def test_right_padded_decoder_rows_equal_rows_alone(stem, method):
    model = model_of(stem, dtype=torch.float32 if stem in ROUGH else torch.float64)
    ids, mask = text("right")
    targets = TARGETS if method.needs_gradients else None

    batch = method(model).attribute(ids, targets, **mask_of(mask))

    for sample, length in enumerate(LENGTHS):
        target = TARGETS[sample] if method.needs_gradients else None
        alone = method(model).attribute(ids[sample : sample + 1, :length], target)
        assert_rows_alone(batch[sample, :length], alone[0], 1e-5 if stem in ROUGH else 1e-10)
        assert not batch[sample, length:].any()


@pytest.mark.parametrize("method", [GradientRollout, AttentionRollout, RawAttention])
@pytest.mark.parametrize("stem", DECODERS)
def test_left_padded_decoder_rows_equal_rows_alone(stem, method):
    model = model_of(stem, dtype=torch.float32 if stem in ROUGH else torch.float64)
    ids, mask = text("left")
    keywords = {"attention_mask": mask}
    if stem in LEARNED:
        keywords["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)

    batch = method(model).attribute(ids, TARGETS if method.needs_gradients else None, forward_kwargs=keywords)

    for sample, length in enumerate(LENGTHS):
        target = TARGETS[sample] if method.needs_gradients else None
        alone = method(model).attribute(ids[sample : sample + 1, -length:], target)
        # Rotary positions are computed in float32, whatever the dtype, and a shift rounds them anew.
        assert_rows_alone(batch[sample, -length:], alone[0], 1e-5)
        assert not batch[sample, :-length].any()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("stem", ["Bert", "Albert", "Deberta", "DebertaV2", "MPNet", "RoFormer", "ModernBert"])
def test_padding_of_encoders_is_found_whatever_their_attention(stem, side):
    ids, mask = text(side)

    weights = read_weights(model_of(stem), ids, **mask_of(mask), readout="mean")

    assert_close(weights, mask.double() / mask.sum(-1, keepdim=True), rtol=0.0, atol=1e-15)


@pytest.mark.parametrize("stem", ["GPT2", "Falcon"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_on_the_left_of_decoders_is_found(stem, implementation, dtype):
    model = model_of(stem, implementation=implementation, dtype=dtype)
    ids, mask = text("left")

    weights = read_weights(model, ids, **mask_of(mask), readout="mean")

    expected = mask.to(weights) / mask.sum(-1, keepdim=True)
    assert_close(weights, expected, rtol=0.0, atol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("kinds", [("global", "local"), ("local", "global")])
@pytest.mark.parametrize("lengths", [(7, 4, 6), (7, 1, 6), (2, 1), (1, 7)])
def test_padding_on_the_left_of_gpt_neo_is_found_in_a_batch_and_alone(kinds, lengths):
    # Its causal mask and its padding mask add up to minus infinity: a query of padding attends to padding before it.
    model = model_of("GPTNeo", dtype=torch.float32, attention_types=((kinds, 1),))
    ids, mask = text("left", lengths)
    expected = mask / mask.sum(-1, keepdim=True)

    batch = read_weights(model, ids, **mask_of(mask), readout="mean")
    alone = [
        read_weights(model, ids[sample : sample + 1], **mask_of(mask[sample : sample + 1]), readout="mean")[0]
        for sample in range(len(ids))
    ]

    assert_close(batch, expected, rtol=0.0, atol=1e-7)
    assert_close(torch.stack(alone), expected, rtol=0.0, atol=1e-7)


def test_uniform_attention_is_not_taken_for_padding():
    model = model_of("Bert", implementation="eager", num_hidden_layers=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "query" in name:
                parameter.zero_()

    weights = read_weights(model, text(lengths=(7,))[0], readout="mean")

    assert_close(weights, torch.full((1, 7), 1 / 7, dtype=torch.float64), rtol=0.0, atol=1e-15)


def test_uniform_attention_of_a_decoder_is_not_taken_for_padding():
    model = model_of("GPT2", implementation="eager", n_layer=1)
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight[:, :32] = 0
        model.transformer.h[0].attn.c_attn.bias[:32] = 0

    weights = read_weights(model, text(lengths=(7,))[0], readout="mean")

    assert_close(weights, torch.full((1, 7), 1 / 7, dtype=torch.float64), rtol=0.0, atol=1e-15)


@pytest.mark.parametrize("stem", ["Deberta", "DebertaV2"])
def test_discarding_attention_of_a_padded_deberta_batch_equals_rows_alone(stem):
    method = AttentionRollout(model_of(stem), discard_ratio=0.5)
    ids, mask = text()

    batch = method.attribute(ids, **mask_of(mask))

    for sample, length in enumerate(LENGTHS):
        assert_rows_alone(batch[sample, :length], method.attribute(ids[sample : sample + 1, :length])[0])
        assert not batch[sample, length:].any()


# ------------------------------------------------------------------------------------- local attention


def gradient_rollout_of_eager(stem, ids, mask, targets, positions):
    """The method from the attention weights that the eager model returns, by autograd."""
    model = model_of(stem, implementation="eager", dtype=torch.float32)
    output = model(ids, attention_mask=mask, output_attentions=True)
    score = output.logits[range(len(ids)), targets].sum()
    gradients = torch.autograd.grad(score, output.attentions)
    probabilities = torch.stack([layer.detach() for layer in output.attentions]).double()
    matrix = gradient_rollout(probabilities, torch.stack(gradients).double(), sign="positive")
    rows = matrix[range(len(ids)), positions]
    return rows - torch.eye(rows.shape[-1], dtype=rows.dtype)[positions], probabilities


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("stem", ["Mistral", "Gemma2", "Gemma3Text", "ModernBert", "GPT2", "Llama"])
def test_map_equals_autograd_through_the_eager_models_own_attention_weights(stem, side):
    ids, mask = text(side)
    if stem == "ModernBert":
        positions = [0, 0, 0]
    else:
        positions = [6, 3, 5] if side == "right" else [6, 6, 6]
    expected, _ = gradient_rollout_of_eager(stem, ids, mask, TARGETS, positions)

    relevance = GradientRollout(model_of(stem, dtype=torch.float32)).attribute(ids, TARGETS, **mask_of(mask))

    # float32 on both sides.
    assert_rows_alone(relevance.double(), expected, 2e-5)


@pytest.mark.parametrize(("stem", "layer", "reach"), [("Mistral", 0, (3, 0)), ("ModernBert", 1, (3, 3))])
def test_local_layers_attend_within_their_window_only(stem, layer, reach):
    ids, _ = text(lengths=(9,))

    attention = RawAttention(model_of(stem)).head_attention(ids)[layer]

    offset = torch.arange(9)[:, None] - torch.arange(9)
    inside = (offset <= reach[0]) & (offset >= -reach[1])
    assert torch.equal(attention[0, 0] > 0, inside)
