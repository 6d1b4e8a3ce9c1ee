"""Which controls a method takes, so that the page shows those and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrib_plugin import methods
from attrib_plugin.app.method_options import options_of

INTEGRATED_GRADIENTS = "IntegratedGradients"
OPTIONS = ("sign", "start_layer", "end_layer", "head_fusion", "residual", "discard_ratio")
_CLASSES = ("target", "against")
_NO_LAYERS = ("LayerwiseRelevance", "AttentionAwareRelevance", "TokenGradCam", INTEGRATED_GRADIENTS)


def method_choices() -> tuple[str, ...]:
    """Methods that the demo offers: those of the package, and Captum's integrated gradients.

    Returns:
        Names.
    """
    return (*methods.__all__, INTEGRATED_GRADIENTS)


def takes(method: str, control: str) -> bool:
    """Whether a control has an effect on a method.

    Args:
        method: One of :func:`method_choices`.
        control: One of ``OPTIONS``, ``"target"`` or ``"against"``.

    Returns:
        True if it has.
    """
    if method == INTEGRATED_GRADIENTS:
        return control == "target"
    cls = getattr(methods, method)
    if control in _CLASSES:
        return bool(cls.needs_gradients)
    if control == "end_layer":
        return method not in _NO_LAYERS and "layer" not in options_of(cls)
    return control in options_of(cls)


def users(chosen: Sequence[str], control: str) -> list[str]:
    """The chosen methods on which a control has an effect.

    Args:
        chosen: Names of methods.
        control: As in :func:`takes`.

    Returns:
        Names, in the order chosen.
    """
    return [method for method in chosen if takes(method, control)]


def options_for(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What of the controls' values goes to a method.

    Args:
        method: One of :func:`method_choices`.
        values: Value by control.

    Returns:
        Options of the method's constructor, and ``end_layer``; what is at the method's default is left out.
    """
    found = {name: values[name] for name in OPTIONS if values.get(name) is not None and takes(method, name)}
    if method == INTEGRATED_GRADIENTS:
        return {}
    known = options_of(getattr(methods, method))
    return {name: value for name, value in found.items() if name not in known or known[name].default != value}
