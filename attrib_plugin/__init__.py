"""Attention and relevance attributions for any PyTorch transformer, as Captum classes, on the unmodified model."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from attrib_plugin.runner.attention_figures import AttentionFigures, attention_figures
    from attrib_plugin.runner.attention_view import AttentionView, view
    from attrib_plugin.runner.compare import compare
    from attrib_plugin.runner.comparison import Comparison
    from attrib_plugin.runner.explain import explain
    from attrib_plugin.runner.explanation import Explanation
    from attrib_plugin.runner.explanations import Explanations
    from attrib_plugin.runner.presets import presets

__version__ = "0.1.0.dev0"

__all__ = [
    "AttentionAwareRelevance",
    "AttentionFigures",
    "AttentionFlow",
    "AttentionGradCam",
    "AttentionRollout",
    "AttentionView",
    "Comparison",
    "EncoderDecoderRelevance",
    "Explanation",
    "Explanations",
    "GeneralizedAttentionFlow",
    "GradientRollout",
    "ImageTextRelevance",
    "LayerwiseRelevance",
    "RawAttention",
    "TokenGradCam",
    "TransformerAttribution",
    "attention_figures",
    "capture_attention",
    "compare",
    "errors",
    "explain",
    "functional",
    "presets",
    "view",
]

# Everything is loaded when it is first asked for: the command line answers --help, and completes names, without torch.
_HOMES = {
    "AttentionFigures": "runner.attention_figures",
    "AttentionView": "runner.attention_view",
    "Comparison": "runner.comparison",
    "Explanation": "runner.explanation",
    "Explanations": "runner.explanations",
    "attention_figures": "runner.attention_figures",
    "capture_attention": "capture",
    "compare": "runner.compare",
    "explain": "runner.explain",
    "presets": "runner.presets",
    "view": "runner.attention_view",
}


def __getattr__(name: str) -> Any:
    if name in __all__ and name not in ("errors", "functional"):
        return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'methods')}"), name)
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
