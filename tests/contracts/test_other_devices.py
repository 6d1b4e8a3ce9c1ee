"""Every method runs where the model is, with nothing of its own left on the CPU."""

import pytest
import torch
from contract_methods import METHODS, looseness, made
from encoder_decoder_models import text_model, texts
from golden_models import load_arrays, load_model
from other_device import OTHER, elsewhere, other_device
from tiny_models import FAMILIES, tiny_input, tiny_model

from attrib_plugin import EncoderDecoderRelevance, GradientRollout, ImageTextRelevance, capture_attention, evaluation

# One of each way to attend, to pad, to lay tokens out and to read.
_FAMILIES = ("bert", "albert", "deberta_v2", "modernbert", "llama", "timm_siglip", "hf_swin", "torchvision_vit")
_PAIRS = [(m, f) for m in METHODS for f in _FAMILIES if METHODS[m].takes_windows or not FAMILIES[f].windowed]


def test_tensors_of_two_devices_do_not_mix():
    with other_device():
        there = torch.ones(3, device=OTHER)

        assert (there + 1).device == OTHER
        assert (there * 2).cpu().tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(RuntimeError, match="one device"):
            there + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()


@pytest.mark.parametrize(("method_name", "family"), _PAIRS)
def test_a_model_on_another_device_gets_the_same_map(method_name, family):
    model, (inputs, keywords) = tiny_model(family), tiny_input(family)
    options = FAMILIES[family].options
    target = {"target": [1, 0, 2]} if METHODS[method_name].needs_gradients else {}
    expected = made(method_name, model, **options).attribute(inputs, **target, forward_kwargs=keywords)

    with other_device():
        moved = made(method_name, elsewhere(model), **options)
        relevance = moved.attribute(elsewhere(inputs), **target, forward_kwargs=elsewhere(keywords))
        assert relevance.device == OTHER

    largest = expected.abs().max()
    torch.testing.assert_close(relevance.here / largest, expected / largest, rtol=0, atol=1e-9 * looseness(method_name))


def test_an_encoder_with_a_decoder_is_explained_where_it_is():
    ids, mask = texts()
    words, _ = texts((5, 3, 4), seed=8)
    keywords = {"attention_mask": mask, "decoder_input_ids": words}
    targets = [(4, 7), (2, 5), (3, 1)]
    expected = EncoderDecoderRelevance(text_model("bart")).attribute(ids, targets, forward_kwargs=keywords)

    with other_device():
        method = EncoderDecoderRelevance(elsewhere(text_model("bart")))
        relevance = method.attribute(elsewhere(ids), targets, forward_kwargs=elsewhere(keywords))

    torch.testing.assert_close(relevance.here, expected, rtol=0, atol=1e-10 * float(expected.max()))


def test_an_image_beside_a_text_is_explained_where_the_model_is():
    arrays = load_arrays("clip_tiny.pair")
    pair = (arrays["pixel_values"].double(), arrays["input_ids"])
    expected = ImageTextRelevance(load_model("clip_tiny")).attribute(pair)

    with other_device():
        found = ImageTextRelevance(elsewhere(load_model("clip_tiny"))).attribute(tuple(map(elsewhere, pair)))

    for here, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(here.here, wanted, rtol=0, atol=1e-10 * float(wanted.max()))


def test_attention_is_captured_where_the_model_is():
    model, (ids, keywords) = tiny_model("bert"), tiny_input("bert")
    with capture_attention(model) as captured:
        score = model(ids, **keywords).logits[:, 1].sum()
    expected = captured.calls[0].probabilities() * captured.calls[0].gradient(of=score)

    with other_device():
        moved = elsewhere(model)
        with capture_attention(moved) as captured:
            score = moved(elsewhere(ids), **elsewhere(keywords)).logits[:, 1].sum()
        weighted = captured.calls[0].probabilities() * captured.calls[0].gradient(of=score)

    torch.testing.assert_close(weighted.here, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("metric", ["symmetric_relevance_gain", "deletion", "insertion"])
def test_maps_are_scored_where_the_model_is(metric):
    model, (images, _) = tiny_model("timm_vit"), tiny_input("timm_vit")
    relevance = GradientRollout(model).attribute(images, target=1)
    score = getattr(evaluation, metric)
    units = evaluation.patch_units((images.shape[-2], images.shape[-1]), (8, 8))
    options = {"baselines": 0.0, "target": torch.tensor([1, 0, 2]), "feature_mask": units}
    expected = score(model, images, relevance, **options)

    with other_device():
        moved = elsewhere(model)
        found = score(moved, elsewhere(images), elsewhere(relevance), **options)

    torch.testing.assert_close(getattr(found, "here", found), expected)
