"""Inks that colour-blind readers and print tell apart: evidence for, evidence against, mere attention, mere size."""

from __future__ import annotations

import math
from typing import Literal

FOR = "#c2570c"
"""Evidence for the explained class: orange."""

AGAINST = "#1f5fa8"
"""Evidence against it: blue."""

SHARE = "#5d4a86"
"""Share of attention, which says nothing about a class: violet."""

SIZE = "#3f6b57"
"""Size of an influence whose direction is not known: green."""

Tone = Literal["for", "against", "signed", "share", "size"]
"""What the values of a map mean: evidence for, evidence against, for minus against, share of attention, or the size of
an influence in either direction."""

_PAPER = (255, 255, 255)


def ink(value: float, tone: Tone = "signed") -> str:
    """The ink that a value is drawn in.

    Args:
        value: Any value of a map.
        tone: What its values mean.

    Returns:
        A CSS colour.
    """
    if tone == "signed":
        return FOR if value >= 0 else AGAINST
    return {"for": FOR, "against": AGAINST, "share": SHARE, "size": SIZE}[tone]


def shade(value: float, tone: Tone = "signed") -> str:
    """Background colour of a value.

    Args:
        value: Size from 0 (white) to 1 or -1 (full ink); values beyond are cut, NaN is white.
        tone: What the values of the map mean.

    Returns:
        A CSS colour.
    """
    if math.isnan(value):
        return "#ffffff"
    strength = min(abs(value), 1.0)
    full = _channels(ink(value, tone))
    mixed = (round(paper + (channel - paper) * strength) for paper, channel in zip(_PAPER, full, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def text_on(background: str) -> str:
    """Text colour that is legible on a background.

    Args:
        background: A CSS colour, as :func:`shade` gives it.

    Returns:
        A CSS colour.
    """
    # Contrast as the web's accessibility guidelines define it: (lighter + 0.05) / (darker + 0.05).
    return "#ffffff" if 1.05 * 0.05 > (_luminance(background) + 0.05) ** 2 else "#000000"


def _luminance(color: str) -> float:
    scaled = (channel / 255 for channel in _channels(color))
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in scaled)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
