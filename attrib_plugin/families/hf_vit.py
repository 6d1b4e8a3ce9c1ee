"""ViT and ViT-MSN in transformers: one class token, fixed image size unless positions are interpolated."""

from attrib_plugin.families.base import CLS, Family, config_pair, config_patches

HF_VIT = Family(
    name="hf_vit",
    modality="image",
    classes=(
        "transformers.models.vit.modeling_vit.ViTPreTrainedModel",
        "transformers.models.vit_msn.modeling_vit_msn.ViTMSNPreTrainedModel",
    ),
    readouts={"ViTForImageClassification": CLS, "ViTMSNForImageClassification": CLS},
    prefix_tokens=lambda module: 1,
    patch_grid=config_patches,
    patch_size=config_pair("patch_size"),
    image_size=config_pair("image_size"),
)
