"""The range that a map's colours span, and what is said of maps that have no ordinary look."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from torch import Tensor

from attrib_plugin.errors import InputError
from attrib_plugin.visualization.colors import Tone

if TYPE_CHECKING:
    from numpy.typing import NDArray

ColorScale = Literal["linear", "root"]
"""Ink in proportion to the value, or to its square root, which shows small values beside large ones."""


def as_array(values: Tensor | NDArray[Any], dims: int, what: str) -> NDArray[np.float64]:
    """Values of any kind as a NumPy array.

    Args:
        values: A tensor of any dtype and device, with or without gradient, or an array.
        dims: How many axes it must have.
        what: Its name for the message.

    Returns:
        The values in float64.

    Raises:
        InputError: If it has another number of axes, or no values.
    """
    array = np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)
    if array.ndim != dims or not array.size:
        raise InputError(f"Expected {what} with {dims} axes and at least one value, found shape {array.shape}.")
    return array


def limit_of(maps: Iterable[NDArray[Any]]) -> float:
    """The value that gets the full ink.

    Args:
        maps: Maps that share a scale.

    Returns:
        The largest finite size; 1 if there is nothing but zeros and gaps.
    """
    sizes = (np.abs(one[np.isfinite(one)]) for one in maps)
    return max((float(size.max()) for size in sizes if size.size), default=0.0) or 1.0


def norm_of(limit: float, tone: Tone, scale: ColorScale = "linear") -> Normalize:
    """How values become ink: from zero to the limit, or symmetric about zero for signed values.

    Args:
        limit: The value with the full ink.
        tone: What the values mean.
        scale: ``"root"`` for values of one sign alone.

    Returns:
        The norm.

    Raises:
        InputError: If the scale is unknown, or roots of signed values are asked for.
    """
    if scale not in ("linear", "root"):
        raise InputError(f"scale must be 'linear' or 'root', not {scale!r}.")
    if tone == "signed":
        if scale == "root":
            raise InputError("scale='root' is for values of one sign; signed values need scale='linear'.")
        return Normalize(-limit, limit)
    return Normalize(0.0, limit) if scale == "linear" else PowerNorm(0.5, 0.0, limit)


def remark(values: NDArray[Any], tone: Tone) -> str:
    """What a reader has to know about a map whose colours alone would mislead.

    Args:
        values: The map.
        tone: What its values mean.

    Returns:
        A few words; empty for an ordinary map.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "no value is a number"
    said = []
    if gaps := values.size - finite.size:
        said.append(f"{gaps} of {values.size} not a number, grey")
    if not finite.any():
        said.append("zero everywhere")
    elif finite.size > 1 and finite.min() == finite.max():
        said.append(f"{finite.flat[0]:.3g} everywhere")
    elif tone != "signed" and finite.max() <= 0:
        said.append("no value above zero")
    elif tone != "signed" and finite.min() < 0:
        said.append("values below zero left white")
    return "; ".join(said)


def with_remark(title: str, values: NDArray[Any], tone: Tone) -> str:
    """A title that says what :func:`remark` does.

    Args:
        title: The title.
        values: The map.
        tone: What its values mean.

    Returns:
        The title, with the remark in brackets if there is one.
    """
    said = remark(values, tone)
    return f"{title} ({said})".strip() if said else title
