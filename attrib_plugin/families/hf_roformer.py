"""RoFormer in transformers: rotary positions from a table; the classifier reads the first token."""

from attrib_plugin.families.base import CLS, Family

HF_ROFORMER = Family(
    name="hf_roformer",
    modality="text",
    classes=("transformers.models.roformer.modeling_roformer.RoFormerPreTrainedModel",),
    readouts={"RoFormerForSequenceClassification": CLS},
    max_tokens=lambda module: module.config.max_position_embeddings,
)
