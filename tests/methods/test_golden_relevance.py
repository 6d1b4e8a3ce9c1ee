"""Relevance propagation on stock models with fused attention gives what the authors' own code gave."""

import pytest
import torch
from golden_models import IMAGES, PADDED, TEXTS, assert_golden, load_case

from attrib_plugin import AttentionAwareRelevance, LayerwiseRelevance, TransformerAttribution

# The authors' composite, and that of their LRP baselines, by the prefix of the arrays.
ON_IMAGES = {"chefer_vit": "chefer2021_vit", "chefer_vit_origlrp": "chefer2021_baseline_vit"}
ON_TEXTS = {"chefer_bert": "chefer2021_bert", "chefer_bert_origlrp": "chefer2021_baseline_bert"}
LXT = ("lxt_attnlrp", "lxt_cplrp")
# Relevance of attention and full LRP are worse conditioned than what is made of them (golden/README.md).
ATTRIBUTION, FULL, EXACT = 1e-9, 1e-7, 1e-12


@pytest.fixture(params=IMAGES)
def image(request):
    return load_case(request.param)


@pytest.fixture(params=TEXTS)
def text(request):
    return load_case(request.param)


def patches(method, case, target):
    return method.attribute(case.inputs, target=target, return_input_shape=False).flatten()


# ------------------------------------------------------------------------------------- Chefer et al., images


@pytest.mark.parametrize(("prefix", "composite"), ON_IMAGES.items())
@pytest.mark.parametrize("start_layer", [0, 1, 2])
def test_transformer_attribution_of_an_image_is_that_of_the_authors(image, prefix, composite, start_layer):
    for weighting, name in (("gradient", "transformer_attribution"), ("none", "rollout")):
        method = TransformerAttribution.from_preset(
            "chefer2021_vit", image.model, composite=composite, start_layer=start_layer, weighting=weighting
        )
        for target in range(image.n_classes):
            expected = image.arrays[f"{prefix}.{name}.t{target}.s{start_layer}"].flatten()
            assert_golden(patches(method, image, target), expected, ATTRIBUTION)


@pytest.mark.parametrize(("prefix", "composite"), ON_IMAGES.items())
@pytest.mark.parametrize(("name", "layer"), [("last_layer", -1), ("second_layer", 1)])
def test_partial_relevance_of_an_image_is_that_of_the_authors(image, prefix, composite, name, layer):
    for weighting, suffix in (("none", ""), ("gradient", "_ablation")):
        method = TransformerAttribution.from_preset(
            "chefer2021_vit", image.model, composite=composite, layer=layer, weighting=weighting
        )
        for target in range(image.n_classes):
            expected = image.arrays[f"{prefix}.{name}{suffix}.t{target}"].flatten()
            assert_golden(patches(method, image, target), expected, ATTRIBUTION)


def test_the_predicted_class_is_explained_where_no_target_is_given(image):
    method = TransformerAttribution.from_preset("chefer2021_vit", image.model)

    assert_golden(
        patches(method, image, None), image.arrays["chefer_vit.transformer_attribution.pred.s0"].flatten(), ATTRIBUTION
    )


def test_the_matrix_of_an_image_is_that_of_the_authors(image):
    method = TransformerAttribution.from_preset("chefer2021_vit", image.model)
    known = [name for name in image.arrays if name.startswith("chefer_vit.transformer_attribution_matrix.t")]

    assert known
    for name in known:
        matrix = method.matrix(image.inputs, target=int(name.rpartition(".t")[2]))
        assert_golden(matrix, image.arrays[name].reshape(matrix.shape), ATTRIBUTION)


@pytest.mark.parametrize(("prefix", "composite"), ON_IMAGES.items())
def test_full_relevance_of_pixels_is_that_of_the_authors(image, prefix, composite):
    method = LayerwiseRelevance.from_preset("chefer2021_vit", image.model, composite=composite)

    for target in range(image.n_classes):
        pixels = method.attribute(image.inputs, target=target).sum(1)
        assert_golden(pixels, image.arrays[f"{prefix}.full.t{target}"], FULL)


def test_relevance_of_attention_in_an_image_is_that_of_the_authors_over_heads(image):
    method = TransformerAttribution.from_preset("chefer2021_vit", image.model, weighting="none")

    for target in range(image.n_classes):
        expected = image.arrays[f"chefer_vit.attn_cam.t{target}"].clamp(min=0).mean(2)
        assert_golden(torch.stack(method.layer_attention(image.inputs, target=target)), expected, FULL)


def test_a_batch_of_images_is_its_images_alone(image):
    other = load_case(IMAGES[1])
    method = TransformerAttribution.from_preset("chefer2021_vit", image.model)

    both = method.attribute(torch.cat([image.inputs, other.inputs]), target=[3, 0], return_input_shape=False)

    for relevance, case, target in zip(both, (image, other), (3, 0), strict=True):
        expected = case.arrays[f"chefer_vit.transformer_attribution.t{target}.s0"].flatten()
        assert_golden(relevance.flatten(), expected, ATTRIBUTION)


