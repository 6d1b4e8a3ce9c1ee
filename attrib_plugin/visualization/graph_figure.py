"""The graph between layers as a matplotlib figure: tokens down, layers from the input on the left to the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from attrib_plugin.errors import InputError
from attrib_plugin.visualization.colors import FOR, SHARE
from attrib_plugin.visualization.labels import finish, label
from attrib_plugin.visualization.ranges import as_array

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray
    from torch import Tensor

EdgeUnit = Literal["share", "flow"]
"""Shares are written in per cent, flows as numbers."""

_EDGES_A_LAYER = 30
_SMALLEST = 1e-10
_LONGEST_NAME = 18
_MOST_INCHES = 16.0


def flow_graph_figure(
    edges: Float[Tensor, "layer query key"] | NDArray[Any],
    tokens: Sequence[str],
    *,
    target: int | None = None,
    input_values: Float[Tensor, " token"] | NDArray[Any] | None = None,
    unit: EdgeUnit = "share",
    hide_below: float | None = None,
    title: str = "",
) -> Figure:
    """Tokens of every layer as nodes, and between them edges of what passes: attention, rollout or flow.

    The larger a value, the thicker and darker its line (by the square root). Small edges are left out, and the figure
    says below which value. With a target only edges that lead to it, by others that are drawn, are kept.

    Args:
        edges: Non-negative; ``edges[layer, query, key]`` goes from token ``key`` below the layer to
            ``query`` above it.
        tokens: Names of the tokens, any text.
        target: The token at the top that is looked at, from 0 or from -1 backwards.
        input_values: A value for each input token, written beside its name.
        unit: Whether values are shares (written in per cent) or flow.
        hide_below: Smallest value drawn; ``None`` keeps about thirty edges a layer.
        title: Title of the figure.

    Returns:
        The figure, in no global state.

    Raises:
        InputError: If shapes and tokens do not fit, a value is negative or not finite, or there is no such token.

    Reference:
        Abnar and Zuidema 2020, arXiv:2005.00928, figure 1.
    """
    weights = as_array(edges, 3, "edges")
    _check(weights, tokens, target)
    values = None if input_values is None else as_array(input_values, 1, "input_values")
    if values is not None and len(values) != len(tokens):
        raise InputError(f"Expected {len(tokens)} input_values, one a token, found {len(values)}.")
    end = None if target is None else target % len(tokens)
    least = max(_threshold(weights, end) if hide_below is None else hide_below, _SMALLEST)
    shown = weights * (weights >= least)
    shown = shown if end is None else _leading_to(shown, end)
    depth, count = len(weights), len(tokens)
    height = min(max(0.24 * count, 1.6), _MOST_INCHES)
    margin = 0.085 * max(min(len(label(name)), _LONGEST_NAME) for name in tokens) + 0.3
    figure = Figure(
        figsize=(max(0.95 * depth, 3.0) + 2 * margin + (0.6 if values is not None else 0), height + 1.3),
        layout="constrained",
    )
    axis = figure.subplots()
    n_edges = _draw_edges(axis, shown)
    _draw_nodes(axis, shown, end)
    names = [label(name, _LONGEST_NAME) for name in tokens]
    beside = names if values is None else [f"{written(values[i], unit)}  {name}" for i, name in enumerate(names)]
    _name(axis, beside, names, depth=depth, room=72 * 0.8 * height / count)
    heading = title if end is None else f"{title}{' to ' if title else 'to '}“{tokens[end]}” at the top"
    axis.set_title(label(heading, max(int(figure.get_figwidth() / 0.08), 24)), fontsize=10)
    note = f"{n_edges} edges of at least {written(least, unit)}; smaller ones are left out"
    return finish(figure, [heading, *tokens], note=note if n_edges else "there is no edge to draw")


def written(value: float, unit: EdgeUnit) -> str:
    """A value as the figure writes it.

    Args:
        value: The value.
        unit: Its unit.

    Returns:
        Per cent, or a number.
    """
    if unit == "flow":
        return f"{value:.3g}"
    return f"{100 * value:.1f} %" if value >= 0.001 or value == 0 else f"{100 * value:.2g} %"


def _check(weights: NDArray[Any], tokens: Sequence[str], target: int | None) -> None:
    if weights.shape[1:] != (len(tokens), len(tokens)):
        raise InputError(
            f"Expected edges (layer, {len(tokens)}, {len(tokens)}) for {len(tokens)} tokens, found {weights.shape}."
        )
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise InputError("Expected edges that are finite and not negative; found others.")
    if target is not None and not -len(tokens) <= target < len(tokens):
        raise InputError(f"target must be one of the {len(tokens)} tokens, counted from 0, not {target}.")


def _threshold(weights: NDArray[Any], target: int | None) -> float:
    """The smallest value that leaves about thirty edges a layer."""
    ordered = np.unique(weights[weights > 0])[::-1]
    wanted = _EDGES_A_LAYER * len(weights)
    low, high = 0, len(ordered) - 1
    # The lower the threshold, the more edges; so the last place that fits is found by halves.
    while low < high:
        middle = (low + high + 1) // 2
        kept = weights * (weights >= ordered[middle])
        count = np.count_nonzero(kept if target is None else _leading_to(kept, target))
        low, high = (middle, high) if count <= wanted else (low, middle - 1)
    return float(ordered[low]) if len(ordered) else 0.0


def _leading_to(weights: NDArray[Any], target: int) -> NDArray[Any]:
    reached = np.zeros(weights.shape[1], dtype=bool)
    reached[target] = True
    kept = np.zeros_like(weights)
    for layer in reversed(range(len(weights))):
        kept[layer] = weights[layer] * reached[:, None]
        reached = kept[layer].any(0)
    return kept


def _draw_edges(axis: Any, weights: NDArray[Any]) -> int:
    places = np.argwhere(weights > 0)
    sizes = weights[tuple(places.T)]
    # The faint first, so that the strong lie on top.
    order = np.argsort(sizes)
    places, sizes = places[order], sizes[order] / (sizes.max() if len(sizes) else 1.0)
    lines = [((layer, key), (layer + 1, query)) for layer, query, key in places]
    inks = [(*to_rgb(SHARE), max(0.12, float(size) ** 0.5)) for size in sizes]
    axis.add_collection(LineCollection(lines, colors=inks, linewidths=0.8 + 3.2 * sizes, capstyle="round"))
    return len(lines)


def _draw_nodes(axis: Any, weights: NDArray[Any], target: int | None) -> None:
    depth, count = weights.shape[:2]
    touched = np.zeros((depth + 1, count), dtype=bool)
    touched[:-1] |= weights.any(1)
    touched[1:] |= weights.any(2)
    for is_touched, color, size in ((False, "#c9c9c9", 4.0), (True, SHARE, 22.0)):
        levels, rows = np.nonzero(touched == is_touched)
        axis.scatter(levels, rows, s=size, color=color, zorder=3, linewidths=0)
    if target is not None:
        axis.scatter([depth], [target], s=60, color=FOR, zorder=4, linewidths=0)


def _name(axis: Any, left: Sequence[str], right: Sequence[str], *, depth: int, room: float) -> None:
    step = max(1, int(np.ceil(5.5 / room)))
    size = float(np.clip(room * step, 5.5, 9))
    places = range(0, len(left), step)
    opposite = axis.secondary_yaxis("right")
    for one, names in ((axis, left), (opposite, right)):
        one.set_yticks(list(places), [names[place] for place in places], fontsize=size)
        one.tick_params(length=0)
        one.spines[:].set_visible(False)
    layers = map(str, range(depth)) if depth > 7 else (f"layer {number}" for number in range(depth))
    axis.set_xticks(range(depth + 1), ["input", *layers], fontsize=8)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_xlim(-0.15, depth + 0.15)
    axis.set_ylim(len(left) - 0.4, -0.6)
