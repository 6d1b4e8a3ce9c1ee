"""What all methods share: the Captum interface, the forward pass under capture, and layers read in blocks."""

from attrib_plugin.methods.base.attribution import AttentionAttribution
from attrib_plugin.methods.base.layers import AttentionLayer, RowBlock, from_the_top, layers_of
from attrib_plugin.methods.base.targets import unwrap_output

__all__ = ["AttentionAttribution", "AttentionLayer", "RowBlock", "from_the_top", "layers_of", "unwrap_output"]
