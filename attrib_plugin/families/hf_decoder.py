"""Decoders of transformers (GPT-2, Llama, Mistral, Qwen, Gemma, ...): classifiers read the last real token.

Families whose layers are not all attention over tokens (Mamba, linear attention, differential attention) are left out:
their maps would miss a part of the model.
"""

from typing import Any

import torch
from torch import Tensor

from attrib_plugin.families.base import Family

_TYPES = {
    "arcee": "Arcee", "axk1": "AXK1", "axk2": "AXK2", "biogpt": "BioGpt", "bloom": "Bloom",
    "cohere_compass": "CohereCompass", "ctrl": "CTRL", "deepseek_v2": "DeepseekV2", "deepseek_v3": "DeepseekV3",
    "doge": "Doge", "exaone4": "Exaone4", "falcon": "Falcon", "gemma": "Gemma", "gemma2": "Gemma2",
    "gemma3": "Gemma3", "glm": "Glm", "glm4": "Glm4", "gpt2": "GPT2", "gpt_bigcode": "GPTBigCode",
    "gpt_neo": "GPTNeo", "gpt_neox": "GPTNeoX", "gptj": "GPTJ", "helium": "Helium",
    "hunyuan_v1_dense": "HunYuanDenseV1", "hunyuan_v1_moe": "HunYuanMoEV1", "jetmoe": "JetMoe", "llama": "Llama",
    "minicpm3": "MiniCPM3", "ministral": "Ministral", "ministral3": "Ministral3", "mistral": "Mistral",
    "mistral4": "Mistral4", "mixtral": "Mixtral", "modernbert_decoder": "ModernBertDecoder", "mpt": "Mpt",
    "nemotron": "Nemotron", "olmo": "Olmo", "olmo2": "Olmo2", "olmo3": "Olmo3", "openai": "OpenAIGPT", "opt": "OPT",
    "persimmon": "Persimmon", "phi": "Phi", "phi3": "Phi3", "phimoe": "Phimoe", "qwen2": "Qwen2",
    "qwen2_moe": "Qwen2Moe", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe", "seed_oss": "SeedOss", "smollm3": "SmolLM3",
    "stablelm": "StableLm", "starcoder2": "Starcoder2",
}  # fmt: skip
_CLASSIFIERS = {f"{stem}ForSequenceClassification" for stem in (*_TYPES.values(), "Gemma3Text", "CohereCompassText")}
_LIMITED = ("biogpt", "ctrl", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "openai-gpt", "opt")


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
    config = module.config
    if config.model_type == "mpt":
        return int(config.max_seq_len)
    # Rotary and linear positions have no end, except from a table.
    return int(config.max_position_embeddings) if config.model_type in _LIMITED else None


HF_DECODER = Family(
    name="hf_decoder",
    modality="text",
    classes=tuple(f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, stem in _TYPES.items()),
    read_positions=_last_token,
    max_tokens=_max_tokens,
)
