"""VisionTransformer of torchvision: one class token, fixed image size."""

from typing import Any

from attrib_plugin.families.base import CLS, Family


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    return height // module.patch_size, width // module.patch_size


TORCHVISION_VISION_TRANSFORMER = Family(
    name="torchvision_vision_transformer",
    modality="image",
    classes=("torchvision.models.vision_transformer.VisionTransformer",),
    readouts={"VisionTransformer": CLS},
    prefix_tokens=lambda module: 1,
    patch_grid=_patch_grid,
    patch_size=lambda module: (module.patch_size, module.patch_size),
    image_size=lambda module: (module.image_size, module.image_size),
)
