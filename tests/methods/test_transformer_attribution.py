"""What the options of transformer attribution do, as second computations from its matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_input, tiny_model
from torch import Tensor, nn

from attrib_plugin import AttentionAwareRelevance, GradientRollout, LayerwiseRelevance, TransformerAttribution
from attrib_plugin.capture import CaptureSession
from attrib_plugin.errors import (
    InputError,
)
from attrib_plugin.methods.base import find_composite
from attrib_plugin.propagation import RelevanceGraph

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


def test_transformer_attribution_against_a_class_is_that_of_a_model_that_gives_the_difference():
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BERT

        def forward(self, ids, attention_mask):
            logits = self.bert(ids, attention_mask=attention_mask).logits
            weight = torch.eye(5, dtype=logits.dtype) - F.one_hot(torch.tensor(0), 5)
            return F.linear(logits, weight)

    expected = TransformerAttribution(BERT, composite="attnlrp").attribute(**CALL, against=0)

    found = TransformerAttribution(Difference().eval(), readout="cls", composite="attnlrp").attribute(**CALL)

    assert_same(found, expected, 1e-9)


def layer_matrices(**options: Any) -> tuple[Tensor, ...]:
    return TransformerAttribution(BERT, **options).layer_attention(**CALL)


def test_transformer_attribution_is_the_product_of_identity_plus_evidence_without_its_start():
    matrices = layer_matrices()

    rolled = torch.eye(IDS.shape[1], dtype=torch.float64).expand(3, -1, -1)
    for matrix in matrices:
        rolled = rolled + matrix @ rolled

    found = TransformerAttribution(BERT).attribute(**CALL)
    start = F.one_hot(torch.tensor(0), IDS.shape[1]).to(found)
    assert_same(found, rolled[:, 0] - start, 1e-10)
    assert_same(TransformerAttribution(BERT).matrix(**CALL), rolled, 1e-10)
    assert_same(TransformerAttribution(BERT, include_identity=True).attribute(**CALL), rolled[:, 0], 1e-12)


def test_rows_are_normalised_if_asked_for():
    rolled = identity = torch.eye(IDS.shape[1], dtype=torch.float64).expand(3, -1, -1)
    for matrix in layer_matrices():
        mixed = identity + matrix
        rolled = (mixed / mixed.sum(-1, keepdim=True)) @ rolled

    found = TransformerAttribution(BERT, row_normalize=True, include_identity=True).attribute(**CALL)

    assert_same(found, rolled[:, 0], 1e-10)


@pytest.mark.parametrize("start_layer", [1, 2])
def test_layers_below_the_start_are_left_out(start_layer):
    rolled = torch.eye(IDS.shape[1], dtype=torch.float64).expand(3, -1, -1)
    for matrix in layer_matrices()[start_layer:]:
        rolled = rolled + matrix @ rolled

    found = TransformerAttribution(BERT, start_layer=start_layer, include_identity=True).attribute(**CALL)

    assert_same(found, rolled[:, 0], 1e-10)


@pytest.mark.parametrize("layer", [0, 2, -1, -3])
@pytest.mark.parametrize("weighting", ["gradient", "none"])
@pytest.mark.parametrize("sign", ["positive", "signed"])
def test_one_layer_is_the_read_out_row_of_its_matrix(layer, weighting, sign):
    options = {"weighting": weighting, "sign": sign}

    found = TransformerAttribution(BERT, layer=layer, **options).attribute(**CALL)

    assert_same(found, layer_matrices(**options)[layer][:, 0], 1e-12)


def test_relevance_without_gradients_is_the_mean_over_heads_of_its_positive_part():
    attribution = TransformerAttribution(BERT, weighting="none")
    graph = RelevanceGraph(find_composite(attribution.composite), 3)
    embeddings = EMBEDDINGS.clone().requires_grad_()
    with CaptureSession(BERT, interpreter=graph) as session:
        logits = BERT(inputs_embeds=embeddings, **MASK).logits
    with graph.propagating():
        of_output = torch.autograd.grad(
            logits, session.node(session.calls[1]), F.one_hot(torch.tensor(TARGETS), 5).to(logits)
        )

    call = session.calls[1]
    probs = GradientRollout(BERT).head_attention(IDS, forward_kwargs=MASK)[1]
    share = of_output[0] / call.output.detach()
    expected = (probs * (share @ call.value.mT) / 2).clamp(min=0).mean(1)
    assert_same(attribution.layer_attention(**CALL)[1], expected, 1e-6)


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(InputError, match=f"layer must be one of the 3 layers 0 to 2, not {layer}"):
        TransformerAttribution(BERT, layer=layer).attribute(**CALL)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="weighting must be 'gradient' or 'none', not 'attention'"):
        TransformerAttribution(BERT, weighting="attention")
