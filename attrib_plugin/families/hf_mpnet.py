"""MPNet in transformers: the classifier reads the first token; positions are numbered from 2 on."""

from attrib_plugin.families.base import CLS, Family

HF_MPNET = Family(
    name="hf_mpnet",
    modality="text",
    classes=("transformers.models.mpnet.modeling_mpnet.MPNetPreTrainedModel",),
    readouts={"MPNetForSequenceClassification": CLS},
    max_tokens=lambda module: module.config.max_position_embeddings - 2,
)
