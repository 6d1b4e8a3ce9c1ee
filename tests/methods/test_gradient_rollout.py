"""Options of gradient rollout: signs, contrasts, and what a layer is multiplied with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch import Tensor

from attrib_plugin import GradientRollout
from attrib_plugin.errors import NumericsWarning

TARGETS = [1, 4, 2]

BERT = tiny_model("bert")

IDS, MASK = tiny_input("bert")[0], tiny_input("bert")[1]

CALL: dict[str, Any] = {"inputs": IDS, "forward_kwargs": MASK}

CLASS_CALL: dict[str, Any] = {**CALL, "target": TARGETS}


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * expected.abs().max().item())


def logits_of(*arguments: Any, **keywords: Any) -> Tensor:
    return BERT(*arguments, **keywords).logits


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
