"""CLIP's text tower in transformers: the projection reads the end-of-text token."""

from typing import Any

from torch import Tensor

from attrib_plugin.families.base import Family


def _text(module: Any) -> Any:
    return getattr(module.config, "text_config", module.config)


def _end_of_text(module: Any, inputs: Tensor) -> Tensor | None:
    """The position that the tower picks: by the id, whatever the padding."""
    if type(module).__name__ != "CLIPTextModelWithProjection":
        return None
    end = _text(module).eos_token_id
    # Checkpoints of OpenAI carry a wrong id of 2 and have the end of text as their highest id.
    return (inputs if end == 2 else (inputs == end).int()).argmax(-1)


HF_CLIP_TEXT = Family(
    name="hf_clip_text",
    modality="text",
    classes=tuple(
        f"transformers.models.clip.modeling_clip.{name}" for name in ("CLIPTextModelWithProjection", "CLIPTextModel")
    ),
    read_positions=_end_of_text,
    max_tokens=lambda module: int(_text(module).max_position_embeddings),
)
