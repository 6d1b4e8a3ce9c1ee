"""BERT and its relatives in transformers: RoBERTa, XLM-R, CamemBERT, ELECTRA. Classifiers read the first token."""

from typing import Any

from attrib_plugin.families.base import CLS, Family

_TYPES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm_roberta": "XLMRoberta",
    "camembert": "Camembert",
    "electra": "Electra",
}


def _max_tokens(module: Any) -> int | None:
    positions: int = module.config.max_position_embeddings
    # RoBERTa-like models number positions from the padding index on.
    if module.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        return positions - int(module.config.pad_token_id) - 1
    return positions


HF_BERT = Family(
    name="hf_bert",
    modality="text",
    classes=tuple(f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, stem in _TYPES.items()),
    readouts={
        f"{stem}{head}": CLS
        for stem in _TYPES.values()
        for head in ("ForSequenceClassification", "ForNextSentencePrediction")
    },
    max_tokens=_max_tokens,
)
