"""DETR in transformers: an encoder over the patches of a feature map, a decoder of object queries that read it."""

from math import prod
from typing import Any

from attrib_plugin.families.base import Family

_TYPES = {"detr": "Detr", "table_transformer": "TableTransformer"}
_USUAL_STRIDE = 32


def _stride(module: Any) -> int:
    """Pixels between neighbours of the last feature map."""
    whole = getattr(module, "model", module)
    backbone: Any = getattr(getattr(whole, "backbone", None), "model", None)
    if hasattr(backbone, "feature_info"):
        return int(backbone.feature_info.reduction()[-1])
    config: Any = getattr(backbone, "config", None)
    if config is None or config.model_type != "resnet":
        return _USUAL_STRIDE
    # Stem and pooling halve twice, and every stage but the first halves once.
    last = backbone.stage_names.index(backbone.out_features[-1])
    halvings = [2, *([2] if config.downsample_in_first_stage else [1]), 2, 2, 2][1 : last + 1]
    return 4 * prod(halvings)


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    stride = _stride(module)
    # Every halving rounds up.
    return -(-height // stride), -(-width // stride)


HF_DETR = Family(
    name="hf_detr",
    modality="image",
    classes=tuple(f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, stem in _TYPES.items()),
    patch_grid=_patch_grid,
    patch_size=lambda module: (_stride(module), _stride(module)),
    refusal=lambda module: (
        "its object queries read the image through cross-attention, and this method follows self-attention over one "
        "sequence of tokens. EncoderDecoderRelevance(model) follows both, with target=(query, class)."
    ),
)
