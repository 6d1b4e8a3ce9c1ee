"""DeiT in transformers: a class token and a distillation token, whose logits the model with a teacher averages."""

from attrib_plugin.families.base import CLS, Family, config_pair, config_patches
from attrib_plugin.records import Readout

HF_DEIT = Family(
    name="hf_deit",
    modality="image",
    classes=("transformers.models.deit.modeling_deit.DeiTPreTrainedModel",),
    readouts={
        "DeiTForImageClassification": CLS,
        "DeiTForImageClassificationWithTeacher": Readout(prefix=(0.5, 0.5)),
    },
    prefix_tokens=lambda module: 2,
    patch_grid=config_patches,
    patch_size=config_pair("patch_size"),
    image_size=config_pair("image_size"),
)
