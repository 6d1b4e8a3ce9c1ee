"""Tensors and strings to pictures and HTML."""

from attrib_plugin.visualization.attention_views import (
    attention_flow_view,
    attention_head_view,
    attention_image_view,
    attention_model_view,
    patch_names,
)
from attrib_plugin.visualization.colors import AGAINST, FOR, SHARE, SIZE, Tone, shade, text_on
from attrib_plugin.visualization.comparison_figures import ImageRow, TextRow, image_comparison, text_comparison
from attrib_plugin.visualization.figures import Panel, image_figure, word_figure
from attrib_plugin.visualization.text_html import shaded_text

__all__ = [
    "AGAINST",
    "FOR",
    "SHARE",
    "SIZE",
    "ImageRow",
    "Panel",
    "TextRow",
    "Tone",
    "attention_flow_view",
    "attention_head_view",
    "attention_image_view",
    "attention_model_view",
    "image_comparison",
    "image_figure",
    "patch_names",
    "shade",
    "shaded_text",
    "text_comparison",
    "text_on",
    "word_figure",
]
