"""One pair of colours for evidence, told apart by colour-blind readers and in print."""

from __future__ import annotations

import math

FOR = "#c2570c"
"""Evidence for the explained class: orange."""

AGAINST = "#1f5fa8"
"""Evidence against it: blue."""

_PAPER = (255, 255, 255)


def shade(value: float) -> str:
    """Background colour of a value.

    Args:
        value: From -1 (against) over 0 (white) to 1 (for); values beyond are cut, NaN is white.

    Returns:
        A CSS colour.
    """
    if math.isnan(value):
        return "#ffffff"
    strength = min(abs(value), 1.0)
    ink = _channels(FOR if value > 0 else AGAINST)
    mixed = (round(paper + (channel - paper) * strength) for paper, channel in zip(_PAPER, ink, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def text_on(value: float) -> str:
    """Text colour that is legible on the background of a value.

    Args:
        value: As in :func:`shade`.

    Returns:
        A CSS colour.
    """
    background = _luminance(shade(value))
    # Contrast as the web's accessibility guidelines define it: (lighter + 0.05) / (darker + 0.05).
    return "#ffffff" if 1.05 * 0.05 > (background + 0.05) ** 2 else "#000000"


def _luminance(color: str) -> float:
    scaled = (channel / 255 for channel in _channels(color))
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in scaled)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
