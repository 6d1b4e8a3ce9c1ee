"""Text models of transformers: what their heads read, padding on either side, tasks, and what is refused.

Oracles are transformers' own: gradients at the last attention say which tokens a head reads, and the eager models'
attention weights with autograd give gradient rollouts. All models are random, from configurations.
"""

from functools import cache

import pytest
import torch
import transformers
from torch import nn
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention
from attrib_plugin.capture import CaptureSession
from attrib_plugin.errors import (
    AttributionError,
    InputError,
    TargetError,
    TargetIgnoredWarning,
    UnknownModelError,
    UnsupportedAttentionError,
)
from attrib_plugin.families import find_member
from attrib_plugin.functional import gradient_rollout

PAD, N_CLASSES, TARGETS = 1, 5, [1, 4, 2]
LENGTHS = (7, 4, 6)
EXACT = {"rtol": 0.0, "atol": 0.0}
SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "num_labels": N_CLASSES,
    "pad_token_id": PAD,
}
GPT = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "num_labels": N_CLASSES}
MARKS = {"bos_token_id": 2, "eos_token_id": 3}
GROUPED = {**SMALL, **MARKS, "num_key_value_heads": 2}
WIDE_HEADS = {**GROUPED, "head_dim": 8}
LOCAL = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SEPARATORS = {"cls_token_id": 2, "sep_token_id": 3}

