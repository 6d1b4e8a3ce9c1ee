"""Attention that does not go from every token to every token: a clear error, never a map."""

import pytest
import torch
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention
from attrib_plugin.errors import CaptureError, UnsupportedAttentionError
from attrib_plugin.families import find_member
from attrib_plugin.families.hf_stages import HF_STAGES

timm = pytest.importorskip("timm")

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
# Arguments that a user may try to get past the refusal.
GUESSES = [{}, {"grid": (2, 2), "readout": "mean"}, {"grid": (4, 4), "readout": "cls", "prefix_tokens": 1}]

REFUSED = {
    "cait": ("cait_xxs24_224", {"img_size": 64, "depth": 2}),
    "xcit": ("xcit_nano_12_p16_224", {"img_size": 64, "depth": 2}),
    "hiera": ("hiera_tiny_224", {"img_size": 64, "stages": (1, 1, 1, 1)}),
    "pvt_v2": ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}),
    "mvitv2": ("mvitv2_tiny", {"img_size": 64}),
    "levit": ("levit_128s", {"img_size": 64}),
    "coat": ("coat_tiny", {"img_size": 64}),
    "davit": ("davit_tiny", {"depths": (1, 1, 1, 1)}),
    "pit": ("pit_ti_224", {"img_size": 64, "depth": (1, 1, 1)}),
    "tnt": ("tnt_s_legacy_patch16_224", {"img_size": 64, "depth": 2}),
    "parallel": ("vit_small_patch16_18x2_224", {"img_size": 64, "depth": 2}),
}


def refused_model(name):
    architecture, settings = REFUSED[name]
    torch.manual_seed(0)
    return timm.create_model(architecture, num_classes=5, **settings).eval()


@pytest.mark.parametrize("options", GUESSES)
@pytest.mark.parametrize("method", [RawAttention, AttentionRollout, GradientRollout])
@pytest.mark.parametrize("name", REFUSED)
def test_a_model_without_global_attention_gets_an_error_and_no_map(name, method, options):
    model = refused_model(name)
    with torch.no_grad():
        before = model(IMAGE)

    with pytest.raises(CaptureError, match=r"attention|tokens|attend"):
        method(model, **options).attribute(IMAGE)

    with torch.no_grad():
        assert_close(model(IMAGE), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cait", "heads are mixed after the softmax.*capture_attention"),
        ("coat", "attention is factorised"),
        ("davit", "every second attention is between channels"),
        ("levit", "tokens are merged between stages"),
        ("mvitv2", "keys are pooled from many tokens"),
        ("tnt", "attends among the pixels of each patch too"),
        ("xcit", "attention is between channels, not between tokens.*Explain a vision transformer"),
        ("hiera", "stages begins with the largest of four queries.*Explain a Swin model"),
        ("pvt_v2", "keys are pooled"),
        ("pit", "tokens are merged between stages"),
        ("parallel", "run side by side"),
    ],
)
def test_the_error_says_why(name, reason):
    with pytest.raises(UnsupportedAttentionError, match=reason):
        AttentionRollout(refused_model(name), readout="mean").attribute(IMAGE)


@pytest.mark.parametrize(
    ("architecture", "attends"),
    [("mobilevit_xxs", True), ("caformer_s18", True), ("regnety_002", False), ("poolformer_s12", False)],
)
def test_convolutions_are_told_from_models_whose_last_stages_attend(architecture, attends):
    member = find_member(timm.create_model(architecture).eval())

    reason = member.family.refusal(member.module)

    assert ("only its last blocks attend to tokens" in (reason or "")) is attends


def test_windows_are_what_sam_is_refused_for():
    settings = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5, use_rel_pos=False)
    windowed, whole = (
        timm.models.vision_transformer_sam.VisionTransformerSAM(window_size=size, **settings).eval() for size in (2, 0)
    )
    image = torch.randn(1, 3, 32, 32)

    with pytest.raises(UnsupportedAttentionError, match="attend within windows of its own making"):
        AttentionRollout(windowed, grid=(4, 4), readout="mean").attribute(image)
    assert AttentionRollout(whole, grid=(4, 4), readout="mean").attribute(image).isfinite().all()


