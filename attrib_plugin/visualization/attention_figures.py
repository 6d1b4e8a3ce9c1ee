"""Attention as matplotlib figures: heat maps of heads and layers, all heads at once, one row through the layers.

Rows are queries (which token attends), columns are keys (to which). Layers and heads are counted from 0, as in Python.
Maps are tensors or arrays; nothing here runs a model. ``attrib_plugin.attention_figures`` reads them from one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from attrib_plugin.errors import InputError
from attrib_plugin.visualization.colors import GAP, Tone, text_on
from attrib_plugin.visualization.figures import UNITS
from attrib_plugin.visualization.labels import finish, label
from attrib_plugin.visualization.overlay import COLORMAPS
from attrib_plugin.visualization.ranges import ColorScale, as_array, limit_of, norm_of, with_remark

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray
    from torch import Tensor

_MOST_NAMES = 72
"""Beyond this many tokens along an axis, only every second, third ... is named."""
_MOST_INCHES = 12.0
_LONGEST_NAME = 18
_MOST_NAMED_SMALL = 24
_GRID_UP_TO = 40
_NUMBERS_UP_TO = 12


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """One map of token by token.

    Attributes:
        title: What it shows.
        values: Tensor or array (query,key).
        tone: What the values mean, and so their colour.
    """

    title: str
    values: Float[Tensor, "query key"] | NDArray[Any]
    tone: Tone = "share"


def attention_figure(
    maps: Sequence[AttentionMap],
    tokens: Sequence[str],
    *,
    key_tokens: Sequence[str] | None = None,
    title: str = "",
    shared: bool = True,
    scale: ColorScale = "linear",
) -> Figure:
    """One or several heat maps of token by token, side by side: a head, a mean, two layers, a rollout.

    Args:
        maps: The maps (query,key), each with its title. What is not a number is grey.
        tokens: Names of the queries, any text.
        key_tokens: Names of the keys, where they are another sequence.
        title: Title of the figure.
        shared: Whether all maps have one scale, from zero to the largest value of all; else each has its own.
        scale: ``"root"`` gives small values more ink; the colour bar tells true values either way.

    Returns:
        The figure, in no global state.

    Raises:
        InputError: If there is no map, or shapes and tokens do not fit.
    """
    keys = tokens if key_tokens is None else key_tokens
    arrays = [as_array(one.values, 2, f"the map {one.title!r}") for one in maps]
    if not arrays:
        raise InputError("Expected at least one map to draw, found none.")
    for one, array in zip(maps, arrays, strict=True):
        _check_tokens(array.shape, (len(tokens), len(keys)), one.title)
    if shared and len({one.tone for one in maps}) > 1:
        raise InputError("Maps whose values mean different things cannot share a scale: give shared=False.")
    width, height = _side(len(keys), len(maps)), _side(len(tokens), len(maps))
    names = 0.075 * _longest(tokens) + 0.3
    figure = Figure(
        figsize=(
            len(maps) * (width + 0.5) + (1 if shared else len(maps)) * names,
            height + 0.075 * _longest(keys) + 1.4,
        ),
        layout="constrained",
    )
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    common = limit_of(arrays)
    for number, (axis, one, array) in enumerate(zip(axes, maps, arrays, strict=True)):
        norm = norm_of(common if shared else limit_of([array]), one.tone, scale)
        _draw_map(axis, array, norm, one.tone, grid=True)
        if max(array.shape) <= _NUMBERS_UP_TO and width / len(keys) >= 0.36:
            _write_numbers(axis, array, norm, one.tone)
        axis.set_title(label(with_remark(one.title, array, one.tone), fitting(width + names)), fontsize=10)
        _name_keys(axis, keys, room=width)
        _name_queries(axis, tokens, room=height, named=number == 0 or not shared)
        if not shared:
            _add_bar(figure, [axis], norm, one.tone, scale)
    if shared:
        _add_bar(figure, list(axes), norm_of(common, maps[0].tone, scale), maps[0].tone, scale)
    if title:
        figure.suptitle(label(title, fitting(figure.get_figwidth())), fontsize=11)
    return _settled(finish(figure, [title, *tokens, *keys, *(one.title for one in maps)]))


def head_figure(
    attention: Sequence[Float[Tensor, "head query key"]],
    tokens: Sequence[str] | None = None,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    title: str = "",
    shared: bool = False,
    scale: ColorScale = "root",
) -> Figure:
    """All heads of all layers as small heat maps: layers down, heads across.

    Args:
        attention: Probabilities of every layer (head,query,key); ``head_attention`` of a method gives them with a batch
            in front. Layers may differ in heads and tokens.
        tokens: Names of the tokens, written beside the first map if there are at most 24; ``None`` names none.
        layers: Which layers, from 0 or from -1 backwards; ``None`` is all.
        heads: Which heads; ``None`` is all.
        title: Title of the figure.
        shared: Whether one scale holds for all maps; else each head is scaled by its own largest value.
        scale: As in :func:`attention_figure`.

    Returns:
        The figure, in no global state.

    Raises:
        InputError: If there is no such layer or head, or shapes do not fit.
    """
    arrays = [as_array(layer, 3, f"layer {number}") for number, layer in enumerate(attention)]
    rows = chosen(layers, len(arrays), "layer")
    columns = chosen(heads, max((len(arrays[row]) for row in rows), default=0), "head")
    drawn = [[arrays[row][head] if head < len(arrays[row]) else None for head in columns] for row in rows]
    common = limit_of([one for line in drawn for one in line if one is not None])
    side = min(max(10.5 / len(columns), 0.55), 2.6)
    names = tokens if tokens is not None and len(tokens) <= _MOST_NAMED_SMALL and side >= 1.5 else None
    margin = 0.06 * _longest(names) if names is not None else 0.0
    width = max(len(columns) * side + 0.7 + margin, 4.2)
    figure = Figure(figsize=(width, len(rows) * side + 1.3 + margin), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        array = drawn[row][column]
        axis.set_xticks([])
        axis.set_yticks([])
        if row == 0:
            axis.set_title(f"head {columns[column]}" if side > 0.7 else str(columns[column]), fontsize=8, pad=3)
        if column == 0:
            axis.set_ylabel(f"layer {rows[row]}", fontsize=8)
        if array is None:
            axis.set_axis_off()
            continue
        norm = norm_of(common if shared else limit_of([array]), "share", scale)
        _draw_map(axis, array, norm, "share", grid=False)
        if names is not None:
            _check_tokens(array.shape, (len(names), len(names)), f"layer {rows[row]}")
            if column == 0:
                _name_queries(axis, names, room=side)
            if row == len(rows) - 1:
                _name_keys(axis, names, room=side, below=True)
    if shared:
        _add_bar(figure, list(axes.flat), norm_of(common, "share", scale), "share", scale)
    figure.suptitle(label(title or "layers down, heads across", fitting(width)), fontsize=10)
    about = "queries down, keys across; " + ("one scale for all" if shared else "every map by its own largest value")
    if scale == "root" and not shared:
        about += ", ink by the square root"
    return finish(figure, [title, *(names or ())], note=about)


def layer_rows_figure(
    rows: Sequence[Float[Tensor, " token"]],
    tokens: Sequence[str],
    *,
    row_names: Sequence[str] | None = None,
    title: str = "",
    tone: Tone = "share",
    row_scale: bool = False,
    scale: ColorScale = "linear",
) -> Figure:
    """One row of tokens for each layer, such as what the class token attends to; the input's side is at the bottom.

    Args:
        rows: One value a token for each layer, from the input upwards: a tensor (layer,token), or a tuple as
            ``layer_rows`` of a method gives it (without batch).
        tokens: Names of the tokens, any text.
        row_names: Names of the rows; ``None`` is ``layer 0``, ``layer 1`` ...
        title: Title of the figure.
        tone: What the values mean.
        row_scale: Whether every layer is scaled by its own largest value, which shows the pattern of faint layers.
        scale: As in :func:`attention_figure`.

    Returns:
        The figure, in no global state.

    Raises:
        InputError: If shapes and tokens do not fit.
    """
    lines = [as_array(row, 1, f"layer {number}") for number, row in enumerate(rows)]
    if not lines or any(len(line) != len(tokens) for line in lines):
        raise InputError(
            f"Expected one value for each of the {len(tokens)} tokens in every layer, found "
            f"{[len(line) for line in lines]}."
        )
    values = np.stack(lines)
    names = [f"layer {number}" for number in range(len(values))] if row_names is None else list(row_names)
    if len(names) != len(values):
        raise InputError(f"Expected {len(values)} row_names, one a layer, found {len(names)}.")
    shown = np.stack([line / limit_of([line]) for line in values]) if row_scale else values
    width = min(max(0.42 * len(tokens), 3.6), _MOST_INCHES)
    height = max(0.3 * len(values), 0.9)
    margin = 0.075 * _longest(names) + 0.3
    figure = Figure(figsize=(width + margin, height + 0.06 * _longest(tokens) + 1.4), layout="constrained")
    axis = figure.subplots()
    norm = norm_of(1.0 if row_scale else limit_of([values]), tone, scale)
    _draw_map(axis, shown, norm, tone, grid=True, square=False)
    # Upwards as the model is drawn: the input's side below.
    axis.invert_yaxis()
    _name_keys(axis, tokens, room=width)
    _name_queries(axis, names, room=height)
    bar = _add_bar(figure, [axis], norm, tone, scale)
    if row_scale:
        bar.set_label(f"{UNITS[tone]}, as a part of the layer's largest", fontsize=8)
    figure.suptitle(label(with_remark(title, values, tone), fitting(width + margin)), fontsize=10)
    return _settled(finish(figure, [title, *tokens, *names]))


def chosen(wanted: Sequence[int] | None, count: int, what: str) -> list[int]:
    """Layers or heads by number.

    Args:
        wanted: Numbers from 0 or from -1 backwards; ``None`` is all.
        count: How many there are.
        what: What they are, for the message.

    Returns:
        Numbers from 0.

    Raises:
        InputError: If there is none, or none of a number.
    """
    numbers = list(range(count)) if wanted is None else list(wanted)
    if not numbers:
        raise InputError(f"Expected at least one {what} to draw, found none.")
    for number in numbers:
        if not -count <= number < count:
            raise InputError(f"{what} must be one of the {count} from 0 to {count - 1}, not {number}.")
    return [number % count for number in numbers]


def fitting(inches: float, per_character: float = 0.078) -> int:
    """How many characters of a title fit.

    Args:
        inches: The width there is.
        per_character: Width of a character.

    Returns:
        At least twenty.
    """
    return max(int(inches / per_character), 20)


def _settled(figure: Figure) -> Figure:
    # Titles above labels find their place only when drawn, and the layout makes room for them the next time.
    figure.draw_without_rendering()
    return figure


def _draw_map(axis: Any, values: NDArray[Any], norm: Normalize, tone: Tone, *, grid: bool, square: bool = True) -> None:
    axis.set_facecolor(GAP)
    shown = np.ma.masked_invalid(values)
    axis.imshow(shown, cmap=COLORMAPS[tone], norm=norm, interpolation="nearest", aspect="equal" if square else "auto")
    if grid and max(values.shape) <= _GRID_UP_TO:
        axis.set_xticks(np.arange(-0.5, values.shape[1]), minor=True)
        axis.set_yticks(np.arange(-0.5, values.shape[0]), minor=True)
        axis.grid(which="minor", color="#eeeeee", linewidth=0.6)
        axis.tick_params(which="minor", length=0)
    axis.tick_params(length=0)
    axis.spines[:].set(color="#999999", linewidth=0.6)


def _write_numbers(axis: Any, values: NDArray[Any], norm: Normalize, tone: Tone) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            channels = COLORMAPS[tone](norm(value))[:3]
            ink = text_on("#" + "".join(f"{round(255 * channel):02x}" for channel in channels))
            said = f"{value:.2f}".replace("0.", ".") if abs(value) < 1 else f"{value:.1f}"
            axis.text(column, row, said, ha="center", va="center", fontsize=7, color=ink)


def _name_keys(axis: Any, names: Sequence[str], *, room: float, below: bool = False) -> None:
    step, size = _density(len(names), room)
    places = range(0, len(names), step)
    shown = [label(names[place], _LONGEST_NAME) for place in places]
    turn = {"rotation": 90} if below or room / len(names) < 0.3 else {"rotation": 45, "ha": "left"}
    axis.set_xticks(list(places), shown, fontsize=size, rotation_mode="anchor" if "ha" in turn else None, **turn)
    if not below:
        axis.xaxis.tick_top()
    axis.tick_params(length=0)
    if step > 1:
        axis.set_xlabel(f"every {step}. token is named", fontsize=7, color="#444444")


def _name_queries(axis: Any, names: Sequence[str], *, room: float, named: bool = True) -> None:
    step, size = _density(len(names), room)
    places = range(0, len(names), step) if named else ()
    axis.set_yticks(list(places), [label(names[place], _LONGEST_NAME) for place in places], fontsize=size)


def _density(count: int, room: float) -> tuple[int, float]:
    """Which names are written, and how large, so that they do not run into each other."""
    step = -(-count // min(_MOST_NAMES, max(int(room / 0.1), 1)))
    return step, float(np.clip(72 * 0.8 * room * step / count, 4.5, 9))


def _add_bar(figure: Figure, axes: list[Any], norm: Normalize, tone: Tone, scale: ColorScale) -> Any:
    bar = figure.colorbar(
        ScalarMappable(norm, COLORMAPS[tone]), ax=axes, orientation="horizontal", fraction=0.05, pad=0.03, aspect=40
    )
    bar.ax.tick_params(labelsize=7)
    bar.set_label(UNITS[tone] + (", ink by the square root" if scale == "root" else ""), fontsize=8)
    return bar


def _side(count: int, n_maps: int) -> float:
    return min(max(0.4 * count, 2.2), _MOST_INCHES if n_maps == 1 else 5.5)


def _longest(names: Sequence[str]) -> int:
    return max((min(len(label(name)), _LONGEST_NAME) for name in names), default=0)


def _check_tokens(shape: tuple[int, ...], expected: tuple[int, int], what: str) -> None:
    if shape != expected:
        raise InputError(
            f"Expected one row a query token and one column a key token, {expected}, found {shape} for {what!r}."
        )
