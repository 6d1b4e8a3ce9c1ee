"""Models of transformers that mix tokens in other ways beside attention: refused, since a map would leave that out."""

from typing import Any

from attrib_plugin.families.base import Family

_CONVOLUTION = "half of every layer mixes neighbouring tokens by convolution, beside its attention heads"
_DIFFERENCE = "every layer is the difference of two attentions, which are no layers one after another"
_RECURRENCE = "some of its layers mix tokens by linear attention, a state space or convolution, not by attention"
_LANDMARKS = "its attention is a product of three smaller ones by way of landmarks, beside a convolution over tokens"
_MERGED = "its decoder attends to its own tokens and to the encoder's at once"
_TWO_STREAMS = "a second stream attends to the layout beside the words, and the two add up their attention scores"
_TYPES = {
    "convbert": ("ConvBert", _CONVOLUTION),
    "diffllama": ("DiffLlama", _DIFFERENCE),
    "bamba": ("Bamba", _RECURRENCE),
    "falcon_h1": ("FalconH1", _RECURRENCE),
    "granitemoehybrid": ("GraniteMoeHybrid", _RECURRENCE),
    "jamba": ("Jamba", _RECURRENCE),
    "lfm2": ("Lfm2", _RECURRENCE),
    "lilt": ("Lilt", _TWO_STREAMS),
    "minimax": ("MiniMax", _RECURRENCE),
    "nemotron_h": ("NemotronH", _RECURRENCE),
    "nystromformer": ("Nystromformer", _LANDMARKS),
    "qwen3_5": ("Qwen3_5", _RECURRENCE),
    "qwen3_next": ("Qwen3Next", _RECURRENCE),
    "recurrent_gemma": ("RecurrentGemma", _RECURRENCE),
    "t5gemma2": ("T5Gemma2", _MERGED),
    "zamba": ("Zamba", _RECURRENCE),
    "zamba2": ("Zamba2", _RECURRENCE),
}


def _refusal(module: Any) -> str:
    names = {cls.__name__ for cls in type(module).__mro__}
    reason = next(reason for stem, reason in _TYPES.values() if f"{stem}PreTrainedModel" in names)
    return (
        f"{reason}. Rollout over its attention alone would be a map of a part of the model. Explain a model whose "
        "layers are all attention, or read the attention itself with capture_attention(model)."
    )


HF_MIXED = Family(
    name="hf_mixed",
    modality="text",
    classes=tuple(
        f"transformers.models.{kind}.modeling_{kind}.{stem}PreTrainedModel" for kind, (stem, _) in _TYPES.items()
    ),
    refusal=_refusal,
)
