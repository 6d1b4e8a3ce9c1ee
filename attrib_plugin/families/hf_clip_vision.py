"""Image towers of CLIP and MetaCLIP 2 in transformers: projections read the class token, classifiers the patches."""

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
        f"transformers.models.{home}{part}"
        for home in ("clip.modeling_clip.CLIP", "metaclip_2.modeling_metaclip_2.MetaClip2")
        # In transformers 4 the tower inside has a class of its own.
        for part in ("VisionModelWithProjection", "ForImageClassification", "VisionModel", "VisionTransformer")
    ),
    readouts={
        f"{stem}{head}": readout
        for stem in ("CLIP", "MetaClip2")
        for head, readout in (("VisionModelWithProjection", CLS), ("ForImageClassification", MEAN))
    },
    prefix_tokens=lambda module: 1,
    patch_grid=_patch_grid,
    patch_size=_patch_size,
    image_size=lambda module: pair(_vision(module).image_size),
)
