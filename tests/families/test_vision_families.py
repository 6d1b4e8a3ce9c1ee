"""Image families: where each patch lies, on which pixels, what pooling reads, and what images are refused."""

import itertools

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from tiny_models import FAMILIES, N_CLASSES, tiny_input, tiny_model
from torch import nn
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention, capture_attention
from attrib_plugin.errors import InputError, UnknownModelError, UnsupportedAttentionError
from attrib_plugin.families import find_member

EXACT = {"rtol": 0.0, "atol": 1e-12}
IMAGE_FAMILIES = [name for name, family in FAMILIES.items() if family.modality == "image"]
OF_FIXED_SIZE = [
    name for name in IMAGE_FAMILIES if (found := find_member(tiny_model(name))).family.image_size(found.module)
]
TINY = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": N_CLASSES}
CORNERS = list(itertools.product((0, -1), (0, -1)))


def timm_vit(**settings):
    torch.manual_seed(0)
    return VisionTransformer(**{**TINY, **settings}).eval().double()


def images(height, width, batch_size=1):
    return torch.randn(batch_size, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def patch_pixels(size, grid, patch, cell):
    """Ones on the pixels of one patch, by arithmetic on the image alone."""
    mask = torch.zeros(size, dtype=torch.bool)
    row, column = cell[0] % grid[0], cell[1] % grid[1]
    mask[row * patch[0] : (row + 1) * patch[0], column * patch[1] : (column + 1) * patch[1]] = True
    return mask


def changed_token(method, image, other):
    """The token that makes the only difference between two images in the first layer's attention.

    In a row of another token, changing one key scales all other keys by the same factor.
    """
    before, after = (method.head_attention(one)[0][0] for one in (image, other))
    change = (after / before).log()
    change = change - change.median(-1, keepdim=True).values
    common_rows = change.abs().amax(0).median(0).values
    return (common_rows > 1e-4 * common_rows.max()).nonzero().flatten().tolist()


def map_of_token(model, image, token, options):
    """The pixels that the package gives to a token: a rollout that is residual alone keeps the read-out."""
    keeps = {name: value for name, value in options.items() if name != "readout"}
    return AttentionRollout(model, residual=1.0, readout=token, **keeps).attribute(image)


def assert_occluded_pixels_are_those_of_the_map(model, image, pixels, options=None):
    occluded = image.clone()
    occluded[..., pixels] += 3.0

    token = changed_token(RawAttention(model, **(options or {})), image, occluded)

    assert len(token) == 1
    expected = pixels.to(image).expand_as(image)
    assert_close(map_of_token(model, image, token[0], options or {}), expected, rtol=0, atol=0)


# ------------------------------------------------------------------------------------ where each patch lies


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("name", [name for name in IMAGE_FAMILIES if not FAMILIES[name].windowed])
def test_occluding_a_corner_patch_changes_the_token_that_is_drawn_on_its_pixels(name, corner):
    family = FAMILIES[name]
    patch = [side // patches for side, patches in zip(family.image_size, family.grid, strict=True)]
    pixels = patch_pixels(family.image_size, family.grid, patch, corner)

    assert_occluded_pixels_are_those_of_the_map(tiny_model(name), tiny_input(name, 1)[0], pixels, family.options)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("name", ["dinov2", "dinov2_registers", "timm_dinov3", "hf_dinov3", "timm_naflex"])
@pytest.mark.parametrize("size", [(32, 16), (16, 48)])
def test_models_of_any_size_keep_the_orientation_at_another_size(name, corner, size):
    pixels = patch_pixels(size, (size[0] // 8, size[1] // 8), (8, 8), corner)

    assert_occluded_pixels_are_those_of_the_map(tiny_model(name), images(*size), pixels, FAMILIES[name].options)


@pytest.mark.parametrize("corner", CORNERS)
def test_patches_that_are_not_square_keep_the_orientation(corner):
    model = timm_vit(img_size=(24, 16), patch_size=(6, 8))
    pixels = patch_pixels((24, 16), (4, 2), (6, 8), corner)

    assert_occluded_pixels_are_those_of_the_map(model, images(24, 16), pixels)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("name", ["hf_vit", "hf_deit", "hf_vit_msn", "hf_ijepa"])
def test_interpolated_positions_of_transformers_allow_other_sizes(name, corner):
    # transformers interpolates from a square grid of positions only.
    import transformers

    model_class = type(tiny_model(name))
    config = getattr(transformers, type(tiny_model(name).config).__name__)(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8
    )
    model = model_class(config).eval().double()
    options = {"forward_kwargs": {"interpolate_pos_encoding": True}}
    image = images(24, 40)
    pixels = patch_pixels((24, 40), (3, 5), (8, 8), corner)
    occluded = image.clone()
    occluded[..., pixels] += 3.0
    before, after = (RawAttention(model).head_attention(one, **options)[0][0].double() for one in (image, occluded))
    change = (after / before).log()
    change = (change - change.median(-1, keepdim=True).values).abs().amax(0).median(0).values

    drawn = AttentionRollout(model, residual=1.0, readout=int(change.argmax())).attribute(image, **options)

    assert_close(drawn, pixels.to(image).expand_as(image), rtol=0, atol=0)


# -------------------------------------------------------------------------------------- on which pixels


@pytest.mark.parametrize("corner", CORNERS)
def test_pixels_that_a_convolution_drops_get_zero_and_the_patches_keep_theirs(corner):
    model = timm_vit(img_size=(29, 42))
    pixels = patch_pixels((29, 42), (3, 5), (8, 8), corner)

    assert_occluded_pixels_are_those_of_the_map(model, images(29, 42), pixels)


def test_pixels_that_no_patch_saw_are_zero_for_every_read_out():
    relevance = AttentionRollout(timm_vit(img_size=(29, 42))).attribute(images(29, 42))

    assert relevance.shape == (1, 3, 29, 42)
    assert not relevance[..., 24:, :].any()
    assert not relevance[..., 40:].any()
    assert relevance[..., :24, :40].all()


@pytest.mark.parametrize("corner", CORNERS)
def test_patches_over_a_padded_border_are_cut_at_the_edge_of_the_image(corner):
    model = timm_vit(img_size=(24, 40), dynamic_img_size=True, dynamic_img_pad=True)
    pixels = patch_pixels((29, 42), (4, 6), (8, 8), corner)

    assert_occluded_pixels_are_those_of_the_map(model, images(29, 42), pixels)


def test_dinov2_of_transformers_drops_the_rest_of_an_image_as_its_convolution_does():
    relevance = AttentionRollout(tiny_model("dinov2")).attribute(images(29, 42))

    assert not relevance[..., 24:, :].any()
    assert relevance[..., :24, :40].all()


def test_dynamic_images_give_the_grid_of_the_image_at_hand():
    model = timm_vit(img_size=(24, 40), dynamic_img_size=True)

    relevance = GradientRollout(model).attribute(images(16, 64), 2, return_input_shape=False)

    assert relevance.shape == (1, 1, 2, 8)


# --------------------------------------------------------------------------------------- what pooling reads

POOLED = ["timm_siglip", "timm_pool_of_patches", "hf_siglip_vision"]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", POOLED)
def test_attention_pooling_reads_its_own_probabilities_averaged_over_heads(name, implementation):
    model, (inputs, _) = tiny_model(name, implementation), tiny_input(name)
    prefix = FAMILIES[name].prefix_tokens
    with capture_attention(model) as captured:
        model(inputs)
    pool = captured.calls[-1].probabilities()

    readout = AttentionRollout(model, residual=1.0).layer_rows(inputs)[-1]

    assert captured.calls[-1].kind == "pool"
    assert_close(readout[:, -pool.shape[-1] :], pool.mean(1)[:, 0], **EXACT)
    assert not readout[:, : readout.shape[-1] - pool.shape[-1]].any()
    assert readout.shape[-1] - pool.shape[-1] in (0, prefix)


@pytest.mark.parametrize("name", POOLED)
def test_a_given_read_out_replaces_attention_pooling(name):
    model, (inputs, _) = tiny_model(name), tiny_input(name)

    readout = AttentionRollout(model, residual=1.0, readout="mean").layer_rows(inputs)[-1]

    expected = torch.ones_like(readout)
    expected[:, : FAMILIES[name].prefix_tokens] = 0
    assert_close(readout, expected / expected.sum(-1, keepdim=True), **EXACT)


def test_a_pooling_that_the_classifier_does_not_read_is_left_aside():
    model, (inputs, _) = tiny_model("hf_siglip_classifier"), tiny_input("hf_siglip_classifier")
    with capture_attention(model) as captured:
        model(inputs)

    readout = AttentionRollout(model, residual=1.0).layer_rows(inputs)[-1]

    assert [call.kind for call in captured.calls] == ["self", "self", "self", "pool"]
    assert_close(readout, torch.full_like(readout, 1 / 16), **EXACT)


def test_average_pooling_with_the_prefix_reads_every_token_alike():
    model, (inputs, _) = tiny_model("timm_average_with_class_token"), tiny_input("timm_average_with_class_token")

    readout = AttentionRollout(model, residual=1.0).layer_rows(inputs)[-1]

    assert_close(readout, torch.full_like(readout, 1 / 16), **EXACT)


def test_average_pooling_without_the_prefix_reads_the_patches_alone():
    model, (inputs, _) = tiny_model("timm_average_of_patches"), tiny_input("timm_average_of_patches")

    readout = AttentionRollout(model, residual=1.0).layer_rows(inputs)[-1]

    assert not readout[:, 0].any()
    assert_close(readout[:, 1:], torch.full_like(readout[:, 1:], 1 / 15), **EXACT)


@pytest.mark.parametrize("pooling", ["max", "avgmax"])
def test_maximum_pooling_is_refused_until_the_user_says_what_is_read(pooling):
    model = timm_vit(img_size=16, global_pool=pooling)

    with pytest.raises(UnknownModelError, match=r"which tokens the head of .*readout="):
        AttentionRollout(model).attribute(images(16, 16))

    assert AttentionRollout(model, readout="mean").attribute(images(16, 16)).all()


# ---------------------------------------------------------------------------------------------- CLIP


def two_towers():
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    text = {**sizes, "vocab_size": 60, "max_position_embeddings": 12, "eos_token_id": 59, "bos_token_id": 0}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval().double()


def test_both_towers_at_once_are_refused_with_the_call_for_one():
    model = two_towers()

    with pytest.raises(UnsupportedAttentionError, match=r"CLIPModel cannot be.*model=model.vision_model, readout="):
        AttentionRollout(model).attribute(images(32, 32))


def test_a_zero_shot_score_is_explained_through_the_image_tower():
    model = two_towers()
    labels = torch.randn(4, 16, dtype=torch.float64)

    def score(pixels):
        return model.visual_projection(model.vision_model(pixels).pooler_output) @ labels.T

    relevance = GradientRollout(score, model=model.vision_model, readout="cls").attribute(images(32, 32), 2)

    assert relevance.shape == (1, 3, 32, 32)
    assert relevance.any()


@pytest.mark.parametrize("end", [2, 59])
def test_the_text_tower_reads_the_end_of_text_whatever_the_padding(end):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    FAMILIES["hf_clip_text"]  # skips where float64 is none of its dtypes
    config = CLIPTextConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=12, eos_token_id=end, bos_token_id=0, projection_dim=8,
    )  # fmt: skip
    model = CLIPTextModelWithProjection(config).eval().double()
    # The tokenizer of CLIP pads with the end of text, so there are several.
    ids = torch.tensor([[0, 7, 8, 59, 59, 59], [0, 9, 5, 6, 3, 59]])

    readout = AttentionRollout(model, residual=1.0).layer_rows(ids)[-1]

    assert readout.argmax(-1).tolist() == [3, 5]
    assert_close(readout.sum(-1), torch.ones_like(readout[:, 0]), **EXACT)


# ------------------------------------------------------------------------------------- images that are refused


@pytest.fixture
def never_run(monkeypatch):
    def stop(self, *arguments, **keywords):
        pytest.fail("The model was run.")

    monkeypatch.setattr(nn.Conv2d, "forward", stop)
    monkeypatch.setattr(nn.Linear, "forward", stop)


@pytest.mark.usefixtures("never_run")
@pytest.mark.parametrize("name", OF_FIXED_SIZE)
def test_an_image_of_another_size_is_refused_before_the_model_is_run(name):
    height, width = FAMILIES[name].image_size

    with pytest.raises(InputError, match=f"takes images of {height} x {width} pixels, found {height} x {width + 8}"):
        AttentionRollout(tiny_model(name)).attribute(images(height, width + 8))


@pytest.mark.usefixtures("never_run")
@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_an_image_of_another_number_of_channels_is_refused_before_the_model_is_run(name):
    if name == "timm_naflex" and not hasattr(tiny_model(name), "in_chans"):
        pytest.skip("This timm does not say how many channels NaFlexViT takes; its own error says so later.")
    image = torch.zeros(1, 4, *FAMILIES[name].image_size)

    with pytest.raises(InputError, match="takes images of 3 channels, found 4"):
        AttentionRollout(tiny_model(name), **FAMILIES[name].options).attribute(image)


@pytest.mark.usefixtures("never_run")
@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_token_ids_for_an_image_model_are_refused_before_the_model_is_run(name):
    with pytest.raises(InputError, match=r"takes images \(B, C, H, W\), found \(1, 6\)"):
        AttentionRollout(tiny_model(name), **FAMILIES[name].options).attribute(torch.ones(1, 6, dtype=torch.int64))


@pytest.mark.usefixtures("never_run")
@pytest.mark.parametrize("name", ["bert", "distilbert", "hf_clip_text"])
def test_an_image_for_a_text_model_is_refused_before_the_model_is_run(name):
    with pytest.raises(InputError, match=r"reads text, but the input is an image batch \(1, 3, 32, 32\)"):
        AttentionRollout(tiny_model(name)).attribute(images(32, 32))


@pytest.mark.usefixtures("never_run")
@pytest.mark.parametrize("name", ["timm_dinov3", "timm_naflex"])
def test_an_image_that_timm_cannot_cut_into_whole_patches_is_refused(name):
    with pytest.raises(InputError, match="whole patches of 8 x 8 pixels, found 29 x 42"):
        AttentionRollout(tiny_model(name)).attribute(images(29, 42))


@pytest.mark.usefixtures("never_run")
def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(InputError, match="images of 7 x 40 pixels are smaller than one patch"):
        AttentionRollout(tiny_model("dinov2")).attribute(images(7, 40))
