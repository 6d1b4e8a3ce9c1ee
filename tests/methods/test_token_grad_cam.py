"""GradCAM on tokens: against pytorch-grad-cam, against slow loops, and against what Captum's class does there."""

import pytest
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from tiny_models import FAMILIES, tiny_input, tiny_model
from torch import nn
from torch.testing import assert_close

from attrib_plugin import TokenGradCam
from attrib_plugin.errors import (
    AttributionError,
    CaptureError,
    InputError,
    NumericsWarning,
    UnsupportedAttentionError,
)

TARGETS = [1, 4, 2]

NORMS = {
    "timm_vit": "blocks.2.norm1",
    "timm_registers": "blocks.2.norm1",
    "timm_average": "blocks.2.norm1",
    "timm_siglip": "blocks.2.norm1",
    "timm_eva02": "blocks.2.norm1",
    "hf_vit": "vit.layers.2.layernorm_before",
    "dinov2": "dinov2.encoder.layer.2.norm1",
    "hf_siglip_classifier": "vision_model.encoder.layers.2.layer_norm1",
    "torchvision_vit": "encoder.layers.encoder_layer_2.ln_1",
    "bert": "bert.encoder.layer.1.output.LayerNorm",
    "distilbert": "distilbert.transformer.layer.1.output_layer_norm",
    "gpt2": "model.transformer.h.2.ln_1",
    "llama": "model.model.layers.2.input_layernorm",
    "torch_encoder": "encoder.layers.1.norm2",
}
"""The norm before the last attention, or after the block below where norms come last."""


def signed(family_name, model=None, **options):
    model = tiny_model(family_name) if model is None else model
    return TokenGradCam(model, **{"sign": "signed", **FAMILIES[family_name].options, **options})


def call_of(family_name):
    inputs, keywords = tiny_input(family_name)
    return {"inputs": inputs, "target": TARGETS, "forward_kwargs": keywords}


