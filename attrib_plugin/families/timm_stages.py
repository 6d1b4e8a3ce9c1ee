"""Models of timm in stages, and others whose attention is none from every token to every token: refused, with why.

All of them are seen by capture too, but its errors can only name what is odd about a call, not the model's reason.
"""

from typing import Any

from attrib_plugin.families.base import Family

_MERGED = "its tokens are merged between stages by convolution or pooling, which leaves no shares to follow"
_POOLED_KEYS = "its keys are pooled from many tokens, and tokens are merged between stages"
_WINDOWS = "it attends within windows, and merges tokens by convolution, which leaves no shares to follow as in Swin"
_TYPES = {
    "cait.Cait": (
        "its heads are mixed after the softmax, so that rows are no shares of tokens, and its class token reads the "
        "patches in layers of its own"
    ),
    "coat.CoaT": "its attention is factorised: the softmax is over tokens for each channel, not for each token",
    "convit.ConVit": "its class token joins the patches after the first layers, which attend among the patches alone",
    "crossvit.CrossVit": "two branches with patches of different sizes read each other's class tokens",
    "csatv2.CSATv2": _MERGED,
    "davit.DaVit": "every second attention is between channels, the others within windows",
    "edgenext.EdgeNeXt": "its attention is between channels, not between tokens, beside convolutions",
    "efficientvit_msra.EfficientVitMsra": _WINDOWS,
    "gcvit.GlobalContextVit": _WINDOWS,
    "hieradet_sam2.HieraDet": _POOLED_KEYS,
    "levit.Levit": _MERGED,
    "maxxvit.MaxxVit": "convolution and attention alternate, over windows, strided grids or merged tokens",
    "mvitv2.MultiScaleVit": _POOLED_KEYS,
    "nest.Nest": _WINDOWS,
    "pit.PoolingVisionTransformer": _MERGED,
    "pvt_v2.PyramidVisionTransformerV2": _POOLED_KEYS,
    "tiny_vit.TinyVit": _WINDOWS,
    "tnt.TNT": "it attends among the pixels of each patch too, beside the attention among patches",
    "twins.Twins": _POOLED_KEYS,
    "vision_transformer_sam.VisionTransformerSAM": "most of its layers attend within windows of its own making",
    "volo.VOLO": "its first stage weighs neighbours by each token alone (outlook attention), without queries and keys",
    "xcit.Xcit": "its attention is between channels, not between tokens",
}


def _refusal(module: Any) -> str | None:
    names = {f"{cls.__module__.rpartition('.')[2]}.{cls.__qualname__}" for cls in type(module).__mro__}
    if "vision_transformer_sam.VisionTransformerSAM" in names and not _has_windows(module):
        return None
    reason = next(reason for name, reason in _TYPES.items() if name in names)
    return (
        f"{reason}. Explain a vision transformer with attention over all patches, or a Swin model (windows and merged "
        "patches, all linear), or read the attention itself with capture_attention(model)."
    )


def _has_windows(module: Any) -> bool:
    return any(getattr(block, "window_size", 0) for block in module.blocks)


TIMM_STAGES = Family(
    name="timm_stages", modality="image", classes=tuple(f"timm.models.{name}" for name in _TYPES), refusal=_refusal
)
