"""CLIP's text tower in transformers: the projection reads the end-of-text token."""

from typing import Any

from torch import Tensor

from attrib_plugin.families.base import Family, end_of_text


def _text(module: Any) -> Any:
    return getattr(module.config, "text_config", module.config)


def _end_of_text(module: Any, inputs: Tensor) -> Tensor | None:
    if type(module).__name__ != "CLIPTextModelWithProjection":
        return None
    return end_of_text(_text(module), inputs)


HF_CLIP_TEXT = Family(
    name="hf_clip_text",
    modality="text",
    classes=tuple(
        f"transformers.models.clip.modeling_clip.{name}" for name in ("CLIPTextModelWithProjection", "CLIPTextModel")
    ),
    read_positions=_end_of_text,
    max_tokens=lambda module: int(_text(module).max_position_embeddings),
)