# ------------------------------------------------------------------------------------- Chefer et al., texts


@pytest.mark.parametrize(("prefix", "composite"), ON_TEXTS.items())
@pytest.mark.parametrize("start_layer", [0, 1])
def test_transformer_attribution_of_a_text_is_that_of_the_authors(text, prefix, composite, start_layer):
    method = TransformerAttribution.from_preset(
        "chefer2021_bert", text.model, composite=composite, start_layer=start_layer
    )

    for target in range(text.n_classes):
        expected = text.arrays[f"{prefix}.generate_LRP.t{target}.s{start_layer}"]
        assert_golden(method.attribute(**text.call, target=target), expected, ATTRIBUTION)


@pytest.mark.parametrize(("prefix", "composite"), ON_TEXTS.items())
def test_partial_relevance_of_a_text_is_that_of_the_authors(text, prefix, composite):
    method = TransformerAttribution.from_preset(
        "chefer2021_bert", text.model, composite=composite, layer=-1, weighting="none", special="zero_first"
    )

    for target in range(text.n_classes):
        expected = text.arrays[f"{prefix}.generate_LRP_last_layer.t{target}"]
        assert_golden(method.attribute(**text.call, target=target), expected, ATTRIBUTION)


@pytest.mark.parametrize(("prefix", "composite"), ON_TEXTS.items())
def test_full_relevance_of_a_text_is_that_of_the_authors(text, prefix, composite):
    method = LayerwiseRelevance.from_preset("chefer2021_bert", text.model, composite=composite)

    for target in range(text.n_classes):
        expected = text.arrays[f"{prefix}.generate_full_lrp.t{target}"]
        assert_golden(method.attribute(**text.call, target=target), expected, FULL)


def test_tokens_that_enter_the_encoder_have_the_authors_relevance(text):
    method = LayerwiseRelevance.from_preset("chefer2021_bert", text.model)

    for target in range(text.n_classes):
        expected = text.arrays[f"chefer_bert.encoder_input_relevance.t{target}"].sum(-1)
        assert_golden(method.layer_relevance(**text.call, target=target)[0], expected, FULL)


def test_relevance_of_attention_in_a_text_is_that_of_the_authors_over_heads(text):
    method = TransformerAttribution.from_preset("chefer2021_bert", text.model, weighting="none")

    for target in range(text.n_classes):
        expected = text.arrays[f"chefer_bert.attn_cam.t{target}"].clamp(min=0).mean(2)
        assert_golden(torch.stack(method.layer_attention(**text.call, target=target)), expected, FULL)


def test_rows_of_a_padded_batch_are_the_authors_rows_alone():
    case = load_case(PADDED)
    attribution = TransformerAttribution.from_preset("chefer2021_bert", case.model)
    full = LayerwiseRelevance.from_preset("chefer2021_bert", case.model)

    for target in range(case.n_classes):
        rolled, propagated = (method.attribute(**case.call, target=target) for method in (attribution, full))
        for row in range(len(case.inputs)):
            expected = case.arrays[f"chefer_bert.row{row}.generate_LRP.t{target}.s0"][0]
            assert_golden(rolled[row], expected, ATTRIBUTION)
            assert_golden(propagated[row], case.arrays[f"chefer_bert.row{row}.generate_full_lrp.t{target}"][0], FULL)


# ------------------------------------------------------------------------------------- LXT


@pytest.mark.parametrize("preset", LXT)
def test_attention_aware_relevance_of_pixels_is_that_of_lxt(image, preset):
    method = AttentionAwareRelevance.from_preset(preset, image.model)

    for target in range(image.n_classes):
        pixels = method.attribute(image.inputs, target=target).sum(1)[0]
        assert_golden(pixels, image.arrays[f"{preset}.relevance_pixels.t{target}"], EXACT)


@pytest.mark.parametrize("preset", LXT)
def test_attention_aware_relevance_of_words_is_that_of_lxt(text, preset):
    method = AttentionAwareRelevance.from_preset(preset, text.model)

    for target in range(text.n_classes):
        words = method.attribute(**text.call, target=target)[0]
        assert_golden(words, text.arrays[f"{preset}.relevance_word_embeds.t{target}"], EXACT)


@pytest.mark.parametrize("preset", LXT)
@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
def test_attention_aware_relevance_between_layers_is_that_of_lxt(name, preset):
    case = load_case(name)
    method = AttentionAwareRelevance.from_preset(preset, case.model)

    for target in range(case.n_classes):
        first, *layers = method.layer_relevance(**case.call, target=target)
        assert_golden(first[0], case.arrays[f"{preset}.relevance_embedding_output.t{target}"], EXACT)
        assert_golden(torch.cat(layers), case.arrays[f"{preset}.relevance_layer_outputs.t{target}"], EXACT)
