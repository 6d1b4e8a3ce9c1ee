"""Attention and relevance attributions for any PyTorch transformer, as Captum classes, on the unmodified model."""

from typing import TYPE_CHECKING, Any

from attrib_plugin import errors, functional
from attrib_plugin.capture import capture_attention
from attrib_plugin.methods import (
    AttentionAwareRelevance,
    AttentionFlow,
    AttentionGradCam,
    AttentionRollout,
    EncoderDecoderRelevance,
    GeneralizedAttentionFlow,
    GradientRollout,
    ImageTextRelevance,
    LayerwiseRelevance,
    RawAttention,
    TokenGradCam,
    TransformerAttribution,
)

if TYPE_CHECKING:
    from attrib_plugin.runner.attention_view import AttentionView, view
    from attrib_plugin.runner.compare import compare
    from attrib_plugin.runner.comparison import Comparison
    from attrib_plugin.runner.explain import explain
    from attrib_plugin.runner.explanation import Explanation
    from attrib_plugin.runner.presets import presets

__version__ = "0.1.0.dev0"

__all__ = [
    "AttentionAwareRelevance",
    "AttentionFlow",
    "AttentionGradCam",
    "AttentionRollout",
    "AttentionView",
    "Comparison",
    "EncoderDecoderRelevance",
    "Explanation",
    "GeneralizedAttentionFlow",
    "GradientRollout",
    "ImageTextRelevance",
    "LayerwiseRelevance",
    "RawAttention",
    "TokenGradCam",
    "TransformerAttribution",
    "capture_attention",
    "compare",
    "errors",
    "explain",
    "functional",
    "presets",
    "view",
]

# What draws is loaded when it is asked for, so that importing the package costs no more than importing Captum.
_LAZY = {
    "AttentionView": "attrib_plugin.runner.attention_view",
    "Comparison": "attrib_plugin.runner.comparison",
    "compare": "attrib_plugin.runner.compare",
    "explain": "attrib_plugin.runner.explain",
    "Explanation": "attrib_plugin.runner.explanation",
    "presets": "attrib_plugin.runner.presets",
    "view": "attrib_plugin.runner.attention_view",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
