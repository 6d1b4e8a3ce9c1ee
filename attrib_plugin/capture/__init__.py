"""How attention is read from an unmodified model, and the model put back as it was."""

from attrib_plugin.capture.activations import ActivationTap, find_layer, tapped
from attrib_plugin.capture.attention import CapturedAttention, CapturedCall, capture_attention
from attrib_plugin.capture.checkpoints import GraphAtEmbeddings, with_graph, without_checkpoints
from attrib_plugin.capture.reading import (
    call_gradient,
    call_padding,
    call_probabilities,
    can_be_cut,
    differs_by_head,
    part_of_call,
    visible_keys,
)
from attrib_plugin.capture.selection import n_tokens, pooling_weights, token_to_token
from attrib_plugin.capture.session import CaptureSession
from attrib_plugin.capture.state import is_training
from attrib_plugin.capture.streams import EncoderDecoderCalls, calls_within, encoder_decoder_calls, n_keys

__all__ = [
    "ActivationTap",
    "CaptureSession",
    "CapturedAttention",
    "CapturedCall",
    "EncoderDecoderCalls",
    "GraphAtEmbeddings",
    "call_gradient",
    "call_padding",
    "call_probabilities",
    "calls_within",
    "can_be_cut",
    "capture_attention",
    "differs_by_head",
    "encoder_decoder_calls",
    "find_layer",
    "is_training",
    "n_keys",
    "n_tokens",
    "part_of_call",
    "pooling_weights",
    "tapped",
    "token_to_token",
    "visible_keys",
    "with_graph",
    "without_checkpoints",
]
