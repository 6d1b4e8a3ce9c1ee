"""Relatives of known families, and models that are refused because attention is only a part of them."""

import pytest
import torch
import transformers
from tiny_models import EncoderClassifier
from torch import nn
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, capture_attention
from attrib_plugin.errors import (
    InputError,
    NothingCapturedError,
    UnknownModelError,
    UnsupportedAttentionError,
)
from attrib_plugin.families import find_member

SMALL = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 20, "num_labels": 5, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
ONE_NAME = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 20, "num_labels": 5}


def classifier(stem, task="SequenceClassification", **settings):
    torch.manual_seed(0)
    if not hasattr(transformers, f"{stem}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {stem}")
    config = getattr(transformers, f"{stem}Config")(**settings)
    return getattr(transformers, f"{stem}For{task}")(config).eval().double()


def read_tokens(model, ids):
    """Tokens of the last attention whose output the scores depend on, by autograd alone."""
    with capture_attention(model) as captured:
        logits = model(ids).logits
        gradient = captured.calls[-1].gradient(of=logits[:, 1].sum())
    depends = gradient.abs().amax((1, 3))
    return depends > 1e-9 * depends.max()


# --------------------------------------------------------------------------------------------- longest texts

# Stem of the classes, settings, longest text.
LIMITED = [
    ("Ernie", SMALL, 20),
    ("MegatronBert", SMALL, 20),
    ("RobertaPreLayerNorm", SMALL, 18),
    ("XLMRobertaXL", SMALL, 18),
    ("Data2VecText", SMALL, 18),
    ("Esm", {**SMALL, "position_embedding_type": "absolute"}, 18),
    ("GPTJ", {**ONE_NAME, "pad_token_id": 1, "rotary_dim": 4}, 20),
    ("OpenAIGPT", {**ONE_NAME, "pad_token_id": 1}, 20),
    ("Mpt", {"vocab_size": 60, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 20, "pad_token_id": 1}, 20),
]


@pytest.mark.parametrize(("stem", "settings", "longest"), LIMITED)
def test_the_longest_text_is_run_and_one_token_more_is_an_error_before_the_model_runs(stem, settings, longest):
    model = classifier(stem, **settings).float()  # MPT's mask of transformers 4 overflows in float64

    assert AttentionRollout(model).attribute(torch.full((1, longest), 7)).isfinite().all()
    with pytest.raises(InputError, match=f"takes at most {longest} tokens, found {longest + 1}"):
        AttentionRollout(model).attribute(torch.full((1, longest + 1), 7))


def test_rotary_positions_of_esm_have_no_end():
    model = classifier("Esm", **SMALL, position_embedding_type="rotary")

    assert AttentionRollout(model).attribute(torch.full((1, 30), 7)).isfinite().all()


# ----------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("pooling", ["bos", "mean", "late"])
def test_eurobert_reads_what_its_configuration_says(pooling):
    model = classifier("EuroBert", **SMALL, classifier_pooling=pooling, mask_token_id=4)
    ids = torch.randint(5, 60, (2, 7))

    readout = AttentionRollout(model, residual=1.0).layer_rows(ids)[-1]

    assert torch.equal(readout > 0, read_tokens(model, ids))


@pytest.mark.parametrize("stem", ["Flaubert", "XLM"])
def test_a_summary_of_another_kind_is_not_guessed(stem):
    settings = {"vocab_size": 60, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "pad_token_id": 1}
    first, last = (classifier(stem, **settings, n_words=60, summary_type=kind) for kind in ("first", "last"))
    ids = torch.randint(5, 60, (2, 7))

    assert AttentionRollout(first, residual=1.0).layer_rows(ids)[-1][:, 0].eq(1).all()
    with pytest.raises(UnknownModelError, match="which tokens the head of"):
        AttentionRollout(last).attribute(ids)


# ------------------------------------------------------------------------------------------------ SigLIP 2


def test_siglip2_is_explained_through_a_function_that_cuts_images_into_patches():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.Siglip2Config(vision_config={**sizes, "patch_size": 8, "num_patches": 36}, num_labels=5)
    model = transformers.Siglip2ForImageClassification(config).eval().double()

    def scores(images):
        patches = images.unfold(2, 8, 8).unfold(3, 8, 8)  # (batch, channel, row, column, height, width)
        patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        shapes = torch.tensor([[3, 5]] * len(images))
        mask = torch.ones(patches.shape[:2], dtype=torch.int64)
        return model(patches, pixel_attention_mask=mask, spatial_shapes=shapes).logits

    images = torch.randn(2, 3, 24, 40, dtype=torch.float64)
    method = GradientRollout(scores, model=model, grid=(3, 5), prefix_tokens=0)

    assert method.attribute(images, 2, return_input_shape=False).shape == (2, 1, 3, 5)
    readout = AttentionRollout(scores, model=model, grid=(3, 5), prefix_tokens=0, residual=1.0).layer_rows(images)[-1]
    assert_close(readout, torch.full_like(readout, 1 / 15))
    with pytest.raises(UnknownModelError, match="are in the image"):
        GradientRollout(scores, model=model).attribute(images, 2)


# ----------------------------------------------------------------------------- towers of language models, timm


