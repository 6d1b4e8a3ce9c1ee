"""ModernBERT and EuroBERT in transformers: the classifier reads the first token or the mean of all."""

from typing import Any

from attrib_plugin.families.base import CLS, MEAN, Family
from attrib_plugin.records import Readout

# EuroBERT's late pooling is the mean over tokens of what each of them scores.
_POOLINGS = {"cls": CLS, "bos": CLS, "mean": MEAN, "late": MEAN}
_CLASSIFIERS = {"ModernBertForSequenceClassification", "EuroBertForSequenceClassification"}


def _readout(module: Any) -> Readout | None:
    if any(cls.__name__ in _CLASSIFIERS for cls in type(module).__mro__):
        return _POOLINGS.get(module.config.classifier_pooling)
    return None


HF_MODERNBERT = Family(
    name="hf_modernbert",
    modality="text",
    classes=(
        "transformers.models.modernbert.modeling_modernbert.ModernBertPreTrainedModel",
        "transformers.models.eurobert.modeling_eurobert.EuroBertPreTrainedModel",
    ),
    readout=_readout,
)
