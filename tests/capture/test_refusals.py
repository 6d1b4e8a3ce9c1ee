"""Attention that does not go from every token to every token: a clear error, never a map."""

import pytest
import torch
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention
from attrib_plugin.errors import CaptureError, UnsupportedAttentionError

timm = pytest.importorskip("timm")

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
# Arguments that a user may try to get past the refusal.
GUESSES = [{}, {"grid": (2, 2), "readout": "mean"}, {"grid": (4, 4), "readout": "cls", "prefix_tokens": 1}]

REFUSED = {
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1), "num_heads": (2, 4)}),
    "swinv2": ("swinv2_tiny_window8_256", {"img_size": 64, "depths": (1, 1), "num_heads": (2, 4)}),
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

    with pytest.raises(CaptureError, match=r"attention|tokens"):
        method(model, **options).attribute(IMAGE)

    with torch.no_grad():
        assert_close(model(IMAGE), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("swin", "windowed attention cannot be followed"),
        ("cait", "is pool attention|rows of attention .* do not sum to one"),
        ("hiera", "attention|number of tokens changes"),
        ("pvt_v2", "is cross attention"),
        ("pit", "number of tokens changes between layers"),
        ("parallel", "run side by side"),
    ],
)
def test_the_error_says_why(name, reason):
    with pytest.raises(UnsupportedAttentionError, match=reason):
        AttentionRollout(refused_model(name), readout="mean").attribute(IMAGE)


@pytest.mark.parametrize("fused", [True, False])
def test_differential_attention_is_refused_fused_or_not(fused):
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
