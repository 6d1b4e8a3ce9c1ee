"""A text whose words are shaded by relevance, as a piece of HTML that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from attrib_plugin.visualization.colors import Tone, shade, text_on

_WORD = (
    '<span title="{title}" style="background:{background};color:{color};padding:0.15em 0.2em;border-radius:0.2em">'
    "{text}</span>"
)


def shaded_text(text: str, spans: Sequence[tuple[int, int]], values: Sequence[float], *, tone: Tone = "signed") -> str:
    """Shade parts of a text by their values.

    Args:
        text: The text; what no span covers is kept as it is, white space included.
        spans: First character and character after the last of every part, in order, without overlap.
        values: One value a part; the largest in size gets the full colour.
        tone: What the values mean, and so their colours.

    Returns:
        HTML, escaped; the value of a part shows on hover.
    """
    largest = max((abs(value) for value in values if not math.isnan(value)), default=0.0) or 1.0
    parts, position = [], 0
    for (start, end), value in zip(spans, values, strict=True):
        background = shade(value / largest, tone)
        parts.append(escape(text[position:start]))
        parts.append(
            _WORD.format(
                title=escape(f"{text[start:end]}: {value:+.4g}", quote=True),
                background=background,
                color=text_on(background),
                text=escape(text[start:end]),
            )
        )
        position = end
    parts.append(escape(text[position:]))
    return f'<p style="white-space:pre-wrap;line-height:2;margin:0">{"".join(parts)}</p>'
