"""Attention x gradient against Captum's own code: another library, hooks on eager attention modules, no shared line."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradientXActivation
from tiny_models import FAMILIES, tiny_input, tiny_model
from torch import Tensor, nn

from attrib_plugin import GradientRollout, capture_attention

TARGETS = [1, 4, 2]
# The eager attention modules of these families return (output, probabilities), which Captum's hooks can read.
HOOKABLE = ("bert", "roberta", "distilbert", "hf_vit", "dinov2", "dinov2_registers")

every_family = pytest.mark.parametrize("family_name", HOOKABLE)


def is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")


def weighted_by_captum(family_name: str) -> list[Tensor]:
    """A * dy/dA of every layer of the eager model, (B,H,N,N), by Captum."""
    model = tiny_model(family_name, "eager")
    inputs, keywords = tiny_input(family_name)
    # The innermost ones: BertAttention, for one, only wraps BertSelfAttention.
    layers = [
        module
        for module in model.modules()
        if is_attention(module) and not any(is_attention(part) for part in module.modules() if part is not module)
    ]

    def forward(leading: Tensor) -> Tensor:
        return model(leading, **keywords).logits

    return [of_layer[1] for of_layer in LayerGradientXActivation(forward, layers).attribute(inputs, TARGETS)]


def tolerance(family_name: str) -> float:
    return 1e-6 if FAMILIES[family_name].softmax_in_float32 else 1e-10


def assert_same(actual: Tensor, expected: Tensor, relative: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * expected.abs().max().item())


def captured(model: nn.Module, inputs: Tensor, keywords: dict[str, Tensor]) -> list[Tensor]:
    with capture_attention(model) as attention:
        logits = model(inputs, **keywords).logits
        score = logits[torch.arange(len(logits)), TARGETS].sum()
        return [call.probabilities() * call.gradient(of=score) for call in attention.calls]


@every_family
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_captured_attention_times_gradient_equals_captums(family_name, implementation):
    expected = weighted_by_captum(family_name)
    inputs, keywords = tiny_input(family_name)

    found = captured(tiny_model(family_name, implementation), inputs, keywords)

    assert len(found) == len(expected) == 3
    for layer, reference in zip(found, expected, strict=True):
        assert_same(layer, reference, tolerance(family_name))


@every_family
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("sign", ["positive", "negative", "signed"])
def test_the_layers_of_gradient_rollout_equal_captums_attention_times_gradient(family_name, implementation, sign):
    weighted = weighted_by_captum(family_name)
    parts = {"positive": lambda w: w.clamp(min=0), "negative": lambda w: (-w).clamp(min=0), "signed": lambda w: w}
    inputs, keywords = tiny_input(family_name)
    method = GradientRollout(tiny_model(family_name, implementation), sign=sign)

    layers = method.layer_attention(inputs, TARGETS, forward_kwargs=keywords)

    assert len(layers) == len(weighted)
    for layer, reference in zip(layers, weighted, strict=True):
        assert_same(layer, parts[sign](reference).mean(1), tolerance(family_name))


@every_family
def test_gradient_rollout_equals_the_papers_product_over_captums_layers(family_name):
    weighted = weighted_by_captum(family_name)
    inputs, keywords = tiny_input(family_name)
    model = tiny_model(family_name)

    found = GradientRollout(model).matrix(inputs, TARGETS, forward_kwargs=keywords)

    expected = torch.eye(found.shape[-1], dtype=torch.float64).expand_as(found)
    for layer in weighted:
        expected = expected + layer.clamp(min=0).mean(1) @ expected
    assert_same(found, expected, tolerance(family_name))
