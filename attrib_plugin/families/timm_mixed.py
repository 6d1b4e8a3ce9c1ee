"""Convolutional models of timm whose last stages alone attend: refused, since a map would leave out the rest."""

from typing import Any

from attrib_plugin.families.base import Family

_REASON = (
    "only its last blocks attend to tokens, between convolutions and merged patches, so their attention says nothing "
    "about the stages before. Explain a vision transformer with attention over all patches in every layer, or read "
    "the attention itself with capture_attention(model)."
)


# Their names, where they do not say Attention; models of many kinds of blocks have convolutions called attention, too.
_BLOCKS = {"BottleneckAttn", "HaloAttn", "LambdaLayer", "SHMABlock", "SHSA"}
_OF_BLOCKS = {
    # The last two are the whole of what attends in the image towers of CLIP that are residual networks.
    "ByobNet": {"MobileVitBlock", "MobileVitV2Block", "AttentionPool2d", "RotAttentionPool2d"},
    "MobileNetV3": {"MobileAttention"},
}


def _refusal(module: Any) -> str | None:
    # Some models of these types are convolutions alone, and the error for models without attention says so.
    names = {type(part).__name__ for part in module.modules()}
    own = _OF_BLOCKS.get(type(module).__name__, {name for name in names if "Attention" in name})
    return _REASON if names & (_BLOCKS | own) else None


TIMM_MIXED = Family(
    name="timm_mixed",
    modality="image",
    classes=(
        "timm.models.byobnet.ByobNet",
        "timm.models.cpubone.CPUBone",
        "timm.models.efficientformer.EfficientFormer",
        "timm.models.efficientformer_v2.EfficientFormerV2",
        "timm.models.fastvit.FastVit",
        "timm.models.iformer.IFormer",
        "timm.models.lowformer.LowFormer",
        "timm.models.metaformer.MetaFormer",
        "timm.models.mobilenetv3.MobileNetV3",
        "timm.models.nextvit.NextViT",
        "timm.models.shvit.SHViT",
        "timm.models.visformer.Visformer",
    ),
    refusal=_refusal,
)
