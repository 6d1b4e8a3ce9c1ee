"""Attribution methods, one file each, as Captum classes."""

from attrib_plugin.methods.attention_flow import AttentionFlow
from attrib_plugin.methods.attention_rollout import AttentionRollout
from attrib_plugin.methods.generalized_attention_flow import GeneralizedAttentionFlow
from attrib_plugin.methods.gradient_rollout import GradientRollout
from attrib_plugin.methods.raw_attention import RawAttention

__all__ = ["AttentionFlow", "AttentionRollout", "GeneralizedAttentionFlow", "GradientRollout", "RawAttention"]
