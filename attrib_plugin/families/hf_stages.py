"""Image models of transformers in stages, and others whose attention is none among patches: refused, with why.

All of them are seen by capture too, but its errors can only name what is odd about a call, not the model's reason.
"""

from typing import Any

from attrib_plugin.families.base import Family

_POOLED_KEYS = "its keys are merged from many tokens, and tokens are merged between stages by convolution"
_NEIGHBOURS = "it attends to the neighbours of every token, in kernels of its own, and merges tokens by convolution"
_SAME_PLACE = "it attends only among pixels that have the same place in each patch, between convolutions"
_COMMON = "all its tokens read one common {}, without attention among them, between convolutions"
_TYPES = {
    "cvt": ("Cvt", "its queries, keys and values are convolved, and tokens are merged between stages by convolution"),
    "dinat": ("Dinat", _NEIGHBOURS),
    "levit": ("Levit", "its tokens are merged between stages by attention with fewer queries than keys"),
    "mobilevit": ("MobileViT", _SAME_PLACE),
    "mobilevitv2": ("MobileViTV2", _COMMON.format("context")),
    "pvt": ("Pvt", _POOLED_KEYS),
    "pvt_v2": ("PvtV2", _POOLED_KEYS),
    "segformer": ("Segformer", _POOLED_KEYS),
    "swiftformer": ("SwiftFormer", _COMMON.format("query")),
}


def _refusal(module: Any) -> str:
    names = {cls.__name__ for cls in type(module).__mro__}
    reason = next(reason for stem, reason in _TYPES.values() if f"{stem}PreTrainedModel" in names)
    return (
        f"{reason}. Explain a vision transformer with attention over all patches, or a Swin model (windows and merged "
        "patches, all linear), or read the attention itself with capture_attention(model)."
    )


HF_STAGES = Family(
    name="hf_stages",
    modality="image",
    classes=tuple(
        f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, (stem, _) in _TYPES.items()
    ),
    refusal=_refusal,
)
