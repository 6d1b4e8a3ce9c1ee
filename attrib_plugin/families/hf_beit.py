"""BEiT and Data2Vec-Vision in transformers: a class token, and a classifier that reads the mean of the patches."""

from typing import Any

from attrib_plugin.families.base import CLS, MEAN, Family, config_pair, config_patches
from attrib_plugin.records import Readout


def _readout(module: Any) -> Readout | None:
    if not type(module).__name__.endswith("ForImageClassification"):
        return None
    return MEAN if module.config.use_mean_pooling else CLS


HF_BEIT = Family(
    name="hf_beit",
    modality="image",
    classes=(
        "transformers.models.beit.modeling_beit.BeitPreTrainedModel",
        "transformers.models.data2vec.modeling_data2vec_vision.Data2VecVisionPreTrainedModel",
    ),
    readout=_readout,
    prefix_tokens=lambda module: 1,
    patch_grid=config_patches,
    patch_size=config_pair("patch_size"),
    image_size=config_pair("image_size"),
)
