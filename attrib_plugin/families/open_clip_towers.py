"""Models of open_clip with their two towers, and its own image tower."""

from typing import Any

import torch
from torch import Tensor

from attrib_plugin.families.base import CLS, MEAN, Family, Tower, pair
from attrib_plugin.records import Readout


def _image_readout(module: Any) -> Readout | None:
    if getattr(module, "attn_pool", None) is not None:
        return None
    return {"tok": CLS, "avg": MEAN}.get(module.pool_type)


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    rows, columns = pair(module.patch_size)
    return height // rows, width // columns


def _text_position(pool: str, ids: Tensor, end: int | None) -> Tensor | None:
    if pool == "eos":
        return torch.eq(ids, -1 if end is None else end).int().argmax(-1)
    if pool == "argmax":
        return ids.argmax(-1)
    position = {"first": 0, "last": ids.shape[1] - 1}.get(pool)
    return None if position is None else torch.full((len(ids),), position, device=ids.device)


def _refusal(module: Any) -> str:
    return (
        "it has a tower for images and one for text. ImageTextRelevance(model) explains the score of a pair. For one "
        "tower, name it: Method(function, model=model.visual)."
    )


_VISUAL = Tower("visual", "image")

OPEN_CLIP_VISION = Family(
    name="open_clip_vision",
    modality="image",
    classes=("open_clip.transformer.VisionTransformer",),
    readout=_image_readout,
    prefix_tokens=lambda module: 1,
    patch_grid=_patch_grid,
    patch_size=lambda module: pair(module.patch_size),
    image_size=lambda module: pair(module.image_size),
)

OPEN_CLIP_TOWERS = Family(
    name="open_clip_towers",
    modality="any",
    classes=("open_clip.model.CLIP",),
    refusal=_refusal,
    towers=(
        _VISUAL,
        Tower(
            "transformer",
            "text",
            read_positions=lambda module, ids: _text_position(
                module.text_pool_type, ids, getattr(module, "text_eos_id", None)
            ),
        ),
    ),
)

OPEN_CLIP_CUSTOM_TOWERS = Family(
    name="open_clip_custom_towers",
    modality="any",
    classes=("open_clip.model.CustomTextCLIP",),
    refusal=_refusal,
    towers=(
        _VISUAL,
        Tower(
            "text",
            "text",
            read_positions=lambda module, ids: _text_position(
                getattr(module.text, "pool_type", ""), ids, getattr(module.text, "eos_id", None)
            ),
        ),
    ),
)
