"""Maps of several methods as small multiples on one layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill, shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from attrib_plugin.visualization.colors import Tone, shade
from attrib_plugin.visualization.figures import COLORMAPS, Panel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PER_LINE = 5
_PER_LINE_OF_MANY = 9
_WORDS_PER_LINE = 15
_LEGEND: dict[Tone, str] = {
    "signed": "against  ←  0  →  for",
    "for": "evidence for",
    "against": "evidence against",
    "share": "share of attention",
    "size": "size of influence",
}


@dataclass(frozen=True, eq=False)
class ImageRow:
    """One image with the maps of all methods.

    Attributes:
        pixels: What the model saw, (height,width,3) between 0 and 1.
        title: Title of the image.
        panels: One map a method, in the same order for every image.
        failures: Why a method has no map, by its title.
    """

    pixels: NDArray[Any]
    title: str
    panels: Sequence[Panel]
    failures: dict[str, str]


@dataclass(frozen=True, eq=False)
class TextRow:
    """Values of one method for the words of a text.

    Attributes:
        title: The method.
        values: One value a word; empty if the method failed.
        tone: What the values mean.
        failure: Why there are none.
    """

    title: str
    values: NDArray[Any]
    tone: Tone
    failure: str = ""


def image_comparison(rows: Sequence[ImageRow]) -> Figure:
    """Images, each beside the maps of all methods; every map is scaled by its own largest value.

    Args:
        rows: One or more images with the same methods.

    Returns:
        The figure.
    """
    cells = 1 + len(rows[0].panels) + len(rows[0].failures)
    # One line an image reads best where there are several images, so the cells get smaller first.
    lines = -(-cells // (_PER_LINE if len(rows) == 1 else _PER_LINE_OF_MANY))
    columns = -(-cells // lines)
    side = 2.35 if columns <= _PER_LINE else 1.75
    height, width = rows[0].pixels.shape[:2]
    figure, part = _framed(
        (side * columns, (side * height / width + 0.35) * lines * len(rows) + 0.3),
        [panel.tone for row in rows for panel in row.panels],
    )
    axes = part.subplots(lines * len(rows), columns, squeeze=False)
    for axis in axes.flat:
        # An axis that is switched off altogether gets no room for its title.
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    for number, row in enumerate(rows):
        # Of several images in a line each, the first names the methods for all.
        _draw_row(axes[number * lines : (number + 1) * lines].flatten(), row, named=number == 0 or lines > 1)
    return figure


def text_comparison(words: Sequence[str], rows: Sequence[TextRow], *, title: str) -> Figure:
    """A line of words for each method, shaded by relevance; every line is scaled by its own largest value.

    Args:
        words: The words, in order.
        rows: One row a method.
        title: Title of the figure.

    Returns:
        The figure.
    """
    lines = -(-len(words) // _WORDS_PER_LINE)
    per_line = -(-len(words) // lines)
    parts = [range(start, min(start + per_line, len(words))) for start in range(0, len(words), per_line)]
    longest = max((len(row.title) for row in rows), default=10)
    width = per_line * 0.62 + 0.075 * longest + 0.5
    figure, part = _framed(
        (max(width, 6.0), len(parts) * (0.28 * len(rows) + 0.85) + 0.3), [row.tone for row in rows if not row.failure]
    )
    axes = part.subplots(len(parts), 1, squeeze=False)
    for axis, indices in zip(axes[:, 0], parts, strict=True):
        _draw_words(axis, words, rows, indices, per_line)
    part.suptitle(_plain(title), fontsize=10)
    return figure


def _draw_row(axes: Any, row: ImageRow, *, named: bool) -> None:
    height, width = row.pixels.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes[0].imshow(row.pixels, extent=extent)
    axes[0].set_title(_wrapped(row.title), fontsize=8.5)
    # Rounding may reach beyond one, which matplotlib reports.
    gray = np.clip(np.repeat(row.pixels.mean(-1, keepdims=True), 3, axis=-1) * 0.3 + 0.7, 0, 1)
    for axis, panel in zip(axes[1:], row.panels, strict=False):
        limit = float(np.abs(panel.patches).max()) or 1.0
        axis.imshow(gray, extent=extent)
        low = -1.0 if panel.tone == "signed" else 0.0
        colors = COLORMAPS[panel.tone](Normalize(low, 1.0)(panel.patches / limit))
        # Where there is no relevance the image shows; where there is much, only the ink does.
        colors[..., 3] = np.clip(0.15 + 0.85 * np.abs(panel.patches) / limit, 0, 1)
        axis.imshow(colors, extent=extent, interpolation="nearest")
        empty = "" if panel.patches.any() else " (zero everywhere)"
        axis.set_title(_wrapped((panel.title if named else "") + empty), fontsize=8.5)
    for axis, (title, why) in zip(axes[1 + len(row.panels) :], row.failures.items(), strict=False):
        axis.set_title(_wrapped(title if named else ""), fontsize=8.5)
        axis.set_box_aspect(height / width)
        said = fill(_plain(shorten(why, 110, placeholder=" …")), 24)
        axis.text(0.5, 0.5, f"failed:\n{said}", ha="center", va="center", fontsize=7, transform=axis.transAxes)


def _draw_words(axis: Any, words: Sequence[str], rows: Sequence[TextRow], part: range, per_line: int) -> None:
    picture = np.ones((len(rows), per_line, 3))
    for line, row in enumerate(rows):
        limit = float(np.abs(row.values).max()) if row.values.any() else 1.0
        for column, index in enumerate(part if row.values.size else ()):
            ink = shade(float(row.values[index]) / limit, row.tone)
            picture[line, column] = [int(ink[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    axis.imshow(picture, aspect="auto", interpolation="nearest")
    shown = [shorten(_plain(words[index]), 14, placeholder="…") or "…" for index in part]
    axis.set_xticks(range(len(part)), shown, rotation=35, ha="left", rotation_mode="anchor", fontsize=9)
    axis.xaxis.tick_top()
    axis.set_yticks(
        range(len(rows)), [_plain(row.title) + (" (failed)" if row.failure else "") for row in rows], fontsize=9
    )
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(-0.5, picture.shape[1]), minor=True)
    axis.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axis.grid(which="minor", color="white", linewidth=2)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)


def _framed(size: tuple[float, float], tones: Sequence[Tone]) -> tuple[Figure, SubFigure]:
    """A figure with a legend below: one small bar for each kind of value, side by side."""
    present: list[Tone] = [tone for tone in _LEGEND if tone in tones]
    lines = -(-len(present) // 2) if size[0] < 3 * len(present) else 1
    legend_height = 0.5 * lines + 0.3
    figure = Figure(figsize=(size[0], size[1] + legend_height), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[size[1], legend_height])[:, 0]
    below.suptitle("every map is scaled by its own largest value", fontsize=8, color="#444444")
    columns = -(-len(present) // lines) if lines else 1
    axes = below.subplots(max(lines, 1), columns, squeeze=False)
    for axis in axes.flat[len(present) :]:
        axis.set_axis_off()
    for axis, tone in zip(axes.flat, present, strict=False):
        low = -1.0 if tone == "signed" else 0.0
        axis.imshow(np.linspace(low, 1.0, 256)[None], cmap=COLORMAPS[tone], aspect="auto", extent=(low, 1, 0, 1))
        axis.set_yticks([])
        axis.set_xticks([low, 1.0], ["-max" if low else "0", "max"], fontsize=7)
        axis.tick_params(length=0)
        axis.set_xlabel(_LEGEND[tone], fontsize=8, labelpad=-8)
        axis.set_box_aspect(0.05)
    return figure, above


def _wrapped(text: str) -> str:
    return fill(_plain(text.strip()), 24)


def _plain(text: str) -> str:
    # A dollar sign would start mathematics.
    return text.replace("$", r"\$")
