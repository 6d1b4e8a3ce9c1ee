"""Warnings that point at the line of the user's code that caused them."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

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
