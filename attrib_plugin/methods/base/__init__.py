"""What all methods share: the Captum interface, the forward pass under capture, and layers read in blocks."""

from attrib_plugin.methods.base.attribution import AttentionAttribution
from attrib_plugin.methods.base.layers import AttentionLayer, RowBlock, layers_of

__all__ = ["AttentionAttribution", "AttentionLayer", "RowBlock", "layers_of"]
