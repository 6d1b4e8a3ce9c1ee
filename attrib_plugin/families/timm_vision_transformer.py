"""VisionTransformer of timm: class token, distillation token, registers, or average pooling without any of them."""

from typing import Any

from attrib_plugin.families.base import CLS, MEAN, Family
from attrib_plugin.records import Readout

# The distilled model averages the logits of its two heads in evaluation mode.
_DISTILLED = Readout(prefix=(0.5, 0.5))


def _readout(module: Any) -> Readout | None:
    if any(cls.__name__ == "VisionTransformerDistilled" for cls in type(module).__mro__):
        return _DISTILLED
    if module.global_pool == "token":
        return CLS
    if module.global_pool == "avg" and not getattr(module, "pool_include_prefix", False):
        return MEAN
    return None


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    rows, columns = module.patch_embed.dynamic_feat_size((height, width))
    return rows, columns


def _image_size(module: Any) -> tuple[int, int] | None:
    embed = module.patch_embed
    return tuple(embed.img_size) if embed.img_size is not None and embed.strict_img_size else None


TIMM_VISION_TRANSFORMER = Family(
    name="timm_vision_transformer",
    modality="image",
    classes=("timm.models.vision_transformer.VisionTransformer",),
    readout=_readout,
    prefix_tokens=lambda module: module.num_prefix_tokens,
    patch_grid=_patch_grid,
    image_size=_image_size,
)
