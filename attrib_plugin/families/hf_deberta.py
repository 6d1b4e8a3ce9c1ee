"""DeBERTa, DeBERTa v2 and v3 in transformers: attention of their own; the classifier reads the first token."""

from typing import Any

from attrib_plugin.families.base import CLS, Family


def _max_tokens(module: Any) -> int | None:
    # Relative positions are clamped, so that only absolute ones end somewhere.
    limit: int = module.config.max_position_embeddings
    return limit if module.config.position_biased_input else None


HF_DEBERTA = Family(
    name="hf_deberta",
    modality="text",
    classes=(
        "transformers.models.deberta.modeling_deberta.DebertaPreTrainedModel",
        "transformers.models.deberta_v2.modeling_deberta_v2.DebertaV2PreTrainedModel",
    ),
    readouts={"DebertaForSequenceClassification": CLS, "DebertaV2ForSequenceClassification": CLS},
    max_tokens=_max_tokens,
)
