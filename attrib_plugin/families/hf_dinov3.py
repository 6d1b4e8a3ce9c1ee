"""DINOv3 ViT in transformers: a class token, registers, rotary positions, any image size.

Transformers has no classifier on it; what a head around it reads is for the user to say.
"""

from attrib_plugin.families.base import Family, config_pair, config_patches

HF_DINOV3 = Family(
    name="hf_dinov3",
    modality="image",
    classes=("transformers.models.dinov3_vit.modeling_dinov3_vit.DINOv3ViTPreTrainedModel",),
    prefix_tokens=lambda module: 1 + module.config.num_register_tokens,
    patch_grid=config_patches,
    patch_size=config_pair("patch_size"),
)
