"""Relevance of patches and words for the score of a pair: the notebook's numbers, and those of each tower by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import NoiseTunnel
from clip_models import ENDS, IMAGES, LENGTH, TEXTS, assert_same, clip, siglip
from golden_models import assert_golden, load_arrays, load_model
from torch import Tensor, nn
from torch.testing import assert_close

from attrib_plugin import GradientRollout, ImageTextRelevance
from attrib_plugin.methods.base import layers

# ------------------------------------------------------------------------------------- the authors' notebook


@pytest.mark.parametrize("start", [-1, 0, 1])
def test_maps_of_one_image_and_its_texts_are_those_of_the_notebook(start):
    arrays = load_arrays("clip_tiny.pair")
    method = ImageTextRelevance.from_preset("clip_interpret", load_model("clip_tiny"), start_layer=start)
    inputs = (arrays["pixel_values"].double(), arrays["input_ids"])

    patches, words = method.attribute(inputs, return_input_shape=False)
    _, text_matrix = method.matrices(inputs)

    assert_golden(patches.flatten(1), arrays[f"clip.image_relevance.s{start}"])
    assert_golden(text_matrix, arrays[f"clip.R_text.s{start}"])
    for sample, row in enumerate(arrays[f"clip.R_text.s{start}"]):
        end = int(arrays["input_ids"][sample].argmax())
        own = row[end, 1:end]
        assert_golden(words[sample, 1:end], own / own.sum())
        assert not words[sample, end:].any()
        assert not words[sample, 0].any()


def test_the_preset_takes_the_last_layer_alone():
    arrays = load_arrays("clip_tiny.pair")
    method = ImageTextRelevance.from_preset("clip_interpret", load_model("clip_tiny"))

    patches, _ = method.attribute((arrays["pixel_values"].double(), arrays["input_ids"]), return_input_shape=False)

    assert_golden(patches.flatten(1), arrays["clip.image_relevance.s-1"])


def test_the_golden_model_gives_the_logits_of_the_notebook_with_fused_attention():
    arrays, model = load_arrays("clip_tiny.pair"), load_model("clip_tiny")

    with torch.no_grad():
        output = model(input_ids=arrays["input_ids"], pixel_values=arrays["pixel_values"].double())

    assert model.config.vision_config._attn_implementation == "sdpa"
    assert_golden(output.logits_per_image, arrays["logits"])


# ------------------------------------------------------------------------------------- each tower by itself


def tower_by_tower(model: nn.Module, ids: Tensor, text_readout: Any, image_readout: Any, **options: Any):
    """Both maps by GradientRollout on one tower at a time, with the other's features held fixed."""

    def features(pick: str, **inputs: Tensor) -> Tensor:
        return F.normalize(getattr(model, pick)(**inputs).pooler_output, dim=-1)

    with torch.no_grad():
        seen = features("get_image_features", pixel_values=IMAGES)
        read = features("get_text_features", input_ids=ids)
    scale = model.logit_scale.exp().detach()

    def of_image(pixels: Tensor) -> Tensor:
        return scale * (features("get_image_features", pixel_values=pixels) * read).sum(-1)

    def of_text(words: Tensor) -> Tensor:
        return scale * (features("get_text_features", input_ids=words) * seen).sum(-1)

    image = GradientRollout(of_image, model=model.vision_model, readout=image_readout, **options)
    text = GradientRollout(of_text, model=model.text_model, readout=text_readout, **options)
    return image.attribute(IMAGES), text.attribute(ids)


@pytest.mark.parametrize("sign", ["positive", "negative", "signed"])
def test_maps_of_clip_are_those_of_each_tower_by_itself(sign):
    model = clip()

    maps = ImageTextRelevance(model, sign=sign).attribute((IMAGES, TEXTS))

    for ours, expected in zip(maps, tower_by_tower(model, TEXTS, ENDS, "cls", sign=sign), strict=True):
        assert_same(ours, expected)


