"""Vision towers of language models in timm, with a classifier: Qwen3-VL, DeepSeek, Gemma 4. No prefix, mean of patches.

Where the projector of the language model is kept, it merges neighbouring patches before their mean, so the classifier
still reads all of them alike.
"""

from typing import Any

from attrib_plugin.families.base import MEAN, Family, pair
from attrib_plugin.records import Readout

_TYPES = {"qwen3_vit": "Qwen3Vit", "deepseek_vit": "DeepseekVit", "gemma4_vit": "Gemma4Vit"}


def _readout(module: Any) -> Readout | None:
    return MEAN if module.global_pool == "avg" else None


def _patch_size(module: Any) -> tuple[int, int]:
    tower = getattr(module, "encoder", module)
    return pair(tower.patch_embed.patch_size)


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    rows, columns = _patch_size(module)
    return height // rows, width // columns


TIMM_LANGUAGE_TOWER = Family(
    name="timm_language_tower",
    modality="image",
    classes=tuple(
        f"timm.models.{home}.{stem}{part}" for home, stem in _TYPES.items() for part in ("Classifier", "Encoder")
    ),
    readout=_readout,
    patch_grid=_patch_grid,
    patch_size=_patch_size,
    whole_patches=lambda module: True,
)
