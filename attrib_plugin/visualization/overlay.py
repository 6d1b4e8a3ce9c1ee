"""A relevance map laid over the image that it belongs to, patch by patch; what every figure of images draws with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.patches import Rectangle

from attrib_plugin.errors import InputError
from attrib_plugin.visualization.colors import AGAINST, FOR, GAP, SHARE, SIZE, Tone
from attrib_plugin.visualization.ranges import norm_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLORMAPS: dict[Tone, LinearSegmentedColormap] = {
    "for": LinearSegmentedColormap.from_list("for", ["#ffffff", FOR]),
    "against": LinearSegmentedColormap.from_list("against", ["#ffffff", AGAINST]),
    "signed": LinearSegmentedColormap.from_list("signed", [AGAINST, "#ffffff", FOR]),
    "share": LinearSegmentedColormap.from_list("share", ["#ffffff", SHARE]),
    "size": LinearSegmentedColormap.from_list("size", ["#ffffff", SIZE]),
}

HATCH = "////"
"""Evidence against is hatched, so that the sign survives grey print."""

HATCHED_FROM = 0.2
"""Part of the largest size from which evidence against is hatched."""

HATCH_INK = "#ffffffb0"
"""Colour of the lines, which shows on any ink."""

_GAP_HATCH = "xxxx"


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


def checked_pixels(pixels: Any) -> NDArray[np.float64]:
    """An image as matplotlib draws it.

    Args:
        pixels: (height,width,3) between 0 and 1, an array or a tensor.

    Returns:
        The same as an array; rounding beyond the range is cut.

    Raises:
        InputError: If it has another shape or range, such as after normalisation.
    """
    array = np.asarray(pixels, dtype=np.float64)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise InputError(
            f"Expected an image (height, width, 3), found {array.shape}. A tensor (C, H, W) is turned by "
            "image.permute(1, 2, 0)."
        )
    if not (np.isfinite(array).all() and array.min() >= -0.01 and array.max() <= 1.01):
        raise InputError(
            "Expected pixels between 0 and 1, found others: undo the normalisation first, image * std + mean."
        )
    return np.clip(array, 0.0, 1.0)


def draw_overlay(axis: Any, pixels: NDArray[Any] | None, size: tuple[int, int], panel: Panel, limit: float) -> None:
    """Draw a map, over the greyed image if there is one; every patch lies on its own pixels.

    Args:
        axis: Where to.
        pixels: The image (height,width,3), or ``None`` for the map alone.
        size: Height and width that the map covers.
        panel: The map.
        limit: The size that gets the full ink.
    """
    height, width = size
    # Without an extent the two images would not line up.
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    values = panel.patches if panel.tone == "signed" else np.maximum(panel.patches, 0.0)
    sizes = np.abs(values) / limit
    colors = COLORMAPS[panel.tone](norm_of(limit, panel.tone)(np.nan_to_num(panel.patches, posinf=0, neginf=0)))
    if pixels is not None:
        grey = np.repeat(pixels.mean(-1, keepdims=True), 3, axis=-1) * 0.3 + 0.7
        # Rounding may reach beyond one, which matplotlib reports.
        axis.imshow(np.clip(grey, 0, 1), extent=extent)
        # Where there is no relevance the image shows; where there is much, only the ink does.
        colors[..., 3] = np.clip(0.15 + 0.85 * np.nan_to_num(sizes, posinf=0), 0, 1)
    gaps = ~np.isfinite(panel.patches)
    colors[gaps] = to_rgba(GAP)
    axis.imshow(colors, extent=extent, interpolation="nearest")
    draw_hatch(axis, gaps, size, _GAP_HATCH, "#8a8a8a")
    if panel.tone == "signed":
        draw_hatch(axis, ~gaps & (panel.patches <= -HATCHED_FROM * limit), size, HATCH, HATCH_INK)


def draw_bar(axis: Any, tone: Tone, limit: float) -> None:
    """The colours of a map as a bar, evidence against hatched as in the map.

    Args:
        axis: Where to.
        tone: What the values mean.
        limit: The size that gets the full ink.
    """
    low = -limit if tone == "signed" else 0.0
    axis.imshow(
        np.linspace(low, limit, 256)[None],
        cmap=COLORMAPS[tone],
        norm=norm_of(limit, tone),
        aspect="auto",
        extent=(low, limit, 0, 1),
    )
    if tone == "signed":
        hatched = Rectangle((-limit, 0), (1 - HATCHED_FROM) * limit, 1, fill=False, hatch=HATCH, linewidth=0)
        hatched.set_edgecolor(HATCH_INK)
        axis.add_patch(hatched)
    axis.set_yticks([])
    axis.tick_params(length=2, width=0.6)
    axis.spines[:].set(linewidth=0.6, color="#777777")


def draw_hatch(axis: Any, where: NDArray[np.bool_], size: tuple[int, int], hatch: str, color: str) -> None:
    """Hatch some cells of a map.

    Args:
        axis: Where to.
        where: Which cells (row,column).
        size: Height and width that the map covers.
        hatch: The pattern, in matplotlib's words.
        color: Its colour.
    """
    if not where.any():
        return
    high, wide = size[0] / where.shape[0], size[1] / where.shape[1]
    places = np.argwhere(where)
    patches = [Rectangle((column * wide - 0.5, row * high - 0.5), wide, high) for row, column in places]
    axis.add_collection(PatchCollection(patches, facecolor="none", edgecolor=color, hatch=hatch, linewidth=0))
