"""Modules that are one operation for relevance, although they compute it in several steps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

_ACTIVATION_HOMES = ("transformers.activations", "timm.layers.activations", "torch.nn.modules.activation")
_ACTIVATION_NAMES = ("gelu", "relu", "silu", "swish", "mish")
_WITHOUT_MEAN = ("rmsnorm", "t5layernorm")


def whole_operation(module: nn.Module) -> tuple[str, Mapping[str, Any]] | None:
    """The operation that a whole module is.

    Norms written out in elementary operations would be taken apart into products and quotients of their own input, for
    which no rule makes sense; so would activations.

    Args:
        module: The module.

    Returns:
        Kind and options of the operation; ``None`` for a module whose operations are looked at one by one.
    """
    if next(module.children(), None) is not None:
        return None
    kind, name = type(module), type(module).__name__.lower()
    if any(part in name for part in _WITHOUT_MEAN):
        return "norm", {"centred": False}
    if "layernorm" in name and not isinstance(module, nn.LayerNorm) and not _calls_torch(kind):
        eps = next((one for one in (getattr(module, place, None) for place in _EPSILONS) if one is not None), None)
        if eps is None:
            return None
        return "norm", {"centred": True, "weight": getattr(module, "weight", None), "axes": (-1,), "eps": eps}
    is_named = name.endswith(_ACTIVATION_NAMES) and next(module.parameters(), None) is None
    if is_named or (kind.__module__ in _ACTIVATION_HOMES and not isinstance(module, _NO_ACTIVATIONS)):
        return "activation", {}
    return None


_EPSILONS = ("eps", "variance_epsilon", "epsilon")
# Modules that live beside activations and mix the entries of their input, or more than one input.
_NO_ACTIVATIONS = (nn.Softmax, nn.Softmin, nn.Softmax2d, nn.LogSoftmax, nn.GLU, nn.MultiheadAttention)


def _calls_torch(kind: type[nn.Module]) -> bool:
    """Whether a norm hands its work to torch, whose operation has a rule of its own."""
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return "LayerNorm2d" in kind.__name__ or (code is not None and "layer_norm" in code.co_names)
