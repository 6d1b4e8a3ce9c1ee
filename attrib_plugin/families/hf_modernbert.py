"""ModernBERT and its relatives in transformers: the classifier reads the first token or the mean of all.

ModernVBert and UltraVBert are given texts here; their towers of images are seen only where images are given too.
"""

from typing import Any

from attrib_plugin.families.base import CLS, MEAN, Family
from attrib_plugin.records import Readout

# EuroBERT's late pooling is the mean over tokens of what each of them scores.
_POOLINGS = {"cls": CLS, "bos": CLS, "mean": MEAN, "late": MEAN}
_TYPES = {
    "eurobert": "EuroBert",
    "modernbert": "ModernBert",
    "modernvbert": "ModernVBert",
    "ultrabert": "Ultrabert",
    "ultravbert": "UltraVBert",
}
_CLASSIFIERS = {f"{stem}ForSequenceClassification" for stem in _TYPES.values()}


def _readout(module: Any) -> Readout | None:
    if any(cls.__name__ in _CLASSIFIERS for cls in type(module).__mro__):
        return _POOLINGS.get(module.config.classifier_pooling)
    return None


HF_MODERNBERT = Family(
    name="hf_modernbert",
    modality="text",
    classes=tuple(f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, stem in _TYPES.items()),
    readout=_readout,
)
