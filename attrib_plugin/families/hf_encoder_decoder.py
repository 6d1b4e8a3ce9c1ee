"""BART, T5 and their relatives in transformers: an encoder, and a decoder that reads it through cross-attention."""

from typing import Any

import torch
from torch import Tensor

from attrib_plugin.families.base import Family

_TYPES = {
    "bart": "Bart",
    "mbart": "MBart",
    "plbart": "PLBart",
    "marian": "Marian",
    "pegasus": "Pegasus",
    "blenderbot": "Blenderbot",
    "blenderbot_small": "BlenderbotSmall",
    "m2m_100": "M2M100",
    "t5": "T5",
    "mt5": "MT5",
    "umt5": "UMT5",
}
_WITH_DECODER = {"Model", "MTModel", "ForConditionalGeneration", "ForSequenceClassification", "ForQuestionAnswering"}
# These make positions as they need them, or relative ones without an end.
_WITHOUT_END = ("m2m_100", "t5", "mt5", "umt5")


def _head(module: Any) -> str | None:
    """The end of the class name of a model that has a decoder."""
    names = (cls.__name__.removeprefix(stem) for cls in type(module).__mro__ for stem in _TYPES.values())
    return next((name for name in names if name in _WITH_DECODER), None)


def _refusal(module: Any) -> str | None:
    if _head(module) is None:
        return None
    return (
        "what its decoder reads reaches the input through cross-attention, and this method follows self-attention over "
        "one sequence of tokens. EncoderDecoderRelevance(model) follows both. Or explain the encoder alone, with the "
        'tokens that your head reads: Method(model.get_encoder(), readout="mean"); or read the attention itself with '
        "capture_attention(model)."
    )


def _read_positions(module: Any, inputs: Tensor) -> Tensor | None:
    """The decoder token above the last end-of-text id of the encoder's ids, which classifiers read."""
    if _head(module) != "ForSequenceClassification" or inputs.is_floating_point():
        return None
    end = torch.eq(inputs, module.config.eos_token_id)
    return inputs.shape[1] - 1 - end.flip(-1).int().argmax(-1)


def _max_tokens(module: Any) -> int | None:
    config = module.config
    return None if config.model_type in _WITHOUT_END else int(config.max_position_embeddings)


HF_ENCODER_DECODER = Family(
    name="hf_encoder_decoder",
    modality="text",
    classes=tuple(f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, stem in _TYPES.items()),
    refusal=_refusal,
    max_tokens=_max_tokens,
    read_positions=_read_positions,
)
