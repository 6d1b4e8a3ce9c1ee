"""Attribution methods, one file each, as Captum classes."""

from attrib_plugin.methods.attention_rollout import AttentionRollout
from attrib_plugin.methods.gradient_rollout import GradientRollout
from attrib_plugin.methods.raw_attention import RawAttention

__all__ = ["AttentionRollout", "GradientRollout", "RawAttention"]
