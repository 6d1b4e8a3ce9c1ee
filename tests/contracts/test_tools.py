"""What users do to their models with torch's own tools: explained as it is, or refused in plain words."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, LayerwiseRelevance, TransformerAttribution
from attrib_plugin.errors import NumericsWarning, UnsupportedAttentionError, UnsupportedOperationError

# A model of text and one of images, and what has to be said of them once their classes are gone.
KNOWN = {"bert": {"readout": "cls"}, "timm_vit": {"readout": "cls", "grid": (3, 5)}}
on_text_and_images = pytest.mark.parametrize("family_name", KNOWN)
READERS = [AttentionRollout, GradientRollout]


def linear_layers(model):
    return [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]


class Adapted(nn.Module):
    """A linear layer with an adapter of low rank beside it, as LoRA has them."""

    def __init__(self, base, rank=2, scale=0.5):
        super().__init__()
        self.base_layer, self.scale = base, scale
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, tokens):
        return self.base_layer(tokens) + self.scale * self.up(self.down(tokens))

    def merged(self):
        layer = copy.deepcopy(self.base_layer)
        with torch.no_grad():
            layer.weight += self.scale * self.up.weight @ self.down.weight
        return layer


def put(model, name, module):
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


@pytest.mark.parametrize("method", READERS)
@on_text_and_images
def test_a_model_with_adapters_of_low_rank_has_the_map_of_the_merged_model(family_name, method):
    torch.manual_seed(0)
    adapted = copy.deepcopy(tiny_model(family_name))
    for parameter in adapted.parameters():
        parameter.requires_grad = False
    for name, layer in linear_layers(adapted):
        put(adapted, name, Adapted(layer))
    merged = copy.deepcopy(adapted)
    for name, module in list(merged.named_modules()):
        if isinstance(module, Adapted):
            put(merged, name, module.merged())
    inputs, keywords = tiny_input(family_name)
    flags = [parameter.requires_grad for parameter in adapted.parameters()]

    found = method(adapted).attribute(inputs, forward_kwargs=keywords)

    assert_close(found, method(merged).attribute(inputs, forward_kwargs=keywords), rtol=0, atol=1e-12)
    assert [parameter.requires_grad for parameter in adapted.parameters()] == flags
    assert not found.equal(method(tiny_model(family_name)).attribute(inputs, forward_kwargs=keywords))


@pytest.mark.parametrize("method", [*READERS, TransformerAttribution, LayerwiseRelevance])
@pytest.mark.parametrize("tool", ["weight_norm", "spectral_norm"])
@on_text_and_images
def test_a_parametrised_model_has_the_map_of_a_model_with_the_same_weights(family_name, tool, method):
    model, plain = copy.deepcopy(tiny_model(family_name)), copy.deepcopy(tiny_model(family_name))
    for name, layer in linear_layers(model):
        getattr(parametrizations, tool)(layer)
        with torch.no_grad():
            plain.get_submodule(name).weight.copy_(layer.eval().weight)
    inputs, keywords = tiny_input(family_name)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    found = method(model).attribute(inputs, forward_kwargs=keywords)

    assert_close(found, method(plain).attribute(inputs, forward_kwargs=keywords), rtol=0, atol=1e-12)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("method", READERS)
@on_text_and_images
def test_autocast_gives_nearly_the_map_of_float32(family_name, method):
    model = tiny_model(family_name, dtype=torch.float32)
    inputs, keywords = tiny_input(family_name)
    inputs = inputs.float() if inputs.is_floating_point() else inputs

    with torch.autocast("cpu", torch.bfloat16):
        found = method(model).attribute(inputs, forward_kwargs=keywords)

    expected = method(model).attribute(inputs, forward_kwargs=keywords)
    assert found.dtype is torch.float32
    # bfloat16 has 8 binary digits; the largest difference seen is 0.017.
    assert_close(found / expected.max(), expected / expected.max(), rtol=0, atol=0.05)


@on_text_and_images
def test_autocast_warns_where_rules_are_ill_conditioned(family_name):
    model = tiny_model(family_name, dtype=torch.float32)
    inputs, keywords = tiny_input(family_name)

    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.warns(NumericsWarning, match=r"ill-conditioned in torch\.bfloat16"),
    ):
        TransformerAttribution(model).attribute(
            inputs.float() if inputs.is_floating_point() else inputs, forward_kwargs=keywords
        )


@on_text_and_images
def test_an_exported_model_has_the_map_of_the_model_once_its_read_out_is_named(family_name):
    model = tiny_model(family_name)
    inputs, keywords = tiny_input(family_name)
    exported = torch.export.export(model, (inputs,), keywords, strict=False).module()

    for method in READERS:
        found = method(exported, **KNOWN[family_name]).attribute(inputs, forward_kwargs=keywords)
        assert_close(found, method(model).attribute(inputs, forward_kwargs=keywords), rtol=0, atol=1e-12)
    with pytest.raises(UnsupportedOperationError, match=r"there is no rule.*GradientRollout, AttentionRollout"):
        LayerwiseRelevance(exported, **KNOWN[family_name]).attribute(inputs, forward_kwargs=keywords)


@pytest.mark.parametrize("method", [*READERS, TransformerAttribution])
def test_a_model_traced_by_fx_has_the_map_of_the_model_once_its_read_out_is_named(method):
    model, images = tiny_model("timm_vit"), tiny_input("timm_vit")[0]

    found = method(torch.fx.symbolic_trace(model), **KNOWN["timm_vit"]).attribute(images)

    assert_close(found, method(model).attribute(images), rtol=0, atol=1e-12)


# TorchScript runs without Python, so that its attention cannot be seen.

of_torchscript = pytest.mark.filterwarnings(
    "ignore:.torch.jit:FutureWarning",
    "ignore:.torch.jit:DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:Converting a tensor",
)


def scripted(module, tokens):
    return torch.jit.script(module)


def traced(module, tokens):
    return torch.jit.trace(module, (tokens,), check_trace=False)


@of_torchscript
@pytest.mark.parametrize("method", [*READERS, TransformerAttribution])
@pytest.mark.parametrize("make", [scripted, traced])
def test_torchscript_is_refused_whole_or_in_part(make, method):
    model, images = copy.deepcopy(tiny_model("timm_vit")), tiny_input("timm_vit")[0]
    whole = make(model, images)
    # A map without the layer that cannot be seen would look like any other.
    model.blocks[1] = make(model.blocks[1], torch.zeros(1, 16, 32, dtype=torch.float64))

    with pytest.raises(UnsupportedAttentionError, match=r"The model is TorchScript .* Give the Python model"):
        method(whole, **KNOWN["timm_vit"]).attribute(images)
    with pytest.raises(UnsupportedAttentionError, match=r"'blocks\.1' is TorchScript"):
        method(model).attribute(images)

    assert not any(module._forward_hooks for module in model.modules() if type(module).__module__.startswith("timm"))


@of_torchscript
@pytest.mark.parametrize("method", READERS)
@pytest.mark.parametrize("make", [scripted, traced])
def test_torchscript_that_does_not_attend_is_no_obstacle(make, method):
    model, images = copy.deepcopy(tiny_model("timm_vit")), tiny_input("timm_vit")[0]
    for block in model.blocks:
        block.mlp = make(block.mlp, torch.zeros(1, 16, 32, dtype=torch.float64))

    found = method(model).attribute(images)

    assert_close(found, method(tiny_model("timm_vit")).attribute(images), rtol=0, atol=1e-12)
