"""GeneralizedAttentionFlow as a Captum class: target-dependent, signed, the formula on gradient-weighted attention."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_input, tiny_model
from torch.testing import assert_close

from attrib_plugin import GeneralizedAttentionFlow, capture_attention
from attrib_plugin.functional import flow_graph, generalized_attention_flow, gradient_weighted_attention

EXACT = {"rtol": 0.0, "atol": 1e-12}
TARGETS = [1, 4, 2]
every_family = pytest.mark.parametrize("family_name", ["bert", "timm_vit", "timm_average"])


def case_of(family_name, **options):
    method = GeneralizedAttentionFlow(tiny_model(family_name), **FAMILIES[family_name].options, **options)
    inputs, keywords = tiny_input(family_name)
    return method, {"inputs": inputs, "forward_kwargs": keywords}


def evidence_of(family_name, sign, with_attention=True):
    """Capacities from the captured probabilities and their gradients."""
    model = tiny_model(family_name)
    inputs, keywords = tiny_input(family_name)
    with capture_attention(model) as captured:
        output = model(inputs, **keywords)
        scores = getattr(output, "logits", output)
        score = scores[torch.arange(len(scores)), TARGETS].sum()
        layers = [(call.probabilities(), call.gradient(of=score)) for call in captured.calls]
    return torch.stack(
        [
            gradient_weighted_attention(probs if with_attention else (probs > 0).double(), gradients, sign=sign)
            for probs, gradients in layers
        ]
    )


@every_family
@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_the_matrix_is_the_formula_on_gradient_weighted_attention(family_name, sign):
    method, call = case_of(family_name, sign=sign)

    matrix = method.matrix(**call, target=TARGETS)

    expected = generalized_attention_flow(evidence_of(family_name, sign))
    assert_close(matrix, expected, rtol=0.0, atol=1e-10 * float(expected.max()))


@every_family
def test_signed_relevance_is_evidence_for_minus_evidence_against(family_name):
    maps = {}
    for sign in ("positive", "negative", "signed"):
        method, call = case_of(family_name, sign=sign)
        maps[sign] = method.attribute(**call, target=TARGETS)

    assert (maps["positive"] >= 0).all()
    assert (maps["negative"] >= 0).all()
    assert_close(maps["signed"], maps["positive"] - maps["negative"], **EXACT)


def test_evidence_against_a_class_is_evidence_for_its_negative():
    negative, call = case_of("bert", sign="negative")
    model = tiny_model("bert")
    opposite = GeneralizedAttentionFlow(lambda ids, **keywords: -model(ids, **keywords).logits, model=model)

    relevance = negative.attribute(**call, target=TARGETS)

    assert_close(relevance, opposite.attribute(**call, target=TARGETS), **EXACT)


def test_the_map_of_a_class_token_sums_to_the_maximum_flow():
    method, call = case_of("timm_vit")
    capacities = evidence_of("timm_vit", "positive")

    rows = method.layer_rows(**call, target=TARGETS)[-1]

    for sample in range(3):
        value = flow_graph(capacities, output=0, residual=None, sample=sample).value
        assert float(rows[sample].sum()) == pytest.approx(value, rel=1e-9)


def test_other_classes_have_other_maps():
    method, call = case_of("bert")

    first, second = method.attribute_targets(**call, targets=[0, 3])

    assert (first - second).abs().max() > 0.1 * first.abs().max()


def test_a_layers_matrix_is_its_signed_evidence():
    method, call = case_of("bert", sign="signed")

    layers = torch.stack(method.layer_attention(**call, target=TARGETS))

    expected = evidence_of("bert", "positive") - evidence_of("bert", "negative")
    assert_close(layers, expected, rtol=0.0, atol=1e-10 * float(expected.abs().max()))


def test_capacities_may_be_gradients_alone():
    method, call = case_of("bert", capacity="gradient")

    matrix = method.matrix(**call, target=TARGETS)

    expected = generalized_attention_flow(evidence_of("bert", "positive", with_attention=False))
    assert_close(matrix, expected, rtol=0.0, atol=1e-10 * float(expected.max()))


def test_the_preset_is_the_papers_best_variant():
    method = GeneralizedAttentionFlow.from_preset("azarkhalili2025_agf", tiny_model("bert"))

    assert (method.sign, method.capacity) == ("positive", "attention_gradient")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sign": "both"}, "sign must be 'positive', 'negative' or 'signed', not 'both'"),
        ({"capacity": "attention"}, "capacity must be 'attention_gradient' or 'gradient', not 'attention'"),
        ({"engine": "fast"}, "engine must be 'auto', 'scipy' or 'numba', not 'fast'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GeneralizedAttentionFlow(tiny_model("bert"), **options)