@pytest.mark.parametrize("fused", [True, False])
def test_differential_attention_is_refused_fused_or_not(fused):
    import timm.layers

    if not hasattr(timm.layers, "DiffAttention"):
        pytest.skip(f"timm {timm.__version__} has no differential attention")
    from timm.layers import DiffAttention
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=4, num_classes=5, attn_layer=DiffAttention
    ).eval()
    for block in model.blocks:
        block.attn.fused_attn = fused

    with pytest.raises(UnsupportedAttentionError, match="side by side"):
        AttentionRollout(model).attribute(IMAGE)


def test_two_attentions_over_the_same_values_are_refused_in_a_model_that_no_family_knows():
    class Differential(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = torch.nn.Linear(8, 8)

        def forward(self, hidden):
            query = self.proj(hidden)[:, None]
            first = torch.nn.functional.scaled_dot_product_attention(query, query, hidden[:, None])
            second = torch.nn.functional.scaled_dot_product_attention(-query, query, hidden[:, None])
            return (first - 0.5 * second).sum((1, 2))

    with pytest.raises(UnsupportedAttentionError, match="weigh the same values side by side"):
        AttentionRollout(Differential().eval(), readout="mean").attribute(torch.randn(1, 4, 8))


def test_masked_autoencoders_are_refused_because_they_shuffle_patches():
    from transformers import ViTMAEConfig, ViTMAEModel

    config = ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=64, patch_size=16,
        mask_ratio=0.0,
    )  # fmt: skip

    with pytest.raises(UnsupportedAttentionError, match="masks and shuffles patches at random"):
        AttentionRollout(ViTMAEModel(config).eval(), grid=(4, 4), readout="cls").attribute(IMAGE)


def test_hiera_of_transformers_is_refused_with_the_same_reason():
    from transformers import HieraConfig, HieraForImageClassification

    config = HieraConfig(
        embed_dim=16, image_size=[64, 64], depths=[1, 1], num_heads=[1, 2], num_query_pool=1, masked_unit_size=[4, 4],
        masked_unit_attention=[True, False], query_stride=[2, 2],
    )  # fmt: skip

    with pytest.raises(UnsupportedAttentionError, match="stages begins with the largest of four queries"):
        GradientRollout(HieraForImageClassification(config).eval()).attribute(IMAGE)


def test_windows_of_a_model_that_no_family_knows_are_refused():
    class OwnSwin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = torch.nn.Linear(3, 24)

        def forward(self, images):
            windows = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(-1, 64, 3)
            query, key, value = self.qkv(windows).reshape(-1, 64, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
            return mixed.reshape(len(images), -1, 8).mean(1)

    with pytest.raises(
        UnsupportedAttentionError, match=r"\(64, 2, 64, 4\) for 1 samples.*no family of windowed models"
    ):
        AttentionRollout(OwnSwin().eval(), grid=(8, 8), readout="mean").attribute(IMAGE)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("Levit", "merged between stages by attention with fewer queries than keys"),
        ("MobileViT", "only among pixels that have the same place in each patch"),
        ("MobileViTV2", "read one common context.*Explain a vision transformer"),
        ("Segformer", "keys are merged from many tokens"),
        ("SwiftFormer", "read one common query"),
    ],
)
def test_stages_of_transformers_are_refused_with_their_own_reason(kind, reason):
    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, f"{kind}ForImageClassification")(getattr(transformers, f"{kind}Config")()).eval()

    with pytest.raises(UnsupportedAttentionError, match=reason):
        AttentionRollout(model, readout="mean", grid=(8, 8)).attribute(IMAGE)


@pytest.mark.parametrize("kind", ["Cvt", "Dinat", "Pvt", "PvtV2"])
def test_stages_of_transformers_are_known_by_their_names(kind):
    transformers = pytest.importorskip("transformers")
    known = getattr(transformers, f"{kind}PreTrainedModel")

    assert f"{known.__module__}.{known.__qualname__}" in HF_STAGES.classes
