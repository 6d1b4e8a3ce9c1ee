"""ModernBERT in transformers: local and global layers; the classifier reads the first token or the mean of all."""

from typing import Any

from attrib_plugin.families.base import CLS, MEAN, Family
from attrib_plugin.records import Readout

_POOLINGS = {"cls": CLS, "mean": MEAN}


def _readout(module: Any) -> Readout | None:
    if any(cls.__name__ == "ModernBertForSequenceClassification" for cls in type(module).__mro__):
        return _POOLINGS.get(module.config.classifier_pooling)
    return None


HF_MODERNBERT = Family(
    name="hf_modernbert",
    modality="text",
    classes=("transformers.models.modernbert.modeling_modernbert.ModernBertPreTrainedModel",),
    readout=_readout,
)
