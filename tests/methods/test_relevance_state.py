"""Models under relevance propagation: functions around them, what is warned of, and how they are left."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch import Tensor, nn

from attrib_plugin import AttentionAwareRelevance, LayerwiseRelevance, TransformerAttribution
from attrib_plugin.errors import (
    CaptureError,
    NumericsWarning,
    TrainingModeWarning,
    UnsupportedOperationError,
)
from attrib_plugin.propagation import attnlrp

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


@methods
def test_a_function_around_the_model_gives_the_same_map(method):
    def logits(ids: Tensor, mask: Tensor) -> Tensor:
        return BERT(ids, attention_mask=mask).logits

    found = method(logits, model=BERT).attribute(IDS, TARGETS, MASK["attention_mask"])

    assert_same(found, method(BERT).attribute(**CALL), 1e-12)


@to_input
def test_a_function_of_the_scores_starts_relevance_at_its_gradient(method):
    composite = replace(attnlrp(), start="one")

    def doubled(ids: Tensor, mask: Tensor) -> Tensor:
        return 2 * BERT(ids, attention_mask=mask).logits

    found = method(doubled, model=BERT, composite=composite).attribute(IDS, TARGETS, MASK["attention_mask"])

    assert_same(found, 2 * method(BERT, composite=composite).attribute(**CALL), 1e-12)


@methods
def test_two_passes_of_the_model_in_one_call_are_refused(method):
    def twice(ids: Tensor, mask: Tensor) -> Tensor:
        return BERT(ids, attention_mask=mask).logits + BERT(ids.flip(0), attention_mask=mask.flip(0)).logits

    with pytest.raises(CaptureError, match="BertForSequenceClassification ran 2 times in one call"):
        method(twice, model=BERT).attribute(IDS, TARGETS, MASK["attention_mask"])


@methods
def test_training_mode_gives_a_warning(method):
    model = copy.deepcopy(VIT).train()
    model.blocks[0].attn.attn_drop.p = 0.1

    with pytest.warns(TrainingModeWarning, match="training mode"):
        method(model).attribute(IMAGES, TARGETS)

    assert model.training


@methods
def test_values_that_are_not_finite_give_a_warning(method):
    # Shares of a score grow without bound where a rule divides by next to nothing.
    def explode(step, message):
        return tuple(one * torch.inf for one in step.gradients(message))

    composite = attnlrp().with_rules(sum=explode)

    with pytest.warns(NumericsWarning, match="NaN or infinite values; run the model in float64"):
        method(BERT, composite=composite).attribute(**CALL)


class Classifier(nn.Module):
    """A transformer of torch's own that fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 5)
        self.failing: str | None = None

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.encoder(self.embedding(ids) if not ids.is_floating_point() else ids)
        if self.failing == "error":
            raise KeyError("of the model")
        if self.failing == "operation":
            tokens = tokens.cumsum(1)
        return self.head(tokens[:, 0])


def state_of(model: nn.Module) -> tuple[Any, ...]:
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    values = [(p.requires_grad, p.grad, p._version, p.data_ptr()) for p in model.parameters()]
    return hooks, values, [module.training for module in model.modules()], [sorted(vars(m)) for m in model.modules()]


@methods
@pytest.mark.parametrize(
    ("failing", "error", "message"),
    [
        (None, None, ""),
        ("error", KeyError, "of the model"),
        ("operation", UnsupportedOperationError, "Tensor.cumsum in 'the model'.*GradientRollout"),
    ],
)
def test_the_model_is_as_it_was(method, failing, error, message):
    torch.manual_seed(6)
    model = Classifier().double().eval()
    model.encoder.layers[0].linear1.weight.requires_grad_(False)
    model.failing, before = failing, state_of(model)

    if error is None:
        method(model, readout="cls").attribute(IDS, TARGETS)
    else:
        with pytest.raises(error, match=message):
            method(model, readout="cls").attribute(IDS, TARGETS)

    assert state_of(model) == before
    model.failing = None
    assert model(IDS).requires_grad
    with torch.no_grad():
        assert torch.isfinite(method(model, readout="cls").attribute(IDS, TARGETS)).all()


@methods
def test_the_config_of_a_library_model_is_as_it_was(method):
    before = BERT.config.to_dict()

    method(BERT).attribute(**CALL)

    assert BERT.config.to_dict() == before
