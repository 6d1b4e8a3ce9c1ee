"""ViT-MAE in transformers: refused, because it masks and shuffles patches at random."""

from attrib_plugin.families.base import Family

HF_VIT_MAE = Family(
    name="hf_vit_mae",
    modality="image",
    classes=("transformers.models.vit_mae.modeling_vit_mae.ViTMAEPreTrainedModel",),
    refusal=lambda module: (
        "it masks and shuffles patches at random, also with mask_ratio=0, so its tokens have no place in the image. "
        "Load the weights of the encoder into ViTForImageClassification."
    ),
)
