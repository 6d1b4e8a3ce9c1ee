"""Convolutional models of timm whose last stages alone attend: refused, since a map would leave out the rest."""

from typing import Any

from attrib_plugin.families.base import Family

_REASON = (
    "only its last blocks attend to tokens, between convolutions and merged patches, so their attention says nothing "
    "about the stages before. Explain a vision transformer with attention over all patches in every layer, or read "
    "the attention itself with capture_attention(model)."
)


def _refusal(module: Any) -> str | None:
    # The smallest FastViTs are convolutions alone, and the error for models without attention says so.
    attends = any("Attention" in type(part).__name__ for part in module.modules())
    return _REASON if attends else None


TIMM_MIXED = Family(
    name="timm_mixed",
    modality="image",
    classes=(
        "timm.models.cpubone.CPUBone",
        "timm.models.efficientformer.EfficientFormer",
        "timm.models.efficientformer_v2.EfficientFormerV2",
        "timm.models.fastvit.FastVit",
        "timm.models.lowformer.LowFormer",
    ),
    refusal=_refusal,
)
