"""I-JEPA in transformers: patches only, and a classifier that reads their mean."""

from attrib_plugin.families.base import MEAN, Family, config_pair, config_patches

HF_IJEPA = Family(
    name="hf_ijepa",
    modality="image",
    classes=("transformers.models.ijepa.modeling_ijepa.IJepaPreTrainedModel",),
    readouts={"IJepaForImageClassification": MEAN},
    patch_grid=config_patches,
    patch_size=config_pair("patch_size"),
    image_size=config_pair("image_size"),
)
