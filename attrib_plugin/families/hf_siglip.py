"""SigLIP's image tower in transformers: patches only, attention pooling, or the mean of patches in the classifier."""

from typing import Any

from attrib_plugin.families.base import MEAN, POOL, Family, pair
from attrib_plugin.records import Readout

# In transformers 4 the tower inside has a class of its own.
_TOWERS = ("SiglipVisionModel", "SiglipVisionTransformer")


def _vision(module: Any) -> Any:
    return getattr(module.config, "vision_config", module.config)


def _readout(module: Any) -> Readout | None:
    # Before transformers 5 the setting is there only where it is switched off.
    has_head = getattr(_vision(module), "vision_use_head", True)
    return POOL if type(module).__name__ in _TOWERS and has_head else None


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    rows, columns = _patch_size(module)
    return height // rows, width // columns


def _patch_size(module: Any) -> tuple[int, int]:
    return pair(_vision(module).patch_size)


HF_SIGLIP = Family(
    name="hf_siglip",
    modality="image",
    classes=tuple(
        f"transformers.models.siglip.modeling_siglip.{name}" for name in ("SiglipForImageClassification", *_TOWERS)
    ),
    readouts={"SiglipForImageClassification": MEAN},
    readout=_readout,
    patch_grid=_patch_grid,
    patch_size=_patch_size,
    image_size=lambda module: pair(_vision(module).image_size),
)
