"""DistilBERT in transformers: the classifier reads the first token."""

from attrib_plugin.families.base import CLS, Family

HF_DISTILBERT = Family(
    name="hf_distilbert",
    modality="text",
    classes=("transformers.models.distilbert.modeling_distilbert.DistilBertPreTrainedModel",),
    readouts={"DistilBertForSequenceClassification": CLS},
    max_tokens=lambda module: module.config.max_position_embeddings,
)
