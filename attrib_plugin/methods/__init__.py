"""Attribution methods, one file each, as Captum classes."""

from attrib_plugin.methods.attention_aware_relevance import AttentionAwareRelevance
from attrib_plugin.methods.attention_flow import AttentionFlow
from attrib_plugin.methods.attention_grad_cam import AttentionGradCam
from attrib_plugin.methods.attention_rollout import AttentionRollout
from attrib_plugin.methods.encoder_decoder_relevance import EncoderDecoderRelevance as EncoderDecoderRelevance
from attrib_plugin.methods.generalized_attention_flow import GeneralizedAttentionFlow
from attrib_plugin.methods.gradient_rollout import GradientRollout
from attrib_plugin.methods.image_text_relevance import ImageTextRelevance as ImageTextRelevance
from attrib_plugin.methods.layerwise_relevance import LayerwiseRelevance
from attrib_plugin.methods.raw_attention import RawAttention
from attrib_plugin.methods.token_grad_cam import TokenGradCam
from attrib_plugin.methods.transformer_attribution import TransformerAttribution

__all__ = [
    "AttentionAwareRelevance",
    "AttentionFlow",
    "AttentionGradCam",
    "AttentionRollout",
    "GeneralizedAttentionFlow",
    "GradientRollout",
    "LayerwiseRelevance",
    "RawAttention",
    "TokenGradCam",
    "TransformerAttribution",
]

# These need a model with two sequences of tokens, so they are not among the methods that every family takes.
ON_TWO_SEQUENCES = ("EncoderDecoderRelevance", "ImageTextRelevance")
