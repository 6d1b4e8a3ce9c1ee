"""Tensors and strings to pictures and HTML."""

from attrib_plugin.visualization.colors import AGAINST, FOR, SHARE, Tone, shade, text_on
from attrib_plugin.visualization.figures import Panel, image_figure, word_figure
from attrib_plugin.visualization.text_html import shaded_text

__all__ = ["AGAINST", "FOR", "SHARE", "Panel", "Tone", "image_figure", "shade", "shaded_text", "text_on", "word_figure"]
