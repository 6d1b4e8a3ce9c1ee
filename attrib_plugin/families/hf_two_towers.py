"""CLIP and SigLIP with both towers in transformers: refused, because one tower at a time is explained."""

from attrib_plugin.families.base import Family

HF_TWO_TOWERS = Family(
    name="hf_two_towers",
    modality="any",
    classes=(
        "transformers.models.clip.modeling_clip.CLIPModel",
        "transformers.models.siglip.modeling_siglip.SiglipModel",
    ),
    refusal=lambda module: (
        "it has a tower for images and one for text. Name the tower whose attention is followed and what is read "
        'from it: Method(function, model=model.vision_model, readout="cls"), without readout= for SigLIP.'
    ),
)