# Name of the classes: configuration.
DECODERS = {
    "GPT2": {**GPT, **MARKS, "pad_token_id": PAD},
    "GPTBigCode": {**GPT, **MARKS, "pad_token_id": PAD},
    "GPTNeo": {
        **SMALL,
        **MARKS,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    },
    "GPTNeoX": {**SMALL, **MARKS},
    "OPT": {**SMALL, **MARKS, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "Bloom": {**GPT, **MARKS, "hidden_size": 32, "pad_token_id": PAD},
    "Falcon": {**SMALL, **MARKS},
    "Llama": GROUPED,
    "Mistral": {**GROUPED, "sliding_window": 4},
    "Qwen2": GROUPED,
    "Qwen3": WIDE_HEADS,
    "Mixtral": {**GROUPED, "num_local_experts": 2},
    "Qwen2Moe": {**GROUPED, **EXPERTS},
    "Qwen3Moe": {**WIDE_HEADS, **EXPERTS},
    "Gemma": WIDE_HEADS,
    "Gemma2": {**WIDE_HEADS, **LOCAL},
    "Gemma3Text": {**WIDE_HEADS, **LOCAL},
    "Phi": GROUPED,
    "Phi3": GROUPED,
    "Starcoder2": GROUPED,
    "StableLm": GROUPED,
    "Olmo": GROUPED,
    "SmolLM3": GROUPED,
    "Glm": WIDE_HEADS,
    "Glm4": WIDE_HEADS,
}
ENCODERS = {
    "Bert": SMALL,
    "Roberta": SMALL,
    "XLMRoberta": SMALL,
    "Camembert": SMALL,
    "Electra": SMALL,
    "DistilBert": {
        "vocab_size": 60,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 40,
        "num_labels": N_CLASSES,
    },
    "Albert": {**SMALL, "embedding_size": 16},
    "Deberta": SMALL,
    "DebertaV2": SMALL,
    "MPNet": SMALL,
    "RoFormer": SMALL,
    "ModernBert": {**SMALL, **MARKS, **SEPARATORS, "local_attention": 6, "global_attn_every_n_layers": 2},
}
EAGER_ONLY = ("Bloom", "GPTNeo", "Gemma2", "Deberta", "DebertaV2", "MPNet", "RoFormer")
if transformers.__version__.startswith("4."):
    EAGER_ONLY += ("Electra",)
# Their eager softmax or their experts run in float32, so that a map is known to about 1e-6 of its maximum only.
ROUGH = ("Bloom", "GPTNeo", "Gemma2", "Mixtral", "Qwen2Moe", "Qwen3Moe")
LEARNED = ("GPT2", "GPTBigCode", "GPTNeo", "OPT")


@cache
def model_of(stem, task="SequenceClassification", implementation=None, dtype=torch.float64, **changes):
    """The seeded model of a family; weights are large, so that attention is far from uniform."""
    config_name = {"XLMRoberta": "XLMRobertaConfig"}.get(stem, f"{stem}Config")
    config = getattr(transformers, config_name)(**{**ENCODERS, **DECODERS}[stem] | changes)
    implementation = implementation or ("eager" if stem in EAGER_ONLY else "sdpa")
    torch.manual_seed(sum(map(ord, stem)))
    automatic = getattr(transformers, f"AutoModelFor{task}")
    try:
        model = automatic.from_config(config, attn_implementation=implementation).eval().to(dtype)
    except ValueError as error:
        if not transformers.__version__.startswith("4."):
            raise
        pytest.skip(f"transformers {transformers.__version__}: {str(error).splitlines()[0]}")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model


def text(side="right", lengths=LENGTHS):
    """Ids padded on one side, and their mask."""
    longest = max(lengths)
    ids = torch.randint(5, 60, (len(lengths), longest), generator=torch.Generator().manual_seed(3))
    position = torch.arange(longest)
    length = torch.tensor(lengths)[:, None]
    real = position < length if side == "right" else position >= longest - length
    return torch.where(real, ids, PAD), real.long()


def mask_of(mask):
    return {"forward_kwargs": {"attention_mask": mask}}


def read_weights(model, ids, **options):
    """What the head reads: a rollout that is nothing but residual leaves it as it is."""
    return AttentionRollout(model, residual=1.0).layer_rows(ids, **options)[-1]


def positions_that_matter(model, ids, mask=None, **inputs):
    """Tokens whose last attention output moves the scores, by autograd."""
    with CaptureSession(model, gradients=True) as session:
        scores = model(ids, attention_mask=mask, **inputs).logits
        gradient = session.output_gradients(scores.sum())[-1]
    batch = len(scores)
    by_sample = gradient.reshape(batch, -1, *gradient.shape[-2:])
    return by_sample.abs().sum((1, 3)) > 0


def assert_rows_alone(actual, alone, relative=1e-10):
    assert_close(actual, alone, rtol=0.0, atol=relative * alone.abs().max().item())


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


# ------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("stem", ["Bert", "Deberta", "ModernBert", "Llama"])
def test_regression_heads_need_no_target(stem):
    model = model_of(stem, num_labels=1)
    ids, mask = text()

    relevance = GradientRollout(model).attribute(ids, **mask_of(mask))

    assert_close(relevance, GradientRollout(model).attribute(ids, 0, **mask_of(mask)), **EXACT)
    assert relevance.any(-1).all()


TOKEN_TASKS = [
    ("Bert", "TokenClassification"),
    ("Albert", "MaskedLM"),
    ("Bert", "MaskedLM"),
    ("Deberta", "TokenClassification"),
    ("DebertaV2", "MaskedLM"),
    ("MPNet", "TokenClassification"),
    ("RoFormer", "TokenClassification"),
    ("ModernBert", "MaskedLM"),
    ("ModernBert", "TokenClassification"),
    ("GPT2", "CausalLM"),
    ("Llama", "CausalLM"),
    ("Mistral", "CausalLM"),
    ("Gemma3Text", "CausalLM"),
]


@pytest.mark.parametrize(("stem", "task"), TOKEN_TASKS)
def test_a_target_of_position_and_class_is_read_at_that_position(stem, task):
    model = model_of(stem, task)
    ids, mask = text()
    targets = [(6, 1), (2, 4), (5, 0)]

    batch = GradientRollout(model).attribute(ids, targets, **mask_of(mask))
    named = GradientRollout(model).attribute(ids, targets, **mask_of(mask), readout=torch.tensor([6, 2, 5]))

    assert_close(batch, named, **EXACT)
    assert batch.any(-1).all()
    for sample, length in enumerate(LENGTHS):
        alone = GradientRollout(model).attribute(ids[sample : sample + 1, :length], targets[sample])
        assert_rows_alone(batch[sample, :length], alone[0])
        assert not batch[sample, length:].any()


def test_a_next_token_score_ignores_the_tokens_after_it():
    ids, _ = text(lengths=(7,))

    relevance = GradientRollout(model_of("Llama", "CausalLM")).attribute(ids, (3, 11))

    assert relevance[0, :4].any()
    assert not relevance[0, 4:].any()


def test_token_scores_without_a_target_are_refused():
    with pytest.raises(TargetError, match="Give a tuple with one index for every axis after the batch"):
        GradientRollout(model_of("Bert", "TokenClassification")).attribute(text()[0])


QUESTIONS = ["Bert", "Roberta", "Albert", "Deberta", "ModernBert", "MPNet", "GPT2", "Llama"]


@pytest.mark.parametrize("target", [2, [2, 2, 2], torch.tensor([2, 2, 2]), torch.tensor(2), (2,), [(2,), (2,), (2,)]])
def test_question_answering_reads_the_position_that_any_form_of_target_names(target):
    model = model_of("Bert", "QuestionAnswering", num_labels=2)
    ids, mask = text()

    relevance = GradientRollout(model).attribute(ids, target, **mask_of(mask))

    named = GradientRollout(model).attribute(ids, [2, 2, 2], **mask_of(mask), readout=torch.tensor([2, 2, 2]))
    assert_close(relevance, named, **EXACT)
    assert relevance.any(-1).all()


@pytest.mark.parametrize("stem", QUESTIONS)
@pytest.mark.parametrize("targets", [[6, 1, 3], None])
def test_question_answering_rows_of_a_padded_batch_equal_rows_alone(stem, targets):
    model = model_of(stem, "QuestionAnswering", num_labels=2)
    ids, mask = text()

    batch = GradientRollout(model).attribute(ids, targets, **mask_of(mask))

    for sample, length in enumerate(LENGTHS):
        row = ids[sample : sample + 1, :length]
        alone = GradientRollout(model).attribute(row, None if targets is None else targets[sample])
        assert_rows_alone(batch[sample, :length], alone[0])
        assert not batch[sample, length:].any()


def test_question_answering_explains_the_most_likely_start_that_is_no_padding():
    model = model_of("Bert", "QuestionAnswering", num_labels=2)
    ids, mask = text()
    with torch.no_grad():
        scores = model(ids, attention_mask=mask).start_logits
    start = scores.masked_fill(mask == 0, -torch.inf).argmax(-1)

    weights = read_weights(model, ids, **mask_of(mask))

    assert_close(weights, torch.eye(7, dtype=torch.float64)[start], **EXACT)
    expected = GradientRollout(model).attribute(ids, start, **mask_of(mask))
    assert_close(GradientRollout(model).attribute(ids, **mask_of(mask)), expected, **EXACT)


def test_the_end_of_an_answer_is_explained_through_a_function():
    model = model_of("Bert", "QuestionAnswering", num_labels=2)
    ids, mask = text()

    def end(ids, **options):
        return model(ids, **options).end_logits

    relevance = GradientRollout(end, model=model).attribute(ids, [4, 1, 2], **mask_of(mask))

    start = GradientRollout(model).attribute(ids, [4, 1, 2], **mask_of(mask))
    assert relevance.any(-1).all()
    assert not torch.allclose(relevance, start)


def test_question_answering_cut_into_batches_gives_the_same_map():
    model = model_of("Bert", "QuestionAnswering", num_labels=2)
    ids, mask = text()
    method = GradientRollout(model)

    for target in (None, [6, 1, 3], 2):
        whole = method.attribute(ids, target, **mask_of(mask))
        assert_rows_alone(method.attribute(ids, target, **mask_of(mask), internal_batch_size=2), whole, 1e-12)


def test_positions_of_an_answer_are_contrasted_only_if_the_read_out_is_given():
    method = GradientRollout(model_of("Bert", "QuestionAnswering", num_labels=2))
    ids, _ = text()

    with pytest.raises(TargetError, match="must name outputs of the same token"):
        method.attribute(ids, 2, against=3)
    assert method.attribute(ids, 2, against=3, readout=2).any()


def test_a_position_outside_of_the_text_is_refused():
    with pytest.raises(TargetError, match="out of range"):
        GradientRollout(model_of("Bert", "QuestionAnswering", num_labels=2)).attribute(text()[0], 7)


def test_class_agnostic_methods_read_the_position_of_an_answer_too():
    model = model_of("Bert", "QuestionAnswering", num_labels=2)
    ids, _ = text()

    with pytest.warns(TargetIgnoredWarning, match="does not depend on the class"):
        relevance = AttentionRollout(model).attribute(ids, 2)

    assert_close(relevance, AttentionRollout(model).attribute(ids, readout=2), **EXACT)


@pytest.mark.parametrize("target", ["first", [1, 2], 1.5, [1.0, 2.0, 3.0], True, object()])
@pytest.mark.parametrize("method", [GradientRollout, AttentionRollout])
@pytest.mark.filterwarnings("ignore::attrib_plugin.errors.TargetIgnoredWarning")
def test_a_target_that_is_no_position_is_refused_for_an_answer(method, target):
    with pytest.raises(TargetError, match=r"[Tt]arget"):
        method(model_of("Bert", "QuestionAnswering", num_labels=2)).attribute(text()[0], target)


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 7)])
@pytest.mark.parametrize("stem", ["Bert", "Roberta", "Albert"])
def test_multiple_choice_is_refused_and_the_way_is_shown(stem, shape):
    method = GradientRollout(model_of(stem, "MultipleChoice"))

    with pytest.raises(UnsupportedAttentionError, match="ForMultipleChoice cannot be explained: it compares several"):
        method.attribute(torch.full(shape, 9), 0)