class Logits(nn.Module):
    """What pytorch-grad-cam needs around a transformers model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        output = self.model(inputs)
        return output if isinstance(output, torch.Tensor) else output.logits


def their_cam(family_name, model, layer):
    """Maps of pytorch-grad-cam before it scales them and enlarges them to pixels, and after scaling alone."""
    facts = FAMILIES[family_name]
    rows, columns = facts.grid

    def reshape_transform(tensor):
        patches = tensor[:, facts.prefix_tokens :]
        return patches.reshape(len(tensor), rows, columns, -1).permute(0, 3, 1, 2)

    # It trains what it explains: gradients of parameters are left behind, so it gets a model of its own.
    inputs, _ = tiny_input(family_name, dtype=torch.float32)
    with GradCAM(Logits(model), [model.get_submodule(layer)], reshape_transform=reshape_transform) as cam:
        cam.get_target_width_height = lambda images: (columns, rows)
        scaled = cam(input_tensor=inputs, targets=[ClassifierOutputTarget(target) for target in TARGETS])
        store = cam.activations_and_grads
        values, gradients = store.activations[0].numpy(), store.gradients[0].numpy()
        plain = cam.get_cam_image(inputs, cam.target_layers[0], None, values, gradients)
    return torch.from_numpy(plain), torch.from_numpy(scaled)


def scaled_as_theirs(cam):
    """Their scaling: the smallest value subtracted, divided by the largest plus 1e-7; done for a layer and for all."""
    for _ in range(2):
        cam = cam - cam.amin((1, 2), keepdim=True)
        cam = cam / (1e-7 + cam.amax((1, 2), keepdim=True))
    return cam


@pytest.mark.parametrize("family_name", ["timm_vit", "timm_registers", "timm_average", "hf_vit", "torchvision_vit"])
def test_maps_equal_those_of_pytorch_grad_cam(family_name):
    import copy

    inputs, _ = tiny_input(family_name, dtype=torch.float32)
    model = tiny_model(family_name, dtype=torch.float32)
    plain, scaled = their_cam(family_name, copy.deepcopy(model), NORMS[family_name])

    ours = signed(family_name, model).attribute(inputs, TARGETS, return_input_shape=False)[:, 0]
    rectified = ours.clamp(min=0)

    assert_close(ours, plain, rtol=0.0, atol=1e-4 * float(plain.abs().max()))
    assert_close(scaled_as_theirs(rectified), scaled, rtol=0.0, atol=1e-4)


def slow_map(family_name, model, layer):
    """GradCAM as loops, from gradients of the stock model to the output of a layer."""
    prefix = FAMILIES[family_name].prefix_tokens
    inputs, keywords = tiny_input(family_name)
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    output = model(inputs, **keywords)
    handle.remove()
    scores = getattr(output, "logits", output)
    (gradients,) = torch.autograd.grad(scores[torch.arange(3), TARGETS].sum(), kept[-1])
    values = kept[-1].detach()
    maps = torch.zeros(values.shape[:2], dtype=torch.float64)
    for sample in range(3):
        n_real = maps.shape[1]
        for name, mask in keywords.items():
            n_real = int((~mask if name == "padding" else mask.bool())[sample].sum())
        for channel in range(values.shape[-1]):
            weight = float(gradients[sample, prefix:n_real, channel].sum()) / (n_real - prefix)
            for token in range(n_real):
                maps[sample, token] += weight * float(values[sample, token, channel])
    return maps[:, prefix:]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("family_name", NORMS)
def test_the_default_layer_is_the_norm_before_the_last_attention(family_name):
    model = tiny_model(family_name)
    expected = slow_map(family_name, model, NORMS[family_name])

    relevance = signed(family_name).attribute(**call_of(family_name), return_input_shape=False)

    assert_close(relevance.flatten(1), expected, rtol=0.0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("family_name", "layer"),
    [("timm_vit", "blocks.1.norm2"), ("timm_average", "blocks.2"), ("bert", "bert.encoder.layer.0")],
)
def test_any_layer_of_tokens_may_be_given_by_name_or_as_a_module(family_name, layer):
    model = tiny_model(family_name)
    expected = slow_map(family_name, model, layer)

    by_name = signed(family_name, layer=layer).attribute(**call_of(family_name), return_input_shape=False)
    by_module = signed(family_name, layer=model.get_submodule(layer)).attribute(
        **call_of(family_name), return_input_shape=False
    )

    assert_close(by_name.flatten(1), expected, rtol=0.0, atol=1e-12 * float(expected.abs().max()))
    assert_close(by_module, by_name, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_first_layers_have_gradients_too(frozen):
    # Nothing below the first attention needs one, and in a frozen model nothing does at all.
    import copy

    model = copy.deepcopy(tiny_model("timm_vit"))
    expected = slow_map("timm_vit", model, "blocks.0.norm1")
    model.requires_grad_(not frozen)

    relevance = signed("timm_vit", model, layer="blocks.0.norm1").attribute(
        **call_of("timm_vit"), return_input_shape=False
    )

    assert_close(relevance.flatten(1), expected, rtol=0.0, atol=1e-12 * float(expected.abs().max()))


def test_a_model_of_one_layer_is_explained():
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=(24, 40), patch_size=8, embed_dim=32, depth=1, num_heads=4, num_classes=5)
    model = model.eval().double()
    expected = slow_map("timm_vit", model, "blocks.0.norm1")

    relevance = signed("timm_vit", model).attribute(**call_of("timm_vit"), return_input_shape=False)

    assert_close(relevance.flatten(1), expected, rtol=0.0, atol=1e-12 * float(expected.abs().max()))


def test_the_convolution_that_makes_the_patches_is_a_layer_as_well():
    model = tiny_model("timm_vit")

    relevance = signed("timm_vit", layer="patch_embed.proj").attribute(**call_of("timm_vit"), return_input_shape=False)

    # On a map with rows and columns Captum's class does what it was made for.
    theirs = LayerGradCam(model, model.patch_embed.proj).attribute(tiny_input("timm_vit")[0], TARGETS).detach()
    assert_close(relevance, theirs, rtol=0.0, atol=1e-12 * float(theirs.abs().max()))


def test_captums_layer_grad_cam_on_tokens_sums_the_tokens_and_says_nothing():
    model, (inputs, _) = tiny_model("timm_vit"), tiny_input("timm_vit")

    theirs = LayerGradCam(model, model.blocks[2].norm1).attribute(inputs, TARGETS)

    # 16 tokens of 32 dimensions: it averages over dimensions and sums over tokens, so no token is left.
    assert theirs.shape == (3, 1, 32)


@pytest.mark.parametrize("layer", ["blocks.2.norm2", "blocks.2", "norm"])
def test_above_the_last_attention_of_a_class_token_model_the_map_is_zero_and_says_why(layer):
    method = signed("timm_vit", layer=layer)

    with pytest.warns(NumericsWarning, match="reads none of them after the last attention"):
        relevance = method.attribute(**call_of("timm_vit"))

    assert not relevance.any()


@pytest.mark.filterwarnings("ignore:The relevance of:attrib_plugin.errors.NumericsWarning")
def test_positive_and_negative_are_the_halves_of_signed():
    whole, positive, negative = (
        signed("bert", sign=sign).attribute(**call_of("bert")) for sign in ("signed", "positive", "negative")
    )

    assert (positive >= 0).all()
    assert (negative >= 0).all()
    assert_close(positive - negative, whole, rtol=0.0, atol=0.0)


def test_against_is_the_difference_of_two_signed_maps_only_in_the_weights():
    # The map is linear in the gradient, so a contrast of two classes is the difference of their maps.
    method = signed("timm_vit")
    inputs, _ = tiny_input("timm_vit")

    contrast = method.attribute(inputs, TARGETS, against=0)

    expected = method.attribute(inputs, TARGETS) - method.attribute(inputs, 0)
    assert_close(contrast, expected, rtol=0.0, atol=1e-12 * float(expected.abs().max()))


def test_a_model_whose_read_out_is_unknown_is_explained_all_the_same():
    model, (inputs, keywords) = tiny_model("torch_encoder"), tiny_input("torch_encoder")

    relevance = TokenGradCam(model, sign="signed").attribute(inputs, TARGETS, forward_kwargs=keywords)

    assert relevance.any(1).all()


@pytest.mark.parametrize("layer", ["blocks.7.norm1", nn.LayerNorm(32)])
def test_a_layer_of_another_model_is_refused(layer):
    with pytest.raises(InputError, match=r"VisionTransformer has no module .*'blocks.2.norm2'"):
        TokenGradCam(tiny_model("timm_vit"), layer=layer)


def test_a_layer_that_gives_no_tokens_is_refused():
    method = TokenGradCam(tiny_model("timm_vit"), layer="head")

    with pytest.raises(UnsupportedAttentionError, match=r"Expected the layer to give 16 tokens of 3 samples"):
        method.attribute(**call_of("timm_vit"))


def test_a_layer_that_did_not_run_is_refused():
    import copy

    model = copy.deepcopy(tiny_model("timm_vit"))
    model.unused = nn.LayerNorm(32)

    with pytest.raises(CaptureError, match="Name a layer that ran"):
        TokenGradCam(model, layer="unused").attribute(**call_of("timm_vit"))


@pytest.mark.parametrize("view", ["matrix", "layer_attention", "layer_rows"])
def test_views_that_need_a_matrix_are_refused(view):
    with pytest.raises(AttributionError, match="has no matrix from token to token"):
        getattr(TokenGradCam(tiny_model("timm_vit")), view)(**call_of("timm_vit"))


def test_an_unknown_sign_is_refused():
    with pytest.raises(ValueError, match="sign must be"):
        TokenGradCam(tiny_model("timm_vit"), sign="both")
