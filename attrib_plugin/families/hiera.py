"""Hiera in timm and transformers: refused, because its stages begin with a maximum over tokens."""

from typing import Any

from attrib_plugin.families.base import Family


def _refusal(module: Any) -> str:
    return (
        "each of its stages begins with the largest of four queries, feature by feature, which attend to tokens that "
        "are not merged, while the residual path takes another maximum. So the residual path is no identity and "
        "attention goes from no token to itself, which the methods here multiply. Explain a Swin model in its place "
        "(windows and merged patches, all linear), or a vision transformer with attention over all patches."
    )


HIERA = Family(
    name="hiera",
    modality="image",
    classes=("timm.models.hiera.Hiera", "transformers.models.hiera.modeling_hiera.HieraPreTrainedModel"),
    refusal=_refusal,
)