def test_one_choice_is_explained_as_the_refusal_says():
    model = model_of("Bert", "MultipleChoice")
    ids, mask = text()

    relevance = GradientRollout(
        lambda ids, **options: model(ids[:, None], **options), model=model.base_model, readout="cls"
    ).attribute(ids, **mask_of(mask[:, None]))

    assert relevance.any(-1).all()
    assert not relevance[mask == 0].any()


# ------------------------------------------------------------------------------------- encoder and decoder


def seq2seq(stem, suffix, **changes):
    sizes = {
        "T5": {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        "Bart": {
            "vocab_size": 60,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 40,
        },
    }
    marks = {"pad_token_id": PAD, "eos_token_id": 3, "decoder_start_token_id": 2, "num_labels": N_CLASSES}
    config = getattr(transformers, f"{stem}Config")(**sizes[stem], **marks, **changes)
    torch.manual_seed(0)
    return getattr(transformers, f"{stem}{suffix}")(config).eval().double()


@pytest.mark.parametrize("suffix", ["Model", "ForConditionalGeneration", "ForSequenceClassification"])
@pytest.mark.parametrize("stem", ["T5", "Bart"])
def test_encoder_decoders_are_refused_and_the_error_names_what_to_use(stem, suffix):
    method = GradientRollout(seq2seq(stem, suffix))

    with pytest.raises(UnsupportedAttentionError, match=r"cross-attention.*model\.get_encoder\(\), readout=\"mean\""):
        method.attribute(text()[0], 1)


class EncoderClassifier(nn.Module):
    """A classifier on the mean of a T5 or BART encoder."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(32, N_CLASSES, dtype=torch.float64)
        self.eval()

    def forward(self, ids, attention_mask):
        hidden = self.encoder(ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(hidden)
        return self.head((hidden * real).sum(1) / real.sum(1))


@pytest.mark.parametrize("encoder", ["T5EncoderModel", "T5.get_encoder", "Bart.get_encoder"])
def test_encoders_of_t5_and_bart_work_with_a_read_out_and_row_by_row(encoder):
    if encoder == "T5EncoderModel":
        inner = seq2seq("T5", "EncoderModel")
    else:
        inner = seq2seq(encoder.split(".")[0], "Model").get_encoder()
    method = GradientRollout(EncoderClassifier(inner), readout="mean")
    ids, mask = text()

    batch = method.attribute(ids, TARGETS, **mask_of(mask))

    assert batch.any(-1).all()
    for sample, length in enumerate(LENGTHS):
        alone = method.attribute(
            ids[sample : sample + 1, :length], TARGETS[sample], **mask_of(mask[sample : sample + 1, :length])
        )
        assert_rows_alone(batch[sample, :length], alone[0], 1e-6)
        assert not batch[sample, length:].any()


def test_an_encoder_without_a_head_asks_for_the_read_out():
    model = EncoderClassifier(seq2seq("T5", "EncoderModel"))
    ids, mask = text()

    with pytest.raises(UnknownModelError, match=r'such as: GradientRollout\(model, readout="mean"\)'):
        GradientRollout(model).attribute(ids, 1, **mask_of(mask))


def test_token_classification_on_a_t5_encoder_reads_the_target():
    model = seq2seq("T5", "ForTokenClassification")
    ids, mask = text()

    relevance = GradientRollout(model).attribute(ids, (2, 1), **mask_of(mask))

    assert_close(relevance, GradientRollout(model).attribute(ids, (2, 1), **mask_of(mask), readout=2), **EXACT)
    assert not relevance[mask == 0].any()


# ------------------------------------------------------------------------------------- bad input

LONGEST = {
    "Bert": 40,
    "Roberta": 38,
    "XLMRoberta": 38,
    "Camembert": 38,
    "Electra": 40,
    "DistilBert": 40,
    "Albert": 40,
    "Deberta": 40,
    "DebertaV2": 40,
    "MPNet": 38,
    "RoFormer": 40,
    "GPT2": 40,
    "GPTBigCode": 40,
    "GPTNeo": 40,
    "OPT": 40,
}


@pytest.mark.parametrize(("stem", "longest"), LONGEST.items())
def test_the_longest_text_works_and_one_token_more_is_an_error(stem, longest):
    model = model_of(stem)

    relevance = GradientRollout(model).attribute(torch.full((1, longest), 9), 1)

    assert relevance.shape == (1, longest)
    with pytest.raises(InputError, match=f"takes at most {longest} tokens, found {longest + 1}"):
        GradientRollout(model).attribute(torch.full((1, longest + 1), 9), 1)


def test_texts_that_are_too_long_for_the_encoder_of_bart_are_refused():
    method = GradientRollout(EncoderClassifier(seq2seq("Bart", "Model").get_encoder()), readout="mean")

    longest = torch.full((1, 40), 9)

    assert method.attribute(longest, 1, **mask_of(torch.ones_like(longest))).shape == (1, 40)
    with pytest.raises(InputError, match="BartEncoder takes at most 40 tokens, found 41"):
        method.attribute(torch.full((1, 41), 9), 1)


@pytest.mark.parametrize("stem", ["Llama", "Mistral", "ModernBert", "GPTNeoX", "Bloom", "Falcon"])
def test_relative_positions_have_no_longest_text(stem):
    assert GradientRollout(model_of(stem)).attribute(torch.full((1, 50), 9), 1).shape == (1, 50)


def test_deberta_without_absolute_positions_has_no_longest_text():
    model = model_of("DebertaV2", position_biased_input=False, relative_attention=True, position_buckets=4)

    assert GradientRollout(model).attribute(torch.full((1, 50), 9), 1).shape == (1, 50)


@pytest.mark.parametrize("wrong", [-1, 60])
@pytest.mark.parametrize("stem", {**ENCODERS, **DECODERS})
def test_ids_outside_of_the_vocabulary_are_refused(stem, wrong):
    with pytest.raises(InputError, match=f"Token id {wrong} is outside the vocabulary of 60 ids"):
        GradientRollout(model_of(stem)).attribute(torch.tensor([[5, wrong, 6]]), 1)


@pytest.mark.parametrize("stem", ["Bert", "Llama"])
def test_an_image_for_a_text_model_is_refused(stem):
    with pytest.raises(AttributionError, match="reads text, but the input is an image batch"):
        GradientRollout(model_of(stem)).attribute(torch.zeros(1, 3, 8, 8), 1)
