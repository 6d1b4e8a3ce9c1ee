"""Swin (also of Donut) and Swin v2 in transformers: windows, merged patches, mean of the last tokens; any image size.

An image that is no whole number of patches is padded. Tables of positions, where a model has them, fix the size.
"""

from typing import Any

from attrib_plugin.families.base import MEAN, Family, config_pair


def _patch_grid(module: Any, height: int, width: int) -> tuple[int, int]:
    patch_height, patch_width = config_pair("patch_size")(module)
    return -(-height // patch_height), -(-width // patch_width)


def _image_size(module: Any) -> tuple[int, int] | None:
    return config_pair("image_size")(module) if module.config.use_absolute_embeddings else None


def _smallest_image(module: Any) -> tuple[int, int] | None:
    config = module.config
    if config.model_type != "swin":  # Swin v2 computes its position bias for windows of any size
        return None
    # The map of the last stage, halved and rounded up at each merging, must hold one window.
    patches = (config.window_size - 1) * 2 ** (len(config.depths) - 1)
    height, width = config_pair("patch_size")(module)
    return patches * height + 1, patches * width + 1


HF_SWIN = Family(
    name="hf_swin",
    modality="image",
    classes=(
        "transformers.models.swin.modeling_swin.SwinPreTrainedModel",
        "transformers.models.swinv2.modeling_swinv2.Swinv2PreTrainedModel",
        "transformers.models.donut.modeling_donut_swin.DonutSwinPreTrainedModel",
    ),
    readouts=dict.fromkeys(
        ("SwinForImageClassification", "Swinv2ForImageClassification", "DonutSwinForImageClassification"), MEAN
    ),
    patch_grid=_patch_grid,
    patch_size=config_pair("patch_size"),
    image_size=_image_size,
    smallest_image=_smallest_image,
    windowed=True,
)
