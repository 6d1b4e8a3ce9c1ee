"""How attention is read from an unmodified model, and the model put back as it was."""

from attrib_plugin.capture.attention import CapturedAttention, CapturedCall, capture_attention
from attrib_plugin.capture.reading import call_gradient, call_padding, call_probabilities
from attrib_plugin.capture.selection import n_tokens, pooling_weights, token_to_token
from attrib_plugin.capture.session import CaptureSession
from attrib_plugin.capture.state import is_training

__all__ = [
    "CaptureSession",
    "CapturedAttention",
    "CapturedCall",
    "call_gradient",
    "call_padding",
    "call_probabilities",
    "capture_attention",
    "is_training",
    "n_tokens",
    "pooling_weights",
    "token_to_token",
]
