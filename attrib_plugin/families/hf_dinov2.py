"""DINOv2 in transformers, with or without registers: the classifier reads class token and patch mean side by side."""

from attrib_plugin.families.base import Family, config_pair, config_patches
from attrib_plugin.records import Readout

# The linear head takes [class token, mean of patches]; each half is given one half of the read-out.
_CLS_AND_MEAN = Readout(prefix=(0.5,), rest=0.5)


HF_DINOV2 = Family(
    name="hf_dinov2",
    modality="image",
    classes=(
        "transformers.models.dinov2.modeling_dinov2.Dinov2PreTrainedModel",
        "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersPreTrainedModel",
    ),
    readouts={
        "Dinov2ForImageClassification": _CLS_AND_MEAN,
        "Dinov2WithRegistersForImageClassification": _CLS_AND_MEAN,
    },
    prefix_tokens=lambda module: 1 + getattr(module.config, "num_register_tokens", 0),
    patch_grid=config_patches,
    patch_size=config_pair("patch_size"),
)
