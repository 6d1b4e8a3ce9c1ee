"""GradCAM on Swin: against pytorch-grad-cam, and against slow loops over windows and mergings."""

import copy

import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from windowed_libraries import GRIDS, LIBRARIES, TARGETS, assert_same, images, merging, model_of, place

from attrib_plugin import AttentionGradCam, TokenGradCam
from attrib_plugin.errors import UnsupportedAttentionError

EVEN = (32, 48)  # 8 x 12 patches, merged to 4 x 6: nothing is padded

NORMS = {
    "timm": "layers.1.blocks.1.norm1",
    "hf": "swin.encoder.layers.1.blocks.1.layernorm_before",
    "torchvision": "features.3.1.norm1",
}
ATTENTIONS = {
    "timm": "layers.1.blocks.1.attn",
    "timm_wide": "layers.1.blocks.1.attn",
    "timm_v2": "layers.1.blocks.1.attn",
    "hf": "swin.encoder.layers.1.blocks.1.attention",
    "hf_v2": "swinv2.encoder.layers.1.blocks.1.attention",
    "torchvision": "features.3.1.attn",
    "torchvision_v2": "features.3.1.attn",
}


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        output = self.model(inputs)
        return output if isinstance(output, torch.Tensor) else output.logits


def even_model(name):
    """A model of its own, because pytorch-grad-cam leaves gradients behind; timm's has to be told the size."""
    model = copy.deepcopy(model_of(name)).float()
    if hasattr(model, "set_input_size"):
        model.set_input_size(EVEN)
    return model


@pytest.mark.parametrize("name", NORMS)
def test_maps_equal_those_of_pytorch_grad_cam_with_its_reshape_for_swin(name):
    model, batch = even_model(name), images(size=EVEN).float()

    def reshape_transform(tensor):
        return tensor.reshape(len(tensor), 4, 6, -1).permute(0, 3, 1, 2)

    layer = model.get_submodule(NORMS[name])
    with GradCAM(Logits(model), [layer], reshape_transform=reshape_transform) as cam:
        cam(input_tensor=batch, targets=[ClassifierOutputTarget(target) for target in TARGETS])
        store = cam.activations_and_grads
        theirs = cam.get_cam_image(batch, layer, None, store.activations[0].numpy(), store.gradients[0].numpy())

    # Each merged token gives a quarter of its value to each of its four patches.
    expected = torch.as_tensor(theirs)[:, None].repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    for options in ({}, {"layer": NORMS[name]}):
        found = TokenGradCam(even_model(name), sign="signed", **options).attribute(
            batch, target=TARGETS, return_input_shape=False
        )
        assert_same(found, expected, relative=1e-4)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_the_default_weighs_what_the_last_attention_reads_window_by_window(name):
    model, batch = copy.deepcopy(model_of(name)), images()
    seen = []
    module = model.get_submodule(ATTENTIONS[name])
    module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    score = Logits(model)(batch)[torch.arange(3), TARGETS].sum()
    (gradient,) = torch.autograd.grad(score, seen)

    values, slopes = (one if one.dim() == 3 else one.flatten(1, 2) for one in (seen[0].detach(), gradient))
    if seen[0].dim() == 3:
        # Windows of one sample after another: look up every token's window and slot.
        places = [place(token, 3, LIBRARIES[name]) for token in range(24)]
        values, slopes = (
            torch.stack([one.reshape(3, -1, *one.shape[1:])[:, window, slot] for window, slot in places], 1)
            for one in (values, slopes)
        )
    expected = (values * slopes.mean(1, keepdim=True)).sum(-1) @ merging(GRIDS[1], GRIDS[2])

    found = TokenGradCam(model_of(name), sign="signed").attribute(batch, target=TARGETS, return_input_shape=False)
    assert_same(found.flatten(1), expected)


@pytest.mark.parametrize(("layer", "stage"), [("layers.0.blocks.1", 0), ("layers.1.downsample", 1), ("layers.1", 1)])
def test_a_layer_of_any_stage_may_be_given(layer, stage):
    model, batch = copy.deepcopy(model_of("timm")), images()
    seen = []
    model.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output))
    (gradient,) = torch.autograd.grad(model(batch)[torch.arange(3), TARGETS].sum(), seen)

    values, slopes = seen[0].detach().flatten(1, 2), gradient.flatten(1, 2)
    expected = (values * slopes.mean(1, keepdim=True)).sum(-1)
    if stage:
        expected = expected @ merging(GRIDS[1], GRIDS[2])

    found = TokenGradCam(model_of("timm"), sign="signed", layer=layer).attribute(
        batch, target=TARGETS, return_input_shape=False
    )
    assert_same(found.flatten(1), expected)


def test_the_convolution_that_makes_the_patches_is_a_layer():
    found = TokenGradCam(model_of("timm"), sign="signed", layer="patch_embed.proj").attribute(
        images(), target=TARGETS, return_input_shape=False
    )

    assert found.shape == (3, 1, 7, 11)
    assert found.abs().max() > 0


@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_a_frozen_model_is_explained_and_left_as_it_was(name):
    frozen = copy.deepcopy(model_of(name)).requires_grad_(False)

    found = TokenGradCam(frozen, sign="signed").attribute(images(), target=TARGETS)

    assert_same(found, TokenGradCam(model_of(name), sign="signed").attribute(images(), target=TARGETS))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_a_layer_without_the_tokens_of_a_stage_is_refused():
    with pytest.raises(UnsupportedAttentionError, match="tokens of a stage of 3 samples"):
        TokenGradCam(model_of("timm"), layer="head.fc").attribute(images(), target=TARGETS)


def test_grad_cam_on_attention_is_refused_and_names_what_follows_windows():
    with pytest.raises(UnsupportedAttentionError, match="RawAttention or TokenGradCam"):
        AttentionGradCam(model_of("timm")).attribute(images(), target=TARGETS)
