"""What each method's own options do, as second computations from other views or from slow loops."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from tiny_models import TEXT_LENGTHS, tiny_input, tiny_model
from torch import Tensor

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention, methods
from attrib_plugin.errors import InputError, NumericsWarning, TargetIgnoredWarning, TrainingModeWarning
from attrib_plugin.functional import mix_residual

METHODS = [getattr(methods, name) for name in methods.__all__]
CLASS_AGNOSTIC = [method for method in METHODS if not method.needs_gradients]
TARGETS = [1, 4, 2]
BERT = tiny_model("bert")
IDS, MASK = tiny_input("bert")[0], tiny_input("bert")[1]
CALL: dict[str, Any] = {"inputs": IDS, "forward_kwargs": MASK}
CLASS_CALL: dict[str, Any] = {**CALL, "target": TARGETS}
HEADS = RawAttention(BERT).head_attention(**CALL)


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * expected.abs().max().item())


def logits_of(*arguments: Any, **keywords: Any) -> Tensor:
    return BERT(*arguments, **keywords).logits


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


# Gradient rollout.


def test_signed_is_positive_minus_negative():
    signed, positive, negative = (GradientRollout(BERT, sign=sign) for sign in ("signed", "positive", "negative"))

    assert_same(signed.attribute(**CLASS_CALL), positive.attribute(**CLASS_CALL) - negative.attribute(**CLASS_CALL))
    assert_same(signed.matrix(**CLASS_CALL), positive.matrix(**CLASS_CALL) - negative.matrix(**CLASS_CALL))
    assert (positive.attribute(**CLASS_CALL) >= 0).all()
    assert (negative.attribute(**CLASS_CALL) >= 0).all()
    assert (signed.attribute(**CLASS_CALL) < 0).any()


def test_evidence_against_a_score_is_evidence_for_its_opposite():
    opposite = GradientRollout(lambda *arguments, **keywords: -logits_of(*arguments, **keywords), model=BERT)

    against = GradientRollout(BERT, sign="negative").attribute(**CLASS_CALL)

    assert_same(against, opposite.attribute(**CLASS_CALL))


@pytest.mark.parametrize("sign", ["positive", "negative", "signed"])
@pytest.mark.parametrize("against", [0, [0, 3, 4], torch.tensor([3, 0, 0])], ids=repr)
def test_against_explains_the_difference_of_two_scores(sign, against):
    others = torch.as_tensor(against).expand(3)

    def difference(*arguments: Any, **keywords: Any) -> Tensor:
        logits = logits_of(*arguments, **keywords)
        return logits[torch.arange(3), TARGETS] - logits[torch.arange(3), others]

    relevance = GradientRollout(BERT, sign=sign).attribute(**CLASS_CALL, against=against)

    assert_same(relevance, GradientRollout(difference, model=BERT, sign=sign).attribute(**CALL))


def test_a_class_against_itself_has_no_evidence():
    method = GradientRollout(BERT)

    with pytest.warns(NumericsWarning, match="zero everywhere: its gradient vanishes"):
        relevance = method.attribute(**CLASS_CALL, against=TARGETS)

    assert not relevance.any()


def slow_gradient_rollout(evidence: tuple[Tensor, ...], row_normalize: bool = False) -> Tensor:
    rolled = torch.eye(evidence[0].shape[-1], dtype=torch.float64).repeat(len(evidence[0]), 1, 1)
    identity = rolled.clone()
    for layer in evidence:
        step = identity + layer
        if row_normalize:
            step = step / step.sum(-1, keepdim=True)
        rolled = torch.stack([one @ other for one, other in zip(step, rolled, strict=True)])
    return rolled


@pytest.mark.parametrize("sign", ["positive", "negative"])
@pytest.mark.parametrize("row_normalize", [False, True])
@pytest.mark.parametrize("start_layer", [0, 1, 2])
def test_gradient_rollout_multiplies_the_layers_it_shows(sign, row_normalize, start_layer):
    method = GradientRollout(BERT, sign=sign, row_normalize=row_normalize, start_layer=start_layer)

    expected = slow_gradient_rollout(method.layer_attention(**CLASS_CALL)[start_layer:], row_normalize)
    start = torch.eye(IDS.shape[1], dtype=torch.float64)[0]
    assert_same(method.matrix(**CLASS_CALL), expected)
    assert_same(method.attribute(**CLASS_CALL), expected[:, 0] - start, 1e-10)


def test_the_identity_may_be_kept_in_the_row():
    plain, kept = (GradientRollout(BERT, include_identity=keep) for keep in (False, True))

    difference = kept.attribute(**CLASS_CALL) - plain.attribute(**CLASS_CALL)

    expected = torch.zeros_like(difference)
    expected[:, 0] = 1
    assert_same(difference, expected)
    assert_same(kept.matrix(**CLASS_CALL), plain.matrix(**CLASS_CALL))


def test_the_identity_cancels_in_a_signed_map():
    plain, kept = (GradientRollout(BERT, sign="signed", include_identity=keep) for keep in (False, True))

    assert_same(kept.attribute(**CLASS_CALL), plain.attribute(**CLASS_CALL))


def test_doubling_the_score_doubles_the_evidence_of_every_layer():
    doubled = GradientRollout(lambda *arguments, **keywords: 2 * logits_of(*arguments, **keywords), model=BERT)

    layers = doubled.layer_attention(**CLASS_CALL)

    for layer, single in zip(layers, GradientRollout(BERT).layer_attention(**CLASS_CALL), strict=True):
        assert_same(layer, 2 * single)


def test_an_unknown_sign_is_refused_at_once():
    with pytest.raises(ValueError, match="sign must be 'positive', 'negative' or 'signed', not 'absolute'"):
        GradientRollout(BERT, sign="absolute")


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
