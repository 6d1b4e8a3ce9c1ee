"""Swin and Swin v2 in torchvision: windows, merged patches, mean of the last tokens; images of any size."""

from typing import Any

from attrib_plugin.families.base import MEAN, Family


def _patch_size(module: Any) -> tuple[int, int]:
    height, width = module.features[0][0].kernel_size
    return height, width


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    patch_height, patch_width = _patch_size(module)
    return height // patch_height, width // patch_width


TORCHVISION_SWIN = Family(
    name="torchvision_swin",
    modality="image",
    classes=("torchvision.models.swin_transformer.SwinTransformer",),
    readouts={"SwinTransformer": MEAN},
    patch_grid=_patch_grid,
    patch_size=_patch_size,
    windowed=True,
)
