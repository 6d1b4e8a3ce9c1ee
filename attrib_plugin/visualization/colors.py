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

GAP = "#d9d9d9"
"""What is not a number: grey, which no ink mixes to."""

DARK_PAPER = "#16171a"
"""Background of pages for readers who ask for dark ones; inks are brighter there."""

Tone = Literal["for", "against", "signed", "share", "size"]
"""What the values of a map mean: evidence for, evidence against, for minus against, share of attention, or the size of
an influence in either direction."""

_PAPER = "#ffffff"
_ON_DARK = {FOR: "#f08a3c", AGAINST: "#5d9df0", SHARE: "#a891e0", SIZE: "#6bb893", GAP: "#50535c"}


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


def shade(value: float, tone: Tone = "signed", *, dark: bool = False) -> str:
    """Background colour of a value.

    Args:
        value: Size from 0 (paper) to 1 or -1 (full ink); values beyond are cut. NaN is grey, and what has a sign that
            its tone does not know is paper.
        tone: What the values of the map mean.
        dark: Whether the paper is dark.

    Returns:
        A CSS colour.
    """
    full, strength = ink(value, tone), min(abs(value), 1.0)
    if math.isnan(value):
        full, strength = GAP, 1.0
    elif value < 0 and tone != "signed":
        strength = 0.0
    from_paper, to_ink = _channels(DARK_PAPER if dark else _PAPER), _channels(_ON_DARK[full] if dark else full)
    mixed = (round(paper + (channel - paper) * strength) for paper, channel in zip(from_paper, to_ink, strict=True))
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
