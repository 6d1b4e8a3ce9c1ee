"""CLIP's image tower in transformers: the projection reads the class token, the classifier the mean of patches."""

from typing import Any

from attrib_plugin.families.base import CLS, MEAN, Family, pair


def _vision(module: Any) -> Any:
    return getattr(module.config, "vision_config", module.config)


def _patch_size(module: Any) -> tuple[int, int]:
    return pair(_vision(module).patch_size)


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    rows, columns = _patch_size(module)
    return height // rows, width // columns


HF_CLIP_VISION = Family(
    name="hf_clip_vision",
    modality="image",
    classes=tuple(
        f"transformers.models.clip.modeling_clip.{name}"
        for name in ("CLIPVisionModelWithProjection", "CLIPForImageClassification", "CLIPVisionModel")
    ),
    readouts={"CLIPVisionModelWithProjection": CLS, "CLIPForImageClassification": MEAN},
    prefix_tokens=lambda module: 1,
    patch_grid=_patch_grid,
    patch_size=_patch_size,
    image_size=lambda module: pair(_vision(module).image_size),
)
