"""Tensors and strings to pictures and HTML."""

from attrib_plugin.visualization.attention_figures import (
    AttentionMap,
    attention_figure,
    head_figure,
    layer_rows_figure,
)
from attrib_plugin.visualization.attention_views import (
    attention_flow_view,
    attention_head_view,
    attention_image_view,
    attention_model_view,
    patch_names,
)
from attrib_plugin.visualization.colors import AGAINST, FOR, SHARE, SIZE, Tone, shade, text_on
from attrib_plugin.visualization.comparison_figures import (
    ImageRow,
    TextRow,
    image_comparison,
    image_multiples,
    text_comparison,
)
from attrib_plugin.visualization.figures import image_figure, word_figure
from attrib_plugin.visualization.graph_figure import EdgeUnit, flow_graph_figure
from attrib_plugin.visualization.labels import label
from attrib_plugin.visualization.overlay import Panel
from attrib_plugin.visualization.ranges import ColorScale
from attrib_plugin.visualization.styles import InlineStyles, SheetStyles, Styles
from attrib_plugin.visualization.text_html import (
    RowScale,
    ShadedGroup,
    ShadedRow,
    shaded_table,
    shaded_tables,
    shaded_text,
)

__all__ = [
    "AGAINST",
    "FOR",
    "SHARE",
    "SIZE",
    "AttentionMap",
    "ColorScale",
    "EdgeUnit",
    "ImageRow",
    "InlineStyles",
    "Panel",
    "RowScale",
    "ShadedGroup",
    "ShadedRow",
    "SheetStyles",
    "Styles",
    "TextRow",
    "Tone",
    "attention_figure",
    "attention_flow_view",
    "attention_head_view",
    "attention_image_view",
    "attention_model_view",
    "flow_graph_figure",
    "head_figure",
    "image_comparison",
    "image_figure",
    "image_multiples",
    "label",
    "layer_rows_figure",
    "patch_names",
    "shade",
    "shaded_table",
    "shaded_tables",
    "shaded_text",
    "text_comparison",
    "text_on",
    "word_figure",
]
