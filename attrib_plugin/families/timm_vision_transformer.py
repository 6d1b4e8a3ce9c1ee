"""Plain vision transformers of timm: ViT, DeiT, DINOv2, SigLIP, BEiT, EVA-02, DINOv3, NaFlexViT.

They share the attributes that say what tokens mean: ``num_prefix_tokens``, ``global_pool``, and ``patch_embed`` or
``embeds``.
"""

from typing import Any

from attrib_plugin.families.base import CLS, MEAN, POOL, Family
from attrib_plugin.records import Readout

# The distilled model averages the logits of its two heads in evaluation mode.
_DISTILLED = Readout(prefix=(0.5, 0.5))
_EVERY = Readout(every=1.0)
# Layers with several attentions that all read the same tokens, where rollout needs one after another.
_SIDE_BY_SIDE = ("ParallelThingsBlock", "DiffAttention")


def _readout(module: Any) -> Readout | None:
    if any(cls.__name__ == "VisionTransformerDistilled" for cls in type(module).__mro__):
        return _DISTILLED
    # Maximum pooling reads another token for each feature, so no weights over tokens say what is read.
    average = _EVERY if getattr(module, "pool_include_prefix", False) else MEAN
    return {"token": CLS, "avg": average, "map": POOL}.get(module.global_pool)


def _refusal(module: Any) -> str | None:
    found = {type(part).__name__ for part in module.modules()}
    names = ", ".join(name for name in _SIDE_BY_SIDE if name in found)
    return f"several attentions of a layer run side by side ({names}), not one after another." if names else None


def _embedding(module: Any) -> Any:
    return module.embeds if hasattr(module, "embeds") else module.patch_embed


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    rows, columns = _embedding(module).dynamic_feat_size((height, width))
    return rows, columns


def _patch_size(module: Any) -> tuple[int, int]:
    height, width = _embedding(module).feat_ratio(as_scalar=False)
    return height, width


def _image_size(module: Any) -> tuple[int, int] | None:
    embedding = _embedding(module)
    size = getattr(embedding, "img_size", None)
    return (size[0], size[1]) if size is not None and embedding.strict_img_size else None


def _whole_patches(module: Any) -> bool:
    embedding = _embedding(module)
    if embedding.dynamic_img_pad:
        return False
    # Patches cut by a view must come out even; a convolution leaves the rest unseen, unless timm checks.
    checked = getattr(embedding, "img_size", None) is not None and not embedding.strict_img_size
    return checked or getattr(embedding, "is_linear", False)


TIMM_VISION_TRANSFORMER = Family(
    name="timm_vision_transformer",
    modality="image",
    classes=(
        "timm.models.vision_transformer.VisionTransformer",
        "timm.models.vision_transformer_relpos.VisionTransformerRelPos",
        "timm.models.beit.Beit",
        "timm.models.eva.Eva",
        "timm.models.naflexvit.NaFlexVit",
    ),
    readout=_readout,
    prefix_tokens=lambda module: module.num_prefix_tokens,
    patch_grid=_patch_grid,
    patch_size=_patch_size,
    image_size=_image_size,
    whole_patches=_whole_patches,
    refusal=_refusal,
)
