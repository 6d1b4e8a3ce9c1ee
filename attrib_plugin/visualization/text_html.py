"""Texts whose words are shaded by relevance, as a piece of HTML that needs nothing else.

Everything in it is escaped. Values show on hover; a table below, which opens by mouse or keyboard, holds them for those
who do not hover. Evidence against is underlined with dots where it is strong, so that the sign survives grey print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from attrib_plugin.errors import InputError
from attrib_plugin.visualization.colors import Tone, shade, text_on
from attrib_plugin.visualization.page import writable
from attrib_plugin.visualization.styles import INLINE, Styles

RowScale = Literal["row", "name", "all"]
"""What shares one scale: nothing, rows of one name (a method over several texts), or everything."""

_SCALES: dict[RowScale, str] = {
    "row": "every row is scaled by its own largest value",
    "name": "rows of one name share a scale",
    "all": "all rows share one scale",
}
_MEANINGS: dict[Tone, str] = {
    "for": "evidence for",
    "against": "evidence against",
    "signed": "evidence against (dotted)",
    "share": "share of attention, the same for every class",
    "size": "size of influence, whatever its direction",
}
# A sign that the colour shows hardly is no matter.
_DOTTED_FROM = 0.1
_QUIET = "font-size:0.85em;color:#555"
_QUIET_DARK = "color:#a9adb8"


@dataclass(frozen=True)
class ShadedRow:
    """One text shaded by one method.

    Attributes:
        name: The method, or whatever tells rows apart.
        text: The text.
        spans: First character and character after the last of every part, in order, without overlap.
        values: One value a part.
        tone: What the values mean, and so their colours.
        note: What else is to be said, such as the values of special tokens.
        failure: Why there are no values.
    """

    name: str
    text: str
    spans: Sequence[tuple[int, int]]
    values: Sequence[float]
    tone: Tone = "signed"
    note: str = ""
    failure: str = ""


@dataclass(frozen=True)
class ShadedGroup:
    """Rows that belong together, such as several methods on one text.

    Attributes:
        rows: The rows.
        title: What they have in common, such as the prediction; may be empty.
    """

    rows: Sequence[ShadedRow]
    title: str = ""


def shaded_text(
    text: str,
    spans: Sequence[tuple[int, int]],
    values: Sequence[float],
    *,
    tone: Tone = "signed",
    limit: float | None = None,
    styles: Styles = INLINE,
) -> str:
    """Shade parts of a text by their values.

    Args:
        text: The text; what no span covers is kept as it is, white space included.
        spans: First character and character after the last of every part, in order, without overlap.
        values: One value a part.
        tone: What the values mean, and so their colours.
        limit: The size that gets the full colour; ``None`` is the largest.
        styles: Where colours go: into the elements, or into a style sheet.

    Returns:
        HTML, escaped; the value of a part shows on hover.

    Raises:
        InputError: If there are not as many values as spans.
    """
    if len(spans) != len(values):
        raise InputError(f"Expected one value for each of the {len(spans)} spans, found {len(values)}.")
    full = _largest(values) if limit is None else limit
    parts, position = [], 0
    for (start, end), value in zip(spans, values, strict=True):
        parts.append(escape(text[position:start]))
        parts.append(_word(text[start:end], value, value / full if full else 0.0, tone, styles))
        position = end
    parts.append(escape(text[position:]))
    style = styles("white-space:pre-wrap;overflow-wrap:anywhere;line-height:2;margin:0")
    # Each text keeps its own direction, whatever stands around it.
    return writable(f'<p dir="auto" {style}>{"".join(parts)}</p>')


def shaded_table(
    groups: Sequence[ShadedGroup],
    *,
    scale: RowScale = "row",
    values: bool = True,
    legend: bool = True,
    styles: Styles = INLINE,
) -> str:
    """Several texts and several methods in one table, with a legend and, on request, every value.

    Args:
        groups: Rows that belong together, mostly the methods on one text.
        scale: What shares one scale. Rows of their own show the pattern of each method, whose units differ; a common
            scale shows which text or method has more.
        values: Whether a table of all values is put below each group; closed, until it is opened.
        legend: Whether the meaning of the colours is written above.
        styles: Where colours go: into the elements, or into a style sheet.

    Returns:
        HTML, escaped.

    Raises:
        InputError: If ``scale`` is unknown, or a row has not as many values as spans.
    """
    return "".join(shaded_tables(groups, scale=scale, values=values, legend=legend, styles=styles))


def shaded_tables(
    groups: Sequence[ShadedGroup],
    *,
    scale: RowScale = "row",
    values: bool = True,
    legend: bool = True,
    styles: Styles = INLINE,
) -> list[str]:
    """As :func:`shaded_table`, group by group, for a page that puts something between them.

    Args:
        groups: As in :func:`shaded_table`.
        scale: As in :func:`shaded_table`.
        values: As in :func:`shaded_table`.
        legend: As in :func:`shaded_table`; it stands above the first group.
        styles: As in :func:`shaded_table`.

    Returns:
        A piece of HTML a group, escaped.

    Raises:
        InputError: As in :func:`shaded_table`.
    """
    if scale not in _SCALES:
        raise InputError(f"scale must be 'row', 'name' or 'all', not {scale!r}.")
    drawn = [row for group in groups for row in group.rows if not row.failure]
    tables = []
    for number, group in enumerate(groups):
        parts = [_legend(drawn, scale, styles)] if legend and drawn and number == 0 else []
        if group.title:
            title_style = styles("margin:0.9em 0 0.2em;font-weight:600;overflow-wrap:anywhere", name="group")
            parts.append(f'<p dir="auto" {title_style}>{escape(group.title)}</p>')
        lines = "".join(_line(row, _limit(row, drawn, scale), styles) for row in group.rows)
        parts.append(f"<table {styles('border-collapse:collapse;width:100%', name='shaded')}>{lines}</table>")
        if values:
            parts.append(_values(group, styles))
        tables.append(writable("".join(parts)))
    return tables


def color_scale(tone: Tone, low: str, high: str, *, styles: Styles = INLINE) -> str:
    """A bar from no ink to full ink with its ends in words.

    Args:
        tone: What the values mean.
        low: What stands at its left end.
        high: What stands at its right end.
        styles: Where colours go.

    Returns:
        HTML, escaped.
    """
    stops = (-1.0, 0.0, 1.0) if tone == "signed" else (0.0, 1.0)
    bar = "display:inline-block;vertical-align:middle;width:7em;height:0.8em;border:1px solid #999;background:"
    light, dark = (
        f"linear-gradient(to right,{','.join(shade(stop, tone, dark=is_dark) for stop in stops)})"
        for is_dark in (False, True)
    )
    attributes = styles(f"{bar}{light}", dark=f"background:{dark}", name="scale")
    return f'{escape(low)} <span aria-hidden="true" {attributes}></span> {escape(high)}'


def _word(text: str, value: float, strength: float, tone: Tone, styles: Styles) -> str:
    light, dark = (shade(strength, tone, dark=is_dark) for is_dark in (False, True))
    look = f"background:{light};color:{text_on(light)};padding:0.15em 0.2em;border-radius:0.2em"
    if tone == "signed" and strength <= -_DOTTED_FROM:
        look += ";text-decoration:underline dotted"
    attributes = styles(look, dark=f"background:{dark};color:{text_on(dark)}")
    return f'<span title="{escape(f"{text}: {_said(value)}")}" {attributes}>{escape(text)}</span>'


def _line(row: ShadedRow, limit: float, styles: Styles) -> str:
    head = styles(
        "text-align:left;vertical-align:top;font-weight:600;padding:0.35em 1em 0.35em 0;width:14em;"
        "overflow-wrap:anywhere;line-height:1.4"
    )
    cell = styles("text-align:left;vertical-align:top;padding:0.15em 0")
    quiet = styles(_QUIET, dark=_QUIET_DARK)
    if row.failure:
        body, said = f"<p>failed: {escape(row.failure)}</p>", ""
    else:
        body = shaded_text(row.text, row.spans, row.values, tone=row.tone, limit=limit, styles=styles)
        said = f"<span {quiet}>full colour: {_said(limit, sign=False)}{_remark(row.values)}</span>"
        said = f"<br>{said}" if row.name else said
    note = f'<p dir="auto" {quiet}>{escape(row.note)}</p>' if row.note else ""
    return f'<tr><th scope="row" {head}>{escape(row.name)}{said}</th><td {cell}>{body}{note}</td></tr>'


def _legend(rows: Sequence[ShadedRow], scale: RowScale, styles: Styles) -> str:
    tones = dict.fromkeys(row.tone for row in rows)
    bars = [f"<span {styles('display:inline-block;margin-right:1.2em')}>{_bar(tone, styles)}</span>" for tone in tones]
    return f"<p {styles(_QUIET, dark=_QUIET_DARK, name='legend')}>{''.join(bars)}({_SCALES[scale]})</p>"


def _bar(tone: Tone, styles: Styles) -> str:
    if tone == "signed":
        return color_scale(tone, _MEANINGS[tone], "evidence for", styles=styles)
    return color_scale(tone, f"{_MEANINGS[tone]}: 0", "most", styles=styles)


def _values(group: ShadedGroup, styles: Styles) -> str:
    """All values of a group; rows that cut their text alike share a table."""
    cuts: dict[tuple[str, tuple[tuple[int, int], ...]], list[ShadedRow]] = {}
    for row in group.rows:
        if not row.failure and row.values:
            cuts.setdefault((row.text, tuple(row.spans)), []).append(row)
    if not cuts:
        return ""
    tables = "".join(_value_table(text, spans, rows, styles) for (text, spans), rows in cuts.items())
    look = styles(_QUIET, dark=_QUIET_DARK, name="values")
    return f"<details {look}><summary>all values</summary>{tables}</details>"


def _value_table(text: str, spans: Sequence[tuple[int, int]], rows: Sequence[ShadedRow], styles: Styles) -> str:
    cell = styles("text-align:left;padding:0 1em 0 0;font-weight:400;white-space:pre-wrap")
    number = styles("text-align:right;padding:0 1em 0 0;font-variant-numeric:tabular-nums")
    heads = "".join(f'<th scope="col" {number}>{escape(row.name)}</th>' for row in rows)
    lines = [f'<tr><th scope="col" {cell}>word</th>{heads}</tr>']
    for index, (start, end) in enumerate(spans):
        numbers = "".join(f"<td {number}>{_said(row.values[index])}</td>" for row in rows)
        lines.append(f'<tr><th scope="row" {cell}>{escape(text[start:end])}</th>{numbers}</tr>')
    return f"<table {styles('border-collapse:collapse;margin:0.3em 0')}>{''.join(lines)}</table>"


def _limit(row: ShadedRow, rows: Sequence[ShadedRow], scale: RowScale) -> float:
    if scale == "row":
        return _largest(row.values)
    return max((_largest(one.values) for one in rows if scale == "all" or one.name == row.name), default=0.0)


def _largest(values: Sequence[float]) -> float:
    return max((abs(value) for value in values if math.isfinite(value)), default=0.0)


def _said(value: float, *, sign: bool = True) -> str:
    if math.isnan(value):
        return "not a number"
    return f"{value:+.4g}" if sign else f"{value:.4g}"


def _remark(values: Sequence[float]) -> str:
    if not values:
        return ", no words"
    gaps = sum(not math.isfinite(value) for value in values)
    return f", {gaps} of {len(values)} not a number" if gaps else "" if any(values) else ", zero everywhere"
