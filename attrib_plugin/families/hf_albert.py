"""ALBERT in transformers: one layer run several times; the classifier reads the first token."""

from attrib_plugin.families.base import CLS, Family

HF_ALBERT = Family(
    name="hf_albert",
    modality="text",
    classes=("transformers.models.albert.modeling_albert.AlbertPreTrainedModel",),
    readouts={"AlbertForSequenceClassification": CLS},
    max_tokens=lambda module: module.config.max_position_embeddings,
)
