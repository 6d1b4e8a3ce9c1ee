"""From tokens to what people read: words, patches, pixels."""

from attrib_plugin.postprocessing.grid import grid_to_pixels, pixels_to_grid, tokens_to_grid
from attrib_plugin.postprocessing.words import TextToken, Word, encode_text, group_words, merge_words

__all__ = [
    "TextToken",
    "Word",
    "encode_text",
    "grid_to_pixels",
    "group_words",
    "merge_words",
    "pixels_to_grid",
    "tokens_to_grid",
]
