"""Swin, Swin v2 and Swin v2 CR in timm: windows and merged patches; the head pools the last tokens."""

from typing import Any

from attrib_plugin.families.base import MEAN, Family
from attrib_plugin.records import Readout


def _readout(module: Any) -> Readout | None:
    # Maximum pooling reads another token for each feature, so no weights over tokens say what is read.
    return MEAN if module.head.global_pool.pool_type in ("avg", "fastavg") else None


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    patch_height, patch_width = module.patch_embed.patch_size
    return height // patch_height, width // patch_width


def _patch_size(module: Any) -> tuple[int, int]:
    height, width = module.patch_embed.patch_size
    return height, width


def _image_size(module: Any) -> tuple[int, int] | None:
    height, width = module.patch_embed.img_size
    return (height, width) if module.patch_embed.strict_img_size else None


def _whole_patches(module: Any) -> bool:
    # The patch embedding of Swin v2 CR is one of its own, which leaves the rest unseen.
    return hasattr(module.patch_embed, "dynamic_img_pad") and not module.patch_embed.strict_img_size


TIMM_SWIN = Family(
    name="timm_swin",
    modality="image",
    classes=(
        "timm.models.swin_transformer.SwinTransformer",
        "timm.models.swin_transformer_v2.SwinTransformerV2",
        "timm.models.swin_transformer_v2_cr.SwinTransformerV2Cr",
    ),
    readout=_readout,
    patch_grid=_patch_grid,
    patch_size=_patch_size,
    image_size=_image_size,
    whole_patches=_whole_patches,
    windowed=True,
)
