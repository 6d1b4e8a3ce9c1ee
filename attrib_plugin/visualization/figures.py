"""Relevance as matplotlib figures, made without pyplot and so without any global state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from attrib_plugin.visualization.colors import AGAINST, FOR, SHARE, SIZE, Tone, ink

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLORMAPS: dict[Tone, LinearSegmentedColormap] = {
    "for": LinearSegmentedColormap.from_list("for", ["#ffffff", FOR]),
    "against": LinearSegmentedColormap.from_list("against", ["#ffffff", AGAINST]),
    "signed": LinearSegmentedColormap.from_list("signed", [AGAINST, "#ffffff", FOR]),
    "share": LinearSegmentedColormap.from_list("share", ["#ffffff", SHARE]),
    "size": LinearSegmentedColormap.from_list("size", ["#ffffff", SIZE]),
}


_BAR: dict[str, Any] = {"orientation": "horizontal", "shrink": 0.85, "pad": 0.02}


@dataclass(frozen=True, eq=False)
class Panel:
    """One map beside the image that it belongs to.

    Attributes:
        title: What the map shows.
        patches: Relevance (row,column).
        tone: What the values mean, and so their colours.
    """

    title: str
    patches: NDArray[Any]
    tone: Tone = "for"


def image_figure(pixels: NDArray[Any], panels: Sequence[Panel], *, title: str = "input") -> Figure:
    """An image and relevance maps laid over it.

    Each map has a scale of its own, from zero to its largest value (or symmetric about zero if it is signed); an
    all-zero map is drawn white, and NaN is left blank and said in the title.

    Args:
        pixels: What the model saw, (height,width,3) between 0 and 1.
        panels: The maps.
        title: Title of the image.

    Returns:
        The figure.
    """
    height, width = pixels.shape[:2]
    figure = Figure(figsize=(3.1 * (len(panels) + 1), 3.1 * height / width + 0.9), layout="constrained")
    axes = figure.subplots(1, len(panels) + 1, squeeze=False)[0]
    shown = axes[0].imshow(pixels)
    axes[0].set_title(title, fontsize=10)
    axes[0].set_axis_off()
    # An unseen colour bar gives the image the size and place of the maps beside it.
    figure.colorbar(shown, ax=axes[0], **_BAR).ax.set_visible(False)
    gray = np.repeat(pixels.mean(-1, keepdims=True), 3, axis=-1) * 0.55 + 0.45
    for axis, panel in zip(axes[1:], panels, strict=True):
        _draw_panel(figure, axis, panel, gray)
    return figure


def word_figure(words: Sequence[str], values: NDArray[Any], *, title: str, tone: Tone) -> Figure:
    """Words with their relevance as bars, in the order of the text.

    Args:
        words: The words.
        values: One value a word.
        title: What the values are.
        tone: What the values mean, and so their colours.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(6.4, 0.9 + 0.28 * max(len(words), 1)), layout="constrained")
    axis = figure.subplots()
    positions = np.arange(len(words))
    axis.barh(positions, np.nan_to_num(values), color=[ink(value, tone) for value in values])
    # A dollar sign would start mathematics.
    axis.set_yticks(positions, [word.replace("$", r"\$") for word in words])
    axis.invert_yaxis()
    axis.axvline(0, color="#444444", linewidth=0.8)
    axis.set_xlabel("relevance (against  ←  0  →  for)" if tone == "signed" else "relevance")
    axis.set_title(_with_gaps(title, values), fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_panel(figure: Figure, axis: Any, panel: Panel, gray: NDArray[Any]) -> None:
    height, width = gray.shape[:2]
    largest = float(np.nanmax(np.abs(panel.patches))) if np.isfinite(panel.patches).any() else 0.0
    limit = largest or 1.0
    norm = Normalize(-limit if panel.tone == "signed" else 0.0, limit)
    colormap = COLORMAPS[panel.tone]
    axis.imshow(gray)
    # The extent puts every patch on its own pixels; without it the two images would not line up.
    axis.imshow(
        panel.patches,
        cmap=colormap,
        norm=norm,
        alpha=0.72,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    axis.set_title(_with_gaps(panel.title, panel.patches), fontsize=10)
    axis.set_axis_off()
    bar = figure.colorbar(ScalarMappable(norm, colormap), ax=axis, **_BAR)
    bar.ax.tick_params(labelsize=7)
    bar.ax.ticklabel_format(axis="x", scilimits=(-2, 3))


def _with_gaps(title: str, values: NDArray[Any]) -> str:
    if np.isnan(values).any():
        return f"{title} (NaN left blank)"
    return title if np.any(values) else f"{title} (zero everywhere)"
