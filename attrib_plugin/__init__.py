"""Attention and relevance attributions for any PyTorch transformer, as Captum classes, on the unmodified model."""

from typing import TYPE_CHECKING, Any

from attrib_plugin import errors, functional
from attrib_plugin.capture import capture_attention
from attrib_plugin.methods import (
    AttentionFlow,
    AttentionRollout,
    GeneralizedAttentionFlow,
    GradientRollout,
    RawAttention,
)

if TYPE_CHECKING:
    from attrib_plugin.runner.explain import explain
    from attrib_plugin.runner.explanation import Explanation

__version__ = "0.1.0.dev0"

__all__ = [
    "AttentionFlow",
    "AttentionRollout",
    "Explanation",
    "GeneralizedAttentionFlow",
    "GradientRollout",
    "RawAttention",
    "capture_attention",
    "errors",
    "explain",
    "functional",
]

# What draws is loaded when it is asked for, so that importing the package costs no more than importing Captum.
_LAZY = {"explain": "attrib_plugin.runner.explain", "Explanation": "attrib_plugin.runner.explanation"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
