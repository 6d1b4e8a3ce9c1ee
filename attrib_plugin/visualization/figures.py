"""Relevance as matplotlib figures, made without pyplot and so without any global state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from attrib_plugin.errors import InputError
from attrib_plugin.visualization.colors import Tone, ink
from attrib_plugin.visualization.labels import finish, label, wrapped
from attrib_plugin.visualization.overlay import HATCH, HATCH_INK, Panel, checked_pixels, draw_bar, draw_overlay
from attrib_plugin.visualization.ranges import limit_of, with_remark

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNITS: dict[Tone, str] = {
    "for": "evidence for",
    "against": "evidence against",
    "signed": "against  ←  0  →  for",
    "share": "share of attention",
    "size": "size of influence",
}
_MOST_COLUMNS = 4
_CELL = 3.1
_LONGEST_WORD = 24
_WORDS_A_COLUMN = 60


def image_figure(
    pixels: NDArray[Any],
    panels: Sequence[Panel],
    *,
    title: str = "input",
    overlay: bool = True,
    shared: bool = False,
    columns: int | None = None,
) -> Figure:
    """An image and relevance maps laid over it, each with a bar of its colours.

    Signed maps have zero in the middle, orange for and blue against, which is hatched so that it survives grey print.
    The more relevance, the less the image shows through. A map that is zero everywhere, the same everywhere, without a
    value above zero or not a number (grey, crossed) says so in its title.

    Args:
        pixels: What the model saw, (height,width,3) between 0 and 1, before normalisation; an array or a tensor.
        panels: The maps.
        title: Title of the image.
        overlay: Whether maps lie over the image; else they are drawn by themselves.
        shared: Whether one scale holds for all maps, whose values must mean the same; else each is scaled by its own
            largest size.
        columns: How many pictures stand side by side; ``None`` is up to four besides the image.

    Returns:
        The figure.

    Raises:
        InputError: If pixels or a map have another shape or range, or maps cannot share a scale.
    """
    image = checked_pixels(pixels)
    _check_panels(panels, shared)
    height, width = image.shape[:2]
    side_by_side = columns or min(len(panels), _MOST_COLUMNS) + 1
    lines = -(-(len(panels) + 1) // side_by_side)
    titles = [with_remark(panel.title, panel.patches, panel.tone) for panel in panels]
    longest = max((wrapped(one, 44).count("\n") for one in (title, *titles)), default=0)
    cell = _CELL * height / width + 0.62 + 0.17 * longest
    figure = Figure(figsize=(_CELL * side_by_side, cell * lines), layout="constrained")
    rows = [_CELL * height / width, 0.12] * lines
    axes = figure.subplots(2 * lines, side_by_side, squeeze=False, height_ratios=rows)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes[0, 0].set_title(wrapped(title, 44), fontsize=10)
    common = limit_of([panel.patches for panel in panels])
    for number, (panel, named) in enumerate(zip(panels, titles, strict=True), 1):
        line, column = divmod(number, side_by_side)
        limit = common if shared else limit_of([panel.patches])
        axis, bar = axes[2 * line, column], axes[2 * line + 1, column]
        draw_overlay(axis, image if overlay else None, (height, width), panel, limit)
        axis.set_title(wrapped(named, 44), fontsize=10)
        _write_bar(bar, panel.tone, limit)
    return finish(figure, [title, *titles], note="one scale for all maps" if shared and len(panels) > 1 else "")


def word_figure(words: Sequence[str], values: NDArray[Any], *, title: str, tone: Tone) -> Figure:
    """Words with their relevance as bars, in the order of the text; beyond sixty words in several columns.

    Args:
        words: The words, any text.
        values: One value a word; what is not a number has no bar.
        title: What the values are.
        tone: What the values mean, and so their colours; evidence against is hatched where both signs occur.

    Returns:
        The figure.

    Raises:
        InputError: If there are not as many values as words.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(words),):
        raise InputError(f"Expected one value for each of the {len(words)} words, found shape {array.shape}.")
    columns = max(-(-len(words) // _WORDS_A_COLUMN), 1)
    per_column = max(-(-len(words) // columns), 1)
    width = 6.4 if columns == 1 else 3.4 * columns
    named = with_remark(title, array, tone) if len(words) else f"{title} (no words)"
    said = wrapped(named, int(width / 0.085))
    figure = Figure(figsize=(width, 1.0 + 0.17 * said.count("\n") + 0.24 * per_column), layout="constrained")
    axes = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    finite = [0.0, *array[np.isfinite(array)]]
    ends = (1.05 * min(finite), 1.05 * max(finite)) if any(finite) else (0.0, 1.0)
    for number, axis in enumerate(axes):
        part = slice(number * per_column, (number + 1) * per_column)
        _draw_bars(axis, words[part], array[part], tone, per_column)
        axis.set_xlim(*ends)
    figure.suptitle(said, fontsize=10)
    return finish(figure, [title, *words], note="relevance: " + UNITS[tone])


def _draw_bars(axis: Any, words: Sequence[str], values: NDArray[Any], tone: Tone, room: int) -> None:
    positions = np.arange(len(words))
    shown = np.where(np.isfinite(values), values, 0.0)
    bars = axis.barh(positions, shown, color=[ink(value, tone) for value in shown], height=0.75)
    for bar, value in zip(bars, shown, strict=True):
        if tone == "signed" and value < 0:
            bar.set(hatch=HATCH, edgecolor=HATCH_INK, linewidth=0)
    axis.set_yticks(positions, [label(word, _LONGEST_WORD) for word in words], fontsize=9)
    axis.set_ylim(room - 0.4, -0.6)
    axis.axvline(0, color="#444444", linewidth=0.8)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _write_bar(axis: Any, tone: Tone, limit: float) -> None:
    axis.set_axis_on()
    draw_bar(axis, tone, limit)
    low = -limit if tone == "signed" else 0.0
    # Written out, so that no power of ten is hidden in a corner.
    axis.set_xticks([low, (low + limit) / 2, limit], [f"{one:.2g}" for one in (low, (low + limit) / 2, limit)])
    axis.tick_params(labelsize=7.5, pad=1.5)
    axis.set_xlabel(UNITS[tone], fontsize=8, labelpad=1)


def _check_panels(panels: Sequence[Panel], shared: bool) -> None:
    for panel in panels:
        if np.ndim(panel.patches) != 2 or not np.size(panel.patches):
            raise InputError(f"Expected a map (row, column) for {panel.title!r}, found {np.shape(panel.patches)}.")
    if shared and len({panel.tone for panel in panels}) > 1:
        raise InputError("Maps whose values mean different things cannot share a scale: give shared=False.")
