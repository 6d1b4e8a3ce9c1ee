"""Arguments that the model cannot take: misspelt keywords, another dtype, images smaller than a window."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from tiny_models import FAMILIES, tiny_input, tiny_model
from torch import Tensor, nn

from attrib_plugin import AttentionRollout, GradientRollout, ImageTextRelevance, TransformerAttribution, methods
from attrib_plugin.errors import InputError, UnknownKeywordWarning, UnknownModelError

BERT, VIT = tiny_model("bert"), tiny_model("timm_vit")
IDS, KEYWORDS = tiny_input("bert")
IMAGES = tiny_input("timm_vit")[0]
MASK = KEYWORDS["attention_mask"]

PAIR_IMAGES = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
TEXTS = torch.tensor([[4, 7, 9, 3], [5, 8, 6, 2]])


class Tower(nn.Module):
    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed, self.attention = embed, nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs)
        tokens = tokens.flatten(2).transpose(1, 2) if tokens.dim() == 4 else tokens
        return (tokens + self.attention(tokens, tokens, tokens)[0]).mean(1)


class Pair(nn.Module):
    """Two towers that no family knows."""

    def __init__(self) -> None:
        super().__init__()
        self.image_tower, self.text_tower = Tower(nn.Conv2d(3, 8, 8, 8)), Tower(nn.Embedding(20, 8))

    def forward(self, images: Tensor, ids: Tensor, **keywords: object) -> tuple[Tensor, Tensor, Tensor]:
        return self.image_tower(images), self.text_tower(ids), torch.tensor(10.0)


# Keywords.


@pytest.mark.parametrize("method", [getattr(methods, name) for name in methods.__all__])
@pytest.mark.parametrize("name", ["attention_msk", "attn_mask", "attention_masks", "token_types_ids"])
def test_a_misspelt_keyword_that_the_model_would_swallow_is_refused(method, name):
    meant = "token_type_ids" if name.startswith("token") else "attention_mask"

    with pytest.raises(InputError, match=rf"does not know the keyword '{name}' .* Did you mean '{meant}'\?"):
        method(BERT).attribute(IDS, forward_kwargs={name: MASK})


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_misspelt_keyword_is_found_behind_a_wrapper_of_torch(wrap):
    with pytest.raises(InputError, match="Did you mean 'attention_mask'"):
        AttentionRollout(wrap(BERT)).attribute(IDS, forward_kwargs={"attention_msk": MASK})


def test_a_misspelt_keyword_of_the_users_own_function_is_warned_about():
    def function(ids, attn_mask=None, **keywords):
        return BERT(ids, attention_mask=attn_mask, **keywords).logits

    method = AttentionRollout(function, model=BERT)
    with pytest.warns(UnknownKeywordWarning, match="'attention_msk', which BertForSeq.* Did you mean 'attention_mask'"):
        method.attribute(IDS, forward_kwargs={"attention_msk": MASK})

    # What the function names is its own, whatever the model would say to it.
    named = method.attribute(IDS, forward_kwargs={"attn_mask": MASK})

    torch.testing.assert_close(named, AttentionRollout(BERT).attribute(IDS, forward_kwargs=KEYWORDS), rtol=0, atol=0)


@pytest.mark.parametrize(
    "name",
    [
        "output_hidden_states",
        "output_attentions",
        "special_tokens_mask",
        "offset_mapping",
        "position_ids",
        "pixel_attention_mask",
        "encoder_attention_mask",
        "mm_token_type_ids",
        "num_items_in_batch",
    ],
)
def test_a_keyword_that_is_no_slip_reaches_the_model(name):
    value = torch.arange(7).expand(3, 7) if name == "position_ids" else None

    relevance = AttentionRollout(BERT).attribute(IDS, forward_kwargs={**KEYWORDS, name: value})

    torch.testing.assert_close(
        relevance, AttentionRollout(BERT).attribute(IDS, forward_kwargs=KEYWORDS), rtol=0, atol=0
    )


def test_what_tokenizers_add_is_no_slip_for_a_model_that_ignores_it():
    # Those of BERT give token types, which DistilBERT has no use for.
    ids, keywords = tiny_input("distilbert")
    method = AttentionRollout(tiny_model("distilbert"))

    relevance = method.attribute(ids, forward_kwargs={**keywords, "token_type_ids": torch.zeros_like(ids)})

    torch.testing.assert_close(relevance, method.attribute(ids, forward_kwargs=keywords), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forward_kwargs": {"attn_msk": None}}, r"unexpected keyword argument 'attn_msk'\. Did you mean 'attn_mask'"),
        ({"forward_kwargs": {"temperature": 2}}, r"'temperature'\. It takes attn_mask, is_causal, x"),
        ({"forward_kwargs": {"x": IMAGES}}, "multiple values for argument 'x'"),
        ({"additional_forward_args": (None, False, 3, 4)}, "too many positional arguments"),
    ],
)
def test_arguments_that_the_model_cannot_take_are_refused_before_it_is_run(options, message, monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "forward", lambda *_: pytest.fail("The model was run."))

    with pytest.raises(InputError, match=f"VisionTransformer cannot be called so: .*{message}"):
        GradientRollout(VIT).attribute(IMAGES, 1, **options)


def test_a_misspelt_keyword_of_a_pair_is_refused():
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    vision = dict(image_size=24, patch_size=8, **sizes)
    text = dict(vocab_size=20, bos_token_id=0, eos_token_id=3, pad_token_id=1, **sizes)
    model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text)).eval()

    with pytest.raises(InputError, match=r"CLIPModel does not know .* Did you mean 'attention_mask'"):
        ImageTextRelevance(model).attribute(
            (PAIR_IMAGES, TEXTS), forward_kwargs={"attention_msk": torch.ones_like(TEXTS)}
        )


# Dtypes.

_CONVERTS = ("hf_vit", "dinov2", "hf_clip_vision", "hf_siglip_vision")
_KEEPS = ("timm_vit", "torchvision_vit", "hf_swin", "timm_swin")


@pytest.mark.parametrize("method", [AttentionRollout, GradientRollout, TransformerAttribution])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("family_name", _KEEPS)
def test_images_of_another_dtype_are_refused_where_the_model_does_not_convert_them(family_name, dtype, method):
    images = tiny_input(family_name)[0].to(dtype)

    with pytest.raises(
        InputError, match=rf"Expected inputs of torch\.float64, .* {dtype}.*inputs\.to\(torch\.float64\)"
    ):
        method(tiny_model(family_name)).attribute(images)


@pytest.mark.parametrize("family_name", _CONVERTS)
def test_images_of_another_dtype_are_explained_where_the_model_converts_them(family_name):
    images, model = tiny_input(family_name)[0].float(), tiny_model(family_name)

    relevance = GradientRollout(model, **FAMILIES[family_name].options).attribute(images, 1)

    expected = GradientRollout(model, **FAMILIES[family_name].options).attribute(images.double(), 1)
    torch.testing.assert_close(relevance, expected, rtol=0, atol=1e-12)


def test_embeddings_of_another_dtype_are_refused_where_the_model_does_not_convert_them():
    model = tiny_model("bert", dtype=torch.float32)
    embeddings = model.get_input_embeddings()(IDS).detach().double()

    with pytest.raises(
        InputError, match=r"Expected inputs of torch\.float32, the dtype of BertForSeq.* torch\.float64"
    ):
        GradientRollout(model).attribute(embeddings, 1)


def test_autocast_converts_and_so_nothing_is_refused():
    model, images = tiny_model("timm_vit", dtype=torch.float32), IMAGES.bfloat16()

    with torch.autocast("cpu", torch.bfloat16):
        relevance = GradientRollout(model).attribute(images, 1)

    assert relevance.isfinite().all()
    assert relevance.any()


def test_an_error_of_the_models_own_stays_what_it_is():
    def function(images):
        raise RuntimeError("The scores should be sorted.")

    with pytest.raises(RuntimeError, match="should be sorted"):
        AttentionRollout(function, model=VIT).attribute(IMAGES.float())


# Images.


@pytest.mark.parametrize(("window", "least"), [(3, 33), (4, 49)])
def test_images_smaller_than_the_windows_of_swin_are_refused_and_the_smallest_that_fit_are_not(window, least):
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        embed_dim=16, depths=(1, 1, 1), num_heads=(2, 2, 2), window_size=window, patch_size=4, num_labels=5
    )
    model = transformers.SwinForImageClassification(config).eval()
    images = torch.randn(1, 3, least, least, generator=torch.Generator().manual_seed(0))
    before = AttentionRollout(model).attribute(images)

    for small in (images[..., :-1], images[..., :-1, :]):
        with pytest.raises(InputError, match=rf"images of at least {least} x {least} pixels.*Resize them"):
            AttentionRollout(model).attribute(small)

    # The library would have changed its windows on the way to its own error.
    torch.testing.assert_close(AttentionRollout(model).attribute(images), before, rtol=0, atol=0)


def test_windows_of_swin_v2_may_be_larger_than_the_image():
    transformers = pytest.importorskip("transformers")
    config = transformers.Swinv2Config(embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=7, num_labels=5)
    model = transformers.Swinv2ForImageClassification(config).eval()

    assert AttentionRollout(model).attribute(torch.rand(1, 3, 16, 16)).any()


# The call that an error shows, which must not take away what was given.


def shown(error: Exception) -> str:
    found = re.search(r"such as: (\w+\(.*?\))\. ", str(error))
    assert found is not None, str(error)
    return found[1]


@pytest.mark.parametrize("readout", [None, ("cls", None), (None, "last")], ids=str)
def test_the_calls_that_errors_about_a_pair_show_lead_to_a_map(readout):
    torch.manual_seed(0)
    model = Pair().eval()
    towers = (model.image_tower, model.text_tower)
    method = ImageTextRelevance(model, towers=towers, readout=readout)
    known = {"model": model, "towers": towers, "ImageTextRelevance": ImageTextRelevance}

    for _ in range(2):  # what is asked about the texts, then about the images
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                maps = method.attribute((PAIR_IMAGES, TEXTS))
                break
            except UnknownModelError as error:
                method = eval(shown(error), known)
    else:
        maps = method.attribute((PAIR_IMAGES, TEXTS))

    assert maps[0].shape == PAIR_IMAGES.shape
    assert maps[1].shape == TEXTS.shape
    assert (
        method.readout
        == {None: ("mean", "mean"), ("cls", None): ("cls", "mean"), (None, "last"): ("mean", "last")}[readout]
    )


@pytest.mark.parametrize(
    "options",
    [{"readout": "last"}, {"readout": 2}, {"grid": (3, 3)}, {"grid": (3, 3), "prefix_tokens": 0}, {"prefix_tokens": 0}],
    ids=str,
)
def test_the_call_that_an_error_shows_keeps_what_the_user_has_given(options):
    torch.manual_seed(0)
    model = Tower(nn.Conv2d(3, 8, 8, 8)).eval()
    with pytest.raises(UnknownModelError) as raised:
        GradientRollout(model, **options).attribute(PAIR_IMAGES)

    method = eval(shown(raised.value), {"model": model, "GradientRollout": GradientRollout})

    assert method.attribute(PAIR_IMAGES).shape == PAIR_IMAGES.shape
    assert {name: getattr(method, name) for name in options} == options
