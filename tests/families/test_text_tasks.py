"""Regression, tokens, answers and next tokens: what a target names is read."""

import pytest
import torch
from text_models import EXACT, LENGTHS, assert_rows_alone, mask_of, model_of, read_weights, text
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout
from attrib_plugin.errors import (
    TargetError,
    TargetIgnoredWarning,
    UnsupportedAttentionError,
)

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
