"""Decoders of transformers (GPT-2, Llama, Mistral, Qwen, Gemma, ...): classifiers read the last real token.

Families whose layers are not all attention over tokens (Mamba, linear attention, differential attention) are left out:
their maps would miss a part of the model.
"""

from typing import Any

import torch
from torch import Tensor

from attrib_plugin.families.base import Family

_TYPES = {
    "gpt2": "GPT2",
    "gpt_bigcode": "GPTBigCode",
    "gpt_neox": "GPTNeoX",
    "opt": "OPT",
    "bloom": "Bloom",
    "falcon": "Falcon",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "mixtral": "Mixtral",
    "qwen2_moe": "Qwen2Moe",
    "qwen3_moe": "Qwen3Moe",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3": "Gemma3",
    "phi": "Phi",
    "phi3": "Phi3",
    "starcoder2": "Starcoder2",
    "stablelm": "StableLm",
    "olmo": "Olmo",
    "smollm3": "SmolLM3",
    "glm": "Glm",
    "glm4": "Glm4",
}
_CLASSIFIERS = {f"{stem}ForSequenceClassification" for stem in (*_TYPES.values(), "Gemma3Text")}
_LEARNED_POSITIONS = ("gpt2", "gpt_bigcode", "opt")


def _last_token(module: Any, inputs: Tensor) -> Tensor | None:
    """The position that the classifier of transformers picks: by the padding id, not by the mask."""
    if not any(cls.__name__ in _CLASSIFIERS for cls in type(module).__mro__):
        return None
    padding_id = module.config.get_text_config().pad_token_id
    positions = torch.arange(inputs.shape[1], device=inputs.device)
    if padding_id is None or inputs.is_floating_point():
        return positions[-1].expand(len(inputs))
    last: Tensor = (positions * (inputs != padding_id)).argmax(-1)
    return last


def _max_tokens(module: Any) -> int | None:
    # Rotary and linear positions have no end.
    learned = module.config.model_type in _LEARNED_POSITIONS
    return int(module.config.max_position_embeddings) if learned else None


HF_DECODER = Family(
    name="hf_decoder",
    modality="text",
    classes=tuple(f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, stem in _TYPES.items()),
    read_positions=_last_token,
    max_tokens=_max_tokens,
)
