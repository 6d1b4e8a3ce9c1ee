"""ViT in transformers: one class token, fixed image size unless positions are interpolated."""

from typing import Any

from attrib_plugin.families.base import CLS, Family


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    patch_height, patch_width = _pair(module.config.patch_size)
    return height // patch_height, width // patch_width


HF_VIT = Family(
    name="hf_vit",
    modality="image",
    classes=("transformers.models.vit.modeling_vit.ViTPreTrainedModel",),
    readouts={"ViTForImageClassification": CLS},
    prefix_tokens=lambda module: 1,
    patch_grid=_patch_grid,
    image_size=lambda module: _pair(module.config.image_size),
)
