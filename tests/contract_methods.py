"""The methods as the contract tests make them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from tiny_models import FAMILIES

from attrib_plugin import methods
from attrib_plugin.errors import NumericsWarning

METHODS = {name: getattr(methods, name) for name in methods.__all__}
MATRIX_METHODS = [name for name, method in METHODS.items() if method.has_matrix]
# Methods that follow tokens through windows and mergings go with every family, others with those that have none.
PAIRS = [
    (name, family)
    for name, method in METHODS.items()
    for family, facts in FAMILIES.items()
    if method.takes_windows or not facts.windowed
]
REFUSED_PAIRS = [(name, family) for name in METHODS for family in FAMILIES if (name, family) not in PAIRS]
# The map starts with the read-out itself, which these methods take off.
WITHOUT_START = ("GradientRollout", "TransformerAttribution")
# Rescaled sums are ill-conditioned: rounding grows, and the stabiliser is felt where attention is scaled elsewhere.
DELICATE = ("LayerwiseRelevance", "TransformerAttribution")
# Input times gradient rounds at every operation: on tiny Swin models a third of the largest entry is lost in float16.
CLOSE_PAIRS = [
    (method, family)
    for method, family in PAIRS
    if method not in DELICATE and not (method == "AttentionAwareRelevance" and FAMILIES[family].windowed)
]
# What GradCAM keeps above zero is often nothing at all in a random model.
_OPTIONS: dict[str, dict[str, Any]] = {"AttentionGradCam": {"sign": "signed"}, "TokenGradCam": {"sign": "signed"}}


def made(method_name: str, forward_func: Any, **options: Any) -> Any:
    """A method with the options that give any random model a map."""
    return METHODS[method_name](forward_func, **{**_OPTIONS.get(method_name, {}), **options})


def looseness(method_name: str) -> float:
    """By how much rounding grows in a method, beside the others."""
    return 100.0 if method_name in DELICATE else 1.0


def delicate_warning(method_name: str) -> AbstractContextManager[Any]:
    """The warning of delicate methods in half precision."""
    return pytest.warns(NumericsWarning, match="ill-conditioned") if method_name in DELICATE else nullcontext()
