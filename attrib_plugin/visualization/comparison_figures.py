"""Maps of several methods as small multiples on one layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure

from attrib_plugin.errors import InputError
from attrib_plugin.visualization.colors import Tone, shade
from attrib_plugin.visualization.figures import UNITS
from attrib_plugin.visualization.labels import finish, label, wrapped
from attrib_plugin.visualization.overlay import (
    HATCH,
    HATCH_INK,
    HATCHED_FROM,
    Panel,
    checked_pixels,
    draw_bar,
    draw_hatch,
    draw_overlay,
)
from attrib_plugin.visualization.ranges import limit_of, remark, with_remark

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PER_LINE = 5
_PER_LINE_OF_MANY = 9
_WORDS_PER_LINE = 15
_LONGEST_WORD = 14
_OWN_SCALES = "every map is scaled by its own largest value"


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
    _bare(axes)
    for number, row in enumerate(rows):
        # Of several images in a line each, the first names the methods for all.
        _draw_row(axes[number * lines : (number + 1) * lines].flatten(), row, named=number == 0 or lines > 1)
    texts = [text for row in rows for text in (row.title, *(panel.title for panel in row.panels), *row.failures)]
    return finish(figure, texts)


def image_multiples(
    pixels: NDArray[Any],
    panels: Sequence[Sequence[Panel | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
) -> Figure:
    """Maps of one image in rows and columns, such as methods down and classes across.

    Every map is scaled by its own largest size. Its own title is written above it only where it says something else
    than its row and column.

    Args:
        pixels: What the model saw, (height,width,3) between 0 and 1.
        panels: The maps, row by row; ``None`` leaves a place empty.
        rows: Names of the rows.
        columns: Names of the columns.
        title: Title of the image, which stands to the left of every row.

    Returns:
        The figure.

    Raises:
        InputError: If maps and names do not fit.
    """
    if not panels or len(panels) != len(rows) or any(len(line) != len(columns) for line in panels):
        raise InputError(
            f"Expected {len(rows)} rows of {len(columns)} maps, as there are names, found "
            f"{[len(line) for line in panels]}."
        )
    image = checked_pixels(pixels)
    height, width = image.shape[:2]
    side = 2.35 if len(columns) < _PER_LINE else 1.75
    figure, part = _framed(
        (side * (len(columns) + 1) + 0.3, (side * height / width + 0.08) * len(rows) + 0.4),
        [panel.tone for line in panels for panel in line if panel is not None],
    )
    axes = part.subplots(len(rows), len(columns) + 1, squeeze=False)
    _bare(axes)
    for line, (name, across) in enumerate(zip(rows, panels, strict=True)):
        axes[line, 0].imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        axes[line, 0].set_ylabel(wrapped(name, 22), fontsize=8.5)
        for place, panel in enumerate(across):
            axis = axes[line, place + 1]
            if panel is None:
                axis.set_box_aspect(height / width)
                continue
            draw_overlay(axis, image, (height, width), panel, limit_of([panel.patches]))
            if said := remark(panel.patches, panel.tone):
                axis.set_xlabel(wrapped(said, 26), fontsize=7.5)
    for axis, name in zip(axes[0], (title or "input", *columns), strict=True):
        axis.set_title(wrapped(name, 24), fontsize=8.5)
    return finish(figure, [title, *rows, *columns])


def text_comparison(words: Sequence[str], rows: Sequence[TextRow], *, title: str) -> Figure:
    """A line of words for each method, shaded by relevance; every line is scaled by its own largest value.

    In signed rows, words that speak against are hatched from a fifth of the largest size.

    Args:
        words: The words, in order.
        rows: One row a method.
        title: Title of the figure.

    Returns:
        The figure.

    Raises:
        InputError: If there is no word.
    """
    if not words:
        raise InputError("Expected at least one word to draw, found none: the text holds nothing that can be seen.")
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
    part.suptitle(wrapped(title, int(figure.get_figwidth() / 0.085)), fontsize=10)
    return finish(figure, [title, *words, *(row.title for row in rows)])


def _draw_row(axes: Any, row: ImageRow, *, named: bool) -> None:
    image = checked_pixels(row.pixels)
    height, width = image.shape[:2]
    axes[0].imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes[0].set_title(wrapped(row.title, 24), fontsize=8.5)
    for axis, panel in zip(axes[1:], row.panels, strict=False):
        draw_overlay(axis, image, (height, width), panel, limit_of([panel.patches]))
        axis.set_title(
            wrapped(with_remark(panel.title if named else "", panel.patches, panel.tone), 24) or " ", fontsize=8.5
        )
    for axis, (title, why) in zip(axes[1 + len(row.panels) :], row.failures.items(), strict=False):
        axis.set_title(wrapped(title, 24) if named else "", fontsize=8.5)
        axis.set_box_aspect(height / width)
        said = wrapped(shorten(why, 110, placeholder=" …"), 24)
        axis.text(0.5, 0.5, f"failed:\n{said}", ha="center", va="center", fontsize=7, transform=axis.transAxes)


def _bare(axes: NDArray[Any]) -> None:
    for axis in axes.flat:
        # An axis that is switched off altogether gets no room for its title.
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)


def _draw_words(axis: Any, words: Sequence[str], rows: Sequence[TextRow], part: range, per_line: int) -> None:
    picture = np.ones((len(rows), per_line, 3))
    against = np.zeros(picture.shape[:2], dtype=bool)
    for line, row in enumerate(rows):
        limit = limit_of([row.values])
        for column, index in enumerate(part if row.values.size else ()):
            strength = float(row.values[index]) / limit
            picture[line, column] = to_rgb(shade(strength, row.tone))
            against[line, column] = row.tone == "signed" and strength <= -HATCHED_FROM
    axis.imshow(picture, aspect="auto", interpolation="nearest")
    draw_hatch(axis, against, picture.shape[:2], HATCH, HATCH_INK)
    shown = [label(words[index], _LONGEST_WORD) for index in part]
    axis.set_xticks(range(len(part)), shown, rotation=35, ha="left", rotation_mode="anchor", fontsize=9)
    axis.xaxis.tick_top()
    axis.set_yticks(
        range(len(rows)),
        [label(row.title, 40) + (" (failed)" if row.failure else _said(row)) for row in rows],
        fontsize=9,
    )
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(-0.5, picture.shape[1]), minor=True)
    axis.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axis.grid(which="minor", color="white", linewidth=2)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)


def _said(row: TextRow) -> str:
    said = remark(row.values, row.tone) if row.values.size else ""
    return f" ({said})" if said else ""


def _framed(size: tuple[float, float], tones: Sequence[Tone]) -> tuple[Figure, SubFigure]:
    """A figure with a legend below: one small bar for each kind of value, side by side."""
    present: list[Tone] = [tone for tone in UNITS if tone in tones]
    lines = -(-len(present) // 2) if size[0] < 3 * len(present) else 1
    legend_height = 0.5 * lines + 0.3
    figure = Figure(figsize=(size[0], size[1] + legend_height), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[size[1], legend_height])[:, 0]
    below.suptitle(_OWN_SCALES, fontsize=8, color="#444444")
    columns = -(-len(present) // lines) if lines else 1
    axes = below.subplots(max(lines, 1), columns, squeeze=False)
    for axis in axes.flat[len(present) :]:
        axis.set_axis_off()
    for axis, tone in zip(axes.flat, present, strict=False):
        draw_bar(axis, tone, 1.0)
        low = -1.0 if tone == "signed" else 0.0
        axis.set_xticks([low, 1.0], ["-max" if low else "0", "max"], fontsize=7)
        axis.tick_params(length=0)
        axis.set_xlabel(UNITS[tone], fontsize=8, labelpad=-8)
        axis.set_box_aspect(0.05)
    return figure, above