@pytest.mark.parametrize("name", ["qwen3_vit_88m", "qwen3_vit_88m_merge", "gemma4_vit_167m", "deepseek_vit_412m"])
def test_towers_of_language_models_read_all_patches_alike(name):
    import timm

    if name not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} has no {name}")
    patch = 14 if name.startswith("deepseek") else 16
    model = timm.create_model(
        name, num_classes=5, img_size=(4 * patch, 6 * patch), embed_dim=64, num_heads=4, depth=2
    ).eval()
    images = torch.randn(2, 3, 4 * patch, 6 * patch)

    readout = AttentionRollout(model, residual=1.0).layer_rows(images)[-1]

    assert find_member(model).family.name == "timm_language_tower"
    assert_close(readout, torch.full_like(readout, 1 / 24))
    assert GradientRollout(model).attribute(images, 2, return_input_shape=False).shape == (2, 1, 4, 6)
    with pytest.raises(InputError, match="whole patches"):
        AttentionRollout(model).attribute(images[..., :-3])


# ---------------------------------------------------------------------------------------------- refused


def test_convbert_is_refused_because_of_its_convolution_whatever_is_given():
    model = classifier("ConvBert", **SMALL)

    for options in ({}, {"readout": "cls"}):
        with pytest.raises(UnsupportedAttentionError, match="mixes neighbouring tokens by convolution"):
            AttentionRollout(model, **options).attribute(torch.randint(5, 60, (2, 7)))


def test_a_decoder_with_linear_attention_is_refused_whatever_is_given():
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "num_key_value_heads": 2, "head_dim": 8}
    model = classifier("MiniMax", **SMALL, **experts)

    with pytest.raises(UnsupportedAttentionError, match="linear attention, a state space or convolution"):
        AttentionRollout(model, readout="last").attribute(torch.randint(5, 60, (2, 7)))


@pytest.mark.parametrize(
    ("stem", "settings", "reason"),
    [
        ("Nystromformer", {"num_landmarks": 2, "segment_means_seq_len": 20}, "by way of landmarks"),
        (
            "Lilt",
            {"channel_shrink_ratio": 2, "max_2d_position_embeddings": 20},
            "a second stream attends to the layout",
        ),
    ],
)
def test_other_sums_and_products_of_attention_are_refused_whatever_is_given(stem, settings, reason):
    model = classifier(stem, **SMALL, **settings)

    with pytest.raises(UnsupportedAttentionError, match=reason):
        AttentionRollout(model, readout="cls").attribute(torch.randint(5, 60, (2, 7)))


@pytest.mark.parametrize("name", ["efficientformer_l1", "fastvit_sa12", "resnet50_clip"])
def test_a_model_whose_last_stage_alone_attends_is_refused_with_grid_and_read_out_given(name):
    import timm

    model = timm.create_model(name, num_classes=5).eval()

    with pytest.raises(UnsupportedAttentionError, match="only its last blocks attend"):
        AttentionRollout(model, grid=(7, 7), prefix_tokens=0, readout="mean").attribute(torch.randn(1, 3, 224, 224))


def test_texts_of_tables_may_be_longer_than_the_positions_where_cells_count_anew():
    ids = torch.randint(5, 60, (2, 25))

    relevance = AttentionRollout(classifier("Tapas", **SMALL, reset_position_index_per_cell=True)).attribute(ids)

    assert relevance.shape == (2, 25)
    with pytest.raises(InputError, match="25"):
        AttentionRollout(classifier("Tapas", **SMALL, reset_position_index_per_cell=False)).attribute(ids)


def test_a_relative_of_them_without_attention_is_not_said_to_have_some():
    import timm

    model = timm.create_model("fastvit_t8", num_classes=5).eval()

    with pytest.raises(NothingCapturedError, match="No attention call was seen in FastVit"):
        AttentionRollout(model).attribute(torch.randn(1, 3, 64, 64))


def test_what_is_refused_as_a_part_of_a_model_is_refused_too():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.other = classifier("ConvBert", **SMALL), EncoderClassifier()

        def forward(self, ids):
            return self.inner(ids).logits

    with pytest.raises(UnsupportedAttentionError, match="ConvBertForSequenceClassification cannot be explained"):
        AttentionRollout(Wrapped().eval()).attribute(torch.randint(5, 60, (2, 7)))


def test_an_image_with_as_many_patches_as_there_are_words_is_not_multiplied_into_a_map_of_words():
    shared = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    vision = {**shared, "image_size": 32, "patch_size": 8, "vision_use_head": False}
    text = {**shared, "vocab_size": 60, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 1}
    model = classifier(
        "Gemma3", text_config=text, vision_config=vision, image_token_id=50, mm_tokens_per_image=4, num_labels=5
    )
    ids = torch.randint(5, 40, (1, 16))
    assert AttentionRollout(model).attribute(ids).any()
    ids[:, 2:6] = 50
    image = {"pixel_values": torch.randn(1, 3, 32, 32).double(), "token_type_ids": (ids == 50).long()}
    assert model(ids, **image).logits.shape == (1, 5)

    with pytest.raises(UnsupportedAttentionError, match=r"among the patches of an image.*without the image"):
        AttentionRollout(model).attribute(ids, forward_kwargs=image)
