"""What methods share: a start layer, presets, warnings, and a model's own caches."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch import Tensor

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention, methods
from attrib_plugin.errors import InputError, NumericsWarning, TargetIgnoredWarning, TrainingModeWarning

METHODS = [getattr(methods, name) for name in methods.__all__]
CLASS_AGNOSTIC = [method for method in METHODS if not method.needs_gradients]
TARGETS = [1, 4, 2]
BERT = tiny_model("bert")
IDS, MASK = tiny_input("bert")[0], tiny_input("bert")[1]
CALL: dict[str, Any] = {"inputs": IDS, "forward_kwargs": MASK}
CLASS_CALL: dict[str, Any] = {**CALL, "target": TARGETS}


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * expected.abs().max().item())


def logits_of(*arguments: Any, **keywords: Any) -> Tensor:
    return BERT(*arguments, **keywords).logits


# Start layer: a rollout over no layer, or from the wrong end, would be a map that means nothing.


@pytest.mark.parametrize("method", [AttentionRollout, GradientRollout])
@pytest.mark.parametrize("start_layer", [3, 99, -1])
@pytest.mark.parametrize("view", ["attribute", "matrix", "layer_rows"])
def test_a_start_layer_that_is_not_there_is_refused(method, start_layer, view):
    with pytest.raises(ValueError, match=f"start_layer must be one of the 3 layers 0 to 2, not {start_layer}"):
        getattr(method(BERT, start_layer=start_layer), view)(**CALL)


@pytest.mark.parametrize("method", [AttentionRollout, GradientRollout])
def test_the_last_layer_row_with_a_start_layer_is_what_attribute_gives(method):
    explainer = method(BERT, start_layer=1)

    rows = explainer.layer_rows(**CALL)

    assert len(rows) == 3
    assert_same(rows[-1], explainer.attribute(**CALL))


# Presets.


@pytest.mark.parametrize("method", METHODS)
def test_every_preset_builds_the_method_with_its_options(method):
    for name, preset in method.presets.items():
        explainer = method.from_preset(name, BERT)

        assert type(explainer) is method
        for option, value in preset.options.items():
            assert getattr(explainer, option) == value


def test_the_generic_preset_keeps_the_identity_as_its_authors_do():
    explainer = GradientRollout.from_preset("chefer2021_generic", BERT)

    relevance = explainer.attribute(**CLASS_CALL)

    assert_same(relevance, GradientRollout(BERT, include_identity=True).attribute(**CLASS_CALL))


def test_overrides_win_over_a_preset():
    explainer = GradientRollout.from_preset("chefer2021_generic", BERT, start_layer=1, include_identity=False)

    relevance = explainer.attribute(**CLASS_CALL)

    assert_same(relevance, GradientRollout(BERT, start_layer=1).attribute(**CLASS_CALL))


def test_a_preset_takes_the_common_options_too():
    explainer = AttentionRollout.from_preset("abnar2020", logits_of, model=BERT, readout="last")

    relevance = explainer.attribute(**CALL)

    assert_same(relevance, AttentionRollout(BERT, readout="last").attribute(**CALL))


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_preset_is_refused_with_the_list_of_known_ones(method):
    with pytest.raises(InputError, match=f"{method.__name__} has no preset 'mine'. Its presets: "):
        method.from_preset("mine", BERT)


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_option_is_refused(method):
    with pytest.raises(TypeError, match="temperature"):
        method(BERT, temperature=2.0)


# Warnings.


@pytest.mark.parametrize("method", CLASS_AGNOSTIC)
@pytest.mark.parametrize("view", ["attribute", "matrix", "layer_attention", "layer_rows"])
@pytest.mark.parametrize("given", [{"target": 1}, {"against": 1}], ids=repr)
def test_a_class_given_to_a_class_agnostic_method_is_ignored_with_a_warning(method, view, given):
    with pytest.warns(TargetIgnoredWarning, match=f"{method.__name__} does not depend on the class"):
        found = getattr(method(BERT), view)(**CALL, **given)

    torch.testing.assert_close(found, getattr(method(BERT), view)(**CALL), rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_class_nothing_is_warned_about(method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relevance = method(BERT).attribute(**CALL)

    assert relevance.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_a_model_in_training_mode_is_explained_with_a_warning(method):
    model = copy.deepcopy(BERT).train()

    with pytest.warns(TrainingModeWarning, match="BertForSequenceClassification is in training mode"):
        relevance = method(model).attribute(**CALL)

    assert relevance.isfinite().all()
    assert model.training


@pytest.mark.parametrize("sign", ["positive", "negative", "signed"])
def test_relevance_that_is_zero_everywhere_is_reported(sign):
    model = copy.deepcopy(BERT)
    torch.nn.init.zeros_(model.classifier.weight)

    with pytest.warns(NumericsWarning, match="relevance of 3 of 3 samples is zero everywhere"):
        relevance = GradientRollout(model, sign=sign).attribute(**CLASS_CALL)

    assert not relevance.any()


@pytest.mark.parametrize("view", ["attribute", "matrix"])
def test_warnings_point_at_the_line_of_the_caller(view):
    training = copy.deepcopy(BERT).train()

    with pytest.warns(UserWarning, match="training mode|does not depend on the class") as seen:
        getattr(RawAttention(training), view)(**CLASS_CALL)

    assert {warning.category: warning.filename for warning in seen} == {
        TargetIgnoredWarning: __file__,
        TrainingModeWarning: __file__,
    }


def test_the_warning_about_silent_relevance_points_at_the_line_of_the_caller():
    with pytest.warns(NumericsWarning, match="zero everywhere") as seen:
        GradientRollout(BERT).attribute(**CLASS_CALL, against=TARGETS)

    assert [warning.filename for warning in seen] == [__file__]


# What the model does beside.


ONE_SEQUENCE = [
    method for method in METHODS if method.__name__ not in ("EncoderDecoderRelevance", "ImageTextRelevance")
]


@pytest.mark.parametrize("method", ONE_SEQUENCE, ids=lambda method: method.__name__)
def test_a_cache_that_the_model_makes_for_itself_changes_no_map(method):
    llama, (ids, mask) = tiny_model("llama").model, tiny_input("llama")
    target = {"target": TARGETS} if method.needs_gradients else {}

    def relevance(use_cache: bool) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericsWarning)
            return method(llama).attribute(ids, forward_kwargs={**mask, "use_cache": use_cache}, **target)

    assert torch.equal(relevance(True), relevance(False))
