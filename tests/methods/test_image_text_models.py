"""Two towers that no table knows, models of open_clip, the user's model afterwards, and errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import PIL.Image as PIL
import pytest
import torch
import torch.nn.functional as F
from clip_models import ENDS, IMAGES, LENGTH, TEXTS, assert_same, clip, images
from encoder_decoder_models import seeded
from torch import Tensor, nn
from torch.testing import assert_close

from attrib_plugin import GradientRollout, ImageTextRelevance
from attrib_plugin.errors import InputError, TargetError, UnknownModelError, UnsupportedAttentionError


class Attending(nn.Module):
    """A tower as open_clip builds them: pre-norm blocks around ``nn.MultiheadAttention``."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.attention = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.causal = causal

    def forward(self, tokens: Tensor) -> Tensor:
        later = torch.full((tokens.shape[1],) * 2, -torch.inf, dtype=tokens.dtype).triu(1) if self.causal else None
        for attention, norm in zip(self.attention, self.norms, strict=True):
            normed = norm(tokens)
            tokens = tokens + attention(normed, normed, normed, need_weights=False, attn_mask=later)[0]
        return tokens


class OwnClip(nn.Module):
    """Two towers that no table knows: a class token and 3 x 4 patches, and a causal text."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.first = nn.Parameter(torch.zeros(32))
        self.words = nn.Embedding(60, 32)
        self.image_tower, self.text_tower = Attending(causal=False), Attending(causal=True)

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        patches = self.patches(images).flatten(2).mT
        seen = self.image_tower(torch.cat([self.first.expand(len(images), 1, -1), patches], dim=1))[:, 0]
        read = self.text_tower(self.words(ids))[torch.arange(len(ids)), ids.argmax(-1)]
        return F.normalize(seen, dim=-1), F.normalize(read, dim=-1), torch.tensor(5.0, dtype=torch.float64)


# ------------------------------------------------------------------------------------- other models


def test_towers_that_no_table_knows_are_named():
    model = seeded(OwnClip())
    wide = images(2, 24, 32)
    with pytest.raises(UnknownModelError, match=r"Give them as an argument: ImageTextRelevance\(model, towers="):
        ImageTextRelevance(model)

    method = ImageTextRelevance(
        model,
        towers=(model.image_tower, model.text_tower),
        readout=("cls", ENDS[:2]),
        grid=(3, 4),
        prefix_tokens=1,
    )
    patches, words = method.attribute((wide, TEXTS[:2]), return_input_shape=False)

    def score(pixels: Tensor) -> Tensor:
        seen, read, scale = model(pixels, TEXTS[:2])
        return scale * (seen * read.detach()).sum(-1)

    assert patches.shape == (2, 1, 3, 4)
    one = GradientRollout(score, model=model.image_tower, readout="cls", grid=(3, 4), prefix_tokens=1)
    assert_same(patches, one.attribute(wide, return_input_shape=False))
    assert (words > 0).equal(torch.arange(LENGTH) <= ENDS[:2, None])


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_models_of_open_clip_need_no_argument(kind):
    build = getattr(pytest.importorskip("open_clip").model, kind)
    model = seeded(
        build(
            16,
            dict(layers=2, width=32, head_width=8, patch_size=8, image_size=(24, 32)),
            dict(context_length=LENGTH, vocab_size=60, width=32, heads=4, layers=2),
        )
    )
    wide = images(3, 24, 32)

    patches, words = ImageTextRelevance(model).attribute((wide, TEXTS), return_input_shape=False)

    def score(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            read = model.encode_text(TEXTS, normalize=True)
        return model.logit_scale.exp() * (F.normalize(model.visual(pixels), dim=-1) * read).sum(-1)

    assert patches.shape == (3, 1, 3, 4)
    assert_same(patches, GradientRollout(score, model=model.visual).attribute(wide, return_input_shape=False))
    assert (words > 0).equal(torch.arange(LENGTH) <= ENDS[:, None])


def test_images_that_open_clip_has_padded_are_explained_with_their_padding():
    transform = pytest.importorskip("open_clip.transform").image_transform
    build = pytest.importorskip("open_clip.model").CLIP
    model = seeded(
        build(
            16,
            dict(layers=2, width=32, head_width=8, patch_size=8, image_size=24),
            dict(context_length=LENGTH, vocab_size=60, width=32, heads=4, layers=2),
        )
    )
    # A wide picture of 24 x 8 pixels, padded above and below to 24 x 24, beside one that needs no padding.
    picture = PIL.fromarray(np.random.default_rng(0).integers(0, 255, (8, 24, 3), dtype=np.uint8))
    square = PIL.fromarray(np.random.default_rng(1).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    padding = transform(24, is_train=False, resize_mode="longest", fill_color=0)
    padded = torch.stack([padding(one) for one in (picture, square)]).double()
    method = ImageTextRelevance(model)

    pixels, words = method.attribute((padded, TEXTS[:2]))

    # The towers have no mask of patches: what was padded is seen like any other patch.
    assert padded[0, :, :8].flatten(1).std(1).max() < 1e-6 < padded[0, :, 8:16].std()
    assert pixels.shape == padded.shape
    assert pixels[0, 0, :8].any()
    for pair in range(2):
        alone = method.attribute((padded[pair : pair + 1], TEXTS[pair : pair + 1]))
        assert_same(pixels[pair], alone[0][0])
        assert_same(words[pair], alone[1][0])


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails):
    model = clip()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    if fails:
        with pytest.raises(TargetError, match=r"Expected scores of 3 images against 3 texts.*\(3, 16\)"):
            ImageTextRelevance(
                lambda pixels, ids: model(input_ids=ids, pixel_values=pixels).image_embeds,
                model=model,
            ).attribute((IMAGES, TEXTS))
    else:
        ImageTextRelevance(model).attribute((IMAGES, TEXTS))

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_copy_and_a_wrapper_of_the_model_give_the_same_maps():
    model = clip()

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(model)

        def forward(self, **inputs: Any) -> Any:
            return self.inner(**inputs)

    expected = ImageTextRelevance(model).attribute((IMAGES, TEXTS))
    for ours, theirs in zip(ImageTextRelevance(Wrapper()).attribute((IMAGES, TEXTS)), expected, strict=True):
        assert_close(ours, theirs, rtol=0.0, atol=0.0)


def test_a_compiled_model_gives_the_maps_of_the_model():
    model = clip()
    expected = ImageTextRelevance(model).attribute((IMAGES, TEXTS))

    compiled = ImageTextRelevance(torch.compile(model, backend="eager")).attribute((IMAGES, TEXTS))

    for ours, theirs in zip(compiled, expected, strict=True):
        assert_close(ours, theirs, rtol=0.0, atol=0.0)


WRONG: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ((IMAGES, TEXTS[:2]), {}, InputError, "3 images and 2 texts do not make pairs"),
    (IMAGES, {}, InputError, r"Expected inputs=\(images, token ids\)"),
    ((IMAGES, torch.full((3, 10), 9)), {}, InputError, "takes at most 9 tokens, found 10"),
    ((IMAGES, torch.full((3, 4), 60)), {}, InputError, "Token id 60 is outside the vocabulary of 60 ids"),
    ((images(3, 24, 32), TEXTS), {}, InputError, "takes images of 24 x 24 pixels, found 24 x 32"),
    ((TEXTS, IMAGES), {}, InputError, "takes images"),
    ((IMAGES, TEXTS), {"target": 3}, TargetError, "target .* is out of range: there are 3 texts, 0 to 2"),
    ((IMAGES, TEXTS), {"target": [0, 1]}, TargetError, "one for each of 3 images"),
    ((IMAGES, TEXTS), {"against": -1}, TargetError, "against .* is out of range"),
    ((IMAGES, TEXTS), {"readout": "cls"}, InputError, r"readout=\(of the image, of the text\)"),
    ((IMAGES, TEXTS), {"forward_kwargs": {"attention_mask": TEXTS[:2]}}, InputError, "2 rows for 3 samples"),
    ((IMAGES, TEXTS), {"additional_forward_args": (TEXTS,)}, InputError, "no further positional arguments"),
]


@pytest.mark.parametrize(("inputs", "options", "error", "message"), WRONG)
def test_wrong_arguments_are_refused_before_the_model_is_run(inputs, options, error, message, monkeypatch):
    model = clip()
    monkeypatch.setattr(nn.Linear, "forward", lambda *_: pytest.fail("The model was run."))

    with pytest.raises(error, match=message):
        ImageTextRelevance(model).attribute(inputs, **options)


def test_no_target_at_all_is_refused():
    with pytest.raises(InputError, match="Expected at least one target"):
        ImageTextRelevance(clip()).attribute_targets((IMAGES, TEXTS), [])


def test_attention_outside_of_both_towers_is_refused():
    model = seeded(OwnClip())
    method = ImageTextRelevance(
        model, towers=(model.image_tower.attention[0], model.text_tower), readout=("cls", "last"), grid=(3, 3)
    )

    with pytest.raises(UnsupportedAttentionError, match="belongs neither to the image tower nor to the text tower"):
        method.attribute((IMAGES, TEXTS))


def test_a_tower_of_another_model_is_refused():
    with pytest.raises(InputError, match=r"towers=\(image tower, text tower\) must be parts of the CLIPModel"):
        ImageTextRelevance(clip(), towers=(nn.Identity(), nn.Identity()))


def test_methods_for_one_sequence_name_this_class():
    with pytest.raises(UnsupportedAttentionError, match=r"ImageTextRelevance\(model\) explains the score of a pair"):
        GradientRollout(clip()).attribute(IMAGES)


def test_captums_word_for_the_method_reads_as_words():
    assert ImageTextRelevance.get_name() == "Image Text Relevance"
    assert hasattr(ImageTextRelevance.attribute, "__wrapped__")
