"""The user's call: warnings that point at its line, and how it begins in messages that complete it."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from attrib_plugin.errors import NumericsWarning

if TYPE_CHECKING:
    from torch import Tensor

_INSIDE = ("attrib_plugin", "captum")


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the first line outside of this package and Captum.

    Captum wraps some of our calls and not others, so no fixed stack level is right.

    Args:
        message: What to say.
        category: The warning's class.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def warn_of_silence(relevance: Tensor, reason: str) -> None:
    """Warn of samples whose relevance is zero everywhere.

    Args:
        relevance: One row of values a sample.
        reason: Why that can happen with this method.
    """
    if (silent := (relevance == 0).all(-1)).any():
        warn_caller(
            f"The relevance of {int(silent.sum())} of {len(silent)} samples is zero everywhere: {reason}",
            NumericsWarning,
        )


def opening_of(method: Any) -> str:
    """How the call that made a method begins.

    Args:
        method: The method.

    Returns:
        The model and, where the user gave them, grid and prefix tokens.
    """
    place = "" if method.grid is None else f", grid={method.grid}"
    if place and method.prefix_tokens is not None:
        place += f", prefix_tokens={method.prefix_tokens}"
    return (
        f"{type(method).__name__}({'model' if method.forward_func is method.model else 'function, model=model'}{place}"
    )