def test_maps_of_siglip_read_the_pooling_and_the_last_position():
    model = siglip()

    maps = ImageTextRelevance(model).attribute((IMAGES, TEXTS))

    for ours, expected in zip(maps, tower_by_tower(model, TEXTS, LENGTH - 1, None), strict=True):
        assert_same(ours, expected)


def test_an_end_of_text_of_two_is_the_highest_id_as_in_openais_checkpoints():
    model = clip()
    model.config.text_config.eos_token_id = model.text_model.eos_token_id = 2
    ids = TEXTS.clone()
    ids[0, 2] = 2

    _, words = ImageTextRelevance(model).attribute((IMAGES, ids))

    expected = ImageTextRelevance(model, readout=(None, ENDS)).attribute((IMAGES, ids))[1]
    assert_close(words, expected, rtol=0.0, atol=0.0)


def test_words_alone_lie_between_the_first_token_and_the_end_and_sum_to_one():
    _, everything = ImageTextRelevance(clip()).attribute((IMAGES, TEXTS))

    _, words = ImageTextRelevance(clip(), words_only=True).attribute((IMAGES, TEXTS))

    for sample, end in enumerate(ENDS.tolist()):
        own = everything[sample, 1:end]
        assert_same(words[sample, 1:end], own / own.sum())
        assert not words[sample, [0, *range(end, LENGTH)]].any()


def test_layers_of_both_towers_start_where_they_are_told():
    model = clip()

    image, text = ImageTextRelevance(model, start_layer=(1, 0)).attribute((IMAGES, TEXTS))

    assert_same(image, ImageTextRelevance(model, start_layer=-1).attribute((IMAGES, TEXTS))[0])
    assert_same(text, ImageTextRelevance(model).attribute((IMAGES, TEXTS))[1])
    with pytest.raises(ValueError, match="start_layer must be one of the 2 layers 0 to 1, not -1"):
        ImageTextRelevance(model, start_layer=-3).attribute((IMAGES, TEXTS))


# ------------------------------------------------------------------------------------- pairs


def test_pairs_of_a_batch_do_not_mix():
    method = ImageTextRelevance(clip(), sign="signed")

    together = method.attribute((IMAGES, TEXTS))
    in_parts = method.attribute((IMAGES, TEXTS), internal_batch_size=2)

    for part in (0, 1):
        assert_same(in_parts[part], together[part])
        for pair in range(3):
            one = slice(pair, pair + 1)
            assert_same(together[part][one], method.attribute((IMAGES[one], TEXTS[one]))[part])


def test_the_size_of_a_block_is_kept_to_in_both_towers_and_changes_no_map(monkeypatch):
    sizes = []

    def noted(*arguments: Any, max_chunk_bytes: int, **options: Any) -> Any:
        sizes.append(max_chunk_bytes)
        return planned(*arguments, max_chunk_bytes=max_chunk_bytes, **options)

    planned = layers.extents
    monkeypatch.setattr(layers, "extents", noted)

    found = ImageTextRelevance(clip(), max_chunk_bytes=500).attribute((IMAGES, TEXTS))

    assert set(sizes) == {500}
    monkeypatch.undo()
    for part, expected in zip(found, ImageTextRelevance(clip()).attribute((IMAGES, TEXTS)), strict=True):
        assert_same(part, expected)


def test_padding_after_the_end_of_text_changes_no_map():
    method = ImageTextRelevance(clip())
    mask = (torch.arange(LENGTH) <= ENDS[:, None]).long()

    with_mask = method.attribute((IMAGES, TEXTS), forward_kwargs={"attention_mask": mask})

    for pair, end in enumerate(ENDS.tolist()):
        image, text = method.attribute((IMAGES[pair : pair + 1], TEXTS[pair : pair + 1, : end + 1]))
        assert_same(with_mask[0][pair], image[0])
        assert_same(with_mask[1][pair, : end + 1], text[0])
        assert not with_mask[1][pair, end + 1 :].any()


