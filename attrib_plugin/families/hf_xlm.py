"""XLM and FlauBERT in transformers: the classifier's summary reads the first token, unless configured otherwise."""

from typing import Any

from attrib_plugin.families.base import CLS, Family
from attrib_plugin.records import Readout

_TYPES = {"flaubert": "Flaubert", "xlm": "XLM"}


def _readout(module: Any) -> Readout | None:
    is_classifier = type(module).__name__.endswith("ForSequenceClassification")
    return CLS if is_classifier and module.config.summary_type == "first" else None


HF_XLM = Family(
    name="hf_xlm",
    modality="text",
    classes=tuple(f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, stem in _TYPES.items()),
    readout=_readout,
    max_tokens=lambda module: module.config.max_position_embeddings,
)
