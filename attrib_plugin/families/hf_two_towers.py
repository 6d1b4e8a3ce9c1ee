"""CLIP and SigLIP with both towers in transformers: one tower at a time, or the score of an image against a text."""

from typing import Any

from attrib_plugin.families.base import CLS, Family, Tower, end_of_text


def _refusal(module: Any) -> str:
    return (
        "it has a tower for images and one for text. ImageTextRelevance(model) explains the score of a pair. For one "
        "tower, name the part whose attention is followed and what is read from it: "
        'Method(function, model=model.vision_model, readout="cls"), without readout= for SigLIP.'
    )


HF_CLIP_TOWERS = Family(
    name="hf_clip_towers",
    modality="any",
    classes=("transformers.models.clip.modeling_clip.CLIPModel",),
    refusal=_refusal,
    towers=(
        Tower("vision_model", "pixel_values", readout=lambda module: CLS),
        Tower(
            "text_model", "input_ids", read_positions=lambda module, ids: end_of_text(module.config.text_config, ids)
        ),
    ),
)

HF_SIGLIP_TOWERS = Family(
    name="hf_siglip_towers",
    modality="any",
    classes=("transformers.models.siglip.modeling_siglip.SiglipModel",),
    refusal=_refusal,
    towers=(Tower("vision_model", "pixel_values"), Tower("text_model", "input_ids")),
)