def test_one_image_goes_with_every_text_and_one_text_with_every_image():
    method = ImageTextRelevance(clip())

    of_texts, of_images = method.attribute((IMAGES[:1], TEXTS)), method.attribute((IMAGES, TEXTS[:1]))

    for part in (0, 1):
        assert_same(of_texts[part], method.attribute((IMAGES[:1].repeat(3, 1, 1, 1), TEXTS))[part])
        assert_same(of_images[part], method.attribute((IMAGES, TEXTS[:1].repeat(3, 1)))[part])


@pytest.mark.parametrize("target", [[2, 0, 2], torch.tensor([2, 0, 2])], ids=["list", "tensor"])
def test_a_target_chooses_the_text_of_each_image_even_twice(target):
    method = ImageTextRelevance(clip())

    maps = method.attribute((IMAGES, TEXTS), target, internal_batch_size=2)

    for part, expected in enumerate(method.attribute((IMAGES, TEXTS[[2, 0, 2]]))):
        assert_same(maps[part], expected)


def test_a_contrast_is_the_map_of_the_difference_of_scores():
    model = clip()

    image, text = ImageTextRelevance(model).attribute((IMAGES, TEXTS), [1, 2, 1], against=0)

    expected = GradientRollout(
        lambda pixels: of_images_alone(model, pixels, [1, 2, 1], 0), model=model.vision_model, readout="cls"
    )
    assert_same(image, expected.attribute(IMAGES))
    assert_same(text, ImageTextRelevance(model).attribute((IMAGES, TEXTS), [1, 2, 1])[1])


def of_images_alone(model: nn.Module, pixels: Tensor, chosen: list[int], other: int) -> Tensor:
    with torch.no_grad():
        read = F.normalize(model.get_text_features(input_ids=TEXTS).pooler_output, dim=-1)
    seen = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    return model.logit_scale.exp().detach() * (seen * (read[chosen] - read[other])).sum(-1)


def test_a_read_out_of_each_text_goes_with_its_pair_through_batches_and_contrasts():
    method, shifted = ImageTextRelevance(clip()), torch.tensor([4, 1, 2])

    _, words = method.attribute((IMAGES, TEXTS), readout=(None, shifted), against=[1, 2, 0], internal_batch_size=2)

    for pair in range(3):
        _, alone = method.attribute(
            (IMAGES[pair : pair + 1], TEXTS), pair, readout=(None, shifted[pair : pair + 1]), against=(pair + 1) % 3
        )
        assert_same(words[pair : pair + 1], alone)
        assert not words[pair, int(shifted[pair]) + 1 :].any()


def test_several_targets_are_stacked():
    method = ImageTextRelevance(clip())

    stacked = method.attribute_targets((IMAGES, TEXTS), [0, [2, 1, 0]])

    for part in (0, 1):
        assert_same(stacked[part][1], method.attribute((IMAGES, TEXTS), [2, 1, 0])[part])
        assert len(stacked[part]) == 2


def test_images_alone_give_the_image_map_and_the_noise_tunnel_repeats_the_texts():
    method = ImageTextRelevance(clip())
    expected, _ = method.attribute((IMAGES, TEXTS))

    smooth = NoiseTunnel(method).attribute(IMAGES, nt_samples=2, stdevs=0.0, additional_forward_args=(TEXTS,))
    (in_tuple,) = method.attribute((IMAGES,), additional_forward_args=(TEXTS,))

    assert_same(smooth, expected)
    assert_same(in_tuple, expected)


def test_matrices_hold_the_rows_of_the_maps():
    method = ImageTextRelevance(clip())

    image_matrix, text_matrix = method.matrices((IMAGES, TEXTS))
    patches, words = method.attribute((IMAGES, TEXTS), return_input_shape=False)

    assert_same(image_matrix[:, 0, 1:], patches.flatten(1))
    rows = text_matrix[torch.arange(3), ENDS]
    assert_same(rows - F.one_hot(ENDS, LENGTH), words)
    assert_same(method.matrix((IMAGES, TEXTS)), image_matrix)
    assert_same(method.layer_rows((IMAGES, TEXTS))[-1][:, 1:], patches.flatten(1))
    assert len(method.head_attention((IMAGES, TEXTS))) == len(method.layer_attention((IMAGES, TEXTS))) == 2
