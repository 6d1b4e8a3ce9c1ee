"""BART, T5 and their relatives in transformers: their encoders can be followed, the cross-attention above cannot."""

from typing import Any

from attrib_plugin.families.base import Family

_TYPES = {"bart": "Bart", "mbart": "MBart", "t5": "T5", "mt5": "MT5", "umt5": "UMT5"}
_WITH_DECODER = {
    f"{stem}{head}"
    for stem in _TYPES.values()
    for head in ("Model", "ForConditionalGeneration", "ForSequenceClassification", "ForQuestionAnswering")
}


def _refusal(module: Any) -> str | None:
    if not any(cls.__name__ in _WITH_DECODER for cls in type(module).__mro__):
        return None
    return (
        "what its decoder reads reaches the input through cross-attention, and this method follows self-attention over "
        "one sequence of tokens. Explain the encoder alone, with the tokens that your head reads: "
        'Method(model.get_encoder(), readout="mean"); use a model that is an encoder or a decoder only; or read the '
        "attention itself with capture_attention(model)."
    )


def _max_tokens(module: Any) -> int | None:
    # Relative positions of T5 have no end.
    learned = module.config.model_type in ("bart", "mbart")
    return int(module.config.max_position_embeddings) if learned else None


HF_ENCODER_DECODER = Family(
    name="hf_encoder_decoder",
    modality="text",
    classes=tuple(f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, stem in _TYPES.items()),
    refusal=_refusal,
    max_tokens=_max_tokens,
)
